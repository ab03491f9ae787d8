//! Blocks of 16 bytes without vectors.

use super::halves;
use crate::json::lex::is_space;

/// See [`super::stops`].
pub(super) fn stops(block: &[u8; 16]) -> u32 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let marks = |word: u64| {
        // Flipping 2 puts the quote (0x22) right behind the control characters (0x00..=0x1f), so one subtraction finds both.
        // A borrow may mark bytes above a true mark, never the lowest.
        let quote_or_control = (word ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
        let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
        (quote_or_control | backslash) & !word & TOPS
    };
    let first = |marks: u64| if marks == 0 { 0 } else { 1 << (marks.trailing_zeros() / 8) };
    let (low, high) = halves(block);
    first(marks(low)) | first(marks(high)) << 8
}

/// See [`super::solids`].
pub(super) fn solids(block: &[u8; 16]) -> u32 {
    block.iter().position(|byte| !is_space(*byte)).map_or(0, |place| 1 << place)
}
