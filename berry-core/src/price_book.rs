//! The price book: what well-known models cost at their vendors, for backends whose prices the configuration does not state.
//!
//! A book is dated and names its source for each vendor. It holds for a vendor's own address only, and for Azure what OpenAI
//! charges: at any other address a name says nothing of what is paid there.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use serde::Deserialize;

use crate::config::snapshot::Upstream;
use crate::money::{MoneyError, NanoUsd, PricePerMillion, Prices};
use crate::tariff::{PriceSource, Tariff, TariffRow};
use crate::usage::ServiceTier;

/// Prices of many vendors' models.
#[derive(Debug)]
pub struct PriceBook {
    date: String,
    vendors: Vec<Vendor>,
}

/// Why a text is no price book.
#[derive(Debug, thiserror::Error)]
pub enum PriceBookError {
    /// It does not have the form of one.
    #[error("{0}")]
    Form(#[from] toml::de::Error),
    /// A price is none.
    #[error("{model}: a price {error}")]
    Price {
        /// The model.
        model: String,
        /// What is wrong with it.
        error: MoneyError,
    },
    /// A vendor that nothing is known of has no address either.
    #[error("the vendor {0:?} is not in the bundled book and has no hosts, so its prices hold nowhere")]
    NoHosts(String),
}

#[derive(Clone, Debug)]
struct Vendor {
    name: String,
    hosts: Vec<String>,
    models: HashMap<String, Arc<Tariff>>,
}

static BUNDLED: LazyLock<Arc<PriceBook>> = LazyLock::new(|| {
    Arc::new(PriceBook::parse(include_str!("../data/prices.toml")).expect("a test reads the bundled book"))
});

impl PriceBook {
    /// The one that is built in.
    pub fn bundled() -> Arc<Self> {
        Arc::clone(&BUNDLED)
    }

    /// Reads one from TOML, of the form of `data/prices.toml`.
    ///
    /// # Errors
    /// When it has another form, or a price is negative or too large.
    pub fn parse(text: &str) -> Result<Self, PriceBookError> {
        let RawBook { date, vendor } = toml::from_str(text)?;
        let vendors = vendor.into_iter().map(RawVendor::compile).collect::<Result<_, _>>()?;
        Ok(Self { date, vendors })
    }

    /// This book with another one, of the same form, over it: its rows come before those that are here, and its vendors beside
    /// them. A vendor that is here already needs no hosts; where hosts are given they are added. Without a date it is of the
    /// same day.
    ///
    /// # Errors
    /// As for [`parse`](Self::parse), and for a new vendor without hosts, whose prices would never hold.
    pub fn with(&self, text: &str) -> Result<Self, PriceBookError> {
        let over = Self::parse(text)?;
        let mut vendors = self.vendors.clone();
        for Vendor { name, hosts, models } in over.vendors {
            match vendors.iter_mut().find(|vendor| vendor.name == name) {
                Some(vendor) => {
                    vendor.hosts.extend(hosts);
                    vendor.models.extend(models);
                }
                None if hosts.is_empty() => return Err(PriceBookError::NoHosts(name)),
                None => vendors.push(Vendor { name, hosts, models }),
            }
        }
        let date = if over.date.is_empty() { self.date.clone() } else { over.date };
        Ok(Self { date, vendors })
    }

    /// The day that its prices are of, as `2026-11-21`.
    pub fn date(&self) -> &str {
        &self.date
    }

    /// What `model` costs at `upstream`. A date or `-latest` at the end of a name does not count when the name with it is not
    /// listed.
    pub fn find(&self, upstream: &Upstream, model: &str) -> Option<&Arc<Tariff>> {
        let models = &self.vendor_of(upstream)?.models;
        let name = model.rsplit('/').next().unwrap_or(model);
        models.get(name).or_else(|| models.get(without_date(name)))
    }

