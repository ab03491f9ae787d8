//! The tokens of JSON where they lie in one piece. All lengths count from the start of the bytes that are given.
//!
//! `None` means that the token is wrong or that the bytes end inside it; which of both, and where, is the [`super::Scanner`]'s to say.

/// White space between tokens.
#[inline]
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Length of a string behind its opening quote, the closing quote included.
#[inline]
pub(super) fn text_length(text: &[u8]) -> Option<usize> {
    // Most strings are short and plain.
    if let Some(block) = text.first_chunk() {
        let stops = stops(block);
        let place = stops.trailing_zeros() as usize;
        if stops != 0 && text[place] == b'"' {
            return Some(place + 1);
        }
    }
    long_text_length(text)
}

fn long_text_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += plain_length::<true>(&text[at..]);
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += escape_length(&text[at..])?,
            _ => return None,
        }
    }
}

/// Length of an escape, its backslash included.
pub(super) fn escape_length(text: &[u8]) -> Option<usize> {
    match text.get(1)? {
        b'u' => text.get(2..6)?.iter().all(u8::is_ascii_hexdigit).then_some(6),
        letter => is_short_escape(*letter).then_some(2),
    }
}

/// Length of a number. What follows it is not looked at, so a number at the end of the bytes may have been cut.
#[inline]
pub(super) fn number_length(text: &[u8]) -> Option<usize> {
    let mut at = usize::from(text.first()? == &b'-');
    at += match text.get(at)? {
        b'0' => 1,
        _ => digits_length(&text[at..])?,
    };
    if text.get(at) == Some(&b'.') {
        at += 1;
        at += digits_length(&text[at..])?;
    }
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1;
        at += usize::from(matches!(text.get(at)?, b'+' | b'-'));
        at += digits_length(&text[at..])?;
    }
    Some(at)
}

/// Length of one digit or more.
#[inline]
fn digits_length(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some(eight) = text[at..].first_chunk() {
        let digits = leading_digits(*eight);
        at += digits;
        if digits < eight.len() {
            return (at > 0).then_some(at);
        }
    }
    while text.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    (at > 0).then_some(at)
}

/// How many of eight bytes are digits before the first that is none. Less `0x30` a digit is 0 to 9, and stays below `0x80` when `0x76`
/// is added; a carry of what is no digit reaches only bytes behind it.
#[inline]
fn leading_digits(bytes: [u8; 8]) -> usize {
    let less = u64::from_le_bytes(bytes) ^ 0x3030_3030_3030_3030;
    let others = (less.wrapping_add(0x7676_7676_7676_7676) | less) & 0x8080_8080_8080_8080;
    others.trailing_zeros() as usize / 8
}

/// Number of bytes before what ends a run of plain text inside a string: a quote, a backslash or a control character. With
/// `OVER_ESCAPES` escapes of two bytes count as plain where they lie here whole; at the end of the bytes they may be left.
#[inline]
pub(super) fn plain_length<const OVER_ESCAPES: bool>(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(block) = text.get(at..).and_then(<[u8]>::first_chunk) {
        match next_stop::<OVER_ESCAPES>(text, at, block.len(), stops(block).into()) {
            Ok(stop) => return stop,
            Err(next) => at = next,
        }
        // Few strings get this far, and those are the prompts.
        if let Some(rest) = text.get(at..)
            && rest.len() >= LONG_BYTES_MIN
        {
            match long_plain_length::<OVER_ESCAPES>(rest) {
                Ok(stop) => return at + stop,
                Err(next) => at += next,
            }
        }
    }
    while text.get(at).is_some_and(|byte| !is_stop(*byte)) {
        at += 1;
    }
    at
}

/// The first place in a block of `length` bytes at `at` that ends the run, or where to go on behind the block. `stops` has one
/// bit for each byte of the block.
#[inline]
fn next_stop<const OVER_ESCAPES: bool>(text: &[u8], at: usize, length: usize, mut stops: u64) -> Result<usize, usize> {
    // The byte that the lowest bit of `stops` stands for.
    let mut place = at;
    while stops != 0 {
        let skipped = stops.trailing_zeros();
        place += skipped as usize;
        match text.get(place..) {
            Some([b'\\', letter, ..]) if OVER_ESCAPES && is_short_escape(*letter) => {}
            _ => return Ok(place),
        }
        stops = (stops >> skipped) >> 2;
        place += 2;
    }
    // An escape may reach into the next block.
    Err(place.max(at + length))
}

/// From how many bytes on [`long_plain_length`] is asked.
const LONG_BYTES_MIN: usize = 128;

