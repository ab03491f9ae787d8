//! `reload` and `diff`: a server takes its configuration file again, or says what another file would change.

use std::fmt::Write as _;

use clap::Args;
use serde_json::Value;

use crate::ConfigFile;
use crate::output::{Failure, Output};
use crate::server::Server;

/// Arguments of `reload`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    server: Server,
}

/// Arguments of `diff`.
#[derive(Args)]
pub(crate) struct DiffArguments {
    /// The file that is compared with what the server runs.
    file: std::path::PathBuf,
    #[command(flatten)]
    server: Server,
}

/// Lets the server read its file again.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let json = arguments.server.post(&arguments.config, "/admin/reload-config", "")?;
    let ok = json["reloaded"] == true;
    let mut text = match ok {
        true => format!("✅ Configuration reloaded, generation {}\n", json["generation"]),
        false => format!(
            "❌ Configuration not reloaded, the old one stays in force\n{}\n",
            json["error"].as_str().unwrap_or_default()
        ),
    };
    text.push_str(&changes(&json));
    text.push_str(&problems(&json));
    Ok(Output { text, json, ok })
}

/// Asks the server what would change.
pub(crate) fn diff(arguments: &DiffArguments) -> Result<Output, Failure> {
    let shown = arguments.file.display();
    let file = std::fs::read_to_string(&arguments.file)
        .map_err(|error| Failure::new(format!("{shown}: {error}"), "Name a configuration file."))?;
    let config = ConfigFile { config: Some(arguments.file.clone()) };
    let json = arguments.server.post(&config, "/admin/config/validate", &file)?;
    let ok = json["valid"] == true;
    let mut text = match (ok, changes(&json)) {
        (false, _) => format!("❌ Configuration is not valid: {shown}\n"),
        (true, none) if none.is_empty() => format!("✅ {shown} changes nothing\n"),
        (true, some) => format!("✅ {shown} would change\n{some}"),
    };
    text.push_str(&problems(&json));
    Ok(Output { text, json, ok })
}

fn changes(json: &Value) -> String {
    let mut text = String::new();
    for change in json["changes"].as_array().into_iter().flatten() {
        let (kind, path) = (change["kind"].as_str().unwrap_or_default(), change["path"].as_str().unwrap_or_default());
        let _ = match (&change["from"], &change["to"]) {
            (Value::Null, _) | (_, Value::Null) => writeln!(text, "  {kind:<8} {path}"),
            (from, to) => writeln!(text, "  {kind:<8} {path}: {from} → {to}"),
        };
    }
    if let Some(more @ 1..) = json["left_out"].as_u64() {
        let _ = writeln!(text, "  and {more} more");
    }
    text
}

fn problems(json: &Value) -> String {
    let all = json["problems"].as_array().into_iter().flatten();
    let line = |problem: &Value| {
        let (severity, message) = (problem["severity"].as_str(), problem["message"].as_str());
        format!("  {}: {}\n", severity.unwrap_or_default(), message.unwrap_or_default())
    };
    all.map(line).collect()
}
