//! How many tokens a prompt has, roughly: for streams that are cut, or whose upstream tells nothing of it.
//!
//! A quarter of the bytes of its JSON. A large body may hold pictures or sound, which are many bytes and few tokens, so places all over
//! it are looked at: base64 of some length stands in no text. That costs the same however large the body is, since it is done
//! for every stream and needed for few.

use crate::body::Chunks;

/// Bytes that one token of text is taken to have.
const BYTES_PER_TOKEN: u64 = 4;
/// Bodies up to this size are taken to be text.
const TEXT_MAX: usize = 16 << 10;
/// Places that are looked at, and how many bytes each has.
const PLACES: usize = 64;
const PLACE_BYTES: usize = 64;
/// Tokens of a picture or a piece of sound, of which it is not known how large it is shown or how long it plays.
const MEDIA_TOKENS: u64 = 1_000;

/// Tokens of the prompt in a request's body.
pub(crate) fn likely_tokens(body: &Chunks) -> u64 {
    let length = body.len();
    if length <= TEXT_MAX {
        return (length as u64).div_ceil(BYTES_PER_TOKEN);
    }
    let (mut text, mut media, mut in_media) = (0, 0, false);
    for place in 0..PLACES {
        let at = (length - PLACE_BYTES) / (PLACES - 1) * place;
        let is_data = body.slice(at..at + PLACE_BYTES).iter().all(|byte| is_base64(*byte));
        text += u64::from(!is_data);
        media += u64::from(is_data && !in_media);
        in_media = is_data;
    }
    (length as u64 / PLACES as u64 * text).div_ceil(BYTES_PER_TOKEN) + media * MEDIA_TOKENS
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tokens(text: &str) -> u64 {
        let mut body = Chunks::default();
        // In pieces, as bodies arrive.
        for piece in text.as_bytes().chunks(1_000) {
            body.push(Bytes::copy_from_slice(piece));
        }
        likely_tokens(&body)
    }

    #[test]
    fn text_of_any_size_is_a_quarter_of_its_bytes() {
        assert_eq!(tokens("{\"model\":\"m\"}"), 4);
        assert_eq!(tokens(&"a ferry leaves ".repeat(1_000)), 3_750);
        let long = "Nobody waits for those who come later. ".repeat(10_000);
        let counted = tokens(&long);
        assert!((97_000..=97_500).contains(&counted), "{counted}");
    }

    #[test]
    fn a_picture_counts_as_one_and_not_by_its_bytes() {
        let picture = "iVBORw0KGgo/abc+".repeat(20_000);
        let prompt =
            format!("{{\"text\":\"What is this? {}\",\"data\":\"{picture}\"}}", "Tell me more. ".repeat(3_000));
        let counted = tokens(&prompt);
        // Of its text about 10,500.
        // Within two places of 1,400 tokens each.
        assert!((8_700..=14_300).contains(&counted), "{counted}");
        let two =
            format!("{{\"a\":\"{picture}\",\"text\":\"{}\",\"b\":\"{picture}\"}}", "Compare them. ".repeat(3_000));
        let counted = tokens(&two);
        assert!((7_000..=18_000).contains(&counted), "{counted}");
    }
}
