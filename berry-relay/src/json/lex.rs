//! The tokens of JSON where they lie in one piece. Places count from the start of the bytes that are given.
//!
//! A token that is wrong, or inside which the bytes end, has no end; which of both it is, and where, is the [`super::Scanner`]'s to say.

use super::wide;

/// White space between tokens.
#[inline]
pub(super) const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// The first place from `at` on where no white space stands.
#[inline]
pub(super) fn skip_space(text: &[u8], at: usize) -> usize {
    match text.get(at) {
        Some(byte) if *byte > b' ' => at,
        _ => skip_more_space(text, at),
    }
}

/// The first place from `at` on where no white space stands, and the byte there, or 0 at the end, which begins no token.
#[inline]
pub(super) fn token(text: &[u8], at: usize) -> (usize, u8) {
    match text.get(at) {
        Some(byte) if *byte > b' ' => (at, *byte),
        _ => token_behind_space(text, at),
    }
}

#[inline(never)]
fn token_behind_space(text: &[u8], at: usize) -> (usize, u8) {
    // One space stands behind most colons.
    if let Some([b' ', byte, ..]) = text.get(at..)
        && *byte > b' '
    {
        return (at + 1, *byte);
    }
    let at = skip_more_space(text, at);
    (at, text.get(at).copied().unwrap_or(0))
}

fn skip_more_space(text: &[u8], mut at: usize) -> usize {
    while let Some(block) = block_at(text, at) {
        let solids = wide::solids(block);
        if solids != 0 {
            return at + solids.trailing_zeros() as usize;
        }
        at += block.len();
    }
    while text.get(at).is_some_and(|byte| is_space(*byte)) {
        at += 1;
    }
    at
}

/// Sixteen bytes from a place on.
#[inline]
fn block_at(text: &[u8], at: usize) -> Option<&[u8; 16]> {
    let last = text.len().checked_sub(16)?;
    if at <= last { text[at..].first_chunk() } else { None }
}

/// The end of a string whose opening quote stands before `at`, its closing quote included. `Err` is where it cannot go on: the end of
/// the bytes, a control character, or an escape that is wrong or cut.
#[inline]
pub(super) fn text_end(text: &[u8], at: usize) -> Result<usize, usize> {
    short_text_end(text, at).or_else(|at| long_text_end(text, at))
}

/// The end of a string, like [`text_end`], if it has no escapes.
#[inline]
pub(super) fn plain_text_end(text: &[u8], at: usize) -> Option<usize> {
    short_text_end(text, at).or_else(|at| long_plain_text_end(text, at)).ok()
}

/// The end of a string if it is short and plain, as most are. `Err` is how far it is plain.
#[inline]
fn short_text_end(text: &[u8], at: usize) -> Result<usize, usize> {
    let Some(block) = block_at(text, at) else { return Err(at) };
    // Where the block has no stop, the byte behind it may still be the quote.
    let end = at + (wide::stops(block) | 1 << 16).trailing_zeros() as usize;
    if text.get(end) == Some(&b'"') { Ok(end + 1) } else { Err(end) }
}

#[inline(never)]
fn long_plain_text_end(text: &[u8], at: usize) -> Result<usize, usize> {
    let end = plain_end::<false>(text, at);
    if text.get(end) == Some(&b'"') { Ok(end + 1) } else { Err(end) }
}

#[inline(never)]
fn long_text_end(text: &[u8], mut at: usize) -> Result<usize, usize> {
    loop {
        at = plain_end::<true>(text, at);
        // Some clients write whole scripts as escapes.
        while is_unicode_escape(text, at) {
            at += 6;
        }
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at += escape_length(&text[at..]).ok_or(at)?,
            None | Some(0..=0x1f) => return Err(at),
            _ => {}
        }
    }
}

/// Whether an escape of four digits stands here whole.
#[inline]
fn is_unicode_escape(text: &[u8], at: usize) -> bool {
    let is_hex = |digit: u8| HEX_DIGITS[usize::from(digit)];
    match text.get(at..).and_then(<[u8]>::first_chunk) {
        Some(&[b'\\', b'u', a, b, c, d]) => is_hex(a) & is_hex(b) & is_hex(c) & is_hex(d),
        _ => false,
    }
}

