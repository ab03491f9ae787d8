//! What a request is expected to cost at a backend: for choosing, never for billing.

use berry_core::money::{NanoUsd, Prices};

use crate::eligibility::Hints;

/// Assumed where the request does not say.
const INPUT_TOKENS: u64 = 1_000;
/// Assumed where the request does not say; a stated maximum is seldom reached, so a larger one counts as this too.
const OUTPUT_TOKENS: u64 = 250;

/// Expected cost; `None` when neither a token price nor a request price is stated.
pub(crate) fn expected(prices: &Prices, hints: &Hints) -> Option<NanoUsd> {
    let input = hints.input_tokens.unwrap_or(INPUT_TOKENS);
    let output = hints.output_tokens.unwrap_or(OUTPUT_TOKENS).min(OUTPUT_TOKENS);
    let parts =
        [prices.input.map(|price| price.cost(input)), prices.output.map(|price| price.cost(output)), prices.request];
    let stated = parts.iter().any(Option::is_some);
    stated.then(|| parts.into_iter().flatten().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use berry_core::money::PricePerMillion;

    #[test]
    fn the_parts_that_are_stated_add_up_and_none_is_unknown() {
        let usd = |usd| Some(PricePerMillion::from_usd(usd).unwrap());
        let prices = Prices { input: usd(2.5), output: usd(10.0), ..Prices::default() };
        let hints = |input_tokens, output_tokens| Hints { input_tokens, output_tokens, ..Hints::default() };
        let cost = |prices: &Prices, hints| expected(prices, &hints).map(NanoUsd::as_nanos);
        assert_eq!(cost(&prices, hints(None, None)), Some(2_500_000 + 2_500_000));
        assert_eq!(cost(&prices, hints(Some(10_000), Some(100))), Some(25_000_000 + 1_000_000));
        assert_eq!(cost(&prices, hints(Some(0), Some(100_000))), Some(2_500_000));
        assert_eq!(cost(&Prices::default(), hints(None, None)), None);
        let flat = Prices { request: Some(NanoUsd::from_nanos(7)), ..Prices::default() };
        assert_eq!(cost(&flat, hints(None, None)), Some(7));
    }
}
