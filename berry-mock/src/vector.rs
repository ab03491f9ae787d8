//! Embeddings: vectors of length one that depend on the text, the model and the seed alone. Nearness means nothing.

use crate::hash::StableHash;

/// The vector of a text.
pub(crate) fn vector(seed: u64, model: &str, bytes: &[u8], dimensions: u64) -> Vec<f32> {
    let mut hash = StableHash::new(seed);
    hash.feed(model);
    hash.feed(bytes);
    let mut rng = fastrand::Rng::with_seed(hash.finish());
    let raw: Vec<f64> = (0..dimensions).map(|_| rng.f64() * 2.0 - 1.0).collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "vectors have single precision on the wire")]
    raw.iter().map(|x| (x / length) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_have_length_one_and_depend_on_the_text() {
        let one = vector(1, "m", b"berry", 64);
        let length: f32 = one.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
        assert_eq!(one, vector(1, "m", b"berry", 64));
        assert_ne!(one, vector(1, "m", b"cherry", 64));
    }
}
