//! `POST /v1/images/generations`, `/edits` and `/variations`: a small square in a colour that depends on the prompt.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use http::StatusCode;
use serde_json::{Value, json};

use super::CREATED;
use super::form::Form;
use crate::answer::Answer;
use crate::error::ApiError;
use crate::generate::Prompt;
use crate::hash::mix;
use crate::input::Input;
use crate::route::Call;

/// Pixels of a side.
const SIDE: u32 = 16;
/// Images of one request at most, as at OpenAI.
const IMAGES_MAX: u64 = 10;

pub(super) fn answer(call: &Call<'_>, deployment: Option<&str>) -> Result<Answer, ApiError> {
    let (model, text, n, url) = match Form::read(&call.head.headers, call.body) {
        Some(form) => {
            let model = deployment.or(form.text("model")).unwrap_or("demo-small").to_owned();
            form.bytes("image").or(form.bytes("image[]")).ok_or_else(|| ApiError::missing("image"))?;
            let n = form.text("n").map_or(Ok(1), str::parse).map_err(|_| ApiError::wrong("n", "a number"))?;
            let url = form.text("response_format") == Some("url");
            (model, form.text("prompt").unwrap_or_default().to_owned(), n, url)
        }
        None => {
            let input = Input::new(call, deployment)?;
            let text = input.get("prompt").ok_or_else(|| ApiError::missing("prompt"))?;
            let text = text.as_str().ok_or_else(|| ApiError::wrong("prompt", "a string"))?.to_owned();
            let url = input.get("response_format").is_some_and(|format| format == "url");
            (input.model.clone(), text, input.number("n")?.unwrap_or(1), url)
        }
    };
    if !call.script.serves(&model) && deployment.is_none() {
        return Err(ApiError::model_not_found(&model));
    }
    if !(1..=IMAGES_MAX).contains(&n) {
        return Err(ApiError::wrong("n", "a number from 1 to 10"));
    }
    let mut prompt = Prompt::new(call.script.seed);
    prompt.add(&text);
    let images = (0..n).map(|i| {
        let encoded = STANDARD.encode(png(mix(prompt.number() ^ mix(i))));
        if url { json!({"url": format!("data:image/png;base64,{encoded}")}) } else { json!({"b64_json": encoded}) }
    });
    let images: Vec<Value> = images.collect();
    let mut body =
        json!({"created": CREATED, "data": images, "output_format": "png", "size": format!("{SIDE}x{SIDE}")});
    if call.usage {
        body["usage"] = json!({
            "input_tokens": prompt.tokens, "output_tokens": 272 * n, "total_tokens": prompt.tokens + 272 * n,
            "input_tokens_details": {"text_tokens": prompt.tokens, "image_tokens": 0},
        });
    }
    Ok(call.paced(Answer::json(StatusCode::OK, &body), 1))
}

/// A square of one colour (PNG specification, third edition: sections 5 and 11).
fn png(colour: u64) -> Vec<u8> {
    let [red, green, blue, ..] = colour.to_be_bytes();
    let mut header = Vec::from(SIDE.to_be_bytes());
    header.extend(SIDE.to_be_bytes());
    // Eight bits a sample, colours, and the only compression, filter method and order of lines that one would want.
    header.extend([8, 2, 0, 0, 0]);
    let mut line = vec![0];
    line.extend([red, green, blue].repeat(SIDE as usize));
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::default());
    pixels.write_all(&line.repeat(SIDE as usize)).expect("writing to memory does not fail");
    let mut png = Vec::from(*b"\x89PNG\r\n\x1a\n");
    chunk(&mut png, b"IHDR", &header);
    chunk(&mut png, b"IDAT", &pixels.finish().expect("writing to memory does not fail"));
    chunk(&mut png, b"IEND", &[]);
    png
}

fn chunk(png: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let mut crc = Crc::new();
    crc.update(kind);
    crc.update(data);
    png.extend(u32::try_from(data.len()).expect("chunks here are tiny").to_be_bytes());
    png.extend(kind);
    png.extend(data);
    png.extend(crc.sum().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_chunk_is_the_one_every_png_ends_with() {
        let png = png(7);
        assert_eq!(png[png.len() - 12..], *b"\0\0\0\0IEND\xae\x42\x60\x82");
        assert_eq!(png[12..24], *b"IHDR\0\0\0\x10\0\0\0\x10");
    }
}
