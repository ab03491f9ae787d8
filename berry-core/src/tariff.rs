//! What a backend charges, from every source of prices, and what an answer cost.
//!
//! A tariff is one or more rows of [`Prices`]. A row holds for one service class and from one size of prompt on, as vendors that
//! charge more for long contexts do for the *whole* request. Amounts are integers: each line is rounded half up to a whole
//! nano-USD and the total is the sum of the lines.

use crate::money::{NanoUsd, PricePerMillion, Prices};
use crate::usage::{Buckets, ServiceTier, Usage};

/// Calls that are reserved for each tool of the vendor's that a request switches on.
pub const SERVER_TOOL_CALLS_MAX: u64 = 10;

/// Where a tariff's prices come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PriceSource {
    /// The backend's own keys.
    Backend,
    /// `[pricing]`.
    Pricing,
    /// The price book.
    Book,
    /// Nothing is charged: the built-in demo upstream.
    Free,
    /// Nobody states a price.
    Unknown,
}

/// Prices for one service class, for prompts from one size on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TariffRow {
    /// The service class.
    pub tier: ServiceTier,
    /// Holds for prompts of more tokens than this.
    pub above_input_tokens: u64,
    /// What is charged.
    pub prices: Prices,
}

/// What a backend charges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// The row of ordinary requests first; never empty.
    rows: Box<[TariffRow]>,
    source: PriceSource,
}

/// What an answer cost, line by line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CostLines {
    /// Uncached text of the prompt.
    pub input: NanoUsd,
    /// Read from the prompt cache.
    pub cached: NanoUsd,
    /// Written to the prompt cache.
    pub cache_write: NanoUsd,
    /// Audio and images of the prompt.
    pub media_input: NanoUsd,
    /// Generated text.
    pub output: NanoUsd,
    /// Generated reasoning.
    pub reasoning: NanoUsd,
    /// Generated audio and images.
    pub media_output: NanoUsd,
    /// Calls of the vendor's tools.
    pub tools: NanoUsd,
    /// The fixed amount for a request.
    pub request: NanoUsd,
    /// Attempts that brought no answer and were billed all the same.
    pub failed_attempts: NanoUsd,
}

impl CostLines {
    fn sum(&self) -> NanoUsd {
        let Self {
            input,
            cached,
            cache_write,
            media_input,
            output,
            reasoning,
            media_output,
            tools,
            request,
            failed_attempts,
        } = *self;
        [input, cached, cache_write, media_input, output, reasoning, media_output, tools, request, failed_attempts]
            .into_iter()
            .sum()
    }
}

/// What an answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Cost {
    /// All lines together.
    pub total: NanoUsd,
    /// What it is made of.
    pub lines: CostLines,
    /// Whether everything that was used has a price; otherwise the total is too small.
    pub priced: bool,
    /// Whether some of the usage was counted by us.
    pub estimated: bool,
    /// What the vendor says that it cost.
    pub reported: Option<NanoUsd>,
}

impl Cost {
    /// Puts the cost of an attempt before this one, which failed, to it.
    pub fn add_failed(&mut self, earlier: &Self) {
        self.lines.failed_attempts += earlier.total;
        self.total += earlier.total;
        self.priced &= earlier.priced;
        self.estimated |= earlier.estimated;
    }

    /// What the attempt itself cost, without those before it that failed.
    pub fn own(&self) -> NanoUsd {
        NanoUsd::from_nanos(self.total.as_nanos().saturating_sub(self.lines.failed_attempts.as_nanos()))
    }

    /// The vendor's figure less ours; positive when we bill too little. `None` without a figure of the vendor's, which is for
    /// the attempt that answered alone.
    pub fn drift(&self) -> Option<NanoUsd> {
        let reported = self.reported?.as_nanos();
        self.priced.then(|| NanoUsd::from_nanos(reported.saturating_sub(self.own().as_nanos())))
    }
}

impl Tariff {
    /// One row, for every request.
    pub fn flat(prices: Prices, source: PriceSource) -> Self {
        Self::new(vec![TariffRow { prices, ..TariffRow::default() }], source)
    }

