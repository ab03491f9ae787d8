//! Money as integers: nano-USD. Floating point never touches an amount that somebody pays.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// An amount in billionths of a US dollar. One dollar is 1 000 000 000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NanoUsd(i64);

/// Why a number is not an amount of money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Below zero.
    #[error("must not be negative")]
    Negative,
    /// Not a finite number.
    #[error("must be a finite number")]
    NotFinite,
    /// Over nine billion dollars, or over that per million tokens.
    #[error("is too large")]
    TooLarge,
}

impl NanoUsd {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From billionths of a dollar.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Billionths of a dollar.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// From a configured number of dollars, rounded to the nearest billionth.
    pub fn from_usd(usd: f64) -> Result<Self, MoneyError> {
        if !usd.is_finite() {
            return Err(MoneyError::NotFinite);
        }
        if usd < 0.0 {
            return Err(MoneyError::Negative);
        }
        let nanos = (usd * 1e9).round();
        if nanos >= i64::MAX as f64 {
            return Err(MoneyError::TooLarge);
        }
        Ok(Self(nanos as i64))
    }

    /// Adds, stopping at the largest amount.
    pub fn saturating_add(self, rhs: Self) -> Self {
        Self(self.0.saturating_add(rhs.0))
    }
}

impl Add for NanoUsd {
    type Output = Self;

    fn add(self, rhs: Self) -> Self {
        self.saturating_add(rhs)
    }
}

impl AddAssign for NanoUsd {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl Sum for NanoUsd {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Self::saturating_add)
    }
}

/// Exact decimal dollars without trailing zeros: `0.0000025`, `12`, `-0.5`.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text().as_str())
    }
}

/// An amount as it prints, without an allocation.
pub struct Dollars {
    /// A sign, ten digits, a point and nine digits, at the end of these.
    bytes: [u8; 21],
    start: usize,
}

impl Dollars {
    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[self.start..]).expect("made of ASCII digits and signs")
    }

    fn put(&mut self, byte: u8) {
        self.start -= 1;
        self.bytes[self.start] = byte;
    }
}

impl NanoUsd {
    /// As it prints; cheaper than `to_string`, for those who have many.
    pub fn text(self) -> Dollars {
        let mut text = Dollars { bytes: [0; 21], start: 21 };
        let nanos = self.0.unsigned_abs();
        let (mut whole, mut rest) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        if rest > 0 {
            let mut places = 9;
            while rest % 10 == 0 {
                rest /= 10;
                places -= 1;
            }
            for _ in 0..places {
                text.put(b'0' + (rest % 10) as u8);
                rest /= 10;
            }
            text.put(b'.');
        }
        loop {
            text.put(b'0' + (whole % 10) as u8);
            whole /= 10;
            if whole == 0 {
                break;
            }
        }
        if self.0 < 0 {
            text.put(b'-');
        }
        text
    }
}

/// As it prints: a string, so that no reader turns it into a floating point number.
impl serde::Serialize for NanoUsd {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A price in USD per million tokens, kept as nano-USD per million tokens so that any catalogue price is exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PricePerMillion(NanoUsd);

impl PricePerMillion {
    /// From a configured number of dollars per million tokens.
    pub fn from_usd(usd: f64) -> Result<Self, MoneyError> {
        NanoUsd::from_usd(usd).map(Self)
    }

    /// Nano-USD for a million tokens.
    pub const fn per_million(self) -> NanoUsd {
        self.0
    }

