//! The user of a client, as records name them: by the name that the client gave, or by a hash of it.
//!
//! The hash keeps names out of the records, and whoever has a name can still find and erase what belongs to it. It is no secret: a
//! name that can be guessed can be tried.

use sha2::{Digest as _, Sha256};

/// What a hash begins with, so that it is told from a name.
pub const HASH_PREFIX: &str = "sha256:";

/// Bytes of the digest that are kept: enough that no two users are taken for one.
const DIGEST_BYTES: usize = 16;

/// The hash that stands for a name.
pub fn hashed(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    let digits = digest[..DIGEST_BYTES].iter().map(|byte| format!("{byte:02x}"));
    std::iter::once(HASH_PREFIX.to_owned()).chain(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_half_of_the_digest_and_always_the_same() {
        // printf alice | sha256sum
        assert_eq!(hashed("alice"), "sha256:2bd806c97f0e00af1a1fc3328fa763a9");
    }
}
