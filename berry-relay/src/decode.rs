//! Undoes a content coding that an upstream applied although it was asked not to.
//!
//! gzip and deflate (zlib) are undone; anything else makes the answer unusable. Bounded against bombs: what comes out may be at
//! most [`RATIO_MAX`] times what went in, beyond a first allowance, and the caller bounds the whole.

use std::io::Write as _;

use bytes::Bytes;
use flate2::write::{GzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

/// Largest ratio of decoded to encoded bytes.
const RATIO_MAX: usize = 100;
/// Small answers compress well; the ratio counts only beyond this many decoded bytes.
const RATIO_FREE_BYTES: usize = 64 * 1024;

/// Decodes a body piece by piece.
pub(crate) struct Decoder {
    /// Boxed, because few answers have one and every request has room for it.
    inner: Box<Inner>,
    taken: usize,
    given: usize,
}

enum Inner {
    Gzip(GzDecoder<Bounded>),
    Zlib(ZlibDecoder<Bounded>),
}

/// Collects decoded bytes up to a limit, so that a bomb is stopped inside the write that would burst.
struct Bounded {
    bytes: Vec<u8>,
    room: usize,
}

impl std::io::Write for Bounded {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        if data.len() > self.room {
            return Err(std::io::Error::other("it decodes to far more than was sent"));
        }
        self.room -= data.len();
        self.bytes.extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Decoder {
    /// The decoder that an answer needs; none for an answer that is not encoded.
    ///
    /// # Errors
    /// The name of a coding that cannot be undone.
    pub(crate) fn for_headers(headers: &HeaderMap) -> Result<Option<Self>, String> {
        let Some(coding) = headers.get(CONTENT_ENCODING) else {
            return Ok(None);
        };
        let empty = Bounded { bytes: Vec::new(), room: 0 };
        let inner = match coding.to_str().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => return Ok(None),
            "gzip" | "x-gzip" => Inner::Gzip(GzDecoder::new(empty)),
            "deflate" => Inner::Zlib(ZlibDecoder::new(empty)),
            other => return Err(other.chars().take(32).collect()),
        };
        Ok(Some(Self { inner: Box::new(inner), taken: 0, given: 0 }))
    }

    /// Decodes one more piece.
    ///
    /// # Errors
    /// Bytes that are not in this coding, or a bomb.
    pub(crate) fn push(&mut self, piece: &[u8]) -> std::io::Result<Bytes> {
        self.taken += piece.len();
        let room = (self.taken.saturating_mul(RATIO_MAX)).max(RATIO_FREE_BYTES).saturating_sub(self.given);
        let decoded = match &mut *self.inner {
            Inner::Gzip(decoder) => {
                decoder.get_mut().room = room;
                decoder.write_all(piece)?;
                decoder.flush()?;
                std::mem::take(&mut decoder.get_mut().bytes)
            }
            Inner::Zlib(decoder) => {
                decoder.get_mut().room = room;
                decoder.write_all(piece)?;
                decoder.flush()?;
                std::mem::take(&mut decoder.get_mut().bytes)
            }
        };
        self.given += decoded.len();
        Ok(Bytes::from(decoded))
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    use super::*;

    fn decoder(coding: &'static str) -> Decoder {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding))]);
        Decoder::for_headers(&headers).unwrap().unwrap()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_and_deflate_decode_byte_by_byte() {
        let text = br#"{"id":"x","choices":[]}"#.repeat(40);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&text).unwrap();
        for (coding, encoded) in [("gzip", gzip(&text)), ("deflate", zlib.finish().unwrap())] {
            let mut decoder = decoder(coding);
            let decoded: Vec<u8> =
                encoded.iter().flat_map(|byte| decoder.push(std::slice::from_ref(byte)).unwrap()).collect();
            assert_eq!(decoded, text, "{coding}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_a_hundred_times_its_size() {
        let bomb = gzip(&vec![b' '; 8 * 1024 * 1024]);
        assert!(bomb.len() * RATIO_MAX < 8 * 1024 * 1024);
        let mut decoder = decoder("gzip");
        assert!(decoder.push(&bomb).is_err());
    }

    #[test]
    fn an_unknown_coding_is_named_and_garbage_is_refused() {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("br"))]);
        assert_eq!(Decoder::for_headers(&headers).err().as_deref(), Some("br"));
        assert!(decoder("gzip").push(b"not gzip at all").is_err());
    }
}
