//! Undoes a content coding that an upstream applied although it was asked not to.
//!
//! gzip, deflate, Brotli and Zstandard are undone; other codings, and several at once, make the answer unusable. What the header says need
//! not be so: proxies undo a coding and leave its name standing, servers write the character set there, and `deflate` is written
//! with and without the frame of zlib. So the first bytes decide, however they are cut. Bounded against bombs: what comes out may be at
//! most [`RATIO_MAX`] times what went in, beyond a first allowance, and the caller bounds the whole.

use std::io::Write;

use brotli_decompressor::DecompressorWriter as BrotliDecoder;
use bytes::Bytes;
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use zstd::stream::write::Decoder as ZstdDecoder;

/// Largest ratio of decoded to encoded bytes.
pub const RATIO_MAX: usize = 100;
/// Small answers compress well; the ratio counts only beyond this many decoded bytes.
pub const RATIO_FREE_BYTES: usize = 64 * 1024;
/// Largest window of Zstandard, as a power of two: 8 MiB, which RFC 9659 allows in HTTP.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// Room for what Brotli has decoded and not handed on yet, bytes.
const BROTLI_BUFFER_BYTES: usize = 4096;
/// So many bytes of text at its beginning make a body one that is not encoded. Of encoded ones, one in a million begins so.
const TEXT_BYTES_MIN: usize = 16;

/// A body that is here is decoded in pieces of so many bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// Names that stand in the header of bodies that are not encoded at all.
const NO_CODINGS: &[&str] = &[
    "",
    "identity",
    "none",
    "utf-8",
    "utf8",
    "us-ascii",
    "ascii",
    "iso-8859-1",
    "binary",
    "8bit",
    "chunked",
    "aws-chunked",
];

/// Decodes a body piece by piece.
pub struct Decoder {
    stage: Stage,
    /// The beginning of a body, while it may be a text or not.
    held: Bytes,
    taken: usize,
    given: usize,
}

