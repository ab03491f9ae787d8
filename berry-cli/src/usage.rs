//! `usage`: what a running server has recorded, through its admin API.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use crate::ConfigFile;
use crate::output::{Failure, Output};
use crate::server::{self, Server};

/// Which requests are meant.
#[derive(Args)]
pub(crate) struct Period {
    /// From when on: a date, a time of RFC 3339, or how long ago, as 24h or 7d.
    #[arg(long, default_value = "24h")]
    pub(crate) from: String,
    /// Until when; now without it.
    #[arg(long)]
    pub(crate) to: Option<String>,
}

/// Arguments of `usage`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    period: Period,
    /// Sums by these, with commas between: user, model, provider, upstream_model, status, error_class, end_user, label:KEY, hour,
    /// day. Single requests without it.
    #[arg(short, long, value_name = "KEYS")]
    group_by: Option<String>,
    /// Only of this user (table key, or id of a key).
    #[arg(long)]
    user: Option<String>,
    /// Only of this model (public name).
    #[arg(long)]
    model: Option<String>,
    /// Only of this provider (table key).
    #[arg(long)]
    provider: Option<String>,
    /// Only with this status.
    #[arg(long)]
    status: Option<u16>,
    /// Only with this class of error.
    #[arg(long)]
    error_class: Option<String>,
    /// Only of this user of a client.
    #[arg(long)]
    end_user: Option<String>,
    /// Only with this label, as key=value.
    #[arg(long)]
    label: Option<String>,
    /// Most rows that are shown.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Comma-separated values, all of them, instead of a table.
    #[arg(long, conflicts_with = "limit")]
    csv: bool,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    server: Server,
}

/// Fetches and shows `/admin/usage`.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let Arguments { config, server, .. } = arguments;
    if arguments.csv {
        let text = server.get_text(config, &arguments.path("csv"))?;
        return Ok(Output { json: Value::String(text.clone()), text, ok: true });
    }
    let json = server.get(config, &arguments.path("json"))?;
    let text = match json["groups"].as_array() {
        Some(groups) => sums(groups),
        None => requests(json["rows"].as_array().map(Vec::as_slice).unwrap_or_default()),
    };
    Ok(Output { text, json, ok: true })
}

impl Arguments {
    fn path(&self, format: &str) -> String {
        let limit = (!self.csv && self.group_by.is_none()).then(|| self.limit.to_string());
        let status = self.status.map(|status| status.to_string());
        let Period { from, to } = &self.period;
        let wishes = [
            ("format", Some(format)),
            ("from", Some(from.as_str())),
            ("to", to.as_deref()),
            ("group_by", self.group_by.as_deref()),
            ("user", self.user.as_deref()),
            ("model", self.model.as_deref()),
            ("provider", self.provider.as_deref()),
            ("status", status.as_deref()),
            ("error_class", self.error_class.as_deref()),
            ("end_user", self.end_user.as_deref()),
            ("label", self.label.as_deref()),
            ("limit", limit.as_deref()),
        ];
        server::path_with("/admin/usage", wishes)
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One line for each group: its keys, then what was summed.
fn sums(groups: &[Value]) -> String {
    const SUMS: [&str; 6] = ["requests", "errors", "input_tokens", "output_tokens", "cached_tokens", "cost_usd"];
    let Some(first) = groups.first() else {
        return "Nothing was recorded.".to_owned();
    };
    let keys: Vec<&String> = first["group"].as_object().into_iter().flat_map(|group| group.keys()).collect();
    let mut lines = vec![keys.iter().map(|key| key.to_string()).chain(SUMS.map(str::to_owned)).collect::<Vec<_>>()];
    lines.extend(groups.iter().map(|group| {
        let keys = keys.iter().map(|key| text(&group["group"][key.as_str()]));
        keys.chain(SUMS.iter().map(|name| text(&group[*name]))).collect()
    }));
    columns(&lines)
}

/// One line for each request.
fn requests(rows: &[Value]) -> String {
    const SHOWN: [&str; 7] = ["time", "user", "model", "provider", "status", "duration_ms", "cost_usd"];
    if rows.is_empty() {
        return "Nothing was recorded.".to_owned();
    }
    let mut lines = vec![SHOWN.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|row| SHOWN.iter().map(|name| text(&row[*name])).collect()));
    columns(&lines)
}

/// Lines of equal numbers of cells, each column as wide as its widest cell.
pub(crate) fn columns(lines: &[Vec<String>]) -> String {
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut table = String::new();
    for line in lines {
        let mut padded = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(padded, "{cell:<width$}  ");
        }
        let _ = writeln!(table, "{}", padded.trim_end());
    }
    table
}
