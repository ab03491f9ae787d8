//! `metrics`: the figures of a running server.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use crate::ConfigFile;
use crate::output::{Failure, Output};
use crate::server::Server;

/// Arguments of `metrics`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    server: Server,
    /// Every backend and model, not only the sums.
    #[arg(long)]
    detailed: bool,
}

/// Fetches and shows `/metrics`.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let figures = arguments.server.get(&arguments.config, "/metrics")?;
    if figures.get("load_balancer").is_none() {
        return Err(Failure::new(
            "the answer holds no figures",
            "Is this the address of a Berry server? Name another one with --url.",
        ));
    }
    let mut text = summary(&figures);
    if arguments.detailed {
        text.push_str(&details(&figures));
    }
    Ok(Output { text, json: figures, ok: true })
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or_default()
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn summary(figures: &Value) -> String {
    let sum = |key: &str| entries(&figures["models"]).map(|(_, model)| number(model, key)).sum::<u64>();
    let enabled = || entries(&figures["providers"]).filter(|(_, provider)| provider["enabled"] != false);
    let healthy = enabled().filter(|(_, provider)| provider["healthy"] == true).count();
    let mut text = String::from("📊 Metrics\n");
    let lines = [
        ("status", figures["status"].as_str().unwrap_or("unknown").to_owned()),
        ("uptime", format!("{} s", number(figures, "uptime_seconds"))),
        ("providers healthy", format!("{healthy} of {}", enabled().count())),
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
        if provider["enabled"] == false {
            let _ = writeln!(text, "     {id:<20} switched off");
            continue;
        }
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