enum Stage {
    /// Too little has come to say more.
    Named(Coding),
    /// It is not encoded, whatever its header says.
    Plain,
    Encoded(Box<dyn Undo>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// A decoder that writes to a [`Bounded`].
trait Undo: Write + Send + Sync {
    fn out(&mut self) -> &mut Bounded;

    /// Has everything written that can be decoded of what came.
    fn drain(&mut self) -> std::io::Result<()> {
        self.flush()
    }
}

macro_rules! undo {
    ($($decoder:ty),+) => {
        $(impl Undo for $decoder {
            fn out(&mut self) -> &mut Bounded {
                self.get_mut()
            }
        })+
    };
}

undo!(MultiGzDecoder<Bounded>, ZlibDecoder<Bounded>, DeflateDecoder<Bounded>, ZstdDecoder<'static, Bounded>);

impl Undo for BrotliDecoder<Bounded> {
    fn out(&mut self) -> &mut Bounded {
        self.get_mut()
    }

    /// What is decoded and more than its buffer waits for the next call, though nothing need come any more for a while.
    fn drain(&mut self) -> std::io::Result<()> {
        loop {
            let before = self.out().bytes.len();
            let _ = self.write(&[])?;
            if self.out().bytes.len() == before {
                return Ok(());
            }
        }
    }
}

/// Collects decoded bytes up to a limit, so that a bomb is stopped inside the write that would burst.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for Bounded {
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

impl Coding {
    fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "gzip" | "x-gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// How to go on with a body that begins with these bytes.
    fn stage(self, beginning: &[u8]) -> std::io::Result<Stage> {
        let out = Bounded::default();
        let first = beginning.first().copied().unwrap_or_default();
        let undo: Box<dyn Undo> = match self {
            _ if is_text(beginning) => return Ok(Stage::Plain),
            // The first bytes of their marks.
            Self::Gzip if first == 0x1f => Box::new(MultiGzDecoder::new(out)),
            Self::Zstd if first == 0x28 => {
                let mut decoder = ZstdDecoder::new(out)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
            // Method 8 with a window of at most 32 KiB, as zlib begins.
            Self::Deflate if first & 0x8f == 8 => Box::new(ZlibDecoder::new(out)),
            Self::Deflate => Box::new(DeflateDecoder::new(out)),
            Self::Brotli => Box::new(BrotliDecoder::new(out, BROTLI_BUFFER_BYTES)),
            Self::Gzip | Self::Zstd => return Ok(Stage::Plain),
        };
        Ok(Stage::Encoded(undo))
    }
}

/// Whether a body begins like a text. What is none stays none, whatever comes behind it.
fn is_text(beginning: &[u8]) -> bool {
    let beginning = &beginning[..beginning.len().min(TEXT_BYTES_MIN)];
    let is_control = |byte: &u8| byte.is_ascii_control() && !byte.is_ascii_whitespace();
    // A character may be cut.
    let is_utf8 = std::str::from_utf8(beginning).map_or_else(|error| error.error_len().is_none(), |_| true);
    is_utf8 && !beginning.iter().any(is_control)
}

impl Decoder {
    /// The decoder that an answer needs; none for an answer that is not encoded.
    ///
    /// # Errors
    /// The name of a coding that cannot be undone, or the list of several.
    pub fn for_headers(headers: &HeaderMap) -> Result<Option<Self>, String> {
        if !headers.contains_key(CONTENT_ENCODING) {
            return Ok(None);
        }
        let lists = headers.get_all(CONTENT_ENCODING).iter().map(|list| list.to_str().unwrap_or("?"));
        let names = lists.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase());
        let names: Vec<String> = names.filter(|name| !NO_CODINGS.contains(&&name[..])).collect();
        let coding = match &names[..] {
            [] => return Ok(None),
            [name] => Coding::of_name(name),
            _ => None,
        };
        let coding = coding.ok_or_else(|| names.join(", ").chars().take(32).collect::<String>())?;
        Ok(Some(Self { stage: Stage::Named(coding), held: Bytes::new(), taken: 0, given: 0 }))
    }

    /// Decodes one more piece.
    ///
    /// # Errors
    /// Bytes that are not in this coding, or a bomb.
    pub fn push(&mut self, mut piece: Bytes) -> std::io::Result<Bytes> {
        if let Stage::Named(coding) = self.stage {
            if !self.held.is_empty() {
                piece = Bytes::from([&std::mem::take(&mut self.held)[..], &piece].concat());
            }
            if piece.len() < TEXT_BYTES_MIN && is_text(&piece) {
                self.held = piece;
                return Ok(Bytes::new());
            }
            self.stage = coding.stage(&piece)?;
        }
        let Stage::Encoded(decoder) = &mut self.stage else {
            return Ok(piece);
        };
        self.taken += piece.len();
        let room = (self.taken.saturating_mul(RATIO_MAX)).max(RATIO_FREE_BYTES).saturating_sub(self.given);
        decoder.out().room = room;
        decoder.write_all(&piece)?;
        decoder.drain()?;
        let decoded = std::mem::take(&mut decoder.out().bytes);
        self.given += decoded.len();
        Ok(Bytes::from(decoded))
    }

    /// The body is over: what was held of one that is a text and shorter than a beginning.
    pub fn finish(&mut self) -> Bytes {
        std::mem::take(&mut self.held)
    }
}

/// What a decoder still holds at the end of its body, where that is something.
pub(crate) fn rest(decoder: &mut Option<Decoder>) -> Option<Bytes> {
    decoder.take().map(|mut decoder| decoder.finish()).filter(|rest| !rest.is_empty())
}

/// A whole body that is here, decoded where it is encoded.
///
/// # Errors
/// It cannot be, or is longer than `limit` bytes then.
pub fn whole(headers: &HeaderMap, body: Bytes, limit: usize) -> std::io::Result<Bytes> {
    let unknown = |coding: String| std::io::Error::other(format!("it is encoded as {coding:?}, unasked"));
    let Some(mut decoder) = Decoder::for_headers(headers).map_err(unknown)? else { return Ok(body) };
    let mut decoded = Vec::new();
    // In pieces, so that a bomb is noticed before it has grown.
    for start in (0..body.len()).step_by(PIECE_BYTES) {
        decoded.extend_from_slice(&decoder.push(body.slice(start..body.len().min(start + PIECE_BYTES)))?);
        if decoded.len() > limit {
            return Err(std::io::Error::other(format!("it decodes to more than {limit} bytes")));
        }
    }
    decoded.extend_from_slice(&decoder.finish());
    Ok(Bytes::from(decoded))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use http::HeaderValue;

    use super::*;

    const TEXT: &[u8] = br#"{"id":"x","choices":[]}"#;
    /// Forty times [`TEXT`] as the reference implementation of Brotli (1.2) writes it.
    const BROTLI: &str = "1b9703f81d076eec64c617145faf45b6c8f676571a5e9f62d1a9825a2b13a0d13985e44e63";
    /// Two events, each flushed, and the end, written by the same.
    const BROTLI_EVENTS: [&str; 3] = ["0b0780646174613a207b2261223a317d0a0a", "700000405241a6af4401268435", "03"];
    /// An event with 9,000 times `x`, flushed, as version 1.0.9 writes it.
    const BROTLI_LONG_EVENT: &str = "8b9b11f81d09760cb1067af8044e2da200b2b7c2f04aa72f0511e5b742c0021fae0160076519";
    /// 8 MiB of spaces, by the same.
    const BROTLI_BOMB: &str = "cbffff3ff82540e2b14020f7fe6f";

    fn bytes(hex: &str) -> Bytes {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn headers(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(coding))])
    }

    fn decoder(coding: &'static str) -> Decoder {
        Decoder::for_headers(&headers(coding)).unwrap().unwrap()
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    /// What comes out of a body that comes in pieces of this size.
    fn decoded(coding: &'static str, encoded: &[u8], size: usize) -> std::io::Result<Vec<u8>> {
        let mut decoder = decoder(coding);
        let mut decoded = Vec::new();
        for piece in encoded.chunks(size) {
            decoded.extend_from_slice(&decoder.push(Bytes::copy_from_slice(piece))?);
        }
        decoded.extend_from_slice(&decoder.finish());
        Ok(decoded)
    }

    #[test]
    fn every_coding_decodes_whole_and_byte_by_byte() {
        let text = TEXT.repeat(40);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        zlib.write_all(&text).unwrap();
        let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
        deflate.write_all(&text).unwrap();
        for (coding, encoded) in [
            ("gzip", gzip(&text)),
            ("X-GZIP", gzip(&text)),
            ("gzip", [gzip(&text[..100]), gzip(&text[100..])].concat()),
            ("deflate", zlib.finish().unwrap()),
            ("deflate", deflate.finish().unwrap()),
            ("br", bytes(BROTLI).to_vec()),
            ("zstd", zstd::encode_all(&text[..], 3).unwrap()),
            ("utf-8, gzip", gzip(&text)),
        ] {
            for size in [1, 7, encoded.len()] {
                assert_eq!(decoded(coding, &encoded, size).unwrap(), text, "{coding} by {size}");
            }
        }
    }

    #[test]
    fn what_was_flushed_comes_out_at_once() {
        let mut brotli = decoder("br");
        let [first, second, end] = BROTLI_EVENTS.map(bytes);
        assert_eq!(brotli.push(first).unwrap(), "data: {\"a\":1}\n\n");
        assert_eq!(brotli.push(second).unwrap(), "data: {\"a\":2}\n\n");
        assert!(brotli.push(end).unwrap().is_empty());
        // More than the decoder's own buffer holds.
        let long = format!("data: {{\"a\":\"{}\"}}\n\n", "x".repeat(9000));
        assert_eq!(decoder("br").push(bytes(BROTLI_LONG_EVENT)).unwrap(), long);
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        let mut decoder = decoder("zstd");
        for event in ["data: {\"a\":1}\n\n", "data: {\"a\":2}\n\n"] {
            encoder.write_all(event.as_bytes()).unwrap();
            encoder.flush().unwrap();
            assert_eq!(decoder.push(Bytes::from(std::mem::take(encoder.get_mut()))).unwrap(), event);
        }
    }

    #[test]
    fn a_body_that_is_not_encoded_passes_whatever_its_header_says() {
        for coding in ["gzip", "deflate", "br", "zstd"] {
            for text in [
                TEXT,
                b"data: {\"a\":1}\n\n",
                b": ping\n\n",
                b"\xef\xbb\xbf{\"a\":1}",
                b"{}",
                "<p>a word: 世界</p>".as_bytes(),
            ] {
                for size in [1, 2, 5, 15, 16, 64] {
                    assert_eq!(decoded(coding, text, size).unwrap(), text, "{coding} by {size}");
                }
            }
        }
        for none in ["identity", "UTF-8", "none", "identity, chunked", ""] {
            assert!(Decoder::for_headers(&headers(none)).unwrap().is_none(), "{none}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_a_hundred_times_its_size() {
        let spaces = vec![b' '; 8 * 1024 * 1024];
        let zstd = zstd::encode_all(&spaces[..], 3).unwrap();
        for (coding, bomb) in [("gzip", gzip(&spaces)), ("br", bytes(BROTLI_BOMB).to_vec()), ("zstd", zstd)] {
            assert!(bomb.len() * RATIO_MAX < spaces.len(), "{coding}");
            assert!(decoded(coding, &bomb, bomb.len()).is_err(), "{coding}");
        }
        // A window that would be held in memory, announced by a header of a few bytes.
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(TEXT).unwrap();
        assert!(decoded("zstd", &encoder.finish().unwrap(), 64).is_err());
    }

    #[test]
    fn an_unknown_coding_is_named_and_garbage_is_refused() {
        for (coding, named) in [("compress", "compress"), ("gzip, br", "gzip, br"), ("gzip, GZIP", "gzip, gzip")] {
            assert_eq!(Decoder::for_headers(&headers(coding)).err().as_deref(), Some(named));
        }
        for (coding, garbage) in
            [("gzip", &b"\x1fno gzip at all"[..]), ("zstd", b"(\x02\x03"), ("br", b"\xff\xff\xff\xff")]
        {
            assert!(decoded(coding, garbage, garbage.len()).is_err(), "{coding}");
        }
    }

    #[test]
    fn a_whole_body_is_decoded_within_its_limit() {
        let body = Bytes::from(gzip(&TEXT.repeat(40)));
        assert_eq!(whole(&headers("gzip"), body.clone(), 10_000).unwrap(), TEXT.repeat(40));
        assert!(whole(&headers("gzip"), body.clone(), 100).is_err());
        assert_eq!(whole(&HeaderMap::new(), body.clone(), 0).unwrap(), body);
        assert!(whole(&headers("compress"), body, 10_000).is_err());
    }
}
