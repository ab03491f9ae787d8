//! Vectors: OpenAI's `embeddings` at a Gemini upstream, and vectors in the form that the client asked for.
//!
//! OpenAI's clients ask for base64 unless told otherwise: the numbers as little-endian 32-bit floats
//! (platform.openai.com/docs/api-reference/embeddings; openai-python and openai-node, 2026). Gemini's `batchEmbedContents`:
//! ai.google.dev/api/embeddings, 2026.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::Malformed;
use super::loss::{Losses, Reason};
use super::text::{Fields, Json, Text, Writer};
use crate::body::Chunks;
use crate::json::{Cursor, Kind, unmarked};

/// Characters that make a token, roughly, where the upstream does not say what it counted.
const BYTES_PER_TOKEN: usize = 4;

/// How much of an answer is looked at to see how its vectors are written.
const BEGINNING_BYTES: usize = 1024;

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As a list of numbers.
    Float,
    /// As base64 of little-endian 32-bit floats.
    Base64,
}

/// A request for vectors, read once.
#[derive(Clone, Debug)]
pub struct Request {
    inputs: Vec<Text>,
    dimensions: Option<u64>,
    /// How the vectors are to be written.
    pub encoding: Encoding,
    losses: Losses,
}

impl Request {
    /// Reads a request of OpenAI's `embeddings`.
    ///
    /// # Errors
    /// [`Malformed`]: not one, or one whose input is tokens, which mean something to one vendor only.
    pub fn read(body: &Bytes) -> Result<Self, Malformed> {
        let mut fields = Fields::read(body)?;
        fields.take("model");
        let input = fields.take("input").ok_or_else(|| Malformed::new("input", "is needed"))?;
        let inputs = match input.text() {
            Some(text) => vec![text],
            None => input.elements().iter().map(Json::text).collect::<Option<_>>().ok_or_else(|| {
                Malformed::new("input", "tokens cannot be sent to a backend of another vendor; send the text itself")
            })?,
        };
        let encoding = match fields.string("encoding_format").as_deref() {
            Some("base64") => Encoding::Base64,
            _ => Encoding::Float,
        };
        let dimensions = fields.take("dimensions").and_then(|dimensions| dimensions.integer());
        let mut losses = Losses::default();
        fields.rest().for_each(|(name, _)| losses.add(name, Reason::Unsupported));
        Ok(Self { inputs, dimensions, encoding, losses })
    }

    /// Writes it as Gemini's `batchEmbedContents`.
    pub fn for_gemini(&self, model: &str, losses: &mut Losses) -> Chunks {
        losses.extend(&self.losses);
        let mut writer = Writer::new();
        writer.object(|w| {
            w.key("requests").list(|w| {
                for input in &self.inputs {
                    w.object(|w| {
                        w.key("model").string(&format!("models/{model}"));
                        w.key("content").object(|w| {
                            w.key("parts").list(|w| w.object(|w| w.key("text").text(input)));
                        });
                        if let Some(dimensions) = self.dimensions {
                            w.key("outputDimensionality").integer(dimensions);
                        }
                    });
                }
            });
        });
        writer.finish()
    }

    /// Input tokens by a rule of thumb: Gemini does not say what it counted.
    pub fn estimate(&self) -> u64 {
        let bytes: usize = self.inputs.iter().map(|input| input.raw().len()).sum();
        bytes.div_ceil(BYTES_PER_TOKEN) as u64
    }

