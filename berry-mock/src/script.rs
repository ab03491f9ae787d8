//! What the upstream is told to be: names, pace, faults and exact replies.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Deserializer};

use crate::answer::{Answer, Length, Mark, Step};
use crate::fault::Fault;

/// The behaviour of a [`Mock`](crate::Mock). The default is a keyless upstream that serves any model at once and never fails.
///
/// Every key may be left out of a file; unknown keys are refused.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Script {
    /// Chooses the texts, the vectors, the jitter and which requests fail. Same seed, same answers.
    pub seed: u64,
    /// Silence before the first content of an answer, in milliseconds.
    pub first_token_latency_ms: u64,
    /// Silence between two tokens, in milliseconds. A plain answer waits for all its tokens before its head.
    pub token_latency_ms: u64,
    /// Every wait is stretched or shortened by up to this share of itself, 0 to 1.
    pub latency_jitter: f64,
    /// Share of requests that are answered 500 or 503, 0 to 1. Which ones depends on the seed and on the request's number only.
    pub failure_rate: f64,
    /// Names that are served. Empty: every name is; the lists then show the built-in names.
    pub models: Vec<String>,
    /// Key that clients must show, in the header of the vendor whose path they use. `None`: no key is asked for.
    pub api_key: Option<ApiKey>,
    /// One fault for each request in turn, then from the start again. `Fault::None` leaves a request alone.
    pub faults: Vec<Fault>,
    /// The list of faults is used up once; later requests are left alone.
    pub faults_once: bool,
    /// Which requests the faults and the failure rate hit. Others do not use up an entry of the list.
    pub fault_scope: FaultScope,
    /// Exact answers; the first that matches a request wins over everything that is made up.
    pub replies: Vec<Reply>,
    /// Length of made-up texts in tokens. `None`: a few sentences.
    pub answer_tokens: Option<usize>,
    /// How many requests [`Mock::requests`](crate::Mock::requests) remembers. `None`: 256. The demo provider keeps 0: they are prompts.
    pub keep_requests: Option<usize>,
}

impl Script {
    /// Whether every reply is valid HTTP. For scripts that come from a file.
    ///
    /// # Errors
    ///
    /// The first reply that is not, and why.
    pub fn validate(&self) -> Result<(), ScriptError> {
        for reply in &self.replies {
            reply.answer().map_err(|source| ScriptError { path: reply.path.clone(), source })?;
        }
        Ok(())
    }

    /// Whether `model` is served.
    pub(crate) fn serves(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|served| served == model)
    }

    pub(crate) fn first_token_latency(&self) -> Duration {
        Duration::from_millis(self.first_token_latency_ms)
    }

    pub(crate) fn token_latency(&self) -> Duration {
        Duration::from_millis(self.token_latency_ms)
    }
}

/// A reply of a script that cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("the reply to {path:?} cannot be sent")]
pub struct ScriptError {
    path: String,
    source: http::Error,
}

/// A key that clients must show. Its `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct ApiKey(String);

impl ApiKey {
    pub(crate) fn is(&self, shown: &str) -> bool {
        self.0 == shown
    }
}

impl From<&str> for ApiKey {
    fn from(key: &str) -> Self {
        Self(key.to_owned())
    }
}

impl From<String> for ApiKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Which requests scripted faults and the failure rate hit. The header `x-mock-fault` is obeyed by all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultScope {
    /// Requests for answers, so that health checks by the models list still pass.
    #[default]
    Post,
    /// Lists only: health checks fail, answers work.
    Get,
    /// Everything.
    All,
}

/// An exact answer to some requests: bytes in, bytes out.
///
/// A body of one chunk without a delay is sent with its length, in one write with the head; so is any body when `headers` names
/// a `content-length` (which must be right). Otherwise the body is chunked, and each chunk is flushed before the next.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reply {
    /// Method to match; `None` matches all.
    pub method: Option<String>,
    /// Start of the path with its query. Empty matches all.
    pub path: String,
    /// How many requests it answers before it is passed over; `None`: all.
    pub times: Option<u32>,
    /// Status to send.
    pub status: u16,
    /// Headers to send, nothing is added to them.
    pub headers: Vec<(String, String)>,
    /// The body, in pieces.
    pub chunks: Vec<ReplyChunk>,
}

impl Default for Reply {
    fn default() -> Self {
        Self { method: None, path: String::new(), times: None, status: 200, headers: Vec::new(), chunks: Vec::new() }
    }
}

impl Reply {
    /// A JSON answer with status 200 to every request whose path starts with `path`.
    pub fn json(path: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            path: path.into(),
            headers: vec![("content-type".into(), "application/json".into())],
            chunks: vec![ReplyChunk::new(body)],
            ..Self::default()
        }
    }

    /// An event stream with status 200 to every request whose path starts with `path`.
    pub fn events<B: Into<Bytes>>(path: impl Into<String>, chunks: impl IntoIterator<Item = B>) -> Self {
        Self {
            path: path.into(),
            headers: vec![("content-type".into(), "text/event-stream".into())],
            chunks: chunks.into_iter().map(ReplyChunk::new).collect(),
            ..Self::default()
        }
    }

    /// The reply as an answer, if it is valid HTTP.
    pub(crate) fn answer(&self) -> Result<Answer, http::Error> {
        if let Some(method) = &self.method {
            Method::from_bytes(method.as_bytes())?;
        }
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            headers.append(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
        let at_once = self.chunks.iter().all(|chunk| chunk.delay_ms == 0 && !chunk.gate);
        let known = headers.contains_key(CONTENT_LENGTH) || (at_once && self.chunks.len() < 2);
        let mut answer = Answer {
            status: StatusCode::from_u16(self.status)?,
            headers,
            before_head: VecDeque::new(),
            body: VecDeque::new(),
            length: if known { Length::Known } else { Length::Chunked },
        };
        let mark = if answer.is_stream() { Mark::Content } else { Mark::Whole };
        for (i, chunk) in self.chunks.iter().enumerate() {
            if i > 0 {
                answer.body.push_back(Step::Flush);
            }
            if chunk.delay_ms > 0 {
                answer.body.push_back(Step::Wait(Duration::from_millis(chunk.delay_ms)));
            }
            if chunk.gate {
                answer.body.push_back(Step::Gate);
            }
            answer.body.push_back(Step::Chunk(mark, chunk.body.clone()));
        }
        Ok(answer)
    }
}

/// A piece of a [`Reply`]'s body.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplyChunk {
    /// Silence before it, in milliseconds.
    pub delay_ms: u64,
    /// Wait for [`Mock::open_gate`](crate::Mock::open_gate) before it.
    pub gate: bool,
    /// The bytes. In a file they are a string; other bytes can be given in code only.
    #[serde(deserialize_with = "text_bytes")]
    pub body: Bytes,
}

impl ReplyChunk {
    /// A piece that is sent at once.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }
}

fn text_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    String::deserialize(deserializer).map(Bytes::from)
}