/// Length of an escape, its backslash included.
fn escape_length(text: &[u8]) -> Option<usize> {
    if is_unicode_escape(text, 0) {
        return Some(6);
    }
    is_short_escape(*text.get(1)?).then_some(2)
}

/// The end of a number. What follows it is not looked at, so a number at the end of the bytes may have been cut.
#[inline]
pub(super) fn number_end(text: &[u8], at: usize) -> Option<usize> {
    // Most are counts of a few digits.
    if let Some(eight) = text.get(at..)?.first_chunk() {
        let word = u64::from_le_bytes(*eight);
        let digits = leading_digits(word);
        let behind = (word >> (8 * digits % 64)) as u8;
        let is_count = word as u8 != b'0' || digits == 1;
        if (1..8).contains(&digits) && is_count && !matches!(behind, b'.' | b'e' | b'E') {
            return Some(at + digits);
        }
    }
    any_number_end(text, at)
}

#[inline(never)]
fn any_number_end(text: &[u8], at: usize) -> Option<usize> {
    let first = at + usize::from(text.get(at)? == &b'-');
    let mut end = match text.get(first)? {
        b'0' => first + 1,
        _ => digits_end(text, first)?,
    };
    if let Some(b'.') = text.get(end) {
        end = digits_end(text, end + 1)?;
    }
    if let Some(b'e' | b'E') = text.get(end) {
        end += 1;
        end += usize::from(matches!(text.get(end)?, b'+' | b'-'));
        end = digits_end(text, end)?;
    }
    Some(end)
}

/// The end of one digit or more.
#[inline]
fn digits_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    while let Some(eight) = text.get(at..).and_then(<[u8]>::first_chunk) {
        let digits = leading_digits(u64::from_le_bytes(*eight));
        at += digits;
        if digits < eight.len() {
            return (at > start).then_some(at);
        }
    }
    while text.get(at).is_some_and(u8::is_ascii_digit) {
        at += 1;
    }
    (at > start).then_some(at)
}

/// How many of eight bytes, the first one lowest, are digits before the first that is none. Less `0x30` a digit is 0 to 9, and stays below `0x80` when `0x76`
/// is added; a carry of what is no digit reaches only bytes behind it.
#[inline]
fn leading_digits(bytes: u64) -> usize {
    let less = bytes ^ 0x3030_3030_3030_3030;
    let others = (less.wrapping_add(0x7676_7676_7676_7676) | less) & 0x8080_8080_8080_8080;
    others.trailing_zeros() as usize / 8
}

/// The end of a number or a word that begins at `at` with the byte `first`.
#[inline]
pub(super) fn number_or_word_end(text: &[u8], at: usize, first: u8) -> Option<usize> {
    match first {
        b'-' | b'0'..=b'9' => number_end(text, at),
        b't' => word_end(text, at, b"true"),
        b'f' => word_end(text, at, b"false"),
        b'n' => word_end(text, at, b"null"),
        _ => None,
    }
}

#[inline]
fn word_end(text: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    text.get(at..)?.starts_with(word).then_some(at + word.len())
}

/// The place from `at` on where a run of plain text inside a string ends: at a quote, a backslash or a control character. With
/// `OVER_ESCAPES` escapes of two bytes count as plain where they lie here whole; at the end of the bytes they may be left.
#[inline]
pub(super) fn plain_end<const OVER_ESCAPES: bool>(text: &[u8], mut at: usize) -> usize {
    while let Some(block) = block_at(text, at) {
        match next_stop::<OVER_ESCAPES>(text, at, block.len(), wide::stops(block)) {
            Ok(stop) => return stop,
            Err(next) => at = next,
        }
        // Few strings get this far, and those are the prompts.
        if text.len() >= at + wide::LONG_BYTES_MIN {
            match wide::long_run::<OVER_ESCAPES>(text, at) {
                Ok(stop) => return stop,
                Err(next) => at = next,
            }
        }
    }
    if let (Some(block), true) = (text.last_chunk(), at < text.len()) {
        let left = text.len() - at;
        return match next_stop::<OVER_ESCAPES>(text, at, left, wide::stops(block) >> (block.len() - left)) {
            Ok(end) | Err(end) => end,
        };
    }
    while text.get(at).is_some_and(|byte| !wide::is_stop(*byte)) {
        at += 1;
    }
    at
}

