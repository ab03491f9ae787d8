//! `[providers.*]`: what each speaks, where, with which key and how patiently.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};

use super::address::{self, AZURE_API_VERSION, AZURE_INFERENCE_API_VERSION, Address, BadAddress, Known};
use super::headers::{self, Headers};
use super::server::missing_half;
use super::settings::Times;
use super::users::is_example_secret;
use super::warn_of_odd_secret;
use crate::config::decode::{At, Entry, Map, OneOf, Seconds, SecretText, Text, defaults};
use crate::config::path::KeyPath;
use crate::config::problem::{Problems, Span};
use crate::config::provider_data::{ProviderData, Vendor};
use crate::config::raw::{AuthKind, BackendType, Exposed, ModelList, RawDemo, RawProvider};
use crate::config::snapshot::{Azure, AzureStyle, Demo, Expose, KeyHeader, Provider, Timeouts, Transport, Upstream};
use crate::id::{ProviderId, UpstreamModel};
use crate::policy::ModelPattern;
use crate::secret::Secret;

/// Longest wait for the headers of a stream, where nothing says otherwise.
const STREAM_HEADERS: Duration = Duration::from_secs(30);
/// Longest wait for the headers of a plain answer, where nothing says otherwise.
const COMPLETION: Duration = Duration::from_secs(600);
/// Longest silence between two chunks, where nothing says otherwise.
const STREAM_IDLE: Duration = Duration::from_secs(120);
/// Longest time for TCP and TLS, where nothing says otherwise.
const CONNECT: Duration = Duration::from_secs(5);
/// Stands for the address of a switched-off provider that has none. The domain is reserved (RFC 2606), so nothing answers.
const NOWHERE: &str = "http://switched-off.invalid/v1";

/// The finer timeout keys, of `[settings]` or of a provider.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Silences {
    pub(super) completion: Option<Seconds>,
    pub(super) first_token: Option<Seconds>,
    pub(super) stream_idle: Option<Seconds>,
    pub(super) connect: Option<Seconds>,
}