    /// OpenAI's form of Gemini's answer.
    ///
    /// # Errors
    /// [`Malformed`]: it is none.
    pub fn answer(&self, body: &Bytes, model: &str) -> Result<Bytes, Malformed> {
        let vectors = Fields::read(body)?.take("embeddings");
        let vectors = vectors.ok_or_else(|| Malformed::new("embeddings", "is not there"))?.elements();
        if vectors.len() != self.inputs.len() {
            return Err(Malformed::new("embeddings", "is not one for each input"));
        }
        let mut writer = Writer::new();
        let mut bad = None;
        writer.object(|w| {
            w.key("object").word("list");
            w.key("data").list(|w| {
                for (index, vector) in vectors.iter().enumerate() {
                    let values = vector.fields().take("values").unwrap_or_else(|| Json::fixed("[]"));
                    w.object(|w| {
                        w.key("object").word("embedding");
                        w.key("index").integer(index as u64);
                        w.key("embedding");
                        bad = write_vector(&values, self.encoding, w).err().or(bad.take());
                    });
                }
            });
            w.key("model").string(model);
            w.key("usage").object(|w| {
                w.key("prompt_tokens").integer(self.estimate());
                w.key("total_tokens").integer(self.estimate());
            });
        });
        bad.map_or_else(|| Ok(writer.finish().into_bytes()), Err)
    }
}

/// A vector, given as numbers or as base64, in the form that is asked for.
fn write_vector(vector: &Json, encoding: Encoding, w: &mut Writer) -> Result<(), Malformed> {
    let bad = |why| Malformed::new("embedding", why);
    match (vector.kind(), encoding) {
        (Kind::Array, Encoding::Base64) => {
            let mut bytes = Vec::new();
            for value in vector.elements() {
                let value = value.number().ok_or_else(|| bad("holds something that is no number"))?;
                bytes.extend_from_slice(&(value as f32).to_le_bytes());
            }
            w.string(&STANDARD.encode(bytes));
        }
        (Kind::String, Encoding::Float) => {
            let text = vector.string().unwrap_or_default();
            let bytes = STANDARD.decode(text).map_err(|_| bad("is not base64"))?;
            let (floats, []) = bytes.as_chunks::<4>() else { return Err(bad("is not a list of 32-bit floats")) };
            w.list(|w| floats.iter().for_each(|four| w.literal(&f32::from_le_bytes(*four).to_string())));
        }
        (Kind::Array | Kind::String, _) => w.json(vector),
        _ => return Err(bad("is neither a list nor base64")),
    }
    Ok(())
}

/// The form of the first vector of an answer, where it shows in the beginning of it.
fn first_encoding(beginning: &[u8]) -> Option<Encoding> {
    let mut kind = None;
    // Ends at the vector, or where the beginning does.
    let _ = Cursor::new(unmarked(beginning)).members(|key, value| match key {
        b"data" => value.elements(|item| {
            item.members(|key, value| match key {
                b"embedding" => {
                    kind = value.kind();
                    None
                }
                _ => value.skip(),
            })
        }),
        _ => value.skip(),
    });
    encoding_of(kind?)
}

fn encoding_of(vector: Kind) -> Option<Encoding> {
    match vector {
        Kind::Array => Some(Encoding::Float),
        Kind::String => Some(Encoding::Base64),
        _ => None,
    }
}

