//! How many tokens a prompt and an answer have, roughly: for streams that are cut, or where the upstream tells nothing of it.
//!
//! Of a prompt, a quarter of the bytes of its JSON. A large body may hold pictures or sound, which are many bytes and few tokens,
//! so places all over it are looked at: base64 of some length stands in no text. That costs the same however large the body is,
//! since it is done for every stream and needed for few.

use crate::body::Chunks;
use crate::json::{Cursor, Kind, unmarked};

/// Bytes that one token of text is taken to have.
const BYTES_PER_TOKEN: u64 = 4;
/// Bodies up to this size are taken to be text.
const TEXT_MAX: usize = 16 << 10;
/// Places that are looked at, and how many bytes each has.
const PLACES: usize = 64;
const PLACE_BYTES: usize = 64;
/// Tokens of a picture or a piece of sound, of which it is not known how large it is shown or how long it plays.
const MEDIA_TOKENS: u64 = 1_000;
/// How deep text lies in an answer at most: the arguments of a call of Gemini are the deepest.
const DEPTH_MAX: u32 = 12;

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

/// Tokens of the text in a plain answer of any dialect.
pub(crate) fn likely_answer_tokens(body: &Chunks) -> u64 {
    let mut bytes = 0;
    // It has been read before, so it is JSON; what cannot be read now counts nothing.
    let _ = Cursor::new(unmarked(&body.slice(0..body.len()))).members(|key, value| match key {
        b"choices" | b"content" | b"output" | b"candidates" => count_text(value, DEPTH_MAX, &mut bytes),
        _ => value.skip(),
    });
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// Adds the bytes of the strings in a part of an answer, without names, labels and what only the vendor can read. Each byte is read
/// once; what lies too deep counts as it is written.
fn count_text(value: &mut Cursor<'_>, depth: u32, bytes: &mut u64) -> Option<()> {
    match value.kind()? {
        Kind::Array if depth > 0 => value.elements(|element| count_text(element, depth - 1, bytes)),
        Kind::Object if depth > 0 => value.members(|key, member| match is_label(key) {
            true => member.skip(),
            false => count_text(member, depth - 1, bytes),
        }),
        Kind::Array | Kind::Object => {
            *bytes += value.value()?.0.len() as u64;
            Some(())
        }
        Kind::String => {
            *bytes += value.value()?.0.len() as u64 - 2;
            Some(())
        }
        Kind::Number | Kind::Bool | Kind::Null => value.skip(),
    }
}

fn is_label(key: &[u8]) -> bool {
    const LABELS: &[&[u8]] = &[
        b"role",
        b"type",
        b"id",
        b"call_id",
        b"object",
        b"status",
        b"finish_reason",
        b"finishReason",
        b"stop_reason",
        b"signature",
        b"thoughtSignature",
        b"encrypted_content",
        b"data",
        b"logprobs",
        b"logprobsResult",
    ];
    LABELS.contains(&key)
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
    fn the_text_of_an_answer_counts_and_its_frame_does_not() {
        for (answer, tokens) in [
            (
                r#"{"id":"chatcmpl-123","choices":[{"index":0,"message":{"role":"assistant","content":"12345678"},"finish_reason":"stop"}]}"#,
                2,
            ),
            (
                r#"{"choices":[{"message":{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"look","arguments":"{\"a\":1}"}}]}}]}"#,
                4,
            ),
            (
                r#"{"type":"message","content":[{"type":"thinking","thinking":"1234","signature":"abcdefgh"},{"type":"text","text":"1234"}]}"#,
                2,
            ),
            (r#"{"output":[{"type":"message","id":"m","content":[{"type":"output_text","text":"1234"}]}]}"#, 1),
            (r#"{"candidates":[{"content":{"parts":[{"text":"1234"}],"role":"model"},"finishReason":"STOP"}]}"#, 1),
            (r#"{"choices":[]}"#, 0),
            ("[]", 0),
        ] {
            assert_eq!(likely_answer_tokens(&Chunks::from(Bytes::from(answer))), tokens, "{answer}");
        }
        let deep = format!("{{\"choices\":{}{}}}", "[".repeat(100), "]".repeat(100));
        assert!(likely_answer_tokens(&Chunks::from(Bytes::from(deep))) > 0);
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
