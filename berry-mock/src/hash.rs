//! A hash that is the same on every machine and in every build, so that a seed replays a run.

/// FNV-1a over everything fed to it, finished with splitmix64 so that similar inputs give unlike numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StableHash(u64);

impl StableHash {
    pub(crate) fn new(seed: u64) -> Self {
        Self(0xcbf2_9ce4_8422_2325 ^ mix(seed))
    }

    /// Feeds bytes and a separator, so that "ab" + "c" differs from "a" + "bc".
    pub(crate) fn feed(&mut self, bytes: impl AsRef<[u8]>) {
        for byte in bytes.as_ref().iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) fn finish(self) -> u64 {
        mix(self.0)
    }
}

/// One step of splitmix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(n: u64) -> u64 {
    let z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// An identifier in a vendor's style: `prefix` and `length` letters and digits made from `n`.
pub(crate) fn id(prefix: &str, n: u64, length: usize) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rng = fastrand::Rng::with_seed(n);
    let mut id = String::with_capacity(prefix.len() + length);
    id.push_str(prefix);
    id.extend((0..length).map(|_| char::from(LETTERS[rng.usize(..LETTERS.len())])));
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_between_pieces_count() {
        let hash = |pieces: &[&str]| {
            let mut hash = StableHash::new(1);
            pieces.iter().for_each(|piece| hash.feed(piece));
            hash.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
    }

    #[test]
    fn hashes_are_the_same_in_every_build() {
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "first output of splitmix64 seeded with 0");
        assert_eq!(id("call_", 7, 8), id("call_", 7, 8));
    }
}