/// An answer of OpenAI's form with its vectors in the encoding that the client asked for; the same bytes where they are in it
/// already, which is read off the first of them.
///
/// # Errors
/// [`Malformed`]: the vectors are no vectors.
pub fn in_encoding(body: Chunks, asked: Encoding) -> Result<Chunks, Malformed> {
    // A thousand vectors are millions of numbers, of which none need be read where the first one stands as it should.
    if first_encoding(&body.slice(0..body.len().min(BEGINNING_BYTES))) == Some(asked) {
        return Ok(body);
    }
    let bytes = body.clone().into_bytes();
    let whole = Json::read(&bytes)?;
    let data = whole.fields().take("data").map(|data| data.elements()).unwrap_or_default();
    let first = data.first().and_then(|first| first.fields().take("embedding"));
    let given = first.and_then(|first| encoding_of(first.kind()));
    if given.is_none_or(|given| given == asked) {
        return Ok(body);
    }
    let mut writer = Writer::new();
    let mut bad = None;
    writer.object(|w| {
        for (name, value) in whole.fields().rest() {
            w.quoted_key(&name);
            if name != "data" {
                w.json(&value);
                continue;
            }
            w.list(|w| {
                for item in &data {
                    w.object(|w| {
                        for (name, value) in item.fields().rest() {
                            w.quoted_key(&name);
                            match name.as_str() {
                                "embedding" => bad = write_vector(&value, asked, w).err().or(bad.take()),
                                _ => w.json(&value),
                            }
                        }
                    });
                }
            });
        }
    });
    bad.map_or_else(|| Ok(writer.finish()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &'static str) -> Result<Request, Malformed> {
        Request::read(&Bytes::from_static(body.as_bytes()))
    }

    fn text(body: Bytes) -> String {
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[test]
    fn a_string_or_a_list_becomes_one_batch() {
        let mut losses = Losses::default();
        let one = read(r#"{"model":"m","input":"a\u00e9","dimensions":2,"user":"u"}"#).unwrap();
        assert_eq!(
            text(one.for_gemini("g", &mut losses).into_bytes()),
            r#"{"requests":[{"model":"models/g","content":{"parts":[{"text":"a\u00e9"}]},"outputDimensionality":2}]}"#
        );
        assert_eq!(losses.header(), "user;unsupported");
        let two = read(r#"{"input":["a","b"]}"#).unwrap().for_gemini("g", &mut losses).into_bytes();
        assert_eq!(text(two).matches("models/g").count(), 2);
    }

    #[test]
    fn tokens_are_refused_with_what_to_do() {
        for body in [r#"{"input":[1,2]}"#, r#"{"input":[[1],[2]]}"#] {
            assert!(read(body).unwrap_err().to_string().contains("send the text itself"), "{body}");
        }
    }

    #[test]
    fn the_clients_default_gets_base64_of_little_endian_floats() {
        let ask = read(r#"{"input":"abcdefgh","encoding_format":"base64"}"#).unwrap();
        let given = Bytes::from_static(br#"{"embeddings":[{"values":[0.5,-2]}]}"#);
        assert_eq!(
            text(ask.answer(&given, "g").unwrap()),
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AAAAPwAAAMA="}],"model":"g","usage":{"prompt_tokens":2,"total_tokens":2}}"#
        );
        let short = Bytes::from_static(br#"{"embeddings":[]}"#);
        assert!(ask.answer(&short, "g").is_err());
    }

    #[test]
    fn vectors_in_the_wrong_form_are_written_in_the_asked_one_and_others_are_left_alone() {
        let floats = Bytes::from_static(br#"{"object":"list","data":[{"index":0,"embedding":[0.5,-2]}],"x":1e3}"#);
        let coded = Bytes::from_static(br#"{"object":"list","data":[{"index":0,"embedding":"AAAAPwAAAMA="}],"x":1e3}"#);
        let written = |body: &Bytes, asked| in_encoding(Chunks::from(body.clone()), asked).unwrap().into_bytes();
        assert_eq!(written(&floats, Encoding::Base64), coded);
        assert_eq!(written(&coded, Encoding::Float), floats);
        assert_eq!(written(&floats, Encoding::Float).as_ptr(), floats.as_ptr());
        assert_eq!(written(&coded, Encoding::Base64).as_ptr(), coded.as_ptr());
        // What stands before the first one is as long as it likes.
        let late = |body: &Bytes| text(body.clone()).replacen('{', &format!("{{\"y\":\"{}\",", "y".repeat(2000)), 1);
        let (late_floats, late_coded) = (Bytes::from(late(&floats)), Bytes::from(late(&coded)));
        assert_eq!(written(&late_floats, Encoding::Base64), late_coded);
        assert_eq!(written(&late_coded, Encoding::Base64), late_coded);
        // The rest is not read where the first one is as it should be; who asks has checked that it is JSON.
        let cut = Bytes::from_static(br#"{"data":[{"index":0,"embedding":[0.5,"#);
        assert_eq!(written(&cut, Encoding::Float), cut);
        let odd = Bytes::from_static(br#"{"data":[{"embedding":"AAA="}]}"#);
        assert!(in_encoding(Chunks::from(odd), Encoding::Float).is_err());
    }
}