    fn vendor_of(&self, upstream: &Upstream) -> Option<&Vendor> {
        let base = match upstream {
            Upstream::Azure(_) => return self.vendors.iter().find(|vendor| vendor.name == "openai"),
            Upstream::Demo(_) => return None,
            Upstream::OpenAi { base } | Upstream::Anthropic { base, .. } | Upstream::Gemini { base } => base,
        };
        let host = base.host()?;
        self.vendors.iter().find(|vendor| vendor.hosts.iter().any(|known| known == host))
    }
}

/// `gpt-4o-2024-08-06`, `claude-sonnet-4-5-20250929`, `claude-3-7-sonnet-latest` without their ends.
fn without_date(name: &str) -> &str {
    if let Some(name) = name.strip_suffix("-latest") {
        return name;
    }
    let is_date = |end: &str| match end.len() {
        9 => end.starts_with('-') && end[1..].bytes().all(|c| c.is_ascii_digit()),
        11 => end.bytes().enumerate().all(|(i, c)| if matches!(i, 0 | 5 | 8) { c == b'-' } else { c.is_ascii_digit() }),
        _ => false,
    };
    let split = |length: usize| name.len().checked_sub(length).and_then(|at| name.split_at_checked(at));
    [9, 11].into_iter().filter_map(split).find(|(_, end)| is_date(end)).map_or(name, |(name, _)| name)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBook {
    #[serde(default)]
    date: String,
    #[serde(default)]
    vendor: Vec<RawVendor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVendor {
    name: String,
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(rename = "source", default)]
    _source: String,
    models: HashMap<String, RawModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    input: Option<f64>,
    cached_input: Option<f64>,
    cache_write: Option<f64>,
    cache_write_1h: Option<f64>,
    audio_input: Option<f64>,
    image_input: Option<f64>,
    output: Option<f64>,
    reasoning: Option<f64>,
    audio_output: Option<f64>,
    image_output: Option<f64>,
    request: Option<f64>,
    tool_call: Option<f64>,
    /// Of a `long` row: the size of prompt beyond which it holds.
    #[serde(default)]
    above: u64,
    long: Option<Box<RawModel>>,
    flex: Option<Box<RawModel>>,
    priority: Option<Box<RawModel>>,
    batch: Option<Box<RawModel>>,
}

impl RawVendor {
    fn compile(self) -> Result<Vendor, PriceBookError> {
        let Self { name, hosts, _source, models } = self;
        let tariff = |(model, raw): (String, RawModel)| {
            let mut rows = Vec::new();
            match raw.rows(ServiceTier::Standard, &mut rows) {
                Ok(()) => Ok((model, Arc::new(Tariff::new(rows, PriceSource::Book)))),
                Err(error) => Err(PriceBookError::Price { model, error }),
            }
        };
        Ok(Vendor { name, hosts, models: models.into_iter().map(tariff).collect::<Result<_, _>>()? })
    }
}

impl RawModel {
    fn rows(&self, tier: ServiceTier, rows: &mut Vec<TariffRow>) -> Result<(), MoneyError> {
        let price = |usd: Option<f64>| usd.map(PricePerMillion::from_usd).transpose();
        let amount = |usd: Option<f64>| usd.map(NanoUsd::from_usd).transpose();
        let prices = Prices {
            input: price(self.input)?,
            cached_input: price(self.cached_input)?,
            cache_write: price(self.cache_write)?,
            cache_write_1h: price(self.cache_write_1h)?,
            audio_input: price(self.audio_input)?,
            image_input: price(self.image_input)?,
            output: price(self.output)?,
            reasoning: price(self.reasoning)?,
            audio_output: price(self.audio_output)?,
            image_output: price(self.image_output)?,
            request: amount(self.request)?,
            tool_call: amount(self.tool_call)?,
        };
        rows.push(TariffRow { tier, above_input_tokens: self.above, prices });
        let further = [
            (tier, &self.long),
            (ServiceTier::Flex, &self.flex),
            (ServiceTier::Priority, &self.priority),
            (ServiceTier::Batch, &self.batch),
        ];
        further.into_iter().try_for_each(|(tier, raw)| raw.iter().try_for_each(|raw| raw.rows(tier, rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Usage;

    fn openai(base: &'static str) -> Upstream {
        Upstream::OpenAi { base: base.parse().unwrap() }
    }

    fn nanos(tariff: &Tariff, input: u64, output: u64) -> i64 {
        let usage = Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() };
        tariff.cost(&usage).total.as_nanos()
    }

    #[test]
    fn the_bundled_book_can_be_read_and_is_dated() {
        let book = PriceBook::bundled();
        assert_eq!(book.date().len(), 10);
        let known = |tariff: &Arc<Tariff>| tariff.base().input.is_some();
        assert!(book.vendors.iter().all(|vendor| vendor.models.values().all(known)));
    }

    #[test]
    fn a_model_is_found_at_its_vendor_with_or_without_a_date() {
        let book = PriceBook::bundled();
        let upstream = openai("https://api.openai.com/v1");
        for name in ["gpt-4o", "gpt-4o-2024-08-06", "openai/gpt-4o", "gpt-4o-latest"] {
            assert_eq!(nanos(book.find(&upstream, name).unwrap(), 2, 1), 15_000, "{name}");
        }
        assert!(book.find(&upstream, "gpt-4o-unheard-of").is_none());
        let claude = openai("https://api.anthropic.com/v1");
        assert_eq!(nanos(book.find(&claude, "claude-sonnet-4-5-20250929").unwrap(), 1, 0), 3_000);
    }

    #[test]
    fn a_name_says_nothing_of_prices_at_another_address() {
        let book = PriceBook::bundled();
        assert!(book.find(&openai("https://openrouter.ai/api/v1"), "gpt-4o").is_none());
        assert!(book.find(&openai("http://127.0.0.1:8000/v1"), "gpt-4o").is_none());
    }

    #[test]
    fn long_prompts_and_service_classes_have_rows_of_their_own() {
        let book = PriceBook::bundled();
        let gemini = Upstream::Gemini { base: "https://generativelanguage.googleapis.com/v1beta".parse().unwrap() };
        let tariff = book.find(&gemini, "gemini-2.5-pro").unwrap();
        assert_eq!(nanos(tariff, 200_001, 1), 200_001 * 2_500 + 15_000);
        let tariff = book.find(&openai("https://api.openai.com/v1"), "gpt-5").unwrap();
        let usage = Usage { input_tokens: Some(2), tier: Some(ServiceTier::Priority), ..Usage::default() };
        assert_eq!(tariff.cost(&usage).total.as_nanos(), 5_000);
    }

    #[test]
    fn a_book_over_another_changes_the_rows_that_it_has_and_no_others() {
        let over = "date = \"2027-01-01\"\n[[vendor]]\nname = \"openai\"\n[vendor.models]\ngpt-4o = { input = 9, output = 9 }\n\
                    [[vendor]]\nname = \"ours\"\nhosts = [\"llm.example\"]\n[vendor.models]\nm = { input = 1 }\n";
        let book = PriceBook::bundled().with(over).unwrap();
        let upstream = openai("https://api.openai.com/v1");
        assert_eq!(nanos(book.find(&upstream, "gpt-4o").unwrap(), 1, 0), 9_000);
        assert_eq!(nanos(book.find(&upstream, "gpt-4o-mini").unwrap(), 1, 0), 150);
        assert_eq!(nanos(book.find(&openai("https://llm.example/v1"), "m").unwrap(), 1, 0), 1_000);
        assert_eq!(book.date(), "2027-01-01");
        let nowhere = over.replace("hosts = [\"llm.example\"]\n", "");
        assert!(matches!(PriceBook::bundled().with(&nowhere), Err(PriceBookError::NoHosts(_))));
    }

    #[test]
    fn a_book_with_a_wrong_price_or_key_is_refused() {
        let book = |model: &str| {
            let text = format!(
                "date = \"2026-01-01\"\n[[vendor]]\nname = \"v\"\nhosts = []\nsource = \"s\"\n[vendor.models]\nm = {model}\n"
            );
            PriceBook::parse(&text)
        };
        assert!(book("{ input = 1 }").is_ok());
        assert!(matches!(book("{ input = -1 }"), Err(PriceBookError::Price { .. })));
        assert!(matches!(book("{ inputs = 1 }"), Err(PriceBookError::Form(_))));
    }
}
