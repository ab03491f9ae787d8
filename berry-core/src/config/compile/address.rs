//! `base_url`: one rule for every way to write it, and what its host tells about the protocol.
//!
//! The rule: a slash at the end is cut off. A full endpoint URL is taken at its word: what stands before the endpoint is the
//! base, and nothing is added. Otherwise a version segment is added where there is none: OpenAI-compatible `/v1` only where
//! the URL has no path at all (vendors have paths such as `/api/v1`, `/openai/v1`, `/v4`, `/compatible-mode/v1`, `/inference`),
//! Claude `/v1` and Gemini `/v1beta` wherever the path does not end in a version.
//!
//! Hosts and paths of Azure follow Microsoft's REST reference: `openai/deployments/…` with a dated `api-version`,
//! `openai/v1` without one, `models` for the inference endpoint, `anthropic` for Claude (which takes `x-api-key`).

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::config::raw::BackendType;
use crate::config::snapshot::AzureStyle;
use crate::operation::Operation;

/// Newest dated version of Azure's data plane that is not a preview.
pub(crate) const AZURE_API_VERSION: &str = "2024-10-21";
/// Version of the `/models` style that Azure's own examples use.
pub(crate) const AZURE_INFERENCE_API_VERSION: &str = "2024-05-01-preview";

/// A `base_url`, taken apart and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    scheme: Scheme,
    authority: Authority,
    /// Without a slash at its end.
    path: String,
    /// `api-version` of the query.
    pub(crate) api_version: Option<String>,
}

/// Why a text is not usable as a `base_url`, with the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadAddress(pub(crate) &'static str, pub(crate) String);

/// Vendors that are recognised by their host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    Azure,
    Anthropic,
    Gemini,
    OpenAi,
}

