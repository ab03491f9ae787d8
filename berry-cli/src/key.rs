//! `key`: keys of a running server, through its admin API.

use std::fmt::Write as _;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use crate::ConfigFile;
use crate::output::{Failure, Output};
use crate::server::Server;

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Arguments of `key`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Issue a key. Its token is shown once.
    Create(Box<Grant>),
    /// List keys.
    List,
    /// Give a key another token. The one before ends at once.
    Rotate {
        /// Id of the key.
        id: String,
    },
    /// Take a key back, at once.
    Revoke {
        /// Id of the key.
        id: String,
    },
}

#[derive(Args)]
struct Grant {
    /// Whose key it is.
    name: String,
    /// A model that it may use, or a pattern; may be given more than once. All without it.
    #[arg(long = "model")]
    models: Vec<String>,
    /// A network or an address that it may be used from; may be given more than once. From everywhere without it.
    #[arg(long = "network")]
    networks: Vec<String>,
    /// A tag; may be given more than once.
    #[arg(long = "tag")]
    tags: Vec<String>,
    /// Days until it ends by itself.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3660))]
    expires_in_days: Option<u64>,
    /// Requests in any minute.
    #[arg(long)]
    requests_per_minute: Option<u64>,
    /// Requests in any day.
    #[arg(long)]
    requests_per_day: Option<u64>,
    /// Tokens in any minute.
    #[arg(long)]
    tokens_per_minute: Option<u64>,
    /// Tokens in any day.
    #[arg(long)]
    tokens_per_day: Option<u64>,
    /// Requests at the same time.
    #[arg(long)]
    max_concurrent: Option<u32>,
    /// USD in a calendar day.
    #[arg(long)]
    usd_per_day: Option<f64>,
    /// USD in a calendar month.
    #[arg(long)]
    usd_per_month: Option<f64>,
    /// USD for ever.
    #[arg(long)]
    usd_total: Option<f64>,
}

/// Asks the server and shows what it answers.
pub(crate) fn run(arguments: &Arguments) -> Result<Output, Failure> {
    let Arguments { config, server, action } = arguments;
    let (json, text) = match action {
        Action::Create(grant) => {
            let made = server.post(config, "/admin/keys", &grant.json().to_string())?;
            let text = told(&made, "Key made");
            (made, text)
        }
        Action::List => {
            let keys = server.get(config, "/admin/keys")?;
            let text = table(&keys);
            (keys, text)
        }
        Action::Rotate { id } => {
            let rotated = server.post(config, &format!("/admin/keys/{}/rotate", checked(id)?), "")?;
            let text = told(&rotated, "Key has another token");
            (rotated, text)
        }
        Action::Revoke { id } => {
            let revoked = server.delete(config, &format!("/admin/keys/{}", checked(id)?))?;
            (revoked, format!("✅ {id} is revoked"))
        }
    };
    Ok(Output { text, json, ok: true })
}

/// An id that can stand in a path.
fn checked(id: &str) -> Result<&str, Failure> {
    let good = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    good.then_some(id)
        .ok_or_else(|| Failure::new(format!("{id:?} is no id of a key"), "berry-cli key list shows the ids."))
}

impl Grant {
    fn json(&self) -> Value {
        let rate = [
            ("requests_per_minute", self.requests_per_minute),
            ("requests_per_day", self.requests_per_day),
            ("tokens_per_minute", self.tokens_per_minute),
            ("tokens_per_day", self.tokens_per_day),
            ("max_concurrent", self.max_concurrent.map(u64::from)),
        ];
        let budget =
            [("usd_per_day", self.usd_per_day), ("usd_per_month", self.usd_per_month), ("usd_total", self.usd_total)];
        json!({
            "name": self.name,
            "allowed_models": self.models,
            "allowed_networks": self.networks,
            "tags": self.tags,
            "rate_limit": given(rate),
            "budget": given(budget),
            "expires_in_seconds": self.expires_in_days.map(|days| days * DAY),
        })
    }
}

fn given<T: Into<Value>>(members: impl IntoIterator<Item = (&'static str, Option<T>)>) -> Map<String, Value> {
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))).collect()
}

fn told(answer: &Value, what: &str) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut told = format!("✅ {what}\n  id     {}\n  token  {}\n", text(&answer["key"]["id"]), text(&answer["token"]));
    if let Some(end) = answer["key"]["expires_at"].as_str() {
        let _ = writeln!(told, "  until  {end}");
    }
    told.push_str("The token is not shown again.");
    told
}

fn table(answer: &Value) -> String {
    let keys = answer["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    if keys.is_empty() {
        return "No key has been issued.".to_owned();
    }
    let mut table = format!("{:<20}  {:<27}  {:<27}  {}\n", "id", "created", "until", "name");
    for key in keys {
        let text = |name: &str| key[name].as_str().unwrap_or("-");
        let _ = writeln!(
            table,
            "{:<20}  {:<27}  {:<27}  {}",
            text("id"),
            text("created_at"),
            text("expires_at"),
            text("name")
        );
    }
    table
}