    /// What `tokens` cost, rounded half up to a whole nano-USD.
    pub fn cost(self, tokens: u64) -> NanoUsd {
        let nanos = (i128::from(self.0.0) * i128::from(tokens) + 500_000) / 1_000_000;
        NanoUsd(i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}

/// What a backend charges. `None` = not stated, which is different from free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// Uncached input.
    pub input: Option<PricePerMillion>,
    /// Input served from the vendor's prompt cache.
    pub cached_input: Option<PricePerMillion>,
    /// Input written to the vendor's prompt cache.
    pub cache_write: Option<PricePerMillion>,
    /// Input written to the cache to be kept for an hour; without it as any other write.
    pub cache_write_1h: Option<PricePerMillion>,
    /// Audio in the prompt; without it as other input.
    pub audio_input: Option<PricePerMillion>,
    /// Images in the prompt; without it as other input.
    pub image_input: Option<PricePerMillion>,
    /// Visible output.
    pub output: Option<PricePerMillion>,
    /// Reasoning output; without it reasoning is priced as output.
    pub reasoning: Option<PricePerMillion>,
    /// Generated audio; without it as other output.
    pub audio_output: Option<PricePerMillion>,
    /// Generated images; without it as other output.
    pub image_output: Option<PricePerMillion>,
    /// A fixed amount for each request.
    pub request: Option<NanoUsd>,
    /// A fixed amount for each call of a tool that the vendor runs, such as a web search.
    pub tool_call: Option<NanoUsd>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_exactly() {
        for (nanos, text) in [
            (0, "0"),
            (2_500, "0.0000025"),
            (12_000_000_000, "12"),
            (-500_000_000, "-0.5"),
            (1, "0.000000001"),
            (i64::MAX, "9223372036.854775807"),
            (i64::MIN, "-9223372036.854775808"),
        ] {
            assert_eq!(NanoUsd::from_nanos(nanos).to_string(), text);
        }
    }

    #[test]
    fn cost_is_exact_to_the_nano_dollar() {
        let price = PricePerMillion::from_usd(2.5).unwrap();
        assert_eq!(price.cost(1), NanoUsd::from_nanos(2_500));
        assert_eq!(price.cost(1_000_000), NanoUsd::from_usd(2.5).unwrap());
        assert_eq!(
            PricePerMillion::from_usd(0.000_000_5).unwrap().cost(1),
            NanoUsd::from_nanos(0),
            "0.0005 nano rounds down"
        );
    }

    #[test]
    fn half_a_nano_dollar_rounds_up_and_what_is_too_much_to_count_stays_the_most() {
        let cost = |nanos: i64, tokens| PricePerMillion(NanoUsd(nanos)).cost(tokens).as_nanos();
        assert_eq!([cost(499_999, 1), cost(500_000, 1), cost(1_499_999, 1), cost(1_500_000, 1)], [0, 1, 1, 2]);
        assert_eq!([cost(500_000, 3), cost(7, 0), cost(i64::MAX, 2_000_000)], [2, 0, i64::MAX]);
        let most = NanoUsd(i64::MAX);
        assert_eq!([most + NanoUsd(1), [most, NanoUsd(1), most].into_iter().sum()], [most; 2]);
    }

    #[test]
    fn dollars_of_the_configuration_are_rounded_to_the_nearest_billionth() {
        let nanos = |usd| NanoUsd::from_usd(usd).map(NanoUsd::as_nanos);
        assert_eq!([nanos(0.0), nanos(0.000_000_001_4), nanos(0.000_000_001_6)], [Ok(0), Ok(1), Ok(2)]);
        assert_eq!([nanos(0.1), nanos(9e9)], [Ok(100_000_000), Ok(9_000_000_000_000_000_000)]);
        assert_eq!(nanos(i64::MAX as f64 / 1e9), Err(MoneyError::TooLarge));
        assert_eq!(nanos(f64::INFINITY), Err(MoneyError::NotFinite));
    }

    #[test]
    fn a_price_below_zero_or_not_finite_is_refused() {
        assert_eq!(NanoUsd::from_usd(-0.1), Err(MoneyError::Negative));
        assert_eq!(NanoUsd::from_usd(f64::NAN), Err(MoneyError::NotFinite));
        assert_eq!(NanoUsd::from_usd(1e12), Err(MoneyError::TooLarge));
    }
}
