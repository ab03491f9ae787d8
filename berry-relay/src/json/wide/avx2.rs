//! Strings in blocks of 64 bytes. What the two speeds are stands in the module above.

use std::arch::x86_64::{
    __m256i, _mm256_and_si256, _mm256_cmpeq_epi8, _mm256_loadu_si256, _mm256_min_epu8, _mm256_movemask_epi8,
    _mm256_or_si256, _mm256_set1_epi8, _mm256_setr_epi8, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16,
    _mm256_srli_epi16, _mm256_subs_epu8, _mm256_testz_si256, _mm256_xor_si256,
};

use super::escape_starts;

/// See [`super::long_run`].
#[target_feature(enable = "avx2")]
pub(super) fn long_run<const OVER_ESCAPES: bool>(text: &[u8], mut at: usize) -> Result<usize, usize> {
    loop {
        // A backslash before this place belongs to an escape that is over, which the quick way cannot know.
        if OVER_ESCAPES && at > 0 && text[at - 1] != b'\\' {
            match run(text, at) {
                Run::Stop(place) => return Ok(place),
                Run::End(place) => return Err(place),
                Run::Pair(place) => at = place,
            }
        }
        let mut has_pairs = true;
        while has_pairs {
            let Some(bytes) = text[at..].first_chunk() else { return Err(at) };
            match block::<OVER_ESCAPES>(bytes) {
                Block { stop: Some(stop), .. } => return Ok(at + stop),
                Block { length, has_pairs: again, .. } => (at, has_pairs) = (at + length, again),
            }
        }
    }
}

/// How a quick run ended, outside of any escape.
enum Run {
    /// At something that needs a look.
    Stop(usize),
    /// At a pair of backslashes.
    Pair(usize),
    /// Where no block is left.
    End(usize),
}

/// Goes over blocks in which no backslash is escaped, from `at` on, which has a byte before it that is no part of an escape, or its end.
#[inline(never)]
#[target_feature(enable = "avx2")]
fn run(text: &[u8], at: usize) -> Run {
    // One byte more, the one before the block.
    let mut rest = &text[at - 1..];
    while let Some(bytes) = rest.first_chunk::<65>() {
        let here = [load::<1, 65>(bytes), load::<33, 65>(bytes)];
        let wrong = [misplaced(load::<0, 65>(bytes), here[0]), misplaced(load::<32, 65>(bytes), here[1])];
        // Not zero where a byte is below.
        let controls = _mm256_subs_epu8(_mm256_set1_epi8(0x20), _mm256_min_epu8(here[0], here[1]));
        let any = _mm256_or_si256(wrong[0], _mm256_or_si256(wrong[1], controls));
        if _mm256_testz_si256(any, any) == 0 {
            let controls = here.map(|half| _mm256_cmpeq_epi8(_mm256_min_epu8(half, _mm256_set1_epi8(0x1f)), half));
            let stop = (tops(wrong) | tops(controls)).trailing_zeros() as usize;
            let place = text.len() - rest.len() + stop;
            return match bytes[stop..] {
                [b'\\', b'\\', ..] => Run::Pair(place),
                [b'\\', ..] => Run::Stop(place),
                _ => Run::Stop(place + 1),
            };
        }
        rest = &rest[64..];
    }
    let place = text.len() - rest.len();
    // What an escape at the end says stands behind it.
    Run::End(place + usize::from(rest.first() != Some(&b'\\')))
}

/// The bytes that may not stand where they stand, as long as no backslash before them is escaped: a quote without a backslash before
/// it, and behind a backslash what is no quote and none of the letters of short escapes; `\b` is rare and not among them.
#[inline]
#[target_feature(enable = "avx2")]
fn misplaced(before: __m256i, here: __m256i) -> __m256i {
    // By its lower half, the one letter that a byte may be. No byte ends on 0 and is 1; those beyond ASCII find 0.
    let letters = _mm256_setr_epi8(
        1, 0, 0x72, 0, 0x74, 0, 0x66, 0, 0, 0, 0, 0, 0, 0, 0x6e, 0x2f, 1, 0, 0x72, 0, 0x74, 0, 0x66, 0, 0, 0, 0, 0, 0,
        0, 0x6e, 0x2f,
    );
    let is_letter = _mm256_cmpeq_epi8(_mm256_shuffle_epi8(letters, here), here);
    let is_escaped = _mm256_cmpeq_epi8(before, _mm256_set1_epi8(b'\\'.cast_signed()));
    let is_quote = _mm256_cmpeq_epi8(here, _mm256_set1_epi8(b'"'.cast_signed()));
    // Of masks a difference is the same as an `andnot`, which compilers make something longer of.
    _mm256_subs_epu8(_mm256_xor_si256(is_escaped, is_quote), is_letter)
}

/// What a block that begins outside of any escape holds.
struct Block {
    /// The first byte that needs a look.
    stop: Option<usize>,
    /// Where to go on behind it: an escape that its end cuts begins the next block.
    length: usize,
    /// Whether it holds backslashes side by side.
    has_pairs: bool,
}

/// Judges any block. The escapes of a block are judged together.
#[inline]
#[target_feature(enable = "avx2")]
fn block<const OVER_ESCAPES: bool>(bytes: &[u8; 64]) -> Block {
    let [low, high] = [classes(load::<0, 64>(bytes)), classes(load::<32, 64>(bytes))];
    let backslashes = tops([low, high].map(|half| _mm256_slli_epi16(half, 6)));
    let mut stops = tops([low, high].map(|half| _mm256_or_si256(half, _mm256_slli_epi16(half, 1))));
    let starts = if OVER_ESCAPES { escape_starts(backslashes) } else { 0 };
    let long = starts & (tops([low, high].map(|half| is_no_short_escape(half))) >> 1);
    stops = (stops & !(starts << 1)) | long | if OVER_ESCAPES { 0 } else { backslashes };
    Block {
        stop: (stops != 0).then(|| stops.trailing_zeros() as usize),
        length: 64 - (starts >> 63) as usize,
        has_pairs: backslashes & (backslashes << 1) != 0,
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
        C, C, at_2, C, at_4, C, at_6, C, C, C, C, C, at_c, C, at_e, at_f, C, C, at_2, C, at_4, C, at_6, C, C, C, C, C,
        at_c, C, at_e, at_f,
    );
    let upper = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(0x0f));
    _mm256_and_si256(_mm256_shuffle_epi8(by_upper, upper), _mm256_shuffle_epi8(by_lower, bytes))
}

/// Which bytes may not stand behind a backslash alone, by their classes.
#[inline]
#[target_feature(enable = "avx2")]
fn is_no_short_escape(classes: __m256i) -> __m256i {
    _mm256_cmpeq_epi8(_mm256_and_si256(classes, _mm256_set1_epi8(0x0f)), _mm256_setzero_si256())
}

/// The top bits of the bytes of two vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn tops(halves: [__m256i; 2]) -> u64 {
    let [low, high] = halves.map(|half| u64::from(_mm256_movemask_epi8(half).cast_unsigned()));
    low | high << 32
}

/// Thirty-two bytes from a place on.
#[inline]
#[target_feature(enable = "avx2")]
fn load<const AT: usize, const LENGTH: usize>(bytes: &[u8; LENGTH]) -> __m256i {
    const { assert!(AT + 32 <= LENGTH, "all of them are there") };
    #[expect(unsafe_code, reason = "a load from memory is the one thing that vectors cannot do without")]
    // SAFETY: the load needs 32 readable bytes, of any alignment. From `AT` on the array has as many, as is asserted above.
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().add(AT).cast::<__m256i>())
    }
}
