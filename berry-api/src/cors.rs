//! Which web pages may call the API from a browser: `/v1*` for the configured origins, everything else for none.
//!
//! Own code instead of a layer, because the data path has no layers: a request without an `Origin` costs one look-up here.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};

/// What a page may read of an answer beside the body.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-berry-provider, x-berry-model, x-berry-attempts, x-berry-loss, retry-after, \
     x-ratelimit-limit-requests, x-ratelimit-limit-tokens, x-ratelimit-remaining-requests, \
     x-ratelimit-remaining-tokens, x-ratelimit-reset-requests, x-ratelimit-reset-tokens, openai-processing-ms",
);

/// Asked for when a preflight names no headers.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type");

/// The origins that may call.
#[derive(Clone, Debug)]
pub enum Cors {
    /// `*`. No cookies are involved, so any page may try; it needs a token all the same.
    Any,
    /// These only.
    These(Vec<HeaderValue>),
}

impl Cors {
    /// From `cors_allowed_origins`. An entry that no header can carry matches nothing.
    pub fn new(origins: &[String]) -> Self {
        if origins.iter().any(|origin| origin == "*") {
            return Self::Any;
        }
        let origins = origins.iter().filter_map(|origin| origin.trim_end_matches('/').parse().ok());
        Self::These(origins.collect())
    }

    /// What `access-control-allow-origin` says to this page; `None` when the page may not call, or there is none.
    fn allows(&self, path: &str, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let open = path.strip_prefix("/v1").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        match self {
            _ if !open => None,
            Self::Any => Some(HeaderValue::from_static("*")),
            Self::These(origins) => origins.contains(origin).then(|| origin.clone()),
        }
    }

    /// The headers of the answer to this request; `None` for what is not a page's request, or one that [`Cors::preflight`]
    /// answers.
    pub fn grant(&self, request: &Parts) -> Option<Grant> {
        if is_preflight(request) {
            return None;
        }
        let origin = self.allows(request.uri.path(), &request.headers)?;
        Some(Grant { origin })
    }

    /// The headers that answer a browser's question whether it may send a request; `None` when it is not such a question.
    pub fn preflight(&self, request: &Parts) -> Option<HeaderMap> {
        if !is_preflight(request) {
            return None;
        }
        let method = request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = self.allows(request.uri.path(), &request.headers)?;
        // Whatever is asked for is granted: SDKs send headers of their own (`x-stainless-*`) and add new ones, and which
        // header a page may send protects nothing here.
        let asked = request.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let mut headers = HeaderMap::with_capacity(8);
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, method.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.cloned().unwrap_or(ALLOWED_HEADERS));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
        headers.insert(
            VARY,
            HeaderValue::from_static("origin, access-control-request-method, access-control-request-headers"),
        );
        Some(headers)
    }
}

fn is_preflight(request: &Parts) -> bool {
    request.method == Method::OPTIONS && request.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// A page's permission to read an answer.
#[derive(Debug)]
pub struct Grant {
    origin: HeaderValue,
}

impl Grant {
    /// Says so in the answer.
    pub fn write(self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}
