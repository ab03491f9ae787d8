//! Which endpoint of which vendor a path means.
//!
//! Vendors differ in what stands before the same endpoints (`/v1`, `/openai/v1`, `/api/v1`, nothing at all), so a known prefix
//! is taken off first and the rest decides.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use crate::answer::{Answer, Pace, Step};
use crate::error::{ApiError, Vendor};
use crate::script::Script;
use crate::{anthropic, gemini, openai};

/// Prefixes under which the OpenAI endpoints are found, longest first. `/openai` and `/models` are Azure's, `/api/v1` OpenRouter's.
const PREFIXES: &[&str] = &["/openai/v1", "/api/v1", "/v1", "/openai", ""];
/// Models in the lists of a script that names none.
const BUILT_IN: &[&str] = &["demo-embedding", "demo-large", "demo-small"];
/// Azure's address of one deployment.
const DEPLOYMENTS: &str = "/openai/deployments/";

/// A request with everything an endpoint needs to answer it.
pub(crate) struct Call<'a> {
    pub(crate) head: &'a Parts,
    pub(crate) body: &'a Bytes,
    pub(crate) script: &'a Script,
    /// Whether token counts are told.
    pub(crate) usage: bool,
    /// This request's own source of chance: the pace.
    pub(crate) rng: fastrand::Rng,
}

/// Whose error format a request asks for.
pub(crate) fn vendor(head: &Parts) -> Vendor {
    let path = head.uri.path();
    if path.starts_with(DEPLOYMENTS) {
        Vendor::Azure
    } else if path.ends_with("/responses") {
        Vendor::Responses
    } else if anthropic::Endpoint::of(path).is_some() || head.headers.contains_key("anthropic-version") {
        Vendor::Anthropic
    } else if path.starts_with("/v1beta") || gemini::Endpoint::of(path).is_some() {
        Vendor::Gemini
    } else {
        Vendor::OpenAi
    }
}

impl Call<'_> {
    /// The answer that nothing has spoiled yet.
    pub(crate) fn answer(&self) -> Answer {
        if matches!(self.head.uri.path(), "/" | "/health") {
            return Answer::plain(StatusCode::OK, "text/plain", "Berry's scripted upstream is up.\n");
        }
        let vendor = vendor(self.head);
        self.authorized().and_then(|()| self.dispatch(vendor)).unwrap_or_else(|error| error.answer(vendor))
    }

    fn dispatch(&self, vendor: Vendor) -> Result<Answer, ApiError> {
        let path = self.head.uri.path();
        if let Some((deployment, rest)) = path.strip_prefix(DEPLOYMENTS).and_then(|rest| rest.split_once('/')) {
            return self.azure(deployment, &format!("/{rest}"));
        }
        if let Some(endpoint) = anthropic::Endpoint::of(path) {
            return anthropic::answer(self, endpoint);
        }
        if let Some(endpoint) = gemini::Endpoint::of(path) {
            return gemini::answer(self, endpoint);
        }
        if vendor == Vendor::Anthropic && path.ends_with("/models") {
            self.expect(Method::GET)?;
            return Ok(anthropic::models(&self.model_names()));
        }
        self.openai(path)
    }

    /// The names in the lists: the script's, or built-in ones.
    pub(crate) fn model_names(&self) -> Vec<&str> {
        match &self.script.models[..] {
            [] => BUILT_IN.to_vec(),
            served => served.iter().map(String::as_str).collect(),
        }
    }

    /// The pace of this answer.
    pub(crate) fn pace(&self) -> Pace {
        let script = self.script;
        Pace::new(script.first_token_latency(), script.token_latency(), script.latency_jitter, self.rng.clone())
    }

    /// Holds a plain answer back for as long as its tokens would take.
    pub(crate) fn paced(&self, mut answer: Answer, tokens: u64) -> Answer {
        answer.before_head.push_back(Step::Wait(self.pace().whole(tokens)));
        answer
    }

    /// A parameter of the query, as it is written.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        let pairs = self.head.uri.query().unwrap_or_default().split('&');
        pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    fn authorized(&self) -> Result<(), ApiError> {
        let Some(key) = &self.script.api_key else { return Ok(()) };
        match shown_key(&self.head.headers).or_else(|| self.query("key")) {
            Some(shown) if key.is(shown) => Ok(()),
            _ => Err(ApiError::unauthorized()),
        }
    }

    fn azure(&self, deployment: &str, rest: &str) -> Result<Answer, ApiError> {
        if self.query("api-version").is_none() {
            return Err(ApiError::of_status(StatusCode::NOT_FOUND));
        }
        if !self.script.serves(deployment) {
            return Err(ApiError::deployment_not_found());
        }
        let endpoint = openai::Endpoint::of(rest).ok_or_else(|| self.unknown())?;
        openai::answer(self, endpoint, Some(deployment))
    }

    fn openai(&self, path: &str) -> Result<Answer, ApiError> {
        // Azure's inference style has the endpoints under /models.
        let path = match path.strip_prefix("/models") {
            Some(rest @ ("/chat/completions" | "/embeddings")) => rest,
            _ => path,
        };
        let endpoint = PREFIXES.iter().find_map(|prefix| openai::Endpoint::of(path.strip_prefix(prefix)?));
        openai::answer(self, endpoint.ok_or_else(|| self.unknown())?, None)
    }

    fn unknown(&self) -> ApiError {
        ApiError::unknown_path(&self.head.method, self.head.uri.path())
    }

    /// Refuses every other method.
    pub(crate) fn expect(&self, method: Method) -> Result<(), ApiError> {
        if self.head.method == method { Ok(()) } else { Err(ApiError::wrong_method(&self.head.method)) }
    }
}

/// The key a client shows, in the header of any vendor.
fn shown_key(headers: &HeaderMap) -> Option<&str> {
    if let Some(bearer) = headers.get(http::header::AUTHORIZATION) {
        return bearer.to_str().ok()?.strip_prefix("Bearer ");
    }
    ["api-key", "x-api-key", "x-goog-api-key"].iter().find_map(|name| headers.get(*name)?.to_str().ok())
}
