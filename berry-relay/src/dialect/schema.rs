//! JSON schemas for vendors that take only a part of the language.
//!
//! Anthropic's structured outputs (docs.anthropic.com, "Structured outputs", 2025): objects must be closed; bounds of numbers,
//! lengths and list sizes are refused.

use super::loss::{Losses, Reason};
use super::text::{Json, Text, Writer};
use crate::json::Kind;

/// Keywords that Anthropic refuses.
const REFUSED: &[&str] = &[
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minLength",
    "maxLength",
    "maxItems",
    "uniqueItems",
    "minProperties",
    "maxProperties",
    "$schema",
];

/// A tool's schema with `type: object` at its root, which Anthropic asks for.
pub fn of_tool(schema: Option<&Json>) -> Json {
    let Some(schema) = schema.filter(|schema| schema.kind() == Kind::Object && !schema.is_nothing()) else {
        return Json::fixed(r#"{"type":"object","properties":{}}"#);
    };
    if schema.fields().text("type").is_some_and(|kind| &kind.raw()[..] == b"object") {
        return schema.clone();
    }
    let mut writer = Writer::new();
    writer.object(|w| {
        w.key("type").word("object");
        for (name, value) in schema.fields().rest().filter(|(name, _)| name != "type") {
            w.quoted_key(&name).json(&value);
        }
    });
    Json::written(writer)
}

/// A schema that says its name and what it is for itself, where the dialect has no place beside it. What it says already stays.
pub fn named(schema: &Json, title: Option<&Text>, description: Option<&Text>) -> Json {
    if schema.kind() != Kind::Object {
        return schema.clone();
    }
    let mut writer = Writer::new();
    writer.object(|w| {
        for (name, text) in [("title", title), ("description", description)] {
            if let Some(text) = text.filter(|_| schema.fields().take(name).is_none()) {
                w.key(name).text(text);
            }
        }
        for (name, value) in schema.fields().rest() {
            w.quoted_key(&name).json(&value);
        }
    });
    Json::written(writer)
}

/// A schema as Anthropic's structured outputs take it.
pub fn for_anthropic(schema: &Json, field: &str, losses: &mut Losses) -> Json {
    let mut writer = Writer::new();
    write(&mut writer, schema, field, losses);
    Json::written(writer)
}

fn write(writer: &mut Writer, schema: &Json, field: &str, losses: &mut Losses) {
    if schema.kind() != Kind::Object {
        return writer.json(schema);
    }
    let is_object = schema.fields().text("type").is_some_and(|kind| &kind.raw()[..] == b"object");
    writer.object(|w| {
        for (name, value) in schema.fields().rest() {
            member(w, &name, &value, field, losses);
        }
        if is_object {
            w.key("additionalProperties").boolean(false);
        }
    });
}

fn member(w: &mut Writer, name: &str, value: &Json, field: &str, losses: &mut Losses) {
    match name {
        "additionalProperties" if value.boolean() == Some(false) => {}
        "additionalProperties" => losses.below(field, name, Reason::Unsupported),
        _ if REFUSED.contains(&name) => losses.below(field, name, Reason::Unsupported),
        "minItems" if value.integer().is_none_or(|least| least > 1) => losses.below(field, name, Reason::Unsupported),
        "properties" | "$defs" | "definitions" => w.key(name).object(|w| {
            for (name, schema) in value.fields().rest() {
                write(w.quoted_key(&name), &schema, field, losses);
            }
        }),
        "anyOf" | "allOf" | "oneOf" | "prefixItems" => {
            w.key(if name == "oneOf" { "anyOf" } else { name }).list(|w| {
                value.elements().iter().for_each(|schema| write(w, schema, field, losses));
            });
        }
        "items" | "not" => write(w.key(name), value, field, losses),
        _ => w.quoted_key(name).json(value),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn json(text: &'static str) -> Json {
        Json::read(&Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn a_schema_keeps_its_order_and_loses_only_what_is_refused() {
        let schema = json(
            r#"{"type":"object","$schema":"x","properties":{"$ref":{"type":"integer","minimum":1},"a":{"type":"array","items":{"type":"string","maxLength":3}}},"required":["a"],"additionalProperties":true}"#,
        );
        let mut losses = Losses::default();
        let written = for_anthropic(&schema, "schema", &mut losses);
        assert_eq!(
            written.raw(),
            r#"{"type":"object","properties":{"$ref":{"type":"integer"},"a":{"type":"array","items":{"type":"string"}}},"required":["a"],"additionalProperties":false}"#
        );
        assert_eq!(losses.fields(), "schema.$schema, schema.minimum, schema.maxLength, schema.additionalProperties");
    }

    #[test]
    fn a_tool_has_an_object_at_its_root() {
        assert_eq!(of_tool(None).raw(), r#"{"type":"object","properties":{}}"#);
        assert_eq!(of_tool(Some(&json("{}"))).raw(), r#"{"type":"object","properties":{}}"#);
        assert_eq!(of_tool(Some(&json(r#"{"properties":{}}"#))).raw(), r#"{"type":"object","properties":{}}"#);
        assert_eq!(of_tool(Some(&json(r#"{ "type": "object" }"#))).raw(), r#"{ "type": "object" }"#);
    }
}
