//! Client tokens are kept as SHA-256 digests and found by digest; the text is forgotten once it is loaded.
//!
//! The lookup table hashes with a key drawn for each process (the standard library's SipHash), and digests compare in
//! constant time, so neither a chosen token nor a timing difference tells anything about another user's token.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 of a client token.
#[derive(Clone, Copy, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    /// Digest of a presented or configured token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// From the 64 hexadecimal digits of `token_sha256`; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16);
            *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).ok()?;
        }
        Some(Self(bytes))
    }

    /// As `token_sha256` has it.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Eight hexadecimal digits that tell tokens apart in a log without telling anything of the token.
    pub fn fingerprint(&self) -> String {
        self.0[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl PartialEq for TokenDigest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Hash for TokenDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0);
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenDigest({}…)", self.fingerprint())
    }
}

/// Finds what belongs to a token in constant time and without keeping tokens.
#[derive(Debug)]
pub struct KeyTable<T>(HashMap<TokenDigest, T>);

impl<T> Default for KeyTable<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> KeyTable<T> {
    /// Adds an entry; gives back what the same digest stood for before.
    pub fn insert(&mut self, digest: TokenDigest, value: T) -> Option<T> {
        self.0.insert(digest, value)
    }

    /// What belongs to this digest.
    pub fn get(&self, digest: &TokenDigest) -> Option<&T> {
        self.0.get(digest)
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_digest_finds_the_presented_token() {
        let digest = TokenDigest::from_hex("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08").unwrap();
        let mut table = KeyTable::default();
        table.insert(digest, 7);
        assert_eq!(table.get(&TokenDigest::of("test")), Some(&7));
        assert_eq!(table.get(&TokenDigest::of("Test")), None);
    }

    #[test]
    fn a_malformed_digest_is_refused() {
        for bad in ["", "abc", &"g".repeat(64), &"a".repeat(63), &"é".repeat(32)] {
            assert!(TokenDigest::from_hex(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn debug_shows_a_fingerprint_only() {
        assert_eq!(format!("{:?}", TokenDigest::of("test")), "TokenDigest(9f86d081…)");
    }
}