    /// Several rows. Where the ordinary one is missing, nothing is known of ordinary requests.
    pub fn new(mut rows: Vec<TariffRow>, source: PriceSource) -> Self {
        let is_base = |row: &TariffRow| row.tier == ServiceTier::Standard && row.above_input_tokens == 0;
        match rows.iter().position(is_base) {
            Some(position) => rows.swap(0, position),
            None => rows.insert(0, TariffRow::default()),
        }
        Self { rows: rows.into_boxed_slice(), source }
    }

    /// Of something that costs nothing.
    pub fn free() -> Self {
        let nothing = Some(PricePerMillion::default());
        Self::flat(Prices { input: nothing, output: nothing, ..Prices::default() }, PriceSource::Free)
    }

    /// Of something of which nobody states a price.
    pub fn unknown() -> Self {
        Self::flat(Prices::default(), PriceSource::Unknown)
    }

    /// Where the prices come from.
    pub fn source(&self) -> PriceSource {
        self.source
    }

    /// Whether there is any price.
    pub fn is_known(&self) -> bool {
        self.source != PriceSource::Unknown
    }

    /// The row of ordinary requests.
    pub fn base(&self) -> &Prices {
        &self.rows[0].prices
    }

    /// All rows.
    pub fn rows(&self) -> &[TariffRow] {
        &self.rows
    }

    /// What `usage` cost. The fixed amount for a request is owed once the upstream accepted it, so call this only then.
    pub fn cost(&self, usage: &Usage) -> Cost {
        let buckets = usage.buckets();
        let prices = self.row(usage.tier.unwrap_or_default(), usage.input_tokens.unwrap_or(0));
        let (lines, priced) = lines(prices, &buckets, usage.server_tool_calls.unwrap_or(0));
        Cost {
            total: lines.sum(),
            lines,
            priced: priced && self.is_known(),
            estimated: usage.estimated,
            reported: usage.reported_cost,
        }
    }

    /// The most that a request can cost: every token at the dearest price that may apply to it, and [`SERVER_TOOL_CALLS_MAX`]
    /// calls for each of `server_tools`, which the vendor runs. Nothing for an unknown tariff.
    pub fn upper_bound(&self, input_tokens: u64, server_tools: u64, output_tokens: u64) -> NanoUsd {
        let calls = server_tools.saturating_mul(SERVER_TOOL_CALLS_MAX);
        let may_apply =
            self.rows.iter().filter(|row| row.above_input_tokens == 0 || row.above_input_tokens < input_tokens);
        may_apply.map(|row| bound(&row.prices, input_tokens, output_tokens, calls)).max().unwrap_or_default()
    }

    /// The row of the class with the highest threshold below the prompt; the ordinary class where the vendor has no prices for
    /// this one.
    fn row(&self, tier: ServiceTier, input_tokens: u64) -> &Prices {
        let of_tier = |tier| {
            let applies = |row: &&TariffRow| {
                row.tier == tier && (row.above_input_tokens == 0 || row.above_input_tokens < input_tokens)
            };
            self.rows.iter().filter(applies).max_by_key(|row| row.above_input_tokens)
        };
        let row = of_tier(tier).or_else(|| of_tier(ServiceTier::Standard)).unwrap_or(&self.rows[0]);
        &row.prices
    }
}

/// The lines of a bill, and whether everything on it has a price.
fn lines(prices: &Prices, buckets: &Buckets, tool_calls: u64) -> (CostLines, bool) {
    // A backend that charges by the request alone charges nothing for tokens.
    let by_request = prices.request.is_some() && prices.input.is_none() && prices.output.is_none();
    let mut priced = true;
    let mut line = |tokens: u64, price: Option<PricePerMillion>| match price {
        _ if tokens == 0 => NanoUsd::ZERO,
        Some(price) => price.cost(tokens),
        None => {
            priced &= by_request;
            NanoUsd::ZERO
        }
    };
    let Prices { input, output, cache_write, .. } = *prices;
    let cache_write = cache_write.or(input);
    let lines = CostLines {
        input: line(buckets.input, input),
        cached: line(buckets.cached, prices.cached_input.or(input)),
        cache_write: line(buckets.cache_write, cache_write)
            + line(buckets.cache_write_1h, prices.cache_write_1h.or(cache_write)),
        media_input: line(buckets.audio_input, prices.audio_input.or(input))
            + line(buckets.image_input, prices.image_input.or(input)),
        output: line(buckets.output, output),
        reasoning: line(buckets.reasoning, prices.reasoning.or(output)),
        media_output: line(buckets.audio_output, prices.audio_output.or(output))
            + line(buckets.image_output, prices.image_output.or(output)),
        tools: times(prices.tool_call, tool_calls),
        request: prices.request.unwrap_or_default(),
        failed_attempts: NanoUsd::ZERO,
    };
    (lines, priced)
}

