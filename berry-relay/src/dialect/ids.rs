//! Names of calls and tools across dialects: pure functions, so that a conversation reads the same each turn and no table has to
//! be kept.
//!
//! An id that another vendor minted gets the prefix that the client's SDK expects and loses it on the way back. Characters that a
//! dialect does not allow are written in base64url behind a mark.

use std::borrow::Cow;
use std::fmt::Write as _;

/// What stands before an id that had to be encoded.
const ENCODED: &str = "x64-";
/// Prefix of call ids at OpenAI.
pub const CALL: &str = "call_";
/// Prefix of call ids at Anthropic.
pub const TOOLU: &str = "toolu_";
/// Longest tool name at OpenAI.
pub const OPENAI_NAME_MAX: usize = 64;
/// Longest tool name at Anthropic.
pub const ANTHROPIC_NAME_MAX: usize = 128;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The id of a call as a client sees it: with the prefix of its dialect.
pub fn shown<'a>(id: &'a str, prefix: &str) -> Cow<'a, str> {
    if id.starts_with(prefix) && is_legal(id) {
        return Cow::Borrowed(id);
    }
    match is_legal(id) && !id.starts_with(ENCODED) {
        true => Cow::Owned(format!("{prefix}{id}")),
        false => Cow::Owned(format!("{prefix}{ENCODED}{}", encode(id.as_bytes()))),
    }
}

/// The id of a call as an upstream with this prefix gets it: what [`shown`] added is taken away, when the upstream's own id is
/// behind it.
pub fn sent<'a>(id: &'a str, prefix: &str) -> Cow<'a, str> {
    for foreign in [CALL, TOOLU] {
        let Some(inner) = id.strip_prefix(foreign) else { continue };
        if let Some(own) = inner.strip_prefix(ENCODED).and_then(decode) {
            return Cow::Owned(own);
        }
        if foreign != prefix && inner.starts_with(prefix) {
            return Cow::Borrowed(inner);
        }
    }
    match is_legal(id) && !id.is_empty() {
        true => Cow::Borrowed(id),
        false => Cow::Owned(format!("{prefix}{ENCODED}{}", encode(id.as_bytes()))),
    }
}

/// The name of a tool as a dialect allows it: letters, digits, `_` and `-`, at most `max` of them. A name that is changed ends in a
/// digest of the whole name, so that two long names stay two.
pub fn tool_name(name: &str, max: usize) -> Cow<'_, str> {
    if is_legal(name) && !name.is_empty() && name.len() <= max {
        return Cow::Borrowed(name);
    }
    let mut legal: String =
        name.chars().take(max - 17).map(|letter| if is_legal_char(letter) { letter } else { '_' }).collect();
    let _ = write!(legal, "_{:016x}", digest(name.as_bytes()));
    Cow::Owned(legal)
}

/// FNV-1a: the same everywhere and for ever, which is all that is asked of it.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn is_legal_char(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-')
}

fn is_legal(id: &str) -> bool {
    id.chars().all(is_legal_char)
}

fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..=three.len() {
            text.push(char::from(ALPHABET[(word >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for four in text.as_bytes().chunks(4) {
        let mut word = 0;
        for letter in four {
            word = word << 6 | ALPHABET.iter().position(|own| own == letter)? as u32;
        }
        word <<= 6 * (4 - four.len());
        bytes.extend_from_slice(word.to_be_bytes().get(1..four.len())?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_foreign_id_gets_the_prefix_of_the_client_and_loses_it_on_the_way_back() {
        assert_eq!(shown("toolu_01A", CALL), "call_toolu_01A");
        assert_eq!(sent("call_toolu_01A", TOOLU), "toolu_01A");
        assert_eq!(shown("call_1", TOOLU), "toolu_call_1");
        assert_eq!(sent("toolu_call_1", CALL), "call_1");
        assert_eq!(sent("call_1", TOOLU), "call_1");
        assert_eq!(sent("a b", TOOLU), format!("toolu_x64-{}", encode(b"a b")));
    }

    #[test]
    fn a_name_that_must_change_is_legal_short_and_its_own() {
        let (one, two) = ("x".repeat(200), format!("{}y", "x".repeat(199)));
        assert_ne!(tool_name(&one, 64), tool_name(&two, 64));
        for name in [&one[..], "a.b:c", "", "größe"] {
            let legal = tool_name(name, 64);
            assert!(!legal.is_empty() && legal.len() <= 64 && is_legal(&legal), "{name} {legal}");
            assert_eq!(legal, tool_name(name, 64));
        }
        assert_eq!(tool_name("get_weather", 64), "get_weather");
    }

    proptest! {
        #[test]
        fn an_id_with_any_characters_comes_back_as_it_was(id in "\\PC{1,40}") {
            for (own, other) in [(TOOLU, CALL), (CALL, TOOLU)] {
                let minted = format!("{own}{id}");
                let client = shown(&minted, other).into_owned();
                prop_assert_eq!(sent(&client, own), minted.clone());
            }
        }

        #[test]
        fn base64_is_reversible(text in "\\PC{0,40}") {
            prop_assert_eq!(decode(&encode(text.as_bytes())), Some(text));
        }
    }
}
