//! Which headers pass, in both directions. Everything that is not listed stays here.

use berry_core::config::provider_data::Betas;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Client headers that are passed on to every upstream, beside a provider's `forward_headers`.
fn request_passes(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "accept"
            | "accept-language"
            | "anthropic-beta"
            | "anthropic-version"
            | "content-type"
            | "idempotency-key"
            | "openai-beta"
            | "traceparent"
            | "tracestate"
    )
}

/// Never passed on, whatever `forward_headers` says: credentials, and what belongs to one connection.
const NEVER: &[&str] = &[
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "cookie",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "proxy-authorization",
    "proxy-connection",
    "accept-encoding",
];

const USER_AGENT_VALUE: HeaderValue = HeaderValue::from_static(concat!("berry-api/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const IDENTITY: HeaderValue = HeaderValue::from_static("identity");
const UPSTREAM_REQUEST_ID: HeaderName = HeaderName::from_static("x-upstream-request-id");

/// Headers of the upstream request: ours, the provider's, and what of the client's may pass.
pub(crate) fn request(client: &HeaderMap, forward: &[HeaderName], fixed: &[(HeaderName, HeaderValue)]) -> HeaderMap {
    // Ours, host and length among them, and room for a few of the client's.
    let mut headers = HeaderMap::with_capacity(fixed.len() + 6);
    headers.insert(USER_AGENT, USER_AGENT_VALUE);
    headers.insert(ACCEPT_ENCODING, IDENTITY);
    for (name, value) in client.iter().filter(|(name, _)| request_passes(name)) {
        headers.append(name, value.clone());
    }
    for name in forward.iter().filter(|name| !NEVER.contains(&name.as_str()) && !request_passes(name)) {
        for value in client.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    // Last, so that no client header replaces the provider's or the key.
    for (name, value) in fixed {
        headers.insert(name, value.clone());
    }
    headers
}

/// Says what a body is that was read as JSON, whatever the client called it: upstreams go by the name. A provider's own word holds.
pub(crate) fn of_json(headers: &mut HeaderMap, fixed: &[(HeaderName, HeaderValue)]) {
    if fixed.iter().all(|(name, _)| *name != CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, JSON);
    }
}

/// Takes away what only means something in the client's own dialect.
pub(crate) fn of_another_dialect(headers: &mut HeaderMap) {
    for name in [BETA, VERSION, HeaderName::from_static("openai-beta")] {
        headers.remove(name);
    }
}

pub(crate) const BETA: HeaderName = HeaderName::from_static("anthropic-beta");
const VERSION: HeaderName = HeaderName::from_static("anthropic-version");

/// The values of `anthropic-beta`, which may stand in one header or in several.
pub(crate) fn betas(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lists = headers.get_all(BETA).into_iter().filter_map(|value| value.to_str().ok());
    lists.flat_map(|list| list.split(',').map(str::trim)).filter(|beta| !beta.is_empty())
}

/// Leaves of `anthropic-beta` what a vendor takes, by its names there.
pub(crate) fn filter_betas(headers: &mut HeaderMap, known: &Betas) {
    let kept: Vec<&str> = betas(headers).filter_map(|beta| known.name_of(beta)).collect();
    let kept = HeaderValue::try_from(kept.join(",")).ok().filter(|kept| !kept.is_empty());
    headers.remove(BETA);
    if let Some(kept) = kept {
        headers.insert(BETA, kept);
    }
}

/// Anthropic refuses requests without a version.
pub(crate) fn default_version(headers: &mut HeaderMap) {
    if !headers.contains_key(VERSION) {
        headers.insert(VERSION, HeaderValue::from_static("2023-06-01"));
    }
}

/// What an answer of another dialect keeps of its headers.
pub(crate) fn translated(mut headers: HeaderMap, content_type: &'static str) -> HeaderMap {
    let own = |name: &HeaderName| {
        let name = name.as_str();
        name.contains("ratelimit") || name.starts_with("anthropic-") || name.starts_with("openai-")
    };
    let foreign: Vec<HeaderName> = headers.keys().filter(|name| own(name)).cloned().collect();
    for name in foreign {
        headers.remove(name);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

/// Headers of the answer: what of the upstream's may pass. An upstream's request id goes under another name.
pub(crate) fn response(upstream: &HeaderMap) -> HeaderMap {
    let passes = |name: &HeaderName| is_request_id(name) || response_passes(name);
    // Room for ours as well, so that the map does not grow.
    let mut headers = HeaderMap::with_capacity(upstream.keys().filter(|name| passes(name)).count() + 5);
    for (name, value) in upstream {
        if is_request_id(name) {
            headers.insert(UPSTREAM_REQUEST_ID, value.clone());
        } else if response_passes(name) {
            headers.append(name, value.clone());
        }
    }
    headers
}

fn is_request_id(name: &HeaderName) -> bool {
    matches!(name.as_str(), "x-request-id" | "request-id")
}

fn response_passes(name: &HeaderName) -> bool {
    if [CONTENT_TYPE, RETRY_AFTER, CACHE_CONTROL, CONTENT_DISPOSITION].contains(name) {
        return true;
    }
    let name = name.as_str();
    let vendor = name.starts_with("openai-") || name.starts_with("anthropic-");
    (vendor && !name.contains("organization") && !name.contains("project"))
        || name.starts_with("x-ratelimit-")
        || name.starts_with("ratelimit-")
        || matches!(name, "retry-after-ms" | "x-should-retry" | "x-ms-retry-after-ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn credentials_and_connection_headers_of_the_client_never_pass() {
        let client = map(&[
            ("authorization", "Bearer client"),
            ("x-api-key", "client"),
            ("cookie", "a=b"),
            ("x-extra", "1"),
            ("openai-beta", "assistants=v2"),
            ("x-custom", "kept"),
        ]);
        let forward: Vec<HeaderName> =
            ["authorization", "cookie", "x-custom"].into_iter().map(HeaderName::from_static).collect();
        let sent =
            request(&client, &forward, &[(http::header::AUTHORIZATION, HeaderValue::from_static("Bearer ours"))]);
        assert_eq!(sent["authorization"], "Bearer ours");
        assert_eq!(sent["x-custom"], "kept");
        assert_eq!(sent["openai-beta"], "assistants=v2");
        for name in ["x-api-key", "cookie", "x-extra"] {
            assert!(!sent.contains_key(name), "{name}");
        }
    }

    #[test]
    fn only_listed_answer_headers_pass_and_the_request_id_is_renamed() {
        let passed = response(&map(&[
            ("content-type", "application/json"),
            ("server", "cloudflare"),
            ("set-cookie", "a=b"),
            ("openai-organization", "org-1"),
            ("openai-processing-ms", "12"),
            ("anthropic-organization-id", "org"),
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("x-ratelimit-remaining-requests", "1"),
            ("retry-after", "3"),
            ("x-request-id", "up-1"),
        ]));
        let mut names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "anthropic-ratelimit-requests-remaining",
                "content-type",
                "openai-processing-ms",
                "retry-after",
                "x-ratelimit-remaining-requests",
                "x-upstream-request-id"
            ]
        );
    }
}