/// Like [`plain_length`], by the widest blocks that the machine knows; the rest that fills no block is left. The escapes of a block
/// are judged together: prose and code have so many that a look at each would be most of the work.
#[cfg(target_arch = "x86_64")]
fn long_plain_length<const OVER_ESCAPES: bool>(text: &[u8]) -> Result<usize, usize> {
    if !is_x86_feature_detected!("avx2") {
        return Err(0);
    }
    #[expect(
        unsafe_code,
        reason = "blocks of 64 bytes halve the scan of a prompt once more; a_plain_run_ends_where_a_slow_search_says compares"
    )]
    // SAFETY: the function needs AVX2 and nothing else, and that was asked just above.
    unsafe {
        avx2::long_plain_length::<OVER_ESCAPES>(text)
    }
}

/// Runs of plain text in blocks of 64 bytes.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256i, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_movemask_epi8, _mm256_or_si256,
        _mm256_set1_epi8, _mm256_setr_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16,
        _mm256_srli_epi16,
    };

    use super::escape_starts;

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8; 32]) -> __m256i {
        #[expect(unsafe_code, reason = "a load from memory is the one thing that vectors cannot do without")]
        // SAFETY: the load needs 32 readable bytes, of any alignment, which is what the reference is.
        unsafe {
            _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>())
        }
    }

    /// What each byte is, one bit for each class: 1, 2, 4, 8 = what may stand behind a backslash alone, by the upper half of the letter,
    /// which makes 2 the backslash; 64 = a quote; 128 = a control character. A byte belongs to the classes that both of its halves
    /// allow. Those beyond ASCII belong to none: for them the look-up by the lower half gives 0.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn classes(bytes: __m256i) -> __m256i {
        const C: i8 = i8::MIN;
        let by_upper = _mm256_setr_epi8(
            C, C, 65, 0, 0, 2, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, C, C, 65, 0, 0, 2, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0,
        );
        let (at_2, at_4, at_6, at_c, at_e, at_f) = (C | 64 | 13, C | 8, C | 4, C | 2, C | 4, C | 1);
        let by_lower = _mm256_setr_epi8(
            C, C, at_2, C, at_4, C, at_6, C, C, C, C, C, at_c, C, at_e, at_f, C, C, at_2, C, at_4, C, at_6, C, C, C, C,
            C, at_c, C, at_e, at_f,
        );
        let upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(0x0f));
        _mm256_and_si256(_mm256_shuffle_epi8(by_upper, upper), _mm256_shuffle_epi8(by_lower, bytes))
    }

    /// The top bits of the bytes of two vectors.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn tops(low: __m256i, high: __m256i) -> u64 {
        let [low, high] = [low, high].map(|half| u64::from(_mm256_movemask_epi8(half).cast_unsigned()));
        low | high << 32
    }

    /// See [`super::long_plain_length`].
    #[target_feature(enable = "avx2")]
    pub(super) fn long_plain_length<const OVER_ESCAPES: bool>(text: &[u8]) -> Result<usize, usize> {
        let mut at = 0;
        while let Some(block) = text.get(at..).and_then(<[u8]>::first_chunk::<64>) {
            let (Some(low), Some(high)) = (block.first_chunk(), block.last_chunk()) else { break };
            let (low, high) = (classes(load(low)), classes(load(high)));
            let backslashes = tops(_mm256_slli_epi16(low, 6), _mm256_slli_epi16(high, 6));
            let quotes = [low, high].map(|half| _mm256_slli_epi16(half, 1));
            let mut stops = tops(_mm256_or_si256(low, quotes[0]), _mm256_or_si256(high, quotes[1]));
            let mut cut = 0;
            if backslashes != 0 {
                let starts = if OVER_ESCAPES { escape_starts(backslashes) } else { 0 };
                // What an escape at the end of the block says stands in the next one, which then begins with it.
                cut = starts >> 63;
                let [low, high] = [low, high].map(|half| {
                    let letters = _mm256_and_si256(half, _mm256_set1_epi8(0x0f));
                    _mm256_cmpeq_epi8(letters, _mm256_setzero_si256())
                });
                let long = starts & (tops(low, high) >> 1);
                stops = (stops & !(starts << 1)) | long | if OVER_ESCAPES { 0 } else { backslashes };
            }
            if stops != 0 {
                return Ok(at + stops.trailing_zeros() as usize);
            }
            at += 64 - cut as usize;
        }
        Err(at)
    }
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

