//! What a request is expected to cost at a backend: for choosing, never for billing, so floating point will do.

use berry_core::money::{PricePerMillion, Prices};

use crate::eligibility::Hints;

/// Assumed where the request does not say.
const INPUT_TOKENS: u64 = 1_000;
/// Assumed where the request does not say; a stated maximum is seldom reached, so a larger one counts as this too.
const OUTPUT_TOKENS: u64 = 250;

/// The prices of a backend, ready to be multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expense {
    /// Whether any of them is stated.
    known: bool,
    /// Nano-USD for an input token.
    input: f64,
    /// Nano-USD for an output token.
    output: f64,
    /// Nano-USD for a request.
    request: f64,
}

impl Expense {
    pub(crate) fn of(prices: &Prices) -> Self {
        let per_token =
            |price: Option<PricePerMillion>| price.map_or(0.0, |price| price.per_million().as_nanos() as f64 / 1e6);
        Self {
            known: prices.input.is_some() || prices.output.is_some() || prices.request.is_some(),
            input: per_token(prices.input),
            output: per_token(prices.output),
            request: prices.request.map_or(0.0, |amount| amount.as_nanos() as f64),
        }
    }

    /// Expected cost of a request, nano-USD; `None` when neither a token price nor a request price is stated.
    pub(crate) fn expected_nanos(&self, size: Size) -> Option<i64> {
        let nanos = size.input * self.input + size.output * self.output + self.request;
        // Half up; the library's rounding is a call where the processor has no instruction for it.
        if self.known { Some((nanos + 0.5) as i64) } else { None }
    }
}

/// How large a request is expected to be, in tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    input: f64,
    output: f64,
}

impl Size {
    pub(crate) fn of(hints: &Hints) -> Self {
        Self {
            input: hints.input_tokens.unwrap_or(INPUT_TOKENS) as f64,
            output: hints.output_tokens.unwrap_or(OUTPUT_TOKENS).min(OUTPUT_TOKENS) as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berry_core::money::NanoUsd;

    #[test]
    fn the_parts_that_are_stated_add_up_and_none_is_unknown() {
        let usd = |usd| Some(PricePerMillion::from_usd(usd).unwrap());
        let prices = Prices { input: usd(2.5), output: usd(10.0), ..Prices::default() };
        let hints = |input_tokens, output_tokens| Hints { input_tokens, output_tokens, ..Hints::default() };
        let cost = |prices: &Prices, hints| Expense::of(prices).expected_nanos(Size::of(&hints));
        assert_eq!(cost(&prices, hints(None, None)), Some(2_500_000 + 2_500_000));
        assert_eq!(cost(&prices, hints(Some(10_000), Some(100))), Some(25_000_000 + 1_000_000));
        assert_eq!(cost(&prices, hints(Some(0), Some(100_000))), Some(2_500_000));
        assert_eq!(cost(&Prices::default(), hints(None, None)), None);
        let flat = Prices { request: Some(NanoUsd::from_nanos(7)), ..Prices::default() };
        assert_eq!(cost(&flat, hints(None, None)), Some(7));
    }
}
