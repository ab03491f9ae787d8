//! The OpenAI dialect, one module for each endpoint.

mod audio;
mod chat;
mod completions;
mod embeddings;
mod form;
mod images;
mod moderations;
mod rerank;
mod responses;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::error::ApiError;
use crate::hash::{StableHash, id};
use crate::input::Input;
use crate::route::Call;

/// When everything was made, in seconds since 1970: a fixed moment, since the same request has to give the same bytes.
const CREATED: u64 = 1_767_225_600;

/// What is asked for, without method and prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint<'a> {
    Models,
    Model(&'a str),
    Chat,
    Completions,
    Embeddings,
    Moderations,
    Rerank,
    Responses,
    Images,
    Speech,
    Transcriptions,
}

impl<'a> Endpoint<'a> {
    /// The endpoint at a path whose prefix has been taken off.
    pub(crate) fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "/models" => Self::Models,
            "/chat/completions" => Self::Chat,
            "/completions" => Self::Completions,
            "/embeddings" => Self::Embeddings,
            "/moderations" => Self::Moderations,
            "/rerank" => Self::Rerank,
            "/responses" => Self::Responses,
            "/images/generations" | "/images/edits" | "/images/variations" => Self::Images,
            "/audio/speech" => Self::Speech,
            "/audio/transcriptions" | "/audio/translations" => Self::Transcriptions,
            // Names of models may hold slashes.
            _ => Self::Model(path.strip_prefix("/models/").filter(|id| !id.is_empty())?),
        })
    }
}

/// Answers a request to an endpoint. Azure names the model in the path, as a deployment.
pub(crate) fn answer(call: &Call<'_>, endpoint: Endpoint<'_>, deployment: Option<&str>) -> Result<Answer, ApiError> {
    let wanted = if matches!(endpoint, Endpoint::Models | Endpoint::Model(_)) { Method::GET } else { Method::POST };
    call.expect(wanted)?;
    let answer = match endpoint {
        Endpoint::Models => models(call),
        Endpoint::Model(id) => model(call, id)?,
        Endpoint::Images => images::answer(call, deployment)?,
        Endpoint::Transcriptions => audio::transcription(call, deployment)?,
        Endpoint::Chat => chat::answer(call, &Input::new(call, deployment)?)?,
        Endpoint::Completions => completions::answer(call, &Input::new(call, deployment)?)?,
        Endpoint::Embeddings => embeddings::answer(call, &Input::new(call, deployment)?)?,
        Endpoint::Moderations => moderations::answer(call, &Input::new(call, deployment.or(Some("demo-moderation")))?)?,
        Endpoint::Rerank => rerank::answer(call, &Input::new(call, deployment)?)?,
        Endpoint::Responses => responses::answer(call, &Input::new(call, deployment)?)?,
        Endpoint::Speech => audio::speech(call, &Input::new(call, deployment)?)?,
    };
    Ok(with_vendor_headers(call, answer))
}

/// The headers that OpenAI sends and gateways care about; the figures are made up and always the same.
fn with_vendor_headers(call: &Call<'_>, answer: Answer) -> Answer {
    let mut hash = StableHash::new(call.script.seed);
    hash.feed(call.head.uri.path());
    hash.feed(call.body);
    answer
        .with("x-request-id", id("req_", hash.finish(), 32))
        .with("openai-version", "2020-10-01")
        .with("openai-processing-ms", "42")
        .with("x-ratelimit-limit-requests", "10000")
        .with("x-ratelimit-remaining-requests", "9999")
        .with("x-ratelimit-reset-requests", "6ms")
}

fn models(call: &Call<'_>) -> Answer {
    let data: Vec<Value> = call.model_names().iter().map(|name| model_object(name)).collect();
    Answer::json(StatusCode::OK, &json!({"object": "list", "data": data}))
}

fn model(call: &Call<'_>, id: &str) -> Result<Answer, ApiError> {
    let id = percent_decoded(id);
    if !call.script.serves(&id) {
        return Err(ApiError::model_not_found(&id));
    }
    Ok(Answer::json(StatusCode::OK, &model_object(&id)))
}

fn model_object(id: &str) -> Value {
    json!({"id": id, "object": "model", "created": CREATED, "owned_by": "berry-mock"})
}

/// `%41` to `A`; what is no such escape stays.
fn percent_decoded(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        match piece.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(&piece.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend(piece.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_are_decoded() {
        assert_eq!(percent_decoded("meta%2Fllama%203%"), "meta/llama 3%");
    }

    #[test]
    fn every_endpoint_is_found() {
        assert_eq!(Endpoint::of("/models/a/b"), Some(Endpoint::Model("a/b")));
        assert_eq!(Endpoint::of("/chat/completions"), Some(Endpoint::Chat));
        assert_eq!(Endpoint::of("/models/"), None);
        assert_eq!(Endpoint::of("/files"), None);
    }
}
