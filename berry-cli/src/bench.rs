//! `bench`: what a gateway adds to the time of a request, and what it uses.
//!
//! Requests are due at fixed times (open loop) and latency counts from the due time, so a gateway that stalls cannot hide it by
//! slowing the load down. With `--direct` the same load goes to the upstream itself first, and the difference is what the gateway
//! adds.

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs as _};

use berry_bench::load::{self, Report};
use clap::Args;
use serde_json::{Value, json};

use crate::output::{Failure, Output, remark};

/// Arguments of `bench`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Address of the gateway, plain HTTP.
    #[arg(long, env = "BERRY_URL", default_value = "http://127.0.0.1:3000")]
    url: String,
    /// A user's token.
    #[arg(long, env = "BERRY_TOKEN", hide_env_values = true, default_value = "")]
    token: String,
    /// The model that is asked for.
    #[arg(short, long)]
    model: String,
    /// Address of the upstream, to compare with: berry-cli mock serves one.
    #[arg(long)]
    direct: Option<String>,
    /// Requests a second.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// How long, in seconds.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// The gateway's process, for its CPU and memory (Linux).
    #[arg(long)]
    pid: Vec<u32>,
}

/// Sends the load and shows what came of it.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let requests = arguments.rate * arguments.seconds;
    if !(1.0..=1e9).contains(&requests) || arguments.connections == 0 {
        return Err(Failure::new("there is nothing to send", "Give --rate, --seconds and --connections above 0."));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(error.to_string(), "Check the limits of the process."))?;
    let measure = |url: &str, pid: &[u32]| {
        remark(&format!("{url}: {} requests a second for {} s", arguments.rate, arguments.seconds));
        let load = load::Args {
            target: address(url)?,
            connections: arguments.connections,
            requests: requests as u64,
            warmup: arguments.connections,
            rate: Some(arguments.rate),
            prompt_bytes: 400,
            chunks: 0,
            gap_ms: 0,
            hold_seconds: None,
            token: arguments.token.clone(),
            pid: pid.to_vec(),
            model: arguments.model.clone(),
        };
        let failed = |error: load::Failure| {
            Failure::new(format!("{url}: {error}"), "Does it listen there? See --url and --direct.")
        };
        runtime.block_on(load::run(&load)).map_err(failed)
    };
    let direct = arguments.direct.as_ref().map(|url| measure(url, &[])).transpose()?;
    let gateway = measure(&arguments.url, &arguments.pid)?;
    Ok(output(&gateway, direct.as_ref()))
}

fn output(gateway: &Report, direct: Option<&Report>) -> Output {
    let mut text = String::new();
    let mut row = |name: &str, report: &Report| {
        let latency = &report.latency_us;
        let _ = writeln!(
            text,
            "{name:<8} {:>8} answers {:>6} errors   p50 {:>9.1} µs   p99 {:>9.1} µs",
            report.requests, report.errors, latency.p50, latency.p99
        );
    };
    if let Some(direct) = direct {
        row("direct", direct);
    }
    row("gateway", gateway);
    let added = direct.map(|direct| {
        let (with, without) = (&gateway.latency_us, &direct.latency_us);
        (with.p50 - without.p50, with.p99 - without.p99)
    });
    if let Some((p50, p99)) = added {
        let _ = writeln!(text, "{:<8} {:>32} p50 {p50:>9.1} µs   p99 {p99:>9.1} µs", "added", "");
    }
    let cpu = gateway.cpu_us / gateway.requests.max(1) as f64;
    if gateway.rss_kib_during > 0 {
        let _ = writeln!(text, "{:<8} {cpu:.1} µs CPU per request, {} KiB resident", "process", gateway.rss_kib_during);
    }
    if let Some(error) = &gateway.first_error {
        let _ = writeln!(text, "❌ {error}");
    }
    let json = json!({
        "gateway": gateway,
        "direct": direct,
        "added_us": added.map(|(p50, p99)| json!({"p50": p50, "p99": p99})),
        "cpu_us_per_request": if gateway.rss_kib_during > 0 { Value::from(cpu) } else { Value::Null },
    });
    let ok = gateway.errors + direct.map_or(0, |direct| direct.errors) == 0;
    Output { text, json, ok }
}

fn address(url: &str) -> Result<SocketAddr, Failure> {
    let wrong = || Failure::new(format!("{url} is no address for a load"), "Write it as http://HOST:PORT.");
    let host = url.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
    host.to_socket_addrs().ok().and_then(|mut all| all.next()).ok_or_else(wrong)
}
