//! `metrics`: the figures of a running server.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::ConfigFile;
use crate::check;
use crate::output::{Failure, Output};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `metrics`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// Address of the server; without it the one that the configuration listens on.
    #[arg(long, env = "BERRY_URL")]
    url: Option<String>,
    /// Token of an admin, for a server with `protect_monitoring`.
    #[arg(long, env = "BERRY_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Every backend and model, not only the sums.
    #[arg(long)]
    detailed: bool,
}

/// Fetches and shows `/metrics`.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let base = match &arguments.url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("http://{}", check::load(&arguments.config)?.snapshot.server.bind_address),
    };
    let figures = fetch(&format!("{base}/metrics"), arguments.token.as_deref())?;
    let mut text = summary(&figures);
    if arguments.detailed {
        text.push_str(&details(&figures));
    }
    Ok(Output { text, json: figures, ok: true })
}

fn fetch(url: &str, token: Option<&str>) -> Result<Value, Failure> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).http_status_as_error(false).build().into();
    let mut request = agent.get(url);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut response = request.call().map_err(|error| {
        Failure::new(format!("{url}: {error}"), "Is the server running? Name its address with --url.")
    })?;
    match response.status().as_u16() {
        200 => {}
        401 | 403 => {
            let next = "Give the token of an admin with --token or BERRY_TOKEN.";
            return Err(Failure::new(format!("{url}: the figures of this server are protected"), next));
        }
        status => {
            return Err(Failure::new(format!("{url}: status {status}"), "Is this the address of a Berry server?"));
        }
    }
    response
        .body_mut()
        .read_json()
        .map_err(|error| Failure::new(format!("{url}: {error}"), "Is this the address of a Berry server?"))
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn summary(figures: &Value) -> String {
    let sum = |key: &str| entries(&figures["models"]).map(|(_, model)| number(model, key)).sum::<u64>();
    let healthy = entries(&figures["providers"]).filter(|(_, provider)| provider["healthy"] == true).count();
    let mut text = String::from("📊 Metrics\n");
    let lines = [
        ("status", figures["status"].as_str().unwrap_or("unknown").to_owned()),
        ("uptime", format!("{} s", number(figures, "uptime_seconds"))),
        ("providers healthy", format!("{healthy} of {}", entries(&figures["providers"]).count())),
        ("requests", sum("total_requests").to_string()),
        ("successful", sum("successful_requests").to_string()),
        ("failed", sum("failed_requests").to_string()),
        ("selections", number(&figures["load_balancer"], "total_selections").to_string()),
    ];
    for (name, value) in lines {
        let _ = writeln!(text, "  {name:<18} {value}");
    }
    text
}

fn details(figures: &Value) -> String {
    let mut text = String::from("\nProviders\n");
    for (id, provider) in entries(&figures["providers"]) {
        let mark = if provider["healthy"] == true { "✅" } else { "❌" };
        let _ = writeln!(
            text,
            "  {mark} {id:<20} {:>8} requests {:>8} failed {:>8.1} ms on average",
            number(provider, "total_requests"),
            number(provider, "failed_requests"),
            provider["average_latency_ms"].as_f64().unwrap_or_default(),
        );
    }
    text.push_str("\nModels\n");
    for (id, model) in entries(&figures["models"]) {
        let _ = writeln!(
            text,
            "     {id:<20} {:>8} requests {:>8} failed",
            number(model, "total_requests"),
            number(model, "failed_requests"),
        );
    }
    text
}
