//! Many bytes of JSON text at a time: 16, by SSE2 or in words, and 64 where the machine has AVX2.
//!
//! In a block of 16 bytes each byte is judged by itself. In long strings the blocks of 64 bytes have two speeds, because escapes are
//! many in prose and code, and pairs of backslashes are few:
//!
//! - [`avx2::run`] compares each byte with the byte before it: behind a backslash a letter must stand that makes an escape of two
//!   bytes, elsewhere no quote may. That holds as long as no backslash is itself escaped, and stops where one is.
//! - [`avx2::block`] tells by a subtraction which backslash of a row begins an escape ([`escape_starts`]), and judges any block.
//!
//! Classes of bytes are looked up by half bytes (Langdale and Lemire, "Parsing gigabytes of JSON per second", 2019).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod sse2;
#[cfg(any(test, not(target_arch = "x86_64")))]
mod words;

#[cfg(target_arch = "x86_64")]
use sse2 as narrow;
#[cfg(not(target_arch = "x86_64"))]
use words as narrow;

/// Whether a byte ends a run of plain text inside a string.
pub(super) const fn is_stop(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f)
}

/// From how many bytes on [`long_run`] is worth a call.
pub(super) const LONG_BYTES_MIN: usize = 80;

/// Goes over plain text in a string, and with `OVER_ESCAPES` over escapes of two bytes, from `at` on, which must not be inside an
/// escape. `Ok` is the place of the byte that needs a look: a quote, a control character, or the backslash of any other escape. `Err`
/// is where to go on, by smaller blocks.
#[cfg(target_arch = "x86_64")]
pub(super) fn long_run<const OVER_ESCAPES: bool>(text: &[u8], at: usize) -> Result<usize, usize> {
    if !is_x86_feature_detected!("avx2") {
        return Err(at);
    }
    #[expect(
        unsafe_code,
        reason = "blocks of 64 bytes halve the scan of a prompt twice; a_string_ends_where_a_slow_reader_says compares"
    )]
    // SAFETY: the function needs AVX2 and nothing else, and that was asked just above.
    unsafe {
        avx2::long_run::<OVER_ESCAPES>(text, at)
    }
}

/// No wider blocks are known here.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn long_run<const OVER_ESCAPES: bool>(_: &[u8], at: usize) -> Result<usize, usize> {
    Err(at)
}

/// Of the backslashes of a block, one bit each, those that begin an escape: in a run of them, every second one. A subtraction carries
/// through each run; where it began tells the odd places of the run from the even ones (simdjson's "find escaped characters").
#[cfg(any(test, target_arch = "x86_64"))]
#[inline]
fn escape_starts(backslashes: u64) -> u64 {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    let behind = backslashes << 1;
    (((behind | ODD).wrapping_sub(backslashes)) ^ ODD) & backslashes
}

/// One bit for each byte of a block that ends a plain run, the lowest for the first. Only the lowest set bit is exact.
#[inline]
pub(super) fn stops(block: &[u8; 16]) -> u32 {
    narrow::stops(block)
}

/// One bit for each byte of a block that is no white space, the lowest for the first. Only the lowest set bit is exact.
#[inline]
pub(super) fn solids(block: &[u8; 16]) -> u32 {
    narrow::solids(block)
}

/// A block as two words.
#[inline]
fn halves(block: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*block);
    (both as u64, (both >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::json::lex::is_space;

    proptest! {
        #[test]
        fn every_second_backslash_of_a_run_begins_an_escape(backslashes in any::<u64>(), more in any::<u64>()) {
            for backslashes in [backslashes, backslashes | more, backslashes & more] {
                let (mut expected, mut begins) = (0, true);
                for bit in 0..64 {
                    begins &= backslashes >> bit & 1 == 1;
                    expected |= u64::from(begins) << bit;
                    begins = !begins;
                }
                prop_assert_eq!(escape_starts(backslashes), expected);
            }
        }

        #[test]
        fn words_and_vectors_find_the_same_first_byte(block in any::<[u8; 16]>(), space in proptest::array::uniform16(proptest::sample::select(&b" \n\r\t\x0b\x00a"[..]))) {
            for block in [block, space] {
                prop_assert_eq!(stops(&block).trailing_zeros(), words::stops(&block).trailing_zeros());
                prop_assert_eq!(solids(&block).trailing_zeros(), words::solids(&block).trailing_zeros());
            }
        }
    }

    #[test]
    fn every_single_byte_is_judged_alike_by_words_and_vectors() {
        for byte in 0..=u8::MAX {
            let block = [byte; 16];
            assert_eq!(stops(&block) & 1 == 1, is_stop(byte), "{byte:#x}");
            assert_eq!(words::stops(&block) & 1 == 1, is_stop(byte), "{byte:#x}");
            assert_eq!(solids(&block) & 1 == 1, !is_space(byte), "{byte:#x}");
            assert_eq!(words::solids(&block) & 1 == 1, !is_space(byte), "{byte:#x}");
        }
    }
}
