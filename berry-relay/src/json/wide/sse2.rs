//! Blocks of 16 bytes by SSE2, which every x86-64 has.

use std::arch::x86_64::{
    __m128i, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
};

use super::halves;

/// See [`super::stops`].
#[inline]
pub(super) fn stops(block: &[u8; 16]) -> u32 {
    #[inline]
    #[target_feature(enable = "sse2")]
    fn with_sse2(block: &[u8; 16]) -> u32 {
        let bytes = vector(block);
        let control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
        mask(_mm_or_si128(_mm_or_si128(are(bytes, b'"'), are(bytes, b'\\')), control))
    }

    #[expect(
        unsafe_code,
        reason = "SSE2 belongs to every x86-64, but the compiler wants to be told. It halves the scan of a prompt against words \
                  of eight bytes; a_plain_run_ends_where_a_slow_search_says compares both with a plain search"
    )]
    // SAFETY: the function needs SSE2 and nothing else, and this is compiled for x86-64 only, of which SSE2 is a part.
    unsafe {
        with_sse2(block)
    }
}

/// See [`super::solids`].
#[inline]
pub(super) fn solids(block: &[u8; 16]) -> u32 {
    #[inline]
    #[target_feature(enable = "sse2")]
    fn with_sse2(block: &[u8; 16]) -> u32 {
        let bytes = vector(block);
        let spaces = _mm_or_si128(are(bytes, b' '), are(bytes, b'\n'));
        0xffff & !mask(_mm_or_si128(spaces, _mm_or_si128(are(bytes, b'\r'), are(bytes, b'\t'))))
    }

    #[expect(
        unsafe_code,
        reason = "like the stops: upstreams indent their answers, and a look at each space is a third of reading them; \
                  white_space_ends_where_a_slow_search_says compares"
    )]
    // SAFETY: the function needs SSE2 and nothing else, and this is compiled for x86-64 only, of which SSE2 is a part.
    unsafe {
        with_sse2(block)
    }
}

#[inline]
#[target_feature(enable = "sse2")]
fn vector(block: &[u8; 16]) -> __m128i {
    let (low, high) = halves(block);
    _mm_set_epi64x(high.cast_signed(), low.cast_signed())
}

#[inline]
#[target_feature(enable = "sse2")]
fn are(bytes: __m128i, byte: u8) -> __m128i {
    _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte.cast_signed()))
}

#[inline]
#[target_feature(enable = "sse2")]
fn mask(bytes: __m128i) -> u32 {
    _mm_movemask_epi8(bytes).cast_unsigned()
}
