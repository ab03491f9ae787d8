//! Rate limits, budgets and prices.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::decode::{At, Map};
use crate::config::path::KeyPath;
use crate::config::problem::Problems;
use crate::config::raw::{RawBudget, RawPrices, RawRateLimit, RawTag};
use crate::config::snapshot::{Budget, PriceTable, RateLimit, Tag};
use crate::id::UpstreamModel;
use crate::money::{MoneyError, NanoUsd, PricePerMillion, Prices};
use crate::price_book::PriceBook;
use crate::tariff::{PriceSource, Tariff};

/// Compiles a `rate_limit` table.
pub(super) fn rate(raw: RawRateLimit) -> RateLimit {
    let RawRateLimit {
        requests_per_minute,
        requests_per_hour,
        requests_per_day,
        tokens_per_minute,
        tokens_per_day,
        max_concurrent,
    } = raw;
    RateLimit {
        requests_per_minute: requests_per_minute.map(|n| n.value),
        requests_per_hour: requests_per_hour.map(|n| n.value),
        requests_per_day: requests_per_day.map(|n| n.value),
        tokens_per_minute: tokens_per_minute.map(|n| n.value),
        tokens_per_day: tokens_per_day.map(|n| n.value),
        max_concurrent: max_concurrent.map(|n| n.value),
    }
}

/// Compiles a `budget` table.
pub(super) fn budget(raw: RawBudget, at: &KeyPath<'_>, problems: &mut Problems) -> Budget {
    let RawBudget { usd_per_day, usd_per_month, usd_total } = raw;
    Budget {
        per_day: amount(usd_per_day, &at.key("usd_per_day"), problems, NanoUsd::from_usd),
        per_month: amount(usd_per_month, &at.key("usd_per_month"), problems, NanoUsd::from_usd),
        total: amount(usd_total, &at.key("usd_total"), problems, NanoUsd::from_usd),
    }
}

/// Compiles the price keys of a backend or a `[pricing]` table.
pub(super) fn prices(raw: RawPrices, at: &KeyPath<'_>, problems: &mut Problems) -> Prices {
    let RawPrices {
        input_price,
        cached_input_price,
        cache_write_price,
        cache_write_1h_price,
        audio_input_price,
        image_input_price,
        output_price,
        reasoning_price,
        audio_output_price,
        image_output_price,
        request_price,
        tool_call_price,
    } = raw;
    let mut per_million = |usd, key| amount(usd, &at.key(key), problems, PricePerMillion::from_usd);
    Prices {
        input: per_million(input_price, "input_price"),
        cached_input: per_million(cached_input_price, "cached_input_price"),
        cache_write: per_million(cache_write_price, "cache_write_price"),
        cache_write_1h: per_million(cache_write_1h_price, "cache_write_1h_price"),
        audio_input: per_million(audio_input_price, "audio_input_price"),
        image_input: per_million(image_input_price, "image_input_price"),
        output: per_million(output_price, "output_price"),
        reasoning: per_million(reasoning_price, "reasoning_price"),
        audio_output: per_million(audio_output_price, "audio_output_price"),
        image_output: per_million(image_output_price, "image_output_price"),
        request: amount(request_price, &at.key("request_price"), problems, NanoUsd::from_usd),
        tool_call: amount(tool_call_price, &at.key("tool_call_price"), problems, NanoUsd::from_usd),
    }
}

fn amount<T>(
    usd: Option<At<f64>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
    convert: impl Fn(f64) -> Result<T, MoneyError>,
) -> Option<T> {
    let usd = usd?;
    match convert(usd.value) {
        Ok(amount) => Some(amount),
        Err(error) => {
            problems.error(at, usd.span, error.to_string());
            None
        }
    }
}

/// Compiles `[pricing]`.
pub(super) fn pricing(
    raw: Option<At<Map<RawPrices>>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
    book: Arc<PriceBook>,
) -> PriceTable {
    let entries = raw.map(|map| map.value.0).unwrap_or_default();
    let tariffs = entries
        .into_iter()
        .map(|entry| {
            let prices = prices(entry.value, &at.key(&entry.key), problems);
            (UpstreamModel::new(entry.key), Arc::new(Tariff::flat(prices, PriceSource::Pricing)))
        })
        .collect();
    PriceTable::new(tariffs, book)
}

/// Compiles `[tags]`.
pub(super) fn tags(raw: Option<At<Map<RawTag>>>, at: &KeyPath<'_>, problems: &mut Problems) -> HashMap<Box<str>, Tag> {
    let entries = raw.map(|map| map.value.0).unwrap_or_default();
    entries
        .into_iter()
        .map(|entry| {
            let at = at.key(&entry.key);
            let RawTag { budget: raw } = entry.value;
            let budget = raw.map(|raw| budget(raw.value, &at.key("budget"), problems)).unwrap_or_default();
            (entry.key.into_boxed_str(), Tag { budget })
        })
        .collect()
}
