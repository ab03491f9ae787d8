//! JSON schemas and the two forms in which Gemini takes them.
//!
//! Newer models take most of JSON schema as it is. Older ones take Google's own form, a part of OpenAPI 3.0: no references, one
//! type with `nullable`, few keywords. Both ways are pure functions of the text.

use std::collections::HashSet;

use super::super::text::{Json, Writer};
use crate::json::Kind;

/// Deepest nesting that is written; what lies below is left open.
const DEPTH_MAX: usize = 32;
/// Most values that are written, so that references cannot multiply a schema without end.
const NODES_MAX: usize = 4096;

/// Keywords of Google's form whose values pass as they are.
const PLAIN: &[&str] = &[
    "title",
    "description",
    "nullable",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "pattern",
    "required",
    "propertyOrdering",
    "example",
];

/// Keywords that say something about a schema and nothing about values: leaving them out loses nothing.
const SILENT: &[&str] = &["$schema", "$id", "$comment", "$defs", "definitions", "$anchor"];

/// A schema in Google's own form. Tells in `lost` which keywords were left out.
pub(super) fn to_google(schema: &Json, lost: &mut HashSet<String>) -> Json {
    let mut writer = Writer::new();
    let mut google = Google { root: schema, nodes: 0, lost };
    google.schema(schema, 0, false, &mut writer);
    Json::written(writer)
}

struct Google<'a> {
    root: &'a Json,
    nodes: usize,
    lost: &'a mut HashSet<String>,
}

impl Google<'_> {
    fn schema(&mut self, schema: &Json, depth: usize, nullable: bool, w: &mut Writer) {
        self.nodes += 1;
        if depth > DEPTH_MAX || self.nodes > NODES_MAX || schema.kind() != Kind::Object {
            if schema.kind() == Kind::Object {
                self.lost.insert("$ref".to_owned());
            }
            // `true` allows everything, and so does a schema that is cut off here.
            return w.object(|w| w.key("type").word("OBJECT"));
        }
        let mut fields = schema.fields();
        if let Some(target) = fields.string("$ref") {
            return match self.resolve(&target) {
                Some(target) => self.schema(&target, depth + 1, nullable, w),
                None => w.object(|w| w.key("type").word("OBJECT")),
            };
        }
        let (types, has_null) = types(fields.take("type"));
        let options = ["anyOf", "oneOf"].iter().find_map(|name| fields.take(name));
        let options: Vec<Json> = options.iter().flat_map(Json::elements).collect();
        let (nulls, mut options): (Vec<Json>, Vec<Json>) = options.into_iter().partition(is_null_schema);
        let nullable = nullable || has_null || !nulls.is_empty();
        if options.len() == 1 && types.is_empty() {
            let only = options.remove(0);
            return self.schema(&only, depth + 1, nullable, w);
        }
        w.object(|w| {
            match &types[..] {
                [one] => w.key("type").string(&one.to_uppercase()),
                [] => {}
                several => w.key("anyOf").list(|w| {
                    several.iter().for_each(|one| w.object(|w| w.key("type").string(&one.to_uppercase())));
                }),
            }
            if nullable {
                w.key("nullable").boolean(true);
            }
            if !options.is_empty() && types.len() < 2 {
                w.key("anyOf").list(|w| options.iter().for_each(|option| self.schema(option, depth + 1, false, w)));
            }
            for (name, value) in fields.rest() {
                self.member(&name, &value, depth, w);
            }
        });
    }

    fn member(&mut self, name: &str, value: &Json, depth: usize, w: &mut Writer) {
        match name {
            "properties" => {
                w.key("properties").object(|w| {
                    for (property, schema) in value.fields().rest() {
                        w.quoted_key(&property);
                        self.schema(&schema, depth + 1, false, w);
                    }
                });
            }
            "items" => {
                w.key("items");
                self.schema(value, depth + 1, false, w);
            }
            "enum" => w.key("enum").list(|w| value.elements().iter().for_each(|one| w.string(&as_text(one)))),
            "const" => w.key("enum").list(|w| w.string(&as_text(value))),
            "format" if is_known_format(value) => w.key("format").json(value),
            name if PLAIN.contains(&name) => w.key(name).json(value),
            "exclusiveMinimum" => w.key("minimum").json(value),
            "exclusiveMaximum" => w.key("maximum").json(value),
            "additionalProperties" if value.boolean() == Some(false) => {}
            name if SILENT.contains(&name) => {}
            name => {
                self.lost.insert(name.to_owned());
            }
        }
    }

    /// The schema that a reference inside the document means.
    fn resolve(&self, reference: &str) -> Option<Json> {
        let mut at = self.root.clone();
        for step in reference.strip_prefix('#')?.split('/').filter(|step| !step.is_empty()) {
            at = at.fields().take(&step.replace("~1", "/").replace("~0", "~"))?;
        }
        Some(at)
    }
}

