//! `cost audit`: what the requests of a period cost by the prices of a configuration, beside what was recorded.
//!
//! The rows come from a running server, page by page; the prices from a configuration file, so that a change of prices can be tried on
//! the past before it is made. What cannot be computed again is counted and left out of the comparison: backends that the
//! configuration no longer has, and requests with failed attempts that were billed, whose tokens the rows do not have.

use std::collections::BTreeMap;
use std::sync::Arc;

use berry_core::config::snapshot::Snapshot;
use berry_core::money::NanoUsd;
use berry_core::tariff::Tariff;
use berry_core::usage::{ServiceTier, Usage};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::output::{Failure, Output};
use crate::server::{self, Server};
use crate::usage::{Period, columns};
use crate::{ConfigFile, check};

/// Rows of a page.
const PAGE: &str = "1000";
/// Most requests that are shown one by one.
const SHOWN_MAX: usize = 20;

/// Arguments of `cost`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Compute the cost of recorded requests again, by the prices of the configuration, and compare.
    Audit(Audit),
}

/// Arguments of `cost audit`.
#[derive(Args)]
struct Audit {
    #[command(flatten)]
    period: Period,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    server: Server,
}

/// Runs what was asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let What::Audit(Audit { period, config, server }) = &arguments.what;
    let snapshot = check::load(config)?.snapshot;
    let mut report = Report::default();
    let mut cursor = None;
    loop {
        let wishes = [
            ("from", Some(period.from.as_str())),
            ("to", period.to.as_deref()),
            ("limit", Some(PAGE)),
            ("cursor", cursor.as_deref()),
        ];
        let page = server.get(config, &server::path_with("/admin/usage", wishes))?;
        for row in page["rows"].as_array().into_iter().flatten() {
            report.add(row, &snapshot);
        }
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return Ok(report.told());
        }
    }
}

/// What the rows of one backend come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Line {
    requests: u64,
    recorded: NanoUsd,
    computed: NanoUsd,
    /// Requests of which the two differ.
    differing: u64,
    /// Requests whose tokens were counted by the gateway.
    estimated: u64,
    /// Requests that used something without a price.
    unpriced: u64,
    /// Requests that cannot be computed again, and what was recorded for them; no part of the sums above.
    left_out: u64,
    left_out_cost: NanoUsd,
    /// Of requests whose vendor told the cost: that, and ours.
    vendor: NanoUsd,
    beside_vendor: NanoUsd,
}

#[derive(Debug, Default)]
struct Report {
    lines: BTreeMap<(String, String), Line>,
    /// Prices that were looked up.
    tariffs: BTreeMap<(String, String), Option<Arc<Tariff>>>,
    differing: Vec<Value>,
}

impl Report {
    /// Takes a row of `/admin/usage`. Requests that cost nothing because no upstream accepted them are not compared.
    fn add(&mut self, row: &Value, snapshot: &Snapshot) {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let Some(recorded) = usd(&row["cost_usd"]) else { return };
        let key = (text("provider"), text("upstream_model"));
        let tariff = self.tariffs.entry(key.clone()).or_insert_with(|| tariff(snapshot, &key.0, &key.1)).clone();
        let line = self.lines.entry(key).or_default();
        line.requests += 1;
        let Some(tariff) = tariff.filter(|_| !had_billed_failures(row)) else {
            line.left_out += 1;
            line.left_out_cost += recorded;
            return;
        };
        let cost = tariff.cost(&usage(row));
        line.recorded += recorded;
        line.computed += cost.total;
        line.estimated += u64::from(cost.estimated);
        line.unpriced += u64::from(!cost.priced);
        if let Some(vendor) = cost.reported {
            line.vendor += vendor;
            line.beside_vendor += cost.total;
        }
        if cost.total != recorded {
            line.differing += 1;
            if self.differing.len() < SHOWN_MAX {
                self.differing.push(json!({
                    "time": row["time"],
                    "request_id": row["request_id"],
                    "provider": row["provider"],
                    "upstream_model": row["upstream_model"],
                    "recorded_usd": recorded,
                    "computed_usd": cost.total,
                    "lines": cost.lines,
                }));
            }
        }
    }

    fn told(&self) -> Output {
        let told = |(provider, model): &(String, String), line: &Line| {
            json!({
                "provider": provider,
                "upstream_model": model,
                "requests": line.requests,
                "recorded_usd": line.recorded,
                "computed_usd": line.computed,
                "differing": line.differing,
                "estimated": line.estimated,
                "unpriced": line.unpriced,
                "left_out": line.left_out,
                "left_out_usd": line.left_out_cost,
                "vendor_usd": line.vendor,
                "beside_vendor_usd": line.beside_vendor,
            })
        };
        let backends: Vec<Value> = self.lines.iter().map(|(key, line)| told(key, line)).collect();
        let ok = self.lines.values().all(|line| line.differing == 0 && line.unpriced == 0);
        let json = json!({"agrees": ok, "backends": backends, "differing": self.differing});
        Output { text: self.text(ok), json, ok }
    }

    fn text(&self, ok: bool) -> String {
        if self.lines.is_empty() {
            return "Nothing that cost anything was recorded.".to_owned();
        }
        let heads = [
            "provider",
            "upstream_model",
            "requests",
            "recorded_usd",
            "computed_usd",
            "differing",
            "estimated",
            "unpriced",
            "left_out",
        ];
        let mut lines = vec![heads.map(str::to_owned).to_vec()];
        lines.extend(self.lines.iter().map(|((provider, model), line)| {
            let counts = [line.differing, line.estimated, line.unpriced, line.left_out].map(|count| count.to_string());
            let sums = [line.requests.to_string(), line.recorded.to_string(), line.computed.to_string()];
            [provider.clone(), model.clone()].into_iter().chain(sums).chain(counts).collect()
        }));
        let verdict = match ok {
            true => "✅ Every recorded cost is what these prices give.",
            false => "❌ Recorded costs and these prices differ, or something has no price.",
        };
        format!("{}{verdict}", columns(&lines))
    }
}

