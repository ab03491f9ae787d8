//! A running server, asked over its admin API.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use berry_core::config::snapshot;
use clap::Args;
use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

use crate::output::Failure;
use crate::{ConfigFile, check};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest text that is taken.
const TEXT_BYTES_MAX: u64 = 1 << 30;
const NOT_BERRY: &str = "Is this the address of a Berry server? Name another one with --url.";

/// Which server, and who asks.
#[derive(Args)]
pub(crate) struct Server {
    /// Address of the server; without it the one that the configuration listens on.
    #[arg(long, env = "BERRY_URL", global = true)]
    url: Option<String>,
    /// Token of an administrator.
    #[arg(long, env = "BERRY_TOKEN", hide_env_values = true, global = true)]
    token: Option<String>,
}

impl Server {
    /// Asks for what stands at `path`.
    pub(crate) fn get(&self, config: &ConfigFile, path: &str) -> Result<Value, Failure> {
        let url = self.address(config, path)?;
        let request = match self.bearer() {
            Some(bearer) => agent().get(&url).header("authorization", bearer),
            None => agent().get(&url),
        };
        answer(&url, request.call())
    }

    /// Asks for a text that stands at `path`.
    pub(crate) fn get_text(&self, config: &ConfigFile, path: &str) -> Result<String, Failure> {
        let url = self.address(config, path)?;
        let request = match self.bearer() {
            Some(bearer) => agent().get(&url).header("authorization", bearer),
            None => agent().get(&url),
        };
        match request.call() {
            Ok(mut whole) if whole.status().is_success() => {
                let text = whole.body_mut().with_config().limit(TEXT_BYTES_MAX).read_to_string();
                text.map_err(|error| Failure::new(format!("{url}: {error}"), NOT_BERRY))
            }
            other => answer(&url, other).map(|answer| answer.to_string()),
        }
    }

    /// Posts a text.
    pub(crate) fn post(&self, config: &ConfigFile, path: &str, body: &str) -> Result<Value, Failure> {
        let url = self.address(config, path)?;
        let request = agent().post(&url).header("content-type", "application/json");
        let request = match self.bearer() {
            Some(bearer) => request.header("authorization", bearer),
            None => request,
        };
        answer(&url, request.send(body))
    }

    /// Deletes what stands at `path`.
    pub(crate) fn delete(&self, config: &ConfigFile, path: &str) -> Result<Value, Failure> {
        let url = self.address(config, path)?;
        let request = match self.bearer() {
            Some(bearer) => agent().delete(&url).header("authorization", bearer),
            None => agent().delete(&url),
        };
        answer(&url, request.call())
    }

    fn bearer(&self) -> Option<String> {
        self.token.as_ref().filter(|token| !token.is_empty()).map(|token| format!("Bearer {token}"))
    }

    fn address(&self, config: &ConfigFile, path: &str) -> Result<String, Failure> {
        // A variable that is set but empty says nothing.
        let base = match self.url.as_ref().filter(|url| !url.is_empty()) {
            Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                return Err(Failure::new(
                    format!("{url} is not the address of a server"),
                    "Write it as http://HOST:PORT or https://HOST.",
                ));
            }
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => listens_at(&check::load(config)?.snapshot.server),
        };
        Ok(format!("{base}{path}"))
    }
}

/// Where a server with this configuration is reached from its own machine.
fn listens_at(server: &snapshot::Server) -> String {
    let mut address = server.bind_address;
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let scheme = if server.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

/// A path with what is asked for; what is not given is left out.
pub(crate) fn path_with<'a>(path: &str, wishes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>) -> String {
    let wishes = wishes.into_iter().filter_map(|(name, value)| {
        Some(format!("{name}={}", percent_encoding::utf8_percent_encode(value?, percent_encoding::NON_ALPHANUMERIC)))
    });
    let query: Vec<String> = wishes.collect();
    format!("{path}?{}", query.join("&"))
}

fn agent() -> Agent {
    Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build().into()
}

fn answer(url: &str, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
    let mut answer = answer.map_err(|error| {
        Failure::new(format!("{url}: {error}"), "Is the server running? Name its address with --url or BERRY_URL.")
    })?;
    let status = answer.status().as_u16();
    let body: Option<Value> = answer.body_mut().read_json().ok();
    let said = body.as_ref().and_then(|body| body["error"]["message"].as_str().or(body["error"].as_str()));
    let what = |plain: &str| format!("{url}: {}", said.unwrap_or(plain));
    match (status, &body) {
        (401, _) => Err(Failure::new(
            what("the server wants a token"),
            "Give the token of an administrator with --token or BERRY_TOKEN.",
        )),
        (403, _) => Err(Failure::new(
            what("the token may not do this"),
            "Use the token of a user with the tag admin, or add it: tags = [\"admin\"].",
        )),
        (200..=299, Some(_)) => Ok(body.unwrap_or_default()),
        // A refusal with a body of its own kind is an answer to what was asked.
        (400 | 404 | 409 | 422, Some(body)) if said.is_none() || body["error"].is_string() => Ok(body.clone()),
        (400 | 404 | 422, Some(body)) => Err(Failure::new(what("not found"), next_step(body))),
        _ => Err(Failure::new(what(&format!("status {status}")), NOT_BERRY)),
    }
}

/// What to do about a refusal, by its code.
fn next_step(refusal: &Value) -> &'static str {
    match refusal["error"]["code"].as_str() {
        Some("not_found" | "method_not_allowed") => "Check the name, and the address of the server (--url).",
        Some("model_not_found" | "unknown_backend") => {
            "Check the names: berry-cli metrics --detailed lists models and providers."
        }
        _ => "The command with --help says what it takes.",
    }
}

#[cfg(test)]
mod tests {
    use berry_core::config::{Config, ProcessEnvironment};

    use super::*;

    #[test]
    fn a_server_is_asked_where_its_own_machine_reaches_it() {
        for (keys, expected) in [
            ("bind_address = \"0.0.0.0:4000\"", "http://127.0.0.1:4000"),
            ("bind_address = \"[::]:4000\"", "http://[::1]:4000"),
            ("bind_address = \"192.0.2.1:4000\"", "http://192.0.2.1:4000"),
            ("bind_address = \"0.0.0.0:4000\"\ntls_cert = \"c\"\ntls_key = \"k\"", "https://127.0.0.1:4000"),
        ] {
            let loaded = Config::from_text("test", &format!("[server]\n{keys}\n"), &ProcessEnvironment).unwrap();
            assert_eq!(listens_at(&loaded.snapshot.server), expected);
        }
    }
}
