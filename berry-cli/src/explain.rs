//! `explain`: what a server would choose now, or why it chose what it did.

use std::fmt::Write as _;

use clap::Args;
use serde_json::{Value, json};

use crate::ConfigFile;
use crate::output::{Failure, Output};
use crate::server::Server;

/// Arguments of `explain`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The model that would be asked for.
    #[arg(required_unless_present = "request")]
    model: Option<String>,
    /// For this user (table key) instead of the one whose token is used.
    #[arg(long)]
    user: Option<String>,
    /// With this provider forced (table key).
    #[arg(short, long)]
    provider: Option<String>,
    /// How a request was served: the `x-request-id` of an answer whose request had the header `x-berry-explain: 1`.
    #[arg(long, conflicts_with_all = ["model", "user", "provider"])]
    request: Option<String>,
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    server: Server,
}

/// Asks and shows the choice.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let Arguments { model, user, provider, request, config, server } = arguments;
    if let Some(id) = request {
        let json = server.get(config, &format!("/admin/explain/{id}"))?;
        let mut text = String::new();
        for (number, choice) in (1..).zip(json["choices"].as_array().into_iter().flatten()) {
            let _ = writeln!(text, "Attempt {number}, after {} ms", choice["after_ms"]);
            decision(&mut text, choice);
        }
        return Ok(Output { text, json, ok: true });
    }
    let mut question = json!({"model": model});
    for (name, value) in [("user", user), ("backend", provider)] {
        if let Some(value) = value {
            question[name] = value.clone().into();
        }
    }
    let json = server.post(config, "/admin/explain", &question.to_string())?;
    let mut text = String::new();
    decision(&mut text, &json);
    let ok = !json["chosen"].is_null();
    Ok(Output { text, json, ok })
}

/// One choice: the backend, the others with their weights, and who was left out for what reason.
fn decision(text: &mut String, choice: &Value) {
    let (chosen, made) = (&choice["chosen"], &choice["decision"]);
    let name = |of: &Value| format!("{}:{}", word(&of["provider"]), word(&of["model"]));
    let _ = match chosen.is_null() {
        true => writeln!(text, "❌ No backend: {}", word(&choice["error"]["message"])),
        false => writeln!(text, "✅ {} by {}", name(chosen), word(&made["strategy"])),
    };
    if let Some(rescue) = made["rescue"].as_str() {
        let _ = writeln!(text, "  given up to find it: {rescue}");
    }
    for candidate in made["candidates"].as_array().into_iter().flatten() {
        let mark = if candidate["chosen"] == true { "→" } else { " " };
        let terms = &candidate["terms"];
        let _ = writeln!(
            text,
            "  {mark} {:<32} weight {:<8} priority {:<4} healthy {:<6} in flight {}",
            name(candidate),
            candidate["effective_weight"],
            terms["priority"],
            terms["healthy"],
            terms["in_flight"],
        );
    }
    for excluded in made["excluded"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  ✗ {:<32} {}", name(excluded), word(&excluded["reason"]));
    }
}

/// A value as a word of a line.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