/// What a backend charges by the configuration; `None` where it is not told by provider and model alone.
fn tariff(snapshot: &Snapshot, provider: &str, model: &str) -> Option<Arc<Tariff>> {
    let mut backends = snapshot.models.all.iter().flat_map(|of| &of.backends);
    let backend =
        backends.find(|backend| backend.id.provider.as_str() == provider && backend.id.upstream.as_str() == model)?;
    (!backend.takes_any_name()).then(|| Arc::clone(&backend.tariff))
}

/// Whether an upstream accepted an attempt that then failed: it was billed with tokens that the row does not have.
fn had_billed_failures(row: &Value) -> bool {
    let attempts = row["attempts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let earlier = attempts.split_last().map(|(_, earlier)| earlier).unwrap_or_default();
    earlier.iter().any(|attempt| attempt["status"].as_u64().is_some_and(|status| (200..300).contains(&status)))
}

/// An amount as rows have it. Up to nine million dollars a floating point number holds every billionth.
fn usd(value: &Value) -> Option<NanoUsd> {
    NanoUsd::from_usd(value.as_str()?.parse().ok()?).ok()
}

fn usage(row: &Value) -> Usage {
    let told = &row["usage"];
    let count = |name: &str| told[name].as_u64();
    Usage {
        input_tokens: count("input_tokens"),
        cached_tokens: count("cached_tokens"),
        cache_write_tokens: count("cache_write_tokens"),
        cache_write_1h_tokens: count("cache_write_1h_tokens"),
        audio_input_tokens: count("audio_input_tokens"),
        image_input_tokens: count("image_input_tokens"),
        tool_prompt_tokens: None,
        output_tokens: count("output_tokens"),
        reasoning_tokens: count("reasoning_tokens"),
        audio_output_tokens: count("audio_output_tokens"),
        image_output_tokens: count("image_output_tokens"),
        server_tool_calls: count("server_tool_calls"),
        tier: told["tier"].as_str().map(|name| ServiceTier::from_wire(name.as_bytes())),
        reported_cost: usd(&row["reported_cost_usd"]),
        estimated: told["estimated"].as_bool().unwrap_or(false),
    }
}

#[cfg(test)]
mod tests {
    use berry_core::config::{Config, ProcessEnvironment};

    use super::*;

    const CONFIG: &str = r#"
[users.a]
token = "a-token-that-is-long-enough"
[providers.p]
base_url = "https://llm.example/v1"
api_key = "k"
[models.m]
name = "m"
[[models.m.backends]]
provider = "p"
model = "up"
input_price = 1.0
output_price = 2.0
request_price = 0.5
[[models.m.backends]]
provider = "p"
model = "without"
"#;

    fn report(rows: &[Value]) -> Report {
        let snapshot = Config::from_text("test", CONFIG, &ProcessEnvironment).expect("a sound configuration").snapshot;
        let mut report = Report::default();
        rows.iter().for_each(|row| report.add(row, &snapshot));
        report
    }

    fn row(model: &str, cost: &str) -> Value {
        json!({
            "provider": "p",
            "upstream_model": model,
            "attempts": [{"status": 200}],
            "usage": {"input_tokens": 1000, "output_tokens": 100, "estimated": false, "tier": null},
            "cost_usd": cost,
        })
    }

    fn line(report: &Report, model: &str) -> Line {
        report.lines[&("p".to_owned(), model.to_owned())].clone()
    }

    #[test]
    fn a_cost_that_the_prices_give_agrees_and_another_is_shown() {
        // 1000 × 1000 + 100 × 2000 + 500 000 000
        let agreed = report(&[row("up", "0.5012")]);
        assert!(agreed.told().ok);
        assert_eq!(line(&agreed, "up").computed, NanoUsd::from_nanos(501_200_000));
        let differing = report(&[row("up", "0.5012"), row("up", "0.5013")]);
        let told = differing.told();
        assert!(!told.ok && told.json["differing"][0]["computed_usd"] == json!("0.5012"), "{}", told.json);
        assert_eq!((line(&differing, "up").requests, line(&differing, "up").differing), (2, 1));
    }

    #[test]
    fn what_has_no_price_is_no_agreement() {
        let unpriced = report(&[row("without", "0")]);
        assert_eq!(line(&unpriced, "without").unpriced, 1);
        assert!(!unpriced.told().ok);
    }

    #[test]
    fn what_cannot_be_computed_again_is_counted_and_left_out() {
        let mut retried = row("up", "1.5");
        retried["attempts"] = json!([{"status": 200}, {"status": 200}]);
        let mut refused = row("up", "0.5012");
        refused["attempts"] = json!([{"status": 503}, {"status": 200}]);
        let mut free = row("up", "0");
        free["cost_usd"] = Value::Null;
        let report = report(&[retried, refused, free, row("gone", "3")]);
        let (up, gone) = (line(&report, "up"), line(&report, "gone"));
        assert_eq!((up.requests, up.left_out, up.recorded), (2, 1, NanoUsd::from_nanos(501_200_000)));
        assert_eq!((gone.left_out, gone.left_out_cost), (1, NanoUsd::from_nanos(3_000_000_000)));
        assert!(report.told().ok, "what is left out is no difference");
    }
}