/// The types other than `null`, and whether `null` is one of them.
fn types(value: Option<Json>) -> (Vec<String>, bool) {
    let Some(value) = value else { return (Vec::new(), false) };
    let named = match value.string() {
        Some(one) => vec![one],
        None => value.elements().iter().filter_map(Json::string).collect(),
    };
    let has_null = named.iter().any(|name| name == "null");
    (named.into_iter().filter(|name| name != "null").collect(), has_null)
}

fn is_null_schema(schema: &Json) -> bool {
    schema.fields().string("type").as_deref() == Some("null")
}

fn is_known_format(format: &Json) -> bool {
    matches!(format.string().as_deref(), Some("enum" | "date-time" | "int32" | "int64" | "float" | "double"))
}

fn as_text(value: &Json) -> String {
    value.string().unwrap_or_else(|| String::from_utf8_lossy(value.raw()).into_owned())
}

/// A schema that newer models take: JSON schema without the keywords that only name it.
pub(super) fn for_new_models(schema: &Json) -> Json {
    if schema.kind() != Kind::Object {
        return schema.clone();
    }
    let mut fields = schema.fields();
    ["$schema", "$id", "$comment"].iter().for_each(|name| drop(fields.take_any(name)));
    let mut writer = Writer::new();
    writer.object(|w| fields.rest().for_each(|(name, value)| w.quoted_key(&name).json(&value)));
    Json::written(writer)
}

/// JSON schema from Google's own form: types in lower case, `nullable` as a second type.
pub(super) fn to_json_schema(schema: &Json) -> Json {
    let mut writer = Writer::new();
    write_standard(schema, 0, &mut writer);
    Json::written(writer)
}

fn write_standard(schema: &Json, depth: usize, w: &mut Writer) {
    if schema.kind() != Kind::Object || depth > DEPTH_MAX {
        return w.object(|_| {});
    }
    let mut fields = schema.fields();
    let nullable = fields.take("nullable").and_then(|value| value.boolean()).unwrap_or(false);
    w.object(|w| {
        for (name, value) in fields.rest() {
            match name.as_str() {
                "type" => {
                    let lower = value.string().unwrap_or_default().to_lowercase();
                    w.key("type");
                    match nullable {
                        false => w.string(&lower),
                        true => w.list(|w| {
                            w.string(&lower);
                            w.string("null");
                        }),
                    }
                }
                "properties" => w.key("properties").object(|w| {
                    for (property, schema) in value.fields().rest() {
                        w.quoted_key(&property);
                        write_standard(&schema, depth + 1, w);
                    }
                }),
                "items" => {
                    w.key("items");
                    write_standard(&value, depth + 1, w);
                }
                "anyOf" | "any_of" => w.key("anyOf").list(|w| {
                    value.elements().iter().for_each(|option| write_standard(option, depth + 1, w));
                }),
                // Numbers that Google writes as strings.
                "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties" => {
                    if let Ok(count) = as_text(&value).parse() {
                        w.key(&name).integer(count);
                    }
                }
                // What other vendors do not know.
                "propertyOrdering" | "property_ordering" => {}
                _ => {
                    w.quoted_key(&name);
                    w.json(&value);
                }
            }
        }
    });
}