/// Compiles `[providers]`.
pub(super) fn compile(
    raw: Option<At<Map<RawProvider>>>,
    times: &Times,
    data: &Arc<ProviderData>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> HashMap<ProviderId, Arc<Provider>> {
    let entries = raw.map(|map| map.value.0).unwrap_or_default();
    if entries.is_empty() && !problems.failed_within(at) {
        problems
            .warning(at, None, "no provider: no request can be answered")
            .hint("add [providers.NAME] with base_url and api_key, or with backend_type = \"demo\"");
    } else if !entries.is_empty() && !entries.iter().any(|entry| entry.value.enabled.value) {
        let first = entries.first().map(|entry| entry.span.clone());
        problems.warning(at, first, "every provider is switched off: no request can be answered");
    }
    entries
        .into_iter()
        .map(|entry| {
            let provider = provider(entry, times, data, at, problems);
            (provider.id.clone(), Arc::new(provider))
        })
        .collect()
}

fn provider(
    entry: Entry<RawProvider>,
    times: &Times,
    data: &Arc<ProviderData>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Provider {
    let at = &at.key(&entry.key);
    let RawProvider {
        name,
        vendor,
        base_url,
        api_key,
        models,
        headers,
        forward_headers,
        enabled,
        backend_type,
        api_version,
        auth,
        timeout_seconds,
        completion_timeout_seconds,
        first_token_timeout_seconds,
        stream_idle_timeout_seconds,
        connect_timeout_seconds,
        max_retries,
        health_check,
        stream_usage,
        expose_models,
        repair,
        responses,
        ca_file,
        client_cert,
        client_key,
        proxy,
        demo,
    } = entry.value;
    let enabled = enabled.value;
    let headers = headers::compile(headers, &at.key("headers"), problems);
    let named = vendor.and_then(|vendor| named_vendor(&vendor, data, &at.key("vendor"), problems));
    let mut spoken = Spoken { enabled, header: entry.span.clone(), base_url, backend_type, api_version, auth, demo };
    if let Some(vendor) = &named {
        spoken.complete(vendor, &at.key("base_url"), problems);
    }
    let (upstream, headers, host) = upstream(spoken, headers, at, problems);
    let vendor = named.or_else(|| data.vendor_of_host(upstream.host()?).cloned());
    let is_known = matches!(host, Some(Known::OpenAi | Known::Azure | Known::Anthropic | Known::Gemini));
    let wants_key = enabled && vendor.as_ref().map_or(is_known, |vendor| vendor.wants_key);
    let is_azure = matches!(upstream, Upstream::Azure(_));
    let Offer { models, discover, expose } = offer(models, expose_models, is_azure, enabled, at, problems);
    let finer = Silences {
        completion: completion_timeout_seconds.map(|t| t.value),
        first_token: first_token_timeout_seconds.map(|t| t.value),
        stream_idle: stream_idle_timeout_seconds.map(|t| t.value),
        connect: connect_timeout_seconds.map(|t| t.value),
    };
    Provider {
        name: name.map_or_else(|| entry.key.clone(), |name| name.value.value),
        enabled,
        upstream,
        api_key: key(api_key, wants_key.then_some(entry.span), enabled, &at.key("api_key"), problems),
        models,
        headers,
        forward_headers: headers::forwarded(forward_headers.value, &at.key("forward_headers"), problems),
        max_retries: max_retries.map(|n| n.value),
        timeouts: timeouts(&finer, timeout_seconds.map(|t| t.value), &times.finer, times.request),
        stream_usage: stream_usage.value.0,
        transport: transport(ca_file, client_cert, client_key, proxy, at, problems),
        health_check: health_check.value.0,
        discover,
        expose,
        repair: repair.value,
        responses: responses
            .map(|has| has.value)
            .or(vendor.as_ref().and_then(|vendor| vendor.responses))
            .unwrap_or(true),
        errors: data.errors(vendor.as_deref()),
        data: Arc::clone(data),
        vendor,
        id_header: HeaderValue::from_bytes(entry.key.as_bytes()).ok(),
        id: ProviderId::new(entry.key),
    }
}

/// What models a provider has, and which of them are published.
struct Offer {
    models: Vec<UpstreamModel>,
    /// Whether it is asked for them.
    discover: bool,
    expose: Expose,
}

fn offer(
    models: Option<At<ModelList>>,
    expose_models: Option<At<Exposed>>,
    is_azure: bool,
    enabled: bool,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Offer {
    let models_span = models.as_ref().and_then(|list| list.span.clone());
    let (models, mut discover) = model_list(models, &at.key("models"), problems);
    if discover && is_azure {
        discover = false;
        let message = "Azure's list names what could be deployed, not what is: it is not asked for";
        problems.warning(&at.key("models"), models_span, message).hint("name the deployments: models = [\"…\"]");
    }
    let (expose_span, expose) = (expose_models.as_ref().and_then(|raw| raw.span.clone()), expose(expose_models));
    if enabled && expose != Expose::Nothing && models.is_empty() && !discover {
        problems
            .warning(&at.key("expose_models"), expose_span, "publishes nothing: it is not said which models there are")
            .hint("models = \"auto\" asks the provider; or name them: models = [\"…\"]");
    }
    Offer { models, discover, expose }
}

/// The keys that decide what a provider speaks.
struct Spoken {
    enabled: bool,
    /// Where its table begins.
    header: Span,
    base_url: Option<At<Text>>,
    backend_type: Option<At<OneOf<BackendType>>>,
    api_version: Option<At<Text>>,
    auth: Option<At<OneOf<AuthKind>>>,
    demo: Option<At<RawDemo>>,
}

impl Spoken {
    /// Fills in what the vendor's name says: the address, and with it what is spoken there.
    fn complete(&mut self, vendor: &Vendor, at: &KeyPath<'_>, problems: &mut Problems) {
        let kind = self.backend_type.as_ref().map(|kind| kind.value.0);
        if self.base_url.is_none() {
            let url = match kind {
                Some(BackendType::Claude) if vendor.speaks != BackendType::Claude => &vendor.claude_base_url,
                _ => &vendor.base_url,
            };
            match url {
                Some(url) => self.base_url = Some(At { value: Text::literal(url), span: None }),
                None if self.enabled => {
                    let message = format!("missing: the catalogue has no such address of {}", vendor.name);
                    problems.error(at, self.header.clone(), message).hint("base_url = \"https://…\"");
                }
                None => {}
            }
        }
        if kind.is_none() && vendor.speaks != BackendType::OpenAi {
            self.backend_type = Some(At { value: OneOf(vendor.speaks), span: None });
        }
    }
}

/// The vendor that a provider names.
fn named_vendor(
    name: &At<Text>,
    data: &ProviderData,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Option<Arc<Vendor>> {
    let found = data.vendor(&name.value.value);
    if found.is_none() {
        let problem = problems.error(at, name.span.clone(), format!("{} is not in the catalogue", name.value.shown()));
        match data.closest_vendor(&name.value.value) {
            Some(close) => problem.hint(format!("did you mean {close:?}?")),
            None => problem.hint("write base_url instead, or add the vendor to the file of settings.provider_data"),
        };
    }
    found.cloned()
}

type HeaderList = Vec<(http::HeaderName, HeaderValue)>;

/// What a provider speaks and where; its headers, without an `api-version` that has moved to the query; the vendor, if known.
fn upstream(
    spoken: Spoken,
    headers: Headers,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> (Upstream, HeaderList, Option<Known>) {
    let Spoken { enabled, header, base_url, backend_type, api_version, auth, demo } = spoken;
    let written = backend_type.map(|kind| kind.value.0);
    if written == Some(BackendType::Demo) {
        no_effect(base_url.as_ref(), &at.key("base_url"), "the demo upstream is built in", problems);
        no_effect(api_version.as_ref(), &at.key("api_version"), "the demo upstream is built in", problems);
        no_effect(auth.as_ref(), &at.key("auth"), "the demo upstream takes any key", problems);
        return (Upstream::Demo(demo_knobs(demo)), headers.with_api_version(), None);
    }
    no_effect(demo.as_ref(), &at.key("demo"), "it belongs to backend_type = \"demo\"", problems);
    let at_url = at.key("base_url");
    let span = base_url.as_ref().and_then(|url| url.span.clone());
    let Some(address) = address(base_url, enabled.then_some(header), &at_url, problems) else {
        return (Upstream::OpenAi { base: Uri::from_static(NOWHERE) }, headers.with_api_version(), None);
    };
    let known = address.known();
    let kind = spoken_kind(written, &address, headers.api_version.is_some(), span.as_ref(), &at_url, problems);
    if kind == BackendType::Azure
        && let Some((base, style)) = address.azure()
    {
        if let Some(deployment) = address.deployment() {
            let message = format!("the deployment {deployment:?} in the address is not used");
            problems.info(&at_url, span, message).hint("each backend's model names its deployment");
        }
        let Headers { list, api_version: old } = headers;
        let api_version = azure_version(style, api_version, old, address.api_version, at, problems);
        let auth = if is_bearer(auth.as_ref()) { KeyHeader::Bearer } else { KeyHeader::ApiKey };
        return (Upstream::Azure(Azure { base, style, api_version, auth }), list, known);
    }
    no_effect(api_version.as_ref(), &at.key("api_version"), "it belongs to Azure's OpenAI API", problems);
    let headers = if kind == BackendType::Azure { headers.list } else { headers.with_api_version() };
    if kind == BackendType::Gemini && address.is_gemini_openai() {
        problems
            .error(&at_url, span, "is the address of Gemini's OpenAI-compatible API")
            .hint("drop /openai from it, or write backend_type = \"openai\"");
    }
    (elsewhere(kind, &address, auth, at, problems), headers, known)
}

/// An upstream that is not Azure's OpenAI API.
fn elsewhere(
    kind: BackendType,
    address: &Address,
    auth: Option<At<OneOf<AuthKind>>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Upstream {
    let bearer = is_bearer(auth.as_ref());
    let at_azure = address.known() == Some(Known::Azure);
    match kind {
        BackendType::Azure | BackendType::Claude => Upstream::Anthropic {
            base: if at_azure || kind == BackendType::Azure { address.azure_claude() } else { address.anthropic() },
            auth: if bearer { KeyHeader::Bearer } else { KeyHeader::XApiKey },
        },
        BackendType::Gemini | BackendType::OpenAi | BackendType::Demo => {
            if let Some(auth) = auth.filter(|_| !bearer) {
                problems
                    .error(&at.key("auth"), auth.span, "\"api-key\" is for azure and claude")
                    .hint("to send the key in another header: headers = { \"api-key\" = \"…\" }");
            }
            if kind == BackendType::Gemini {
                Upstream::Gemini { base: address.gemini() }
            } else {
                Upstream::OpenAi { base: address.openai() }
            }
        }
    }
}

fn is_bearer(auth: Option<&At<OneOf<AuthKind>>>) -> bool {
    auth.is_some_and(|auth| auth.value.0 == AuthKind::Bearer)
}

/// The address, taken apart; `needed_by` is where the table of a provider begins that cannot do without one.
fn address(
    base_url: Option<At<Text>>,
    needed_by: Option<Span>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Option<Address> {
    let Some(base_url) = base_url else {
        if let Some(table) = needed_by.filter(|_| !problems.failed_within(at)) {
            problems
                .error(at, table, "missing: the address of the provider")
                .hint("base_url = \"https://…\", or enabled = false, or backend_type = \"demo\"");
        }
        return None;
    };
    match Address::parse(&base_url.value.value) {
        Ok(address) => Some(address),
        Err(BadAddress(why, hint)) => {
            problems.error(at, base_url.span, why).hint(hint);
            None
        }
    }
}

fn no_effect<T>(key: Option<&At<T>>, at: &KeyPath<'_>, why: &str, problems: &mut Problems) {
    if let Some(key) = key {
        problems.warning(at, key.span.clone(), format!("has no effect: {why}"));
    }
}

/// What is spoken: as written, else as recognised, else OpenAI. Azure's own hosts are Azure even where `"openai"` is written,
/// as older configurations do.
fn spoken_kind(
    written: Option<BackendType>,
    address: &Address,
    api_version_header: bool,
    span: Option<&Span>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> BackendType {
    let recognised = address::recognise(address, api_version_header);
    let kind = match (written, recognised) {
        (None | Some(BackendType::OpenAi), Some(BackendType::Azure)) => BackendType::Azure,
        (Some(written), _) => written,
        (None, Some(recognised)) => recognised,
        (None, None) => BackendType::OpenAi,
    };
    if written != Some(kind) && kind != BackendType::OpenAi {
        let name = match kind {
            BackendType::Azure => "azure",
            BackendType::Claude => "claude",
            _ => "gemini",
        };
        let by = if address.known().is_some() { address.host() } else { "api-version" };
        problems.info(at, span.cloned(), format!("recognised as backend_type = {name:?} by {by}"));
    }
    kind
}

/// The `api-version` of the query: the key, else the entry under `headers`, else the one in the address, else the default of
/// the style.
fn azure_version(
    style: AzureStyle,
    key: Option<At<Text>>,
    header: Option<At<String>>,
    query: Option<String>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Option<String> {
    if let (Some(key), Some(header)) = (&key, &header)
        && key.value.value != header.value
    {
        problems
            .warning(
                &at.key("headers").key("api-version"),
                header.span.clone(),
                "api_version says otherwise and is used",
            )
            .related(key.span.clone(), "this one is used");
    }
    let span = key.as_ref().map(|key| key.span.clone()).or_else(|| header.as_ref().map(|header| header.span.clone()));
    let written = key.map(|key| key.value.value).or_else(|| header.map(|header| header.value)).or(query);
    let plain = |version: &str| version.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'.');
    if let Some(version) = &written
        && (version.is_empty() || !plain(version))
    {
        problems
            .error(&at.key("api_version"), span.flatten(), "is not a version")
            .hint(format!("such as {AZURE_API_VERSION:?}"));
    }
    written.or_else(|| match style {
        AzureStyle::Deployments => Some(AZURE_API_VERSION.to_owned()),
        AzureStyle::Inference => Some(AZURE_INFERENCE_API_VERSION.to_owned()),
        AzureStyle::V1 => None,
    })
}

fn demo_knobs(raw: Option<At<RawDemo>>) -> Demo {
    let RawDemo { seed, first_token_latency_ms, token_latency_ms, failure_rate } =
        raw.map_or_else(defaults, |raw| raw.value);
    Demo {
        seed: seed.value,
        first_token_latency: first_token_latency_ms.value.duration(),
        token_latency: token_latency_ms.value.duration(),
        failure_rate: failure_rate.value,
    }
}

/// The provider's key. `expected_by` is where the table of a vendor that always wants one begins.
fn key(
    raw: Option<At<SecretText>>,
    expected_by: Option<Span>,
    enabled: bool,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Secret {
    let span = raw.as_ref().and_then(|key| key.span.clone());
    let key = raw.map(|key| key.value.0).unwrap_or_default();
    let text = key.expose();
    if text.is_empty() {
        if let Some(table) = expected_by.filter(|_| !problems.failed_within(at)) {
            problems
                .warning(at, span.unwrap_or(table), "no key: this provider will refuse every request")
                .hint("api_key = \"${NAME_OF_A_VARIABLE}\"");
        }
    } else if text.trim() != text || HeaderValue::try_from(text).is_err() {
        problems
            .error(at, span, "has a character that no header can carry")
            .hint("often white space or a line break at one end");
    } else if enabled && is_example_secret(text) {
        problems
            .warning(at, span, "is the key of an example: this provider will refuse every request")
            .hint("put your own key there, best as \"${NAME_OF_A_VARIABLE}\", or set enabled = false");
    } else {
        warn_of_odd_secret(text, at, span, problems);
    }
    key
}

fn model_list(raw: Option<At<ModelList>>, at: &KeyPath<'_>, problems: &mut Problems) -> (Vec<UpstreamModel>, bool) {
    let named = match raw.map(|list| list.value) {
        None => return (Vec::new(), false),
        Some(ModelList::Auto) => return (Vec::new(), true),
        Some(ModelList::Named(named)) => named,
    };
    let mut models = Vec::with_capacity(named.len());
    for (index, name) in named.into_iter().enumerate() {
        if name.value.value.is_empty() {
            problems.error(&at.index(index), name.span, "is empty");
        } else {
            models.push(UpstreamModel::new(name.value.value));
        }
    }
    (models, false)
}

fn expose(raw: Option<At<Exposed>>) -> Expose {
    match raw.map(|raw| raw.value) {
        None | Some(Exposed::All(false)) => Expose::Nothing,
        Some(Exposed::All(true)) => Expose::All,
        Some(Exposed::Matching(patterns)) => {
            Expose::Matching(patterns.iter().map(|pattern| ModelPattern::new(&pattern.value.value)).collect())
        }
    }
}

fn transport(
    ca_file: Option<At<PathBuf>>,
    client_cert: Option<At<PathBuf>>,
    client_key: Option<At<PathBuf>>,
    proxy: Option<At<Text>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Transport {
    let client_identity = match (client_cert, client_key) {
        (Some(cert), Some(key)) => Some((cert.value, key.value)),
        (Some(cert), None) => missing_half(at, "client_key", cert.span, "client_cert", problems),
        (None, Some(key)) => missing_half(at, "client_cert", key.span, "client_key", problems),
        (None, None) => None,
    };
    let proxy = proxy.and_then(|text| {
        let uri = text.value.value.trim().parse::<Uri>().ok();
        let known = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https" | "socks5" | "socks5h"));
        let uri = uri.filter(|uri| known(uri) && uri.host().is_some_and(|host| !host.is_empty()));
        if uri.is_none() {
            problems
                .error(&at.key("proxy"), text.span, "is not the address of a proxy")
                .hint("write it as http://host:port, https://host:port or socks5://host:port");
        }
        uri
    });
    Transport { ca_file: ca_file.map(|path| path.value), client_identity, proxy }
}

/// How long each silence is waited out: the provider's finer key, its `timeout_seconds`, the finer key of `[settings]`,
/// `request_timeout_seconds`, else the built-in time. The first token and the connection have finer keys only: the general
/// ones speak of silence, which neither pings nor a handshake is.
fn timeouts(
    provider: &Silences,
    timeout: Option<Seconds>,
    settings: &Silences,
    request_timeout: Option<Seconds>,
) -> Timeouts {
    let silence = |finer: Option<Seconds>, shared: Option<Seconds>, built_in| {
        finer.or(timeout).or(shared).or(request_timeout).map_or(built_in, Seconds::duration)
    };
    Timeouts {
        connect: provider.connect.or(settings.connect).map_or(CONNECT, Seconds::duration),
        stream_headers: silence(None, None, STREAM_HEADERS),
        completion: silence(provider.completion, settings.completion, COMPLETION),
        first_token: provider.first_token.or(settings.first_token).map(Seconds::duration),
        stream_idle: silence(provider.stream_idle, settings.stream_idle, STREAM_IDLE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of: completion, stream idle, stream headers, first token, connect.
    type Row = [Option<u32>; 5];

    fn resolve(
        provider: [Option<u32>; 4],
        timeout: Option<u32>,
        shared: [Option<u32>; 4],
        request: Option<u32>,
    ) -> Row {
        let seconds = |n: Option<u32>| n.map(|n| Seconds(f64::from(n)));
        let silences = |[completion, stream_idle, first_token, connect]: [Option<u32>; 4]| Silences {
            completion: seconds(completion),
            first_token: seconds(first_token),
            stream_idle: seconds(stream_idle),
            connect: seconds(connect),
        };
        let found = timeouts(&silences(provider), seconds(timeout), &silences(shared), seconds(request));
        let whole = |time: Duration| u32::try_from(time.as_secs()).unwrap();
        [
            Some(whole(found.completion)),
            Some(whole(found.stream_idle)),
            Some(whole(found.stream_headers)),
            found.first_token.map(whole),
            Some(whole(found.connect)),
        ]
    }

    #[test]
    fn the_nearest_timeout_wins() {
        let none = [None; 4];
        let all = |n| [Some(n), Some(n + 1), Some(n + 2), Some(n + 3)];
        let some = |row: [u32; 5]| row.map(Some);
        // Nothing is said: what is built in.
        assert_eq!(resolve(none, None, none, None), [Some(600), Some(120), Some(30), None, Some(5)]);
        // `request_timeout_seconds` is for every silence, not for the first token and not for connecting.
        assert_eq!(resolve(none, None, none, Some(7)), [Some(7), Some(7), Some(7), None, Some(5)]);
        // Finer keys of the settings come before it; the headers of a stream have none.
        assert_eq!(resolve(none, None, all(40), Some(7)), some([40, 41, 7, 42, 43]));
        // The provider's `timeout_seconds` comes before all of them.
        assert_eq!(resolve(none, Some(9), all(40), Some(7)), some([9, 9, 9, 42, 43]));
        // Its own finer keys come before everything.
        assert_eq!(resolve(all(60), Some(9), all(40), Some(7)), some([60, 61, 9, 62, 63]));
        assert_eq!(resolve(all(60), None, none, None), some([60, 61, 30, 62, 63]));
    }
}
