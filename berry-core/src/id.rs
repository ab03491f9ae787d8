//! Names of the things that a configuration declares, each in a type of its own so that they cannot be mixed up.
//!
//! All of them are cheap to clone (`Arc<str>`), compare and hash as their text, and print as it.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes the text as it is; the configuration decides what is acceptable.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Arc::from(text))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

text_id! {
    /// Table key of a user: `team_a` of `[users.team_a]`.
    UserId
}
text_id! {
    /// Table key of a provider: `openai` of `[providers.openai]`.
    ProviderId
}
text_id! {
    /// Table key of a model: `gpt_4` of `[models.gpt_4]`. An alias of its [`ModelName`].
    ModelId
}
text_id! {
    /// Public name of a model, the one that clients ask for.
    ModelName
}
text_id! {
    /// Name of a model at its provider; what is sent upstream.
    UpstreamModel
}

/// One backend: a provider's model inside a public model's pool.
///
/// Live state (circuit, latency, confidence) is carried over a reload by this identity, so it holds names and never a position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// The public model whose pool it is in.
    pub model: ModelId,
    /// The account that it belongs to.
    pub provider: ProviderId,
    /// What it is called there.
    pub upstream: UpstreamModel,
    /// Tells apart backends of one pool that name the same provider and upstream model: 0 for the first, 1 for the next.
    pub repeat: u16,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.model, self.provider, self.upstream)?;
        match self.repeat {
            0 => Ok(()),
            n => write!(f, "#{}", n + 1),
        }
    }
}

/// Our name for one client request: `req_` and twenty letters and digits, inline, so that making and copying one allocates
/// nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId([u8; Self::LEN]);

/// What each letter of an id stands for.
const DIGITS: [u8; 256] = {
    let mut digits = [0; 256];
    let mut digit = 0;
    while digit < RequestId::ALPHABET.len() {
        digits[RequestId::ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    digits
};

impl RequestId {
    const LEN: usize = 24;
    /// Crockford's base 32 in lower case: no letter that reads like a digit.
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

    /// From a number drawn once for each process and a counter; each contributes its low 50 bits.
    pub fn new(process: u64, counter: u64) -> Self {
        let mut text = *b"req_00000000000000000000";
        for (part, start) in [(process, 4), (counter, 14)] {
            for place in 0..10 {
                let digit = (part >> (5 * (9 - place))) & 31;
                text[start + place] = Self::ALPHABET[digit as usize];
            }
        }
        Self(text)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("made of ASCII letters")
    }

    /// The number of the process and the counter that it was made of, 50 bits each.
    pub fn parts(&self) -> (u64, u64) {
        let number = |range: std::ops::Range<usize>| {
            self.0[range].iter().fold(0, |number, letter| (number << 5) | u64::from(DIGITS[usize::from(*letter)]))
        };
        (number(4..14), number(14..24))
    }

    /// Reads the text of an id. `None` when it is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let letters = text.strip_prefix("req_")?.as_bytes();
        let fits = letters.len() == Self::LEN - 4 && letters.iter().all(|letter| Self::ALPHABET.contains(letter));
        fits.then(|| Self(text.as_bytes().try_into().expect("the length was checked")))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_of_one_process_share_a_prefix_and_differ_in_the_counter() {
        assert_eq!(RequestId::new(0, 0).as_str(), "req_00000000000000000000");
        assert_eq!(RequestId::new(1, 33).as_str(), "req_00000000010000000011");
        assert_eq!(RequestId::new(u64::MAX, u64::MAX).as_str(), "req_zzzzzzzzzzzzzzzzzzzz");
    }

    #[test]
    fn a_request_id_is_read_back_as_what_it_was_made_of() {
        for (process, counter) in [(0, 0), (1, 33), ((1 << 50) - 1, 12_345_678_901)] {
            let id = RequestId::new(process, counter);
            assert_eq!(id.parts(), (process, counter));
            assert_eq!(RequestId::parse(id.as_str()), Some(id));
        }
        for wrong in [
            "",
            "req_",
            "req_0000000000000000000",
            "req_0000000000000000000i",
            "req_000000000000000000000",
            "REQ_00000000000000000000",
        ] {
            assert_eq!(RequestId::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_repeated_backend_is_told_apart_in_print() {
        let id =
            |repeat| BackendId { model: "gpt_4".into(), provider: "openai".into(), upstream: "gpt-4".into(), repeat };
        assert_eq!(id(0).to_string(), "gpt_4/openai:gpt-4");
        assert_eq!(id(1).to_string(), "gpt_4/openai:gpt-4#2");
    }
}
