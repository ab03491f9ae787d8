//! Values that may take more than one shape, and the names of the choices.

use toml::de::DeValue;

use crate::auth::key::TokenDigest;

use super::super::decode::{At, Choice, Decode, Decoder, Node, Text};
use super::super::path::KeyPath;
use super::super::plain::Pair;
use super::super::schema::{Bounds, Kind};
use super::super::snapshot::{
    BillingMode, ClusterFallback, HealthCheck, LedgerFallback, LogFormat, LossPolicy, StoreKind, Strategy, StreamUsage,
};
use super::{AuthKind, BackendType};

macro_rules! choices {
    ($($ty:ident { $($name:literal => $value:ident,)* })*) => {$(
        impl Choice for $ty {
            const NAMES: &'static [(&'static str, Self)] = &[$(($name, Self::$value)),*];
        }
    )*};
}

choices! {
    BackendType {
        "openai" => OpenAi,
        "azure" => Azure,
        "claude" => Claude,
        "anthropic" => Claude,
        "gemini" => Gemini,
        "demo" => Demo,
    }
    AuthKind { "api-key" => ApiKey, "bearer" => Bearer, }
    BillingMode { "per_token" => PerToken, "per_request" => PerRequest, }
    StreamUsage { "auto" => Auto, "on" => On, "off" => Off, }
    HealthCheck {
        "models_then_chat" => ModelsThenChat,
        "models" => Models,
        "chat" => Chat,
        "connect" => Connect,
        "off" => Off,
    }
    LossPolicy { "warn" => Warn, "reject" => Reject, }
    StoreKind { "sqlite" => Sqlite, "postgres" => Postgres, "off" => Off, }
    LedgerFallback { "open" => Open, "closed" => Closed, }
    ClusterFallback { "local" => Local, "open" => Open, "closed" => Closed, }
    LogFormat { "text" => Text, "json" => Json, }
}

impl Choice for Strategy {
    const NAMES: &'static [(&'static str, Self)] = Strategy::ALL;
}

/// `token_sha256` of a user.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digest(pub(crate) TokenDigest);

impl Decode for Digest {
    fn kind() -> Kind {
        Kind::Leaf("64 hexadecimal digits, secret".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        cx.hide(node);
        let text = Text::decode(node, at, bounds, cx)?;
        let digest = TokenDigest::from_hex(text.value.trim());
        if digest.is_none() {
            cx.problems.error(at, cx.span(node), "is not 64 hexadecimal digits").hint("printf %s TOKEN | sha256sum");
        }
        digest.map(Self)
    }

    fn plain(pair: &Pair<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        cx.secrets.push(pair.span.clone());
        TokenDigest::from_hex(pair.text()?).map(Self)
    }
}

/// `models` of a provider.
#[derive(Clone, Debug)]
pub(crate) enum ModelList {
    /// Ask the provider.
    Auto,
    /// These; any when empty.
    Named(Vec<At<Text>>),
}

impl Decode for ModelList {
    fn kind() -> Kind {
        Kind::Leaf("list of text, or \"auto\"".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::Array(_) => Some(Self::Named(Decode::decode(node, at, bounds, cx)?)),
            DeValue::String(text) if text == "auto" => Some(Self::Auto),
            DeValue::String(text) => {
                let shown = format!("expected a list or \"auto\", found {text:?}");
                cx.problems.error(at, cx.span(node), shown).hint(format!("write [{text:?}]"));
                None
            }
            _ => {
                cx.expected("a list of model names, or \"auto\"", node, at);
                None
            }
        }
    }
}

/// `expose_models` of a provider.
#[derive(Clone, Debug)]
pub(crate) enum Exposed {
    /// All or none.
    All(bool),
    /// What matches one of these patterns.
    Matching(Vec<At<Text>>),
}

impl Decode for Exposed {
    fn kind() -> Kind {
        Kind::Leaf("true, false, or list of text".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, bounds: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::Array(_) => Some(Self::Matching(Decode::decode(node, at, bounds, cx)?)),
            DeValue::Boolean(all) => Some(Self::All(*all)),
            _ => {
                cx.expected("true, false or a list of patterns", node, at);
                None
            }
        }
    }
}

/// Request parameters: each name with its value as JSON text, ready to be spliced into a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Parameters(pub(crate) Vec<(String, String)>);

impl Decode for Parameters {
    fn kind() -> Kind {
        Kind::Leaf("table of request parameters".to_owned())
    }

    fn decode(node: &Node<'_>, at: &KeyPath<'_>, _: Bounds, cx: &mut Decoder<'_>) -> Option<Self> {
        let DeValue::Table(table) = node.get_ref() else {
            cx.hide(node);
            cx.expected("a table of request parameters", node, at);
            return None;
        };
        let mut parameters = Vec::with_capacity(table.len());
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let at = at.key(name);
            if matches!(name, "model" | "stream" | "backend" | "messages") {
                cx.problems.error(&at, cx.span(key), format!("{name:?} cannot be set here")).hint(
                    "it decides where a request goes and how it is answered, so it is the client's or the gateway's",
                );
                continue;
            }
            let mut json = String::new();
            if write_json(value, &at, cx, &mut json).is_some() {
                parameters.push((name.to_owned(), json));
            }
        }
        Some(Self(parameters))
    }

    fn to_toml(&self) -> String {
        "{}".to_owned()
    }
}

/// Writes a TOML value as JSON; `None` where JSON has nothing like it, which has been reported then.
fn write_json(node: &Node<'_>, at: &KeyPath<'_>, cx: &mut Decoder<'_>, out: &mut String) -> Option<()> {
    match node.get_ref() {
        DeValue::String(_) => {
            let text = Text::decode(node, at, Bounds::ANY, cx)?;
            out.push_str(&quoted(&text.value));
        }
        DeValue::Integer(_) => out.push_str(&integer(node, at, cx)?),
        DeValue::Float(_) => out.push_str(&format!("{:?}", f64::decode(node, at, Bounds::ANY, cx)?)),
        DeValue::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        DeValue::Datetime(_) => {
            cx.expected("a value that JSON has", node, at);
            return None;
        }
        DeValue::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                write_json(item, &at.index(index), cx, out)?;
            }
            out.push(']');
        }
        DeValue::Table(table) => {
            out.push('{');
            for (index, (key, value)) in table.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                out.push_str(&quoted(key.get_ref()));
                out.push(':');
                write_json(value, &at.key(key.get_ref()), cx, out)?;
            }
            out.push('}');
        }
    }
    Some(())
}

fn integer(node: &Node<'_>, at: &KeyPath<'_>, cx: &mut Decoder<'_>) -> Option<String> {
    let DeValue::Integer(n) = node.get_ref() else {
        return None;
    };
    match i128::from_str_radix(n.as_str(), n.radix()) {
        Ok(value) => Some(value.to_string()),
        Err(_) => {
            cx.problems.error(at, cx.span(node), "is too large");
            None
        }
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a string always has a JSON form")
}
