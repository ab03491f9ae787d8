//! `[server]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::stores::http_url;
use crate::config::decode::{At, Text, defaults};
use crate::config::path::KeyPath;
use crate::config::problem::{Problems, Span};
use crate::config::raw::RawServer;
use crate::config::snapshot::{Server, ServerTls};
use crate::policy;

/// Compiles `[server]`.
pub(super) fn compile(raw: Option<At<RawServer>>, at: &KeyPath<'_>, problems: &mut Problems) -> Server {
    let RawServer {
        bind_address,
        max_connections,
        max_body_bytes,
        max_buffered_bytes,
        max_response_bytes,
        tls_cert,
        tls_key,
        client_ca,
        shutdown_grace_seconds,
        drain_delay_seconds,
        cors_allowed_origins,
        protect_monitoring,
        keep_alive_seconds,
        plain_keep_alive_seconds,
        trusted_proxies,
        proxy_protocol,
        header_timeout_seconds,
        body_timeout_seconds,
        idle_timeout_seconds,
        write_stall_seconds,
        berry_headers,
        auth_failures_per_minute,
        data_dir,
    } = raw.map_or_else(defaults, |raw| raw.value);
    if max_buffered_bytes.value < max_body_bytes.value {
        let span = max_buffered_bytes.span.clone().or(max_body_bytes.span.clone());
        let (all, one) = (max_buffered_bytes.value, max_body_bytes.value);
        problems.error(&at.key("max_buffered_bytes"), span, format!("{all} is below max_body_bytes, {one}"));
    }
    let trusted_proxies = networks(trusted_proxies.value, &at.key("trusted_proxies"), problems);
    if proxy_protocol.value && trusted_proxies.is_empty() {
        problems
            .error(&at.key("proxy_protocol"), proxy_protocol.span.clone(), "needs trusted_proxies")
            .hint("the header is believed only from there: trusted_proxies = [\"10.0.0.0/8\"]");
    }
    Server {
        bind_address: listen_address(&bind_address, &at.key("bind_address"), problems),
        max_connections: max_connections.value,
        max_body_bytes: max_body_bytes.value,
        max_buffered_bytes: max_buffered_bytes.value,
        max_response_bytes: max_response_bytes.value,
        tls: tls(tls_cert, tls_key, client_ca, at, problems),
        shutdown_grace: shutdown_grace_seconds.value.duration(),
        drain_delay: drain_delay_seconds.value.duration(),
        cors_allowed_origins: origins(cors_allowed_origins.value, &at.key("cors_allowed_origins"), problems),
        protect_monitoring: protect_monitoring.value,
        keep_alive: keep_alive_seconds.value.duration(),
        plain_keep_alive: plain_keep_alive_seconds.map(|time| time.value.duration()),
        trusted_proxies,
        proxy_protocol: proxy_protocol.value,
        header_timeout: header_timeout_seconds.value.duration(),
        body_timeout: body_timeout_seconds.value.duration(),
        idle_timeout: idle_timeout_seconds.value.duration(),
        write_stall: write_stall_seconds.value.duration(),
        berry_headers: berry_headers.value,
        auth_failures_per_minute: auth_failures_per_minute.value,
        data_dir: data_dir.map(|path| path.value),
    }
}

fn listen_address(text: &At<Text>, at: &KeyPath<'_>, problems: &mut Problems) -> SocketAddr {
    let address = text.value.value.trim();
    if let Ok(address) = address.parse() {
        return address;
    }
    let port = address.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok()).unwrap_or("3000");
    problems
        .error(at, text.span.clone(), format!("{} is not an IP address with a port", text.value.shown()))
        .hint(format!("\"127.0.0.1:{port}\" for this machine only, \"0.0.0.0:{port}\" or \"[::]:{port}\" for all"));
    SocketAddr::from(([127, 0, 0, 1], 3000))
}

fn tls(
    cert: Option<At<PathBuf>>,
    key: Option<At<PathBuf>>,
    client_ca: Option<At<PathBuf>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Option<ServerTls> {
    match (cert, key) {
        (Some(cert), Some(key)) => {
            Some(ServerTls { cert: cert.value, key: key.value, client_ca: client_ca.map(|path| path.value) })
        }
        (Some(cert), None) => missing_half(at, "tls_key", cert.span, "tls_cert", problems),
        (None, Some(key)) => missing_half(at, "tls_cert", key.span, "tls_key", problems),
        (None, None) => {
            if let Some(ca) = client_ca {
                problems.error(&at.key("client_ca"), ca.span, "needs tls_cert and tls_key");
            }
            None
        }
    }
}

/// Reports that one of two keys that belong together is missing.
pub(super) fn missing_half<T>(
    at: &KeyPath<'_>,
    missing: &str,
    span: Option<Span>,
    present: &str,
    problems: &mut Problems,
) -> Option<T> {
    problems.error(&at.key(missing), span, format!("missing: {present} needs it"));
    None
}

fn origins(raw: Vec<At<Text>>, at: &KeyPath<'_>, problems: &mut Problems) -> Vec<String> {
    let mut origins = Vec::with_capacity(raw.len());
    for (index, text) in raw.into_iter().enumerate() {
        let at = at.index(index);
        let origin = text.value.value.trim();
        if origin == "*" || origin == "null" {
            origins.push(origin.to_owned());
            continue;
        }
        let Some(uri) = http_url(&text, &at, problems) else {
            continue;
        };
        if uri.path() != "/" || uri.query().is_some() || origin.ends_with('/') {
            problems
                .error(&at, text.span.clone(), "an origin has no path")
                .hint("write scheme, host and port only, such as \"https://app.example.com\"");
            continue;
        }
        origins.push(origin.to_owned());
    }
    origins
}

fn networks(raw: Vec<At<Text>>, at: &KeyPath<'_>, problems: &mut Problems) -> Vec<IpNet> {
    let mut networks = Vec::with_capacity(raw.len());
    for (index, text) in raw.into_iter().enumerate() {
        let network = text.value.value.trim();
        match policy::network(network) {
            Some(network) => networks.push(network),
            None => {
                problems
                    .error(&at.index(index), text.span, format!("{} is not an address or network", text.value.shown()))
                    .hint("write \"10.0.0.1\" or \"10.0.0.0/8\"");
            }
        }
    }
    networks
}