impl Address {
    /// Takes a URL apart.
    pub(crate) fn parse(text: &str) -> Result<Self, BadAddress> {
        let bad = |why, hint: &str| BadAddress(why, hint.to_owned());
        let text = text.trim();
        if text.is_empty() {
            return Err(bad("is empty", "write the address of the provider, such as \"https://api.openai.com/v1\""));
        }
        if !text.contains("://") {
            return Err(BadAddress("has no scheme", format!("put https:// (or http://) in front of {}", shown(text))));
        }
        if text.contains('#') {
            return Err(bad("has a fragment", "leave out what follows the #"));
        }
        let uri: Uri = text.parse().map_err(|_| bad("is not a URL", "write it as https://host/path"))?;
        let parts = uri.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(bad("is not a URL", "write it as https://host/path"));
        };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(bad("is neither http:// nor https://", "providers are reached over HTTP"));
        }
        if authority.as_str().contains('@') {
            return Err(bad("has a user name in it", "use api_key, or headers, for credentials"));
        }
        if authority.host().is_empty() {
            return Err(bad("has no host", "write it as https://host/path"));
        }
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none() {
            return Err(bad("has a port that is not a number up to 65535", "write it as https://host:port/path"));
        }
        let (path, query) = parts.path_and_query.map_or((String::new(), None), |pq| {
            (pq.path().trim_end_matches('/').to_owned(), pq.query().map(str::to_owned))
        });
        let api_version = query.as_deref().map(api_version).transpose()?.flatten();
        Ok(Self { scheme, authority, path, api_version })
    }

    /// The vendor that the host belongs to.
    pub(crate) fn known(&self) -> Option<Known> {
        const AZURE: &[&str] = &["openai", "services.ai", "cognitiveservices"];
        let host = self.authority.host().to_ascii_lowercase();
        let azure = [".azure.com", ".azure.us", ".azure.cn"].iter().any(|tail| {
            host.strip_suffix(tail)
                .is_some_and(|rest| AZURE.iter().any(|service| rest.ends_with(&format!(".{service}"))))
        });
        match host.as_str() {
            _ if azure => Some(Known::Azure),
            "api.anthropic.com" => Some(Known::Anthropic),
            "generativelanguage.googleapis.com" => Some(Known::Gemini),
            "api.openai.com" => Some(Known::OpenAi),
            _ => None,
        }
    }

    /// The host, for messages.
    pub(crate) fn host(&self) -> &str {
        self.authority.host()
    }

    /// The base of an OpenAI-compatible upstream; ends before `/chat/completions`.
    pub(crate) fn openai(&self) -> Uri {
        match before_endpoint(&self.path) {
            Some(base) => self.with_path(base),
            None if self.path.is_empty() => self.with_path("/v1"),
            None => self.with_path(&self.path),
        }
    }

    /// The base of an Anthropic upstream; ends before `/messages`.
    pub(crate) fn anthropic(&self) -> Uri {
        match before_endpoint(&self.path) {
            Some(base) => self.with_path(base),
            None if ends_in_version(&self.path) => self.with_path(&self.path),
            None => self.with_path(&format!("{}/v1", self.path)),
        }
    }

    /// The base of a Gemini upstream; ends before `/models/…`.
    pub(crate) fn gemini(&self) -> Uri {
        let path = self.path.split_once("/models").map_or(self.path.as_str(), |(base, _)| base);
        if ends_in_version(path) { self.with_path(path) } else { self.with_path(&format!("{path}/v1beta")) }
    }

    /// The base of an Azure resource, and the style that its path asks for; `None` for Claude's path.
    pub(crate) fn azure(&self) -> Option<(Uri, AzureStyle)> {
        let path = before_endpoint(&self.path).unwrap_or(&self.path);
        if let Some(base) = up_to(path, "/openai/v1") {
            return Some((self.with_path(base), AzureStyle::V1));
        }
        if self.is_azure_claude() {
            return None;
        }
        if let Some(base) = up_to(&self.path, "/models").filter(|_| !path.contains("/openai")) {
            return Some((self.with_path(base), AzureStyle::Inference));
        }
        let base = path.split_once("/openai").map_or(path, |(base, _)| base);
        Some((self.with_path(base), AzureStyle::Deployments))
    }

    /// Whether this is the path that Azure serves Claude under.
    pub(crate) fn is_azure_claude(&self) -> bool {
        up_to(&self.path, "/anthropic").is_some()
    }

    /// The base of Claude at Azure, whose path may be left out where `backend_type` says that it is meant.
    pub(crate) fn azure_claude(&self) -> Uri {
        if self.is_azure_claude() { self.anthropic() } else { self.with_path(&format!("{}/anthropic/v1", self.path)) }
    }

    /// Whether this is the path of Gemini's OpenAI-compatible API.
    pub(crate) fn is_gemini_openai(&self) -> bool {
        before_endpoint(&self.path).unwrap_or(&self.path).ends_with("/openai")
    }

    /// The deployment that a full Azure URL names.
    pub(crate) fn deployment(&self) -> Option<&str> {
        let (_, rest) = self.path.split_once("/openai/deployments/")?;
        rest.split('/').next().filter(|name| !name.is_empty())
    }

    /// Whether the path belongs to an OpenAI-compatible call, whatever the host serves otherwise.
    pub(crate) fn is_openai_endpoint(&self) -> bool {
        self.path.ends_with("/chat/completions")
    }

    fn with_path(&self, path: &str) -> Uri {
        let path = PathAndQuery::try_from(if path.is_empty() { "/" } else { path });
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path.expect("cut from a path that was parsed, or put together with plain ASCII"))
            .build()
            .expect("scheme, authority and path are all there")
    }
}

/// What a host is recognised as, for messages elsewhere.
pub(crate) fn recognise(address: &Address, headers_have_api_version: bool) -> Option<BackendType> {
    match address.known() {
        Some(Known::Azure) => Some(BackendType::Azure),
        Some(Known::Anthropic) if !address.is_openai_endpoint() => Some(BackendType::Claude),
        Some(Known::Gemini) if !address.is_gemini_openai() => Some(BackendType::Gemini),
        _ if headers_have_api_version || address.api_version.is_some() => Some(BackendType::Azure),
        _ => None,
    }
}

/// The only thing that a query may hold.
fn api_version(query: &str) -> Result<Option<String>, BadAddress> {
    let mut version = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("api-version", value)) if !value.is_empty() => version = Some(value.to_owned()),
            _ => {
                let hint = "only api-version is understood there; a key belongs in api_key";
                return Err(BadAddress("has a query", hint.to_owned()));
            }
        }
    }
    Ok(version)
}

/// What stands before the endpoint of a full URL.
fn before_endpoint(path: &str) -> Option<&str> {
    let calls = Operation::ALL.iter().map(|operation| operation.upstream_path()).chain(["models"]);
    calls
        .filter_map(|call| path.strip_suffix(call)?.strip_suffix('/'))
        // `chat/completions` and not `completions` with a base that ends in `/chat`.
        .min_by_key(|base| base.len())
}