/// The first place in a block of `length` bytes at `at` that ends the run, or where to go on behind the block. `stops` has one
/// bit for each byte of the block.
#[inline]
fn next_stop<const OVER_ESCAPES: bool>(text: &[u8], at: usize, length: usize, mut stops: u32) -> Result<usize, usize> {
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

/// Whether a byte may stand behind a backslash alone. Looked up: in prose and code every few words ask for it.
fn is_short_escape(byte: u8) -> bool {
    SHORT_ESCAPES[usize::from(byte)]
}

static SHORT_ESCAPES: [bool; 256] = table(b"\"\\/bfnrt");
static HEX_DIGITS: [bool; 256] = table(b"0123456789abcdefABCDEF");

/// Which bytes are among these.
const fn table(bytes: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut i = 0;
    while i < bytes.len() {
        table[bytes[i] as usize] = true;
        i += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Mostly plain bytes and escapes, some of them only of one kind, and a little of everything.
    fn text_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = |pairs: u32| {
            prop_oneof![
                300 => Just(vec![b'a']),
                100 => proptest::sample::select(vec![br"\n".to_vec(), br#"\""#.to_vec(), br"\/".to_vec(), br"\t".to_vec(), br"\r".to_vec(), br"\f".to_vec()]),
                pairs => Just(br"\\".to_vec()),
                2 => proptest::sample::select(vec![br"\u0041".to_vec(), br"\b".to_vec()]),
                1 => proptest::sample::select(vec![br"\x".to_vec(), br"\".to_vec(), br#"""#.to_vec()]),
                1 => any::<u8>().prop_map(|byte| vec![byte]),
                1 => (0x1e_u8..0x24).prop_map(|byte| vec![byte]),
            ]
        };
        let pieces = |pairs| proptest::collection::vec(piece(pairs), 0..1000).prop_map(|pieces| pieces.concat());
        prop_oneof![pieces(1), pieces(3), pieces(300)]
    }

    /// What [`text_end`] must say, byte after byte.
    fn slow_text_end(bytes: &[u8], mut at: usize) -> Result<usize, usize> {
        loop {
            match bytes.get(at) {
                Some(b'"') => return Ok(at + 1),
                Some(b'\\') => at += escape_length(&bytes[at..]).ok_or(at)?,
                None | Some(0..=0x1f) => return Err(at),
                Some(_) => at += 1,
            }
        }
    }

    proptest! {
        #[test]
        fn a_plain_run_ends_where_a_slow_search_says(bytes in text_bytes(), at in 0_usize..4) {
            let at = at.min(bytes.len());
            let slow = bytes[at..].iter().position(|byte| wide::is_stop(*byte)).map_or(bytes.len(), |place| at + place);
            prop_assert_eq!(plain_end::<false>(&bytes, at), slow);
        }

        #[test]
        fn a_string_ends_where_a_slow_reader_says(bytes in text_bytes(), at in 0_usize..4) {
            let at = at.min(bytes.len());
            prop_assert_eq!(text_end(&bytes, at), slow_text_end(&bytes, at));
        }

        #[test]
        fn white_space_ends_where_a_slow_search_says(
            space in "[ \n\r\t]{0,40}",
            behind in proptest::option::of(any::<u8>()),
            more in "[a ]{0,20}",
        ) {
            let mut bytes = space.into_bytes();
            bytes.extend(behind);
            bytes.extend(more.bytes());
            let slow = bytes.iter().position(|byte| !is_space(*byte)).unwrap_or(bytes.len());
            prop_assert_eq!(skip_space(&bytes, 0), slow);
        }

        #[test]
        fn leading_digits_are_told_from_anything_else(bytes in proptest::array::uniform8(0x2e_u8..0x3c), any in any::<[u8; 8]>()) {
            for bytes in [bytes, any] {
                prop_assert_eq!(leading_digits(u64::from_le_bytes(bytes)), bytes.iter().take_while(|byte| byte.is_ascii_digit()).count());
            }
        }
    }
}
