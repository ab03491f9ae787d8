//! `POST /v1/audio/speech` gives a short tone as WAV (or its bare samples), whatever format is asked for;
//! `/v1/audio/transcriptions` and `/translations` give a sentence, plain or streamed.

use http::StatusCode;
use serde_json::json;

use super::form::Form;
use crate::answer::{Answer, Events, Mark};
use crate::error::ApiError;
use crate::generate::Prompt;
use crate::hash::StableHash;
use crate::input::Input;
use crate::route::Call;
use crate::text;

/// Samples a second.
const RATE: u32 = 8_000;
/// Samples of the tone: a fifth of a second.
const SAMPLES: u32 = RATE / 5;

pub(super) fn speech(call: &Call<'_>, input: &Input) -> Result<Answer, ApiError> {
    let said = input.get("input").ok_or_else(|| ApiError::missing("input"))?;
    let said = said.as_str().ok_or_else(|| ApiError::wrong("input", "a string"))?;
    let mut prompt = Prompt::new(call.script.seed);
    prompt.add(said);
    let samples = tone(200 + u32::try_from(prompt.number() % 400).expect("below 400"));
    let bare = input.get("response_format").is_some_and(|format| format == "pcm");
    let answer = if bare {
        Answer::plain(StatusCode::OK, "audio/pcm", samples)
    } else {
        Answer::plain(StatusCode::OK, "audio/wav", wav(&samples))
    };
    Ok(call.paced(answer, 1))
}

/// A triangle wave of so many swings a second, 16 bits a sample.
fn tone(frequency: u32) -> Vec<u8> {
    const HEIGHT: i32 = 8_000;
    let period = (RATE / frequency).max(2);
    let sample = |i: u32| {
        let at = i32::try_from(i % period * 4).expect("periods are short");
        let period = i32::try_from(period).expect("periods are short");
        let height = HEIGHT * (at - 2 * period).abs() / period - HEIGHT;
        i16::try_from(height).expect("within the height")
    };
    (0..SAMPLES).flat_map(|i| sample(i).to_le_bytes()).collect()
}

/// The samples behind a header of 44 bytes: one channel, 16 bits.
fn wav(samples: &[u8]) -> Vec<u8> {
    let length = u32::try_from(samples.len()).expect("the tone is short");
    let mut wav = Vec::with_capacity(44 + samples.len());
    wav.extend(b"RIFF");
    wav.extend((36 + length).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16_u32.to_le_bytes());
    for field in [1_u16, 1] {
        wav.extend(field.to_le_bytes());
    }
    wav.extend(RATE.to_le_bytes());
    wav.extend((RATE * 2).to_le_bytes());
    for field in [2_u16, 16] {
        wav.extend(field.to_le_bytes());
    }
    wav.extend(b"data");
    wav.extend(length.to_le_bytes());
    wav.extend(samples);
    wav
}

pub(super) fn transcription(call: &Call<'_>, deployment: Option<&str>) -> Result<Answer, ApiError> {
    let form = Form::read(&call.head.headers, call.body);
    let form = form.ok_or_else(|| ApiError::invalid("The body must be multipart/form-data."))?;
    let model = deployment.or(form.text("model")).ok_or_else(|| ApiError::missing("model"))?;
    if deployment.is_none() && !call.script.serves(model) {
        return Err(ApiError::model_not_found(model));
    }
    let file = form.bytes("file").ok_or_else(|| ApiError::missing("file"))?;
    let mut hash = StableHash::new(call.script.seed);
    hash.feed(file);
    let sentence = text::sentence(&mut fastrand::Rng::with_seed(hash.finish()));
    let heard = format!("A recording of {} bytes. {sentence}", file.len());
    let tokens = text::count(&heard);
    let usage = json!({"type": "tokens", "input_tokens": 10, "output_tokens": tokens, "total_tokens": 10 + tokens});
    if form.text("stream") == Some("true") {
        let mut events = Events::new(call.pace());
        for token in text::tokens(&heard) {
            events.data(Mark::Content, &json!({"type": "transcript.text.delta", "delta": token}));
        }
        let mut done = json!({"type": "transcript.text.done", "text": heard});
        if call.usage {
            done["usage"] = usage;
        }
        events.data(Mark::Finish, &done);
        return Ok(Answer::events(events));
    }
    let answer = match form.text("response_format").unwrap_or("json") {
        "text" => Answer::plain(StatusCode::OK, "text/plain; charset=utf-8", format!("{heard}\n")),
        "srt" => Answer::plain(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            format!("1\n00:00:00,000 --> 00:00:01,000\n{heard}\n\n"),
        ),
        "vtt" => Answer::plain(
            StatusCode::OK,
            "text/plain; charset=utf-8",
            format!("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{heard}\n\n"),
        ),
        "verbose_json" => {
            let body =
                json!({"task": "transcribe", "language": "english", "duration": 1.0, "text": heard, "segments": []});
            Answer::json(StatusCode::OK, &body)
        }
        "json" if call.usage => Answer::json(StatusCode::OK, &json!({"text": heard, "usage": usage})),
        "json" => Answer::json(StatusCode::OK, &json!({"text": heard})),
        _ => {
            return Err(ApiError::wrong("response_format", "json, text, srt, verbose_json or vtt"));
        }
    };
    Ok(call.paced(answer, tokens))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_wav_tells_its_lengths() {
        let samples = tone(440);
        let wav = wav(&samples);
        assert_eq!(wav.len(), 44 + samples.len());
        assert_eq!(wav[4..8], u32::try_from(wav.len() - 8).unwrap().to_le_bytes());
        assert_eq!(wav[40..44], u32::try_from(samples.len()).unwrap().to_le_bytes());
        assert!(samples.iter().any(|byte| *byte != samples[0]), "it is a tone, not silence");
    }
}