/// The dearest that a request of this size can be in one row.
fn bound(prices: &Prices, input_tokens: u64, output_tokens: u64, tool_calls: u64) -> NanoUsd {
    let input = [
        prices.input,
        prices.cached_input,
        prices.cache_write,
        prices.cache_write_1h,
        prices.audio_input,
        prices.image_input,
    ];
    let output = [prices.output, prices.reasoning, prices.audio_output, prices.image_output];
    // Each line is rounded by itself, up by less than one nano-dollar: one for each line that there may be.
    let rounding = NanoUsd::from_nanos(ROUNDED_LINES);
    dearest(&input).cost(input_tokens)
        + dearest(&output).cost(output_tokens)
        + times(prices.tool_call, tool_calls)
        + prices.request.unwrap_or_default()
        + if input.iter().chain(&output).any(Option::is_some) { rounding } else { NanoUsd::ZERO }
}

/// Lines of a bill that are rounded.
const ROUNDED_LINES: i64 = 10;

fn dearest(prices: &[Option<PricePerMillion>]) -> PricePerMillion {
    prices.iter().flatten().max().copied().unwrap_or_default()
}

fn times(price: Option<NanoUsd>, count: u64) -> NanoUsd {
    let nanos = i128::from(price.unwrap_or_default().as_nanos()) * i128::from(count);
    NanoUsd::from_nanos(i64::try_from(nanos).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn usd(usd: f64) -> Option<PricePerMillion> {
        Some(PricePerMillion::from_usd(usd).unwrap())
    }

    fn claude() -> Tariff {
        let prices = Prices {
            input: usd(3.0),
            cached_input: usd(0.3),
            cache_write: usd(3.75),
            cache_write_1h: usd(6.0),
            output: usd(15.0),
            tool_call: Some(NanoUsd::from_nanos(10_000_000)),
            ..Prices::default()
        };
        let long = Prices { input: usd(6.0), output: usd(22.5), ..prices };
        let row = |tier, above_input_tokens, prices| TariffRow { tier, above_input_tokens, prices };
        let batch = Prices { input: usd(1.5), output: usd(7.5), ..prices };
        let rows = vec![
            row(ServiceTier::Standard, 200_000, long),
            row(ServiceTier::Batch, 0, batch),
            row(ServiceTier::Standard, 0, prices),
        ];
        Tariff::new(rows, PriceSource::Book)
    }

    fn usage(input: u64, output: u64) -> Usage {
        Usage { input_tokens: Some(input), output_tokens: Some(output), ..Usage::default() }
    }

    fn nanos(tariff: &Tariff, usage: &Usage) -> i64 {
        tariff.cost(usage).total.as_nanos()
    }

    #[test]
    fn every_bucket_has_its_own_price() {
        let usage = Usage {
            cached_tokens: Some(500),
            cache_write_tokens: Some(300),
            cache_write_1h_tokens: Some(100),
            server_tool_calls: Some(2),
            ..usage(1_000, 10)
        };
        // 200 × 3000 + 500 × 300 + 200 × 3750 + 100 × 6000 + 10 × 15000 + 2 × 10 000 000
        assert_eq!(nanos(&claude(), &usage), 600_000 + 150_000 + 750_000 + 600_000 + 150_000 + 20_000_000);
    }

    /// Every price there is, each another power of ten; a token costs one nano-dollar where a million cost 0.001.
    fn all_prices() -> Prices {
        Prices {
            input: usd(0.001),
            cached_input: usd(0.01),
            cache_write: usd(0.1),
            cache_write_1h: usd(1.0),
            audio_input: usd(10.0),
            image_input: usd(100.0),
            output: usd(1_000.0),
            reasoning: usd(10_000.0),
            audio_output: usd(100_000.0),
            image_output: usd(1_000_000.0),
            request: Some(NanoUsd::from_nanos(10_000_000_000)),
            tool_call: Some(NanoUsd::from_nanos(100_000_000_000)),
        }
    }

    /// As many tokens of each kind as tell the kinds apart, and two calls of tools.
    const OF_EACH_KIND: Usage = Usage {
        input_tokens: Some(1 + 2 + 3 + 4 + 5 + 6),
        cached_tokens: Some(2),
        cache_write_tokens: Some(3 + 4),
        cache_write_1h_tokens: Some(4),
        audio_input_tokens: Some(5),
        image_input_tokens: Some(6),
        tool_prompt_tokens: None,
        output_tokens: Some(7 + 8 + 9 + 1),
        reasoning_tokens: Some(8),
        audio_output_tokens: Some(9),
        image_output_tokens: Some(1),
        server_tool_calls: Some(2),
        tier: None,
        reported_cost: None,
        estimated: false,
    };

    #[test]
    fn each_kind_of_token_is_a_line_at_its_own_price_and_without_one_at_that_of_what_it_is_part_of() {
        let tariff = Tariff::flat(all_prices(), PriceSource::Backend);
        let cost = tariff.cost(&OF_EACH_KIND);
        assert_eq!((cost.total.as_nanos(), cost.priced), (211_987_654_321, true));
        let CostLines {
            input, cached, cache_write, media_input, output, reasoning, media_output, tools, request, ..
        } = cost.lines;
        let lines = [input, cached, cache_write, media_input, output, reasoning, media_output, tools, request];
        let expected = [1, 20, 4_300, 650_000, 7_000_000, 80_000_000, 1_900_000_000, 200_000_000_000, 10_000_000_000];
        assert_eq!(lines.map(NanoUsd::as_nanos), expected);
        let two = Prices { input: usd(0.001), output: usd(1.0), ..Prices::default() };
        let cost = Tariff::flat(two, PriceSource::Backend).cost(&OF_EACH_KIND);
        assert_eq!((cost.total.as_nanos(), cost.priced), (21 + 25_000, true));
        let written = Prices { cache_write: usd(0.1), ..two };
        let cost = Tariff::flat(written, PriceSource::Backend).cost(&OF_EACH_KIND);
        assert_eq!(cost.lines.cache_write.as_nanos(), 700, "for an hour as for some minutes");
    }

    #[test]
    fn what_failed_attempts_cost_is_in_the_total_and_not_in_the_drift() {
        let tariff = Tariff::flat(all_prices(), PriceSource::Backend);
        let reported_cost = Some(NanoUsd::from_nanos(10_000_001_007));
        let mut cost = tariff.cost(&Usage { reported_cost, ..usage(7, 0) });
        let unpriced = Tariff::unknown().cost(&usage(1, 1));
        cost.add_failed(&tariff.cost(&Usage { estimated: true, ..usage(5, 0) }));
        assert_eq!((cost.total.as_nanos(), cost.own().as_nanos()), (20_000_000_012, 10_000_000_007));
        assert_eq!((cost.lines.failed_attempts.as_nanos(), cost.estimated), (10_000_000_005, true));
        assert_eq!(cost.drift(), Some(NanoUsd::from_nanos(1_000)));
        cost.add_failed(&unpriced);
        assert_eq!((cost.priced, cost.drift()), (false, None));
    }

    #[test]
    fn a_bound_is_that_of_the_dearest_row_that_may_apply_with_all_calls_of_tools() {
        let bound = |input, tools, output| claude().upper_bound(input, tools, output).as_nanos();
        // Six dollars for what the cache keeps for an hour; 22.5 only for a long prompt.
        assert_eq!(bound(200_000, 0, 2), 1_200_000_000 + 30_000 + ROUNDED_LINES);
        assert_eq!(bound(200_001, 0, 2), 1_200_006_000 + 45_000 + ROUNDED_LINES);
        assert_eq!(bound(0, 1, 0) - bound(0, 0, 0), 10 * 10_000_000);
        let by_request = Prices { request: Some(NanoUsd::from_nanos(7)), ..Prices::default() };
        let by_request = Tariff::flat(by_request, PriceSource::Backend);
        assert_eq!(by_request.upper_bound(5, 0, 5).as_nanos(), 7, "exact: no token has a price");
        assert_eq!(Tariff::unknown().upper_bound(5, 5, 5), NanoUsd::ZERO);
    }

    #[test]
    fn a_long_prompt_makes_the_whole_request_dearer() {
        assert_eq!(nanos(&claude(), &usage(200_000, 1)), 600_000_000 + 15_000);
        assert_eq!(nanos(&claude(), &usage(200_001, 1)), 1_200_006_000 + 22_500);
    }

    #[test]
    fn a_service_class_without_prices_of_its_own_is_an_ordinary_one() {
        let of = |tier| nanos(&claude(), &Usage { tier: Some(tier), ..usage(10, 1) });
        assert_eq!(of(ServiceTier::Batch), 15_000 + 7_500);
        assert_eq!(of(ServiceTier::Priority), 30_000 + 15_000);
    }

    #[test]
    fn what_has_no_price_is_not_free() {
        let only_input = Tariff::flat(Prices { input: usd(1.0), ..Prices::default() }, PriceSource::Backend);
        assert!(only_input.cost(&usage(5, 0)).priced, "an embedding has no output");
        assert!(!only_input.cost(&usage(5, 1)).priced);
        assert!(!Tariff::unknown().cost(&usage(0, 0)).priced);
        assert!(Tariff::free().cost(&usage(5, 5)).priced);
        let by_request = Prices { request: Some(NanoUsd::from_nanos(7)), ..Prices::default() };
        let cost = Tariff::flat(by_request, PriceSource::Backend).cost(&usage(5, 5));
        assert_eq!((cost.priced, cost.total.as_nanos()), (true, 7));
    }

    #[test]
    fn drift_is_the_vendors_figure_less_ours() {
        let reported_cost = Some(NanoUsd::from_nanos(50_000));
        let cost = claude().cost(&Usage { reported_cost, ..usage(10, 1) });
        assert_eq!(cost.drift(), Some(NanoUsd::from_nanos(5_000)));
        assert_eq!(claude().cost(&usage(10, 1)).drift(), None);
    }

    proptest! {
        #[test]
        fn whatever_the_prices_nothing_within_the_bound_costs_more_than_it(
            prices in proptest::array::uniform10(proptest::option::of(0u32..30_000)),
            parts in proptest::array::uniform10(0u64..50),
        ) {
            // Down to a ten-thousandth of a nano-dollar for a token, so that each line may be rounded up.
            let price = |place: usize| prices[place].map(|price| PricePerMillion::from_usd(f64::from(price) * 1e-7).unwrap());
            let prices = Prices {
                input: price(0), cached_input: price(1), cache_write: price(2), cache_write_1h: price(3),
                audio_input: price(4), image_input: price(5), output: price(6), reasoning: price(7),
                audio_output: price(8), image_output: price(9), ..Prices::default()
            };
            let usage = Usage {
                cached_tokens: Some(parts[1]), cache_write_tokens: Some(parts[2] + parts[3]),
                cache_write_1h_tokens: Some(parts[3]), audio_input_tokens: Some(parts[4]),
                image_input_tokens: Some(parts[5]), reasoning_tokens: Some(parts[7]),
                audio_output_tokens: Some(parts[8]), image_output_tokens: Some(parts[9]),
                ..usage(parts[..6].iter().sum(), parts[6..].iter().sum())
            };
            let tariff = Tariff::flat(prices, PriceSource::Backend);
            let bound = tariff.upper_bound(usage.input_tokens.unwrap(), 0, usage.output_tokens.unwrap());
            prop_assert!(bound >= tariff.cost(&usage).total);
        }
    }

    proptest! {
        #[test]
        fn nothing_within_the_bound_costs_more_than_it(
            input in 0u64..400_000, output in 0u64..10_000, parts in proptest::array::uniform4(0u64..400_000),
            slack in 0u64..300_000, tier in 0usize..4, tools in 0u64..3,
        ) {
            let tier = [ServiceTier::Standard, ServiceTier::Flex, ServiceTier::Priority, ServiceTier::Batch][tier];
            let usage = Usage {
                cached_tokens: Some(parts[0]), cache_write_tokens: Some(parts[1]), cache_write_1h_tokens: Some(parts[2]),
                reasoning_tokens: Some(parts[3]), tier: Some(tier),
                server_tool_calls: Some(tools * SERVER_TOOL_CALLS_MAX), ..usage(input, output)
            };
            prop_assert!(claude().upper_bound(input + slack, tools, output) >= claude().cost(&usage).total);
        }
    }
}
