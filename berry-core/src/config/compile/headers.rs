//! Header names and values.

use http::{HeaderName, HeaderValue};

use crate::config::decode::{At, HiddenText, Map, Text};
use crate::config::path::KeyPath;
use crate::config::problem::Problems;

/// Headers that belong to the connection or are made by the gateway for each call.
const OURS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that carry a client's credentials or identity.
const CLIENT_SECRETS: &[&str] =
    &["authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "set-cookie"];

/// A table of headers to send. Values are marked sensitive, so that nothing prints them.
pub(super) fn compile(raw: Option<At<Map<HiddenText>>>, at: &KeyPath<'_>, problems: &mut Problems) -> Headers {
    let mut headers = Headers::default();
    for entry in raw.map(|map| map.value.0).unwrap_or_default() {
        let at = at.key(&entry.key);
        if entry.key.eq_ignore_ascii_case("api-version") {
            headers.api_version = Some(At { value: entry.value.0.expose().to_owned(), span: Some(entry.span) });
            continue;
        }
        let Some(name) = name(&entry.key, &at, Some(entry.key_span.clone()), problems) else {
            continue;
        };
        if OURS.contains(&name.as_str()) {
            problems
                .error(&at, entry.key_span, format!("the header {name} cannot be set"))
                .hint("the gateway sets it itself, as the call needs it");
            continue;
        }
        match HeaderValue::try_from(entry.value.0.expose()) {
            Ok(mut value) => {
                value.set_sensitive(true);
                headers.list.push((name, value));
            }
            Err(_) => {
                problems
                    .error(&at, entry.span, "has a character that no header can carry")
                    .hint("often a line break at the end");
            }
        }
    }
    headers
}

/// Headers to send, and the `api-version` that the older way to write Azure put among them.
#[derive(Debug, Default)]
pub(super) struct Headers {
    pub(super) list: Vec<(HeaderName, HeaderValue)>,
    pub(super) api_version: Option<At<String>>,
}

impl Headers {
    /// All of them, for whom `api-version` is a header like any other.
    pub(super) fn with_api_version(mut self) -> Vec<(HeaderName, HeaderValue)> {
        if let Some(version) = self.api_version.and_then(|version| HeaderValue::try_from(version.value).ok()) {
            self.list.push((HeaderName::from_static("api-version"), version));
        }
        self.list
    }
}

/// Names of client headers to pass on.
pub(super) fn forwarded(raw: Vec<At<Text>>, at: &KeyPath<'_>, problems: &mut Problems) -> Vec<HeaderName> {
    let mut names = Vec::with_capacity(raw.len());
    for (index, text) in raw.into_iter().enumerate() {
        let at = at.index(index);
        let Some(name) = name(&text.value.value, &at, text.span.clone(), problems) else {
            continue;
        };
        if CLIENT_SECRETS.contains(&name.as_str()) {
            problems
                .error(&at, text.span, format!("the client's {name} is never passed on"))
                .hint("it is the client's credential for this gateway; the provider gets api_key");
        } else if OURS.contains(&name.as_str()) {
            problems.error(
                &at,
                text.span,
                format!("the header {name} belongs to the connection and is never passed on"),
            );
        } else {
            names.push(name);
        }
    }
    names
}

fn name(
    text: &str,
    at: &KeyPath<'_>,
    span: Option<crate::config::problem::Span>,
    problems: &mut Problems,
) -> Option<HeaderName> {
    let name = HeaderName::try_from(text).ok();
    if name.is_none() {
        problems.error(at, span, format!("{text:?} is not a header name"));
    }
    name
}
