//! Which conversation a request belongs to, for `sticky`: what a client says in a header, else what its conversation began with.
//!
//! A conversation grows at its end, so its system prompt and the first message that is not one stay the same, and so does a
//! prompt that is one string, as far as its beginning goes. Upstream caches work from the front in the same way.

use berry_loadbalance::affinity::conversation_key;
use http::HeaderMap;
use smallvec::SmallVec;

use crate::body::Chunks;
use crate::json::{Cursor, Raw};

/// Says which conversation a request belongs to, in the client's own words.
pub const CONVERSATION_HEADER: &str = "x-berry-conversation";
/// How much of a body is looked into.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How much of one part counts.
const PART_BYTES_MAX: usize = 4 * 1024;

type Parts<'b> = SmallVec<[&'b [u8]; 4]>;

/// The key of the conversation; `None` where nothing says anything.
pub(crate) fn key(headers: &HeaderMap, body: Option<&Chunks>) -> Option<u64> {
    if let Some(said) = headers.get(CONVERSATION_HEADER) {
        return Some(conversation_key(&[said.as_bytes()]));
    }
    let body = body?;
    let text = body.slice(0..body.len().min(BODY_BYTES_MAX));
    let parts = opening(&text);
    (!parts.is_empty()).then(|| conversation_key(&parts))
}

fn head(part: &[u8]) -> &[u8] {
    &part[..part.len().min(PART_BYTES_MAX)]
}

/// What the conversation began with, in any dialect. Of a text that is cut, as far as it goes.
fn opening(text: &[u8]) -> Parts<'_> {
    let mut parts = Parts::new();
    let _cut = Cursor::new(text).members(|name, cursor| {
        match name {
            b"system" | b"instructions" | b"systemInstruction" | b"system_instruction" => {
                parts.push(head(cursor.value()?.0));
            }
            b"messages" | b"contents" | b"input" | b"prompt" => turns(cursor, &mut parts)?,
            _ => cursor.skip()?,
        }
        Some(())
    });
    parts
}

/// The turns up to the first that is no instruction; what is no list counts whole.
fn turns<'b>(cursor: &mut Cursor<'b>, parts: &mut Parts<'b>) -> Option<()> {
    let (before, mut done) = (parts.len(), false);
    let whole = cursor.clone();
    cursor.elements(|cursor| {
        let turn = cursor.value()?;
        if !done {
            parts.push(head(turn.0));
            done = !is_instruction(turn);
        }
        Some(())
    })?;
    if parts.len() == before {
        let mut cursor = whole;
        parts.push(head(cursor.value()?.0));
    }
    Some(())
}

fn is_instruction(turn: Raw<'_>) -> bool {
    let mut instruction = false;
    let _broken = Cursor::new(turn.0).members(|name, cursor| {
        let value = cursor.value()?;
        instruction |= name == b"role" && matches!(value.text(), Some(b"system" | b"developer"));
        Some(())
    });
    instruction
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn key_of(body: &str) -> Option<u64> {
        let mut chunks = Chunks::default();
        chunks.push(Bytes::copy_from_slice(body.as_bytes()));
        key(&HeaderMap::new(), Some(&chunks))
    }

    #[test]
    fn a_conversation_keeps_its_key_while_it_grows_and_another_one_has_its_own() {
        let chat = |start: &str, more: &str| {
            key_of(&format!(
                r#"{{"model":"m","messages":[{{"role":"system","content":"be brief"}},{{"role":"user","content":"{start}"}}{more}]}}"#
            ))
        };
        let answer = r#",{"role":"assistant","content":"b"},{"role":"user","content":"c"}"#;
        assert_eq!(chat("a", ""), chat("a", answer));
        assert_ne!(chat("a", ""), chat("b", ""));
    }

    #[test]
    fn every_dialect_has_a_beginning() {
        for (body, other) in [
            (
                r#"{"system":"s","messages":[{"role":"user","content":"a"}]}"#,
                r#"{"system":"t","messages":[{"role":"user","content":"a"}]}"#,
            ),
            (r#"{"contents":[{"parts":[{"text":"a"}]}]}"#, r#"{"contents":[{"parts":[{"text":"b"}]}]}"#),
            (r#"{"instructions":"s","input":"a"}"#, r#"{"instructions":"s","input":"b"}"#),
            (r#"{"prompt":"a"}"#, r#"{"prompt":"b"}"#),
        ] {
            assert!(key_of(body).is_some() && key_of(body) != key_of(other), "{body}");
        }
        assert_eq!(key_of(r#"{"model":"m"}"#), None);
    }

    #[test]
    fn the_header_decides_alone() {
        let headers: HeaderMap =
            [(http::HeaderName::from_static(CONVERSATION_HEADER), http::HeaderValue::from_static("c7"))]
                .into_iter()
                .collect();
        assert!(key(&headers, None).is_some());
        assert_eq!(key(&HeaderMap::new(), None), None);
    }

    #[test]
    fn of_a_body_that_is_longer_than_is_read_the_beginning_counts() {
        let long = |start: &str| {
            let rest = "x".repeat(BODY_BYTES_MAX);
            let message = |text: &str| format!(r#"{{"role":"user","content":"{text}"}}"#);
            key_of(&format!(r#"{{"messages":[{},{}]}}"#, message(start), message(&rest)))
        };
        assert!(long("a").is_some() && long("a") != long("b"));
    }
}
