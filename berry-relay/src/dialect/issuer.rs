//! Opaque state with the name of who issued it.
//!
//! Signatures and encrypted reasoning are valid at their issuer alone. A client of another dialect gets them with the issuer's name
//! before them, so that they are sent back there and nowhere else. All of it is base64: Google's clients read such fields as bytes,
//! refuse anything else, and send them back in the other alphabet.

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};

use super::text::Text;

/// Begins what is tagged.
const TAG: &str = "b1~";
/// Reads both alphabets, once their difference is undone, with padding and without.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// State with its issuer before it.
pub fn tag(state: &Text, issuer: &str) -> Text {
    Text::write(&STANDARD.encode(format!("{TAG}{issuer}~{}", state.read())))
}

/// The state, if this issuer issued it.
pub fn own(tagged: &Text, issuer: &str) -> Option<Text> {
    let standard = tagged.read().replace('-', "+").replace('_', "/");
    let tagged = String::from_utf8(LENIENT.decode(standard).ok()?).ok()?;
    let state = tagged.strip_prefix(TAG)?.strip_prefix(issuer)?.strip_prefix('~')?;
    (!state.is_empty()).then(|| Text::write(state))
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

    #[test]
    fn googles_clients_may_write_the_state_in_the_other_alphabet_and_without_padding() {
        // Its base64 has both characters that the alphabets do not share.
        let state = Text::write("\u{3f}\u{3e}\u{fb}~~~???>>>o");
        let tagged = tag(&state, "a");
        let standard = tagged.read().into_owned();
        assert!(STANDARD.decode(&standard).is_ok());
        let other = standard.replace('+', "-").replace('/', "_");
        assert_ne!(other, standard);
        assert_eq!(own(&Text::write(other.trim_end_matches('=')), "a"), Some(state));
    }
}
