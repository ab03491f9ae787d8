//! Stable hashes for `sticky`: the same on every instance and after every restart, so that all of them agree on who serves a
//! conversation. Not a defence against somebody who wants collisions: such a client only crowds its own conversations.

use berry_core::id::BackendId;

/// FNV-1a with 64 bits: short, and the same everywhere.
#[derive(Clone, Copy, Debug)]
struct Fnv(u64);

impl Fnv {
    const NEW: Self = Self(0xcbf2_9ce4_8422_2325);

    fn with(self, bytes: &[u8]) -> Self {
        Self(bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
    }
}

/// The key of a conversation, from what stays the same in it: the user and a header, or the beginning of the messages (a few
/// kilobytes are enough: what differs later shares the cached prefix anyway). Parts are kept apart, so `["ab", "c"]` and
/// `["a", "bc"]` differ.
pub fn conversation_key(parts: &[&[u8]]) -> u64 {
    let hash = parts.iter().fold(Fnv::NEW, |hash, part| hash.with(part).with(&(part.len() as u64).to_le_bytes()));
    scattered(hash.0)
}

/// The hash of a backend. The model is left out of it: a provider that caches a prefix for one public name has it for another.
pub(crate) fn backend_hash(id: &BackendId) -> u64 {
    let hash = Fnv::NEW.with(id.provider.as_str().as_bytes()).with(&[0]);
    scattered(hash.with(id.upstream.as_str().as_bytes()).with(&id.repeat.to_le_bytes()).0)
}

/// A number below 2³² that belongs to the pair, evenly spread over pairs.
pub(crate) fn draw_of(conversation: u64, backend: u64) -> u32 {
    (scattered(conversation ^ backend.rotate_left(32)) >> 32) as u32
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): every input bit moves every output bit.
fn scattered(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_parts_apart_and_never_change() {
        assert_ne!(conversation_key(&[b"ab", b"c"]), conversation_key(&[b"a", b"bc"]));
        assert_eq!(conversation_key(&[b"user", b"system"]), conversation_key(&[b"user", b"system"]));
        // Written down once: another value would move every conversation on an upgrade.
        assert_eq!(conversation_key(&[b"berry"]), 3_236_193_033_557_224_255);
    }
}