/// No wider blocks are known here.
#[cfg(not(target_arch = "x86_64"))]
fn long_plain_length<const OVER_ESCAPES: bool>(_: &[u8]) -> Result<usize, usize> {
    Err(0)
}

/// Whether a byte may stand behind a backslash alone. Looked up: in prose and code every few words ask for it.
fn is_short_escape(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let letters = b"\"\\/bfnrt";
        let mut i = 0;
        while i < letters.len() {
            table[letters[i] as usize] = true;
            i += 1;
        }
        table
    };
    TABLE[usize::from(byte)]
}

const fn is_stop(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..=0x1f)
}

/// One bit for each byte of a block that ends a plain run, the lowest for the first.
#[cfg(target_arch = "x86_64")]
#[inline]
fn stops(block: &[u8; 16]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };

    #[inline]
    #[target_feature(enable = "sse2")]
    fn with_sse2(low: u64, high: u64) -> u32 {
        let bytes = _mm_set_epi64x(high.cast_signed(), low.cast_signed());
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"'.cast_signed()));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\'.cast_signed()));
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        let stops = _mm_or_si128(_mm_or_si128(quote, backslash), control);
        _mm_movemask_epi8(stops).cast_unsigned()
    }

    let (low, high) = halves(block);
    #[expect(
        unsafe_code,
        reason = "SSE2 belongs to every x86-64, but the compiler wants to be told. It halves the scan of a prompt against words \
                  of eight bytes; a_plain_run_ends_where_a_slow_search_says compares both with a plain search"
    )]
    // SAFETY: the function needs SSE2 and nothing else, and this is compiled for x86-64 only, of which SSE2 is a part.
    unsafe {
        with_sse2(low, high)
    }
}

/// One bit for each byte of a block that ends a plain run, the lowest for the first. Only the lowest set bit is exact.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn stops(block: &[u8; 16]) -> u32 {
    stops_in_words(block)
}

/// [`stops`] without vectors.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn stops_in_words(block: &[u8; 16]) -> u32 {
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

#[inline]
fn halves(block: &[u8; 16]) -> (u64, u64) {
    let both = u128::from_le_bytes(*block);
    (both as u64, (both >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mostly plain bytes and escapes, and some of everything.
    fn text_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            30 => Just(vec![b'a']),
            10 => proptest::sample::select(vec![br"\n".to_vec(), br#"\""#.to_vec(), br"\\".to_vec(), br"\/".to_vec(), br"\t".to_vec()]),
            1 => proptest::sample::select(vec![br"\u0041".to_vec(), br"\x".to_vec(), br"\".to_vec()]),
            1 => any::<u8>().prop_map(|byte| vec![byte]),
            1 => (0x1e_u8..0x24).prop_map(|byte| vec![byte]),
        ];
        proptest::collection::vec(piece, 0..1000).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_plain_run_ends_where_a_slow_search_says(bytes in text_bytes()) {
            let slow = bytes.iter().position(|byte| is_stop(*byte)).unwrap_or(bytes.len());
            prop_assert_eq!(plain_length::<false>(&bytes), slow);
        }

        #[test]
        fn a_string_ends_where_a_slow_reader_says(bytes in text_bytes()) {
            let mut slow = 0;
            let expected = loop {
                match bytes.get(slow) {
                    Some(b'"') => break Some(slow + 1),
                    Some(b'\\') => match escape_length(&bytes[slow..]) {
                        Some(length) => slow += length,
                        None => break None,
                    },
                    None | Some(0..=0x1f) => break None,
                    Some(_) => slow += 1,
                }
            };
            prop_assert_eq!(text_length(&bytes), expected);
        }

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
        fn words_and_vectors_find_the_same_first_stop(block in any::<[u8; 16]>()) {
            prop_assert_eq!(stops(&block).trailing_zeros(), stops_in_words(&block).trailing_zeros());
        }

        #[test]
        fn leading_digits_are_told_from_anything_else(bytes in proptest::array::uniform8(0x2e_u8..0x3c), any in any::<[u8; 8]>()) {
            for bytes in [bytes, any] {
                prop_assert_eq!(leading_digits(bytes), bytes.iter().take_while(|byte| byte.is_ascii_digit()).count());
            }
        }
    }

    #[test]
    fn every_single_byte_is_judged_alike_by_words_and_vectors() {
        for byte in 0..=u8::MAX {
            let block = [byte; 16];
            assert_eq!(stops(&block) & 1 == 1, is_stop(byte), "{byte:#x}");
            assert_eq!(stops_in_words(&block) & 1 == 1, is_stop(byte), "{byte:#x}");
        }
    }
}