/// The path up to and with `part`, where that is a whole run of segments.
fn up_to<'p>(path: &'p str, part: &str) -> Option<&'p str> {
    let end = path.find(part)? + part.len();
    matches!(path.as_bytes().get(end), None | Some(b'/')).then_some(&path[..end])
}

/// Whether the last segment is `v1`, `v4`, `v1beta`, …
fn ends_in_version(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// A text without scheme may be anything, even a key; only what looks like a host is repeated.
fn shown(text: &str) -> String {
    let host = text.split(['/', ':']).next().unwrap_or_default();
    let plain = host.contains('.') && host.bytes().all(|c| c.is_ascii_alphanumeric() || b".-".contains(&c));
    if plain { host.to_owned() } else { "it".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_port_must_be_one() {
        for text in ["https://h:99999/v1", "https://h:/v1", "https://https://h/v1", "https://[::1]:x"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
        for text in ["https://h:8080/v1", "https://[::1]:8080", "https://[::1]", "https://h"] {
            assert!(Address::parse(text).is_ok(), "{text}");
        }
    }

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }

    #[test]
    fn openai_compatible_addresses_have_one_normal_form() {
        for (text, expected) in [
            ("https://api.openai.com", "https://api.openai.com/v1"),
            ("https://api.openai.com/", "https://api.openai.com/v1"),
            ("https://api.openai.com/v1", "https://api.openai.com/v1"),
            ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
            (" https://api.openai.com/v1 ", "https://api.openai.com/v1"),
            ("https://api.openai.com/v1/chat/completions", "https://api.openai.com/v1"),
            ("https://api.openai.com/v1/chat/completions/", "https://api.openai.com/v1"),
            ("https://api.openai.com/v1/embeddings", "https://api.openai.com/v1"),
            ("https://api.openai.com/v1/models", "https://api.openai.com/v1"),
            ("https://api.openai.com/v1/audio/speech", "https://api.openai.com/v1"),
            ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1"),
            ("https://api.groq.com/openai/v1", "https://api.groq.com/openai/v1"),
            ("https://open.bigmodel.cn/api/paas/v4", "https://open.bigmodel.cn/api/paas/v4"),
            ("https://dashscope.aliyuncs.com/compatible-mode/v1", "https://dashscope.aliyuncs.com/compatible-mode/v1"),
            ("https://models.github.ai/inference", "https://models.github.ai/inference"),
            ("https://api.deepseek.com/chat/completions", "https://api.deepseek.com/"),
            ("http://localhost:11434", "http://localhost:11434/v1"),
            ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ] {
            assert_eq!(address(text).openai().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn claude_addresses_have_one_normal_form() {
        for (text, expected) in [
            ("https://api.anthropic.com", "https://api.anthropic.com/v1"),
            ("https://api.anthropic.com/v1", "https://api.anthropic.com/v1"),
            ("https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1"),
            ("https://api.anthropic.com/v1/messages/count_tokens", "https://api.anthropic.com/v1"),
            ("https://api.deepseek.com/anthropic", "https://api.deepseek.com/anthropic/v1"),
        ] {
            assert_eq!(address(text).anthropic().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn gemini_addresses_have_one_normal_form() {
        let host = "https://generativelanguage.googleapis.com";
        for (path, expected) in [
            ("", "/v1beta"),
            ("/", "/v1beta"),
            ("/v1beta", "/v1beta"),
            ("/v1", "/v1"),
            ("/v1beta/models/gemini-2.5-flash:generateContent", "/v1beta"),
        ] {
            assert_eq!(address(&format!("{host}{path}")).gemini().to_string(), format!("{host}{expected}"), "{path}");
        }
    }

    #[test]
    fn azure_styles_follow_the_path() {
        let host = "https://r.openai.azure.com";
        for (path, base, style) in [
            ("", "/", Some(AzureStyle::Deployments)),
            ("/openai", "/", Some(AzureStyle::Deployments)),
            ("/openai/deployments/gpt-4/chat/completions?api-version=2024-02-01", "/", Some(AzureStyle::Deployments)),
            ("/team-a", "/team-a", Some(AzureStyle::Deployments)),
            ("/openai/v1", "/openai/v1", Some(AzureStyle::V1)),
            ("/openai/v1/", "/openai/v1", Some(AzureStyle::V1)),
            ("/openai/v1/chat/completions", "/openai/v1", Some(AzureStyle::V1)),
            ("/models", "/models", Some(AzureStyle::Inference)),
            ("/models/chat/completions?api-version=2024-05-01-preview", "/models", Some(AzureStyle::Inference)),
            ("/anthropic", "", None),
            ("/anthropic/v1/messages", "", None),
        ] {
            let found = address(&format!("{host}{path}")).azure().map(|(uri, style)| (uri.to_string(), style));
            assert_eq!(found, style.map(|style| (format!("{host}{base}"), style)), "{path}");
        }
        for path in ["/anthropic", "/anthropic/v1", "/anthropic/v1/messages", ""] {
            assert_eq!(address(&format!("{host}{path}")).azure_claude().to_string(), format!("{host}/anthropic/v1"));
        }
        let full = address(&format!("{host}/openai/deployments/gpt-4/chat/completions?api-version=2024-02-01"));
        assert_eq!((full.deployment(), full.api_version.as_deref()), (Some("gpt-4"), Some("2024-02-01")));
    }

    #[test]
    fn hosts_are_recognised() {
        for (text, api_version_header, expected) in [
            ("https://r.openai.azure.com", false, Some(BackendType::Azure)),
            ("https://r.services.ai.azure.com/models", false, Some(BackendType::Azure)),
            ("https://r.cognitiveservices.azure.com", false, Some(BackendType::Azure)),
            ("https://R.OpenAI.Azure.us", false, Some(BackendType::Azure)),
            ("https://r.openai.azure.cn", false, Some(BackendType::Azure)),
            ("https://openai.azure.com.example.com", false, None),
            ("https://notopenai.azure.com", false, None),
            ("https://gateway.example.com", true, Some(BackendType::Azure)),
            ("https://gateway.example.com?api-version=2024-10-21", false, Some(BackendType::Azure)),
            ("https://gateway.example.com", false, None),
            ("https://api.anthropic.com", false, Some(BackendType::Claude)),
            ("https://api.anthropic.com/v1/chat/completions", false, None),
            ("https://generativelanguage.googleapis.com", false, Some(BackendType::Gemini)),
            ("https://generativelanguage.googleapis.com/v1beta/openai/", false, None),
            ("https://api.openai.com/v1", false, None),
        ] {
            assert_eq!(recognise(&address(text), api_version_header), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_an_address_is_refused_with_the_way_out() {
        for (text, why) in [
            ("", "is empty"),
            ("api.openai.com/v1", "has no scheme"),
            ("ftp://host", "is neither http:// nor https://"),
            ("https://", "is not a URL"),
            ("https://user:pw@host", "has a user name in it"),
            ("https://host/v1?key=AIza", "has a query"),
            ("https://host/v1#part", "has a fragment"),
            ("https://ho st/", "is not a URL"),
        ] {
            assert_eq!(Address::parse(text).unwrap_err().0, why, "{text}");
        }
    }

    proptest! {
        #[test]
        fn normal_forms_stay_as_they_are(
            host in "[a-z]{1,8}(\\.[a-z]{2,5}){0,2}(:[1-9][0-9]{1,3})?",
            path in "(/[a-z0-9]{1,6}){1,3}(/(v[0-9]|chat/completions|embeddings|messages))?/{0,2}",
        ) {
            let first = address(&format!("https://{host}{path}"));
            let (openai, anthropic, gemini) = (first.openai(), first.anthropic(), first.gemini());
            prop_assume!(openai.path() != "/" && anthropic.path() != "/");
            // A base that still looks like an endpoint was written as an endpoint below an endpoint; nobody has one.
            prop_assume!(before_endpoint(openai.path()).is_none() && before_endpoint(anthropic.path()).is_none());
            prop_assert_eq!(address(&openai.to_string()).openai(), openai);
            prop_assert_eq!(address(&gemini.to_string()).gemini(), gemini);
            if ends_in_version(anthropic.path()) {
                prop_assert_eq!(address(&anthropic.to_string()).anthropic(), anthropic);
            }
        }

        #[test]
        fn a_slash_at_the_end_changes_nothing(path in "(/[a-z0-9]{1,6}){0,3}") {
            let with = address(&format!("https://host{path}/"));
            prop_assert_eq!(with, address(&format!("https://host{path}")));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = Address::parse(&text).map(|a| (a.openai(), a.anthropic(), a.gemini(), a.azure()));
        }
    }
}
