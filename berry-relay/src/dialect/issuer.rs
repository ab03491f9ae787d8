//! Opaque state with the name of who issued it.
//!
//! Signatures and encrypted reasoning are valid at their issuer alone. A client of another dialect gets them with the issuer's name
//! before them, so that they are sent back there and nowhere else.

use super::text::Text;

/// Begins what is tagged. `~` is in no base64 alphabet.
const TAG: &str = "b1~";

/// State with its issuer before it. The issuer must hold letters, digits, `-`, `_`, `.`, `/` or `:` alone.
pub fn tag(state: &Text, issuer: &str) -> Text {
    Text::write(&format!("{TAG}{issuer}~")).join(state)
}

/// The state, if this issuer issued it.
pub fn own(tagged: &Text, issuer: &str) -> Option<Text> {
    let raw = tagged.raw();
    let rest = raw.strip_prefix(TAG.as_bytes())?.strip_prefix(issuer.as_bytes())?.strip_prefix(b"~")?;
    (!rest.is_empty()).then(|| tagged.part(raw.len() - rest.len()..raw.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_goes_back_to_its_issuer_and_to_nobody_else() {
        let tagged = tag(&Text::plain("Eq+/="), "anthropic/main");
        assert_eq!(own(&tagged, "anthropic/main"), Some(Text::plain("Eq+/=")));
        assert_eq!(own(&tagged, "anthropic/other"), None);
        assert_eq!(own(&tagged, "anthropic"), None);
        assert_eq!(own(&Text::plain("Eq+/="), "anthropic/main"), None);
    }
}
