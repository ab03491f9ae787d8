//! Values that satisfy a JSON schema.
//!
//! Understood: types and lists of types, `enum`, `const`, `properties`, `required`, `additionalProperties` and `minProperties`,
//! `items`, `prefixItems`, `minItems`, `uniqueItems`, lengths, ranges and `multipleOf` of numbers, the common string formats,
//! `anyOf`, `oneOf`, `allOf`, `$ref` within the document, boolean schemas. Left out: `pattern`, `not`, `if`, references to
//! other documents; a value is made as if they were not there.

use serde_json::{Map, Value, json};

/// Below this depth only what is required is made.
const DEPTH_FULL: usize = 4;
/// Here even a schema that requires itself ends, with null.
const DEPTH_MAX: usize = 32;
/// Longest array or text made because a schema asks for a minimum.
const LENGTH_MAX: u64 = 10_000;

/// Makes values for one schema. What the user wrote lends its words to them.
pub(crate) struct Maker<'a> {
    root: &'a Value,
    user: &'a str,
    rng: fastrand::Rng,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(root: &'a Value, user: &'a str, seed: u64) -> Self {
        Self { root, user, rng: fastrand::Rng::with_seed(seed) }
    }

    /// A value for the whole schema.
    pub(crate) fn value(&mut self) -> Value {
        self.make(self.root, "", 0)
    }

    fn make(&mut self, schema: &Value, name: &str, depth: usize) -> Value {
        let Some(schema) = schema.as_object() else {
            // `true`, and anything that is no schema, allows everything.
            return Value::String(self.words(name));
        };
        if depth > DEPTH_MAX {
            return Value::Null;
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            return match self.resolve(target) {
                Some(schema) => self.make(schema, name, depth + 1),
                None => Value::Null,
            };
        }
        if let Some(constant) = schema.get("const") {
            return constant.clone();
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array).filter(|values| !values.is_empty()) {
            return self.choice(values).clone();
        }
        if let Some(all) = schema.get("allOf").and_then(Value::as_array) {
            return self.make(&Value::Object(self.merged(schema, all)), name, depth + 1);
        }
        for key in ["anyOf", "oneOf"] {
            if let Some(options) = schema.get(key).and_then(Value::as_array).filter(|options| !options.is_empty()) {
                return self.alternative(schema, key, options, name, depth);
            }
        }
        match kind(schema, depth) {
            "object" => self.object(schema, depth),
            "array" => self.array(schema, name, depth),
            "integer" => integer(schema, &mut self.rng),
            "number" => number(schema, &mut self.rng),
            "boolean" => Value::Bool(self.rng.bool()),
            "null" => Value::Null,
            _ => Value::String(self.string(schema, name)),
        }
    }

    fn resolve(&self, target: &str) -> Option<&'a Value> {
        let pointer = target.strip_prefix('#')?;
        self.root.pointer(pointer)
    }

    /// The schema behind a chain of references.
    fn followed<'s>(&self, mut schema: &'s Value) -> &'s Value
    where
        'a: 's,
    {
        for _ in 0..DEPTH_MAX {
            match schema.get("$ref").and_then(Value::as_str).and_then(|target| self.resolve(target)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    /// A member of an `enum`; one that the user mentioned, if there is one.
    fn choice<'v>(&mut self, values: &'v [Value]) -> &'v Value {
        let user = self.user.to_lowercase();
        let mentioned = values.iter().find(|value| value.as_str().is_some_and(|v| user.contains(&v.to_lowercase())));
        mentioned.unwrap_or(&values[self.rng.usize(..values.len())])
    }

    /// One of several schemas. Deep down the simplest is taken, so that a schema that contains itself comes to an end.
    fn alternative(
        &mut self,
        schema: &Map<String, Value>,
        key: &str,
        options: &[Value],
        name: &str,
        depth: usize,
    ) -> Value {
        let option = if depth >= DEPTH_FULL {
            options.iter().min_by_key(|option| complexity(option)).expect("not empty")
        } else {
            // Absent values are dull: null only where nothing else is offered.
            let is_null = |option: &Value| option.get("type").is_some_and(|kind| kind == "null");
            options.iter().find(|option| !is_null(option)).unwrap_or(&options[0])
        };
        let mut base = schema.clone();
        base.remove(key);
        let merged = self.merged(&base, std::slice::from_ref(option));
        self.make(&Value::Object(merged), name, depth + 1)
    }

    /// One schema out of several that must all hold: properties and requirements are joined, other keys overwritten.
    fn merged(&self, base: &Map<String, Value>, parts: &[Value]) -> Map<String, Value> {
        let mut merged = base.clone();
        merged.remove("allOf");
        for part in parts {
            let part = self.followed(part);
            let Some(part) = part.as_object() else { continue };
            for (key, value) in part {
                match (merged.get_mut(key), value) {
                    (Some(Value::Object(into)), Value::Object(from)) => into.extend(from.clone()),
                    (Some(Value::Array(into)), Value::Array(from)) if key == "required" => into.extend(from.clone()),
                    _ => {
                        merged.insert(key.clone(), value.clone());
                    }
                }
            }
        }
        merged
    }

    fn object(&mut self, schema: &Map<String, Value>, depth: usize) -> Value {
        let none = Map::new();
        let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
        let required: Vec<&str> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let mut object = Map::new();
        for (name, property) in properties {
            if depth < DEPTH_FULL || required.contains(&name.as_str()) {
                object.insert(name.clone(), self.make(property, name, depth + 1));
            }
        }
        let additional = schema.get("additionalProperties").unwrap_or(&Value::Bool(true));
        for name in required {
            if !object.contains_key(name) {
                object.insert(name.to_owned(), self.make(additional, name, depth + 1));
            }
        }
        let minimum = bound(schema, "minProperties").unwrap_or(0).min(LENGTH_MAX);
        let typed_map = additional.is_object() && depth < DEPTH_FULL && properties.is_empty();
        let minimum = minimum.max(u64::from(typed_map));
        for i in 1.. {
            if object.len() as u64 >= minimum || *additional == Value::Bool(false) {
                break;
            }
            let name = format!("key_{i}");
            let value = self.make(additional, &name, depth + 1);
            object.entry(name).or_insert(value);
        }
        Value::Object(object)
    }

    fn array(&mut self, schema: &Map<String, Value>, name: &str, depth: usize) -> Value {
        let minimum = bound(schema, "minItems").unwrap_or(0).min(LENGTH_MAX);
        let maximum = bound(schema, "maxItems").unwrap_or(u64::MAX);
        let prefix = schema.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let rest = schema.get("items").unwrap_or(&Value::Bool(true));
        let free = prefix.is_empty() && *rest != Value::Bool(false) && depth < DEPTH_FULL;
        let wanted = if free { self.rng.u64(1..=3) } else { 0 };
        let length = wanted.max(prefix.len() as u64).max(minimum).min(maximum);
        let unique = schema.get("uniqueItems") == Some(&Value::Bool(true));
        let mut items: Vec<Value> = Vec::new();
        // A set may have fewer members than tries: booleans have two.
        for _ in 0..length * 4 {
            if items.len() as u64 == length {
                break;
            }
            let item = self.make(prefix.get(items.len()).unwrap_or(rest), name, depth + 1);
            if !unique || !items.contains(&item) {
                items.push(item);
            }
        }
        Value::Array(items)
    }

    fn string(&mut self, schema: &Map<String, Value>, name: &str) -> String {
        if let Some(text) = schema.get("format").and_then(Value::as_str).and_then(|format| self.formatted(format)) {
            return text;
        }
        let mut text = self.words(name);
        let shortest = bound(schema, "minLength").unwrap_or(0).min(LENGTH_MAX) as usize;
        let longest = bound(schema, "maxLength").map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
        let mut length = text.chars().count();
        while length < shortest {
            text.push(char::from(self.rng.u8(b'a'..=b'z')));
            length += 1;
        }
        if length > longest {
            text = text.chars().take(longest).collect();
        }
        text
    }

    fn formatted(&mut self, format: &str) -> Option<String> {
        let (month, day) = (self.rng.u8(1..=12), self.rng.u8(1..=28));
        let (hour, minute) = (self.rng.u8(..24), self.rng.u8(..60));
        Some(match format {
            "date" => format!("2026-{month:02}-{day:02}"),
            "time" => format!("{hour:02}:{minute:02}:00Z"),
            "date-time" => format!("2026-{month:02}-{day:02}T{hour:02}:{minute:02}:00Z"),
            "duration" => format!("PT{minute}M"),
            "email" | "idn-email" => "ada@example.com".to_owned(),
            "hostname" | "idn-hostname" => "berry.example.com".to_owned(),
            "ipv4" => format!("192.0.2.{day}"),
            "ipv6" => format!("2001:db8::{day}"),
            "uri" | "url" | "iri" | "uri-reference" => format!("https://example.com/{day}"),
            "uuid" => {
                let n = self.rng.u128(..);
                let (a, b, c, d) = (n >> 96 & 0xffff_ffff, n >> 80 & 0xffff, n >> 64 & 0xfff, n & 0xffff_ffff_ffff);
                format!("{a:08x}-{b:04x}-4{c:03x}-8{:03x}-{d:012x}", n >> 52 & 0xfff)
            }
            _ => return None,
        })
    }

    /// A text that fits the name of its property.
    fn words(&mut self, name: &str) -> String {
        let name = name.to_lowercase();
        let is = |words: &[&str]| words.iter().any(|word| name.contains(word));
        if is(&["city", "location", "place", "country", "destination", "origin"]) {
            return self.place().unwrap_or_else(|| "Paris".to_owned());
        }
        let fixed = if is(&["email"]) {
            "ada@example.com"
        } else if is(&["query", "question", "text", "prompt", "message", "input"]) && !self.user.trim().is_empty() {
            return crate::text::excerpt(self.user, 80);
        } else if is(&["date"]) {
            "2026-05-17"
        } else if is(&["timezone", "time_zone"]) {
            "Europe/Paris"
        } else if is(&["time"]) {
            "12:30"
        } else if is(&["url", "link"]) {
            "https://example.com/"
        } else if is(&["currency"]) {
            "EUR"
        } else if is(&["name", "author", "person"]) {
            "Ada Lovelace"
        } else if is(&["color", "colour"]) {
            "berry red"
        } else {
            const ANY: &[&str] = &["berry", "a basket of berries", "sweet and sour", "demo", "freshly picked"];
            ANY[self.rng.usize(..ANY.len())]
        };
        fixed.to_owned()
    }

    /// A place that the user named: the capitalised words after "in", "to", "for" or "at".
    fn place(&self) -> Option<String> {
        let words: Vec<&str> = self.user.split_whitespace().collect();
        let after = words.iter().position(|word| matches!(*word, "in" | "to" | "for" | "at" | "of"))?;
        let capitalised = |word: &&str| word.chars().next().is_some_and(char::is_uppercase);
        let place: Vec<&str> = words[after + 1..]
            .iter()
            .copied()
            .take_while(capitalised)
            .map(|word| word.trim_end_matches(|c: char| !c.is_alphanumeric()))
            .collect();
        (!place.is_empty()).then(|| place.join(" "))
    }
}

/// The type to make: the first that is listed, or what the other keys imply. Deep down null is preferred where it is allowed.
fn kind(schema: &Map<String, Value>, depth: usize) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) => {
            let names = || kinds.iter().filter_map(Value::as_str);
            if depth >= DEPTH_FULL && names().any(|name| name == "null") {
                return "null";
            }
            names().find(|name| *name != "null").unwrap_or("null")
        }
        _ if schema.contains_key("properties") || schema.contains_key("required") => "object",
        _ if schema.contains_key("items") || schema.contains_key("prefixItems") => "array",
        _ if schema.contains_key("minimum") || schema.contains_key("maximum") => "number",
        _ => "string",
    }
}

/// How likely a schema is to go deeper.
fn complexity(schema: &Value) -> usize {
    match schema.get("type").and_then(Value::as_str) {
        Some("null") => 0,
        Some("object") => 3,
        Some("array") => 2,
        Some(_) => 1,
        None if schema.get("$ref").is_some() => 4,
        None => 1,
    }
}

fn bound(schema: &Map<String, Value>, key: &str) -> Option<u64> {
    schema.get(key).and_then(Value::as_u64)
}

/// The range of a number: its lowest and highest value where there are limits. Limits that are themselves excluded are moved
/// by `step`.
fn range(schema: &Map<String, Value>, step: f64) -> (Option<f64>, Option<f64>) {
    let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
    let tighter = |a: Option<f64>, b: Option<f64>, pick: fn(f64, f64) -> f64| match (a, b) {
        (Some(a), Some(b)) => Some(pick(a, b)),
        (a, b) => a.or(b),
    };
    let low = tighter(limit("minimum"), limit("exclusiveMinimum").map(|low| low + step), f64::max);
    let high = tighter(limit("maximum"), limit("exclusiveMaximum").map(|high| high - step), f64::min);
    (low, high)
}

fn integer(schema: &Map<String, Value>, rng: &mut fastrand::Rng) -> Value {
    let (low, high) = range(schema, 1.0);
    let multiple = schema.get("multipleOf").and_then(Value::as_f64).map_or(1, |step| (step.ceil() as i64).max(1));
    let low = low.map(|low| low.ceil() as i64);
    let high = high.map(|high| high.floor() as i64);
    let (low, high) = match (low, high) {
        (Some(low), Some(high)) => (low, high.max(low)),
        (Some(low), None) => (low, low.saturating_add(99.max(multiple))),
        (None, Some(high)) => (high.saturating_sub(99.max(multiple)), high),
        (None, None) => (1, 99.max(multiple)),
    };
    let n = rng.i64(low..=high);
    // The multiple at or below, unless that falls out of the range.
    let below = n.div_euclid(multiple) * multiple;
    json!(if below < low { below + multiple } else { below })
}

fn number(schema: &Map<String, Value>, rng: &mut fastrand::Rng) -> Value {
    let (low, high) = range(schema, f64::EPSILON);
    if let Some(step) = schema.get("multipleOf").and_then(Value::as_f64).filter(|step| *step > 0.0) {
        let steps = match (low, high) {
            (Some(low), _) => (low / step).ceil(),
            (None, Some(high)) => (high / step).floor(),
            (None, None) => f64::from(rng.u8(1..=9)),
        };
        return json!(steps * step);
    }
    let (low, high) = match (low, high) {
        (Some(low), Some(high)) => (low, high),
        (Some(low), None) => (low, low + 100.0),
        (None, Some(high)) => (high - 100.0, high),
        (None, None) => (0.0, 100.0),
    };
    // Two decimals look natural; where the range is narrower than that, its middle.
    let middle = low + (high - low) * (0.25 + rng.f64() / 2.0);
    let rounded = (middle * 100.0).round() / 100.0;
    json!(if rounded > low && rounded < high { rounded } else { low + (high - low) / 2.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::check::violations;

    /// Every value made for the schema satisfies it, for many seeds.
    #[track_caller]
    fn check(schema: &Value) {
        for seed in 0..200 {
            let value = Maker::new(schema, "What is the weather in New York?", seed).value();
            let wrong = violations(schema, schema, &value);
            assert!(wrong.is_empty(), "seed {seed}: {value} breaks {wrong:?}");
        }
    }

    #[test]
    fn values_of_every_type_satisfy_their_schema() {
        check(
            &json!({"type": "object", "additionalProperties": false, "required": ["s", "n", "i", "b", "z", "a", "o", "e", "c"],
            "properties": {
                "s": {"type": "string"}, "n": {"type": "number"}, "i": {"type": "integer"}, "b": {"type": "boolean"},
                "z": {"type": "null"}, "a": {"type": "array", "items": {"type": "integer"}},
                "o": {"type": "object", "properties": {"x": {"type": ["string", "null"]}}, "required": ["x"]},
                "e": {"enum": ["celsius", "fahrenheit", 3, null]}, "c": {"const": {"k": [1, 2]}},
            }}),
        );
    }

    #[test]
    fn ranges_of_numbers_are_kept() {
        for bounds in [
            json!({"minimum": 3, "maximum": 4}),
            json!({"exclusiveMinimum": 0, "exclusiveMaximum": 2}),
            json!({"minimum": -7, "multipleOf": 5}),
            json!({"maximum": -1000}),
            json!({"minimum": 100, "maximum": 200, "multipleOf": 25}),
            json!({}),
        ] {
            for kind in ["integer", "number"] {
                let mut schema = bounds.clone();
                schema["type"] = json!(kind);
                check(&schema);
            }
        }
        check(&json!({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001}));
        check(&json!({"type": "number", "minimum": 1, "multipleOf": 2.5}));
    }

    #[test]
    fn lengths_and_counts_are_kept() {
        check(&json!({"type": "string", "minLength": 40, "maxLength": 41}));
        check(&json!({"type": "string", "maxLength": 3}));
        check(&json!({"type": "array", "minItems": 5, "maxItems": 5, "items": {"type": "boolean"}}));
        check(&json!({"type": "array", "maxItems": 0, "items": {"type": "boolean"}}));
        check(&json!({"type": "array", "uniqueItems": true, "minItems": 3, "items": {"type": "integer"}}));
        check(&json!({"type": "array", "prefixItems": [{"type": "string"}, {"type": "integer"}], "items": false}));
        check(&json!({"type": "object", "minProperties": 3, "additionalProperties": {"type": "integer"}}));
    }

    #[test]
    fn formats_of_strings_are_kept() {
        for format in ["date", "time", "date-time", "email", "uuid", "ipv4", "uri"] {
            check(&json!({"type": "string", "format": format}));
        }
    }

    #[test]
    fn alternatives_and_conjunctions_are_kept() {
        check(&json!({"anyOf": [{"type": "null"}, {"type": "integer"}]}));
        check(&json!({"type": "object", "oneOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}]}));
        check(&json!({"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"properties": {"b": {"type": "integer"}}, "required": ["b"]}]}));
        check(
            &json!({"$defs": {"base": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}},
            "allOf": [{"$ref": "#/$defs/base"}, {"required": ["b"], "properties": {"b": {"type": "null"}}}]}),
        );
    }

    #[test]
    fn schemas_that_contain_themselves_come_to_an_end() {
        check(
            &json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["value", "next", "children"],
            "additionalProperties": false, "properties": {"value": {"type": "integer"},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}}}),
        );
        // This one has no finite value at all.
        let endless = json!({"type": "object", "properties": {"me": {"$ref": "#"}}, "required": ["me"]});
        assert!(Maker::new(&endless, "", 1).value().is_object());
    }

    #[test]
    fn schemas_that_are_none_are_survived() {
        for schema in
            [json!(null), json!(7), json!(true), json!({"$ref": "#/nowhere"}), json!({"enum": []}), json!({"type": []})]
        {
            Maker::new(&schema, "", 1).value();
        }
    }

    #[test]
    fn the_user_lends_words() {
        let schema = json!({"type": "object", "properties": {"location": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}}});
        let value = Maker::new(&schema, "Weather in New York, in fahrenheit please", 1).value();
        assert_eq!(value, json!({"location": "New York", "unit": "fahrenheit"}));
    }
}

#[cfg(test)]
pub(crate) mod check {
    //! A small independent reading of JSON Schema, so that what is made is judged by other rules than those that made it.

    use serde_json::Value;

    /// What is wrong with a value, as paths and rules.
    pub(crate) fn violations(root: &Value, schema: &Value, value: &Value) -> Vec<String> {
        let mut wrong = Vec::new();
        walk(root, schema, value, "$", &mut wrong);
        wrong
    }

    fn walk(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        if *schema == Value::Bool(false) {
            wrong.push(format!("{at}: nothing is allowed"));
        }
        let Some(rules) = schema.as_object() else { return };
        let fits = |schema: &Value| violations(root, schema, value).is_empty();
        let n = value.as_f64();
        for (rule, limit) in rules {
            let ok = match rule.as_str() {
                "$ref" => fits(root.pointer(limit.as_str().unwrap().strip_prefix('#').unwrap()).unwrap()),
                "type" => match limit {
                    Value::Array(kinds) => kinds.iter().any(|kind| is(kind, value)),
                    kind => is(kind, value),
                },
                "const" => limit == value,
                "enum" => limit.as_array().unwrap().contains(value),
                "anyOf" => limit.as_array().unwrap().iter().any(fits),
                "oneOf" => limit.as_array().unwrap().iter().filter(|schema| fits(schema)).count() == 1,
                "allOf" => limit.as_array().unwrap().iter().all(fits),
                "minimum" => n.is_none_or(|n| n >= limit.as_f64().unwrap()),
                "maximum" => n.is_none_or(|n| n <= limit.as_f64().unwrap()),
                "exclusiveMinimum" => n.is_none_or(|n| n > limit.as_f64().unwrap()),
                "exclusiveMaximum" => n.is_none_or(|n| n < limit.as_f64().unwrap()),
                "multipleOf" => n.is_none_or(|n| (n / limit.as_f64().unwrap()).fract() == 0.0),
                "minLength" => value.as_str().is_none_or(|s| s.chars().count() >= limit.as_u64().unwrap() as usize),
                "maxLength" => value.as_str().is_none_or(|s| s.chars().count() <= limit.as_u64().unwrap() as usize),
                "minItems" => value.as_array().is_none_or(|a| a.len() >= limit.as_u64().unwrap() as usize),
                "maxItems" => value.as_array().is_none_or(|a| a.len() <= limit.as_u64().unwrap() as usize),
                "uniqueItems" => value.as_array().is_none_or(|a| (1..a.len()).all(|i| !a[..i].contains(&a[i]))),
                "minProperties" => value.as_object().is_none_or(|o| o.len() >= limit.as_u64().unwrap() as usize),
                "required" => value.as_object().is_none_or(|object| {
                    limit.as_array().unwrap().iter().all(|name| object.contains_key(name.as_str().unwrap()))
                }),
                "format" => value.as_str().is_none_or(|text| has_format(limit.as_str().unwrap(), text)),
                _ => true,
            };
            if !ok {
                wrong.push(format!("{at}: {rule} {limit}"));
            }
        }
        children(root, schema, value, at, wrong);
    }

    fn children(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        for (name, member) in value.as_object().into_iter().flatten() {
            let known = schema.get("properties").and_then(|properties| properties.get(name));
            if let Some(schema) = known.or(schema.get("additionalProperties")) {
                walk(root, schema, member, &format!("{at}.{name}"), wrong);
            }
        }
        for (i, item) in value.as_array().into_iter().flatten().enumerate() {
            let known = schema.get("prefixItems").and_then(|prefix| prefix.get(i));
            if let Some(schema) = known.or(schema.get("items")) {
                walk(root, schema, item, &format!("{at}[{i}]"), wrong);
            }
        }
    }

    fn is(kind: &Value, value: &Value) -> bool {
        match kind.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("no such type: {other}"),
        }
    }

    /// Compares shapes: `9` stands for a digit, `h` for a hexadecimal one, everything else for itself.
    fn has_format(format: &str, text: &str) -> bool {
        let shape = match format {
            "date" => "9999-99-99",
            "time" => "99:99:99Z",
            "date-time" => "9999-99-99T99:99:99Z",
            "uuid" => "hhhhhhhh-hhhh-4hhh-8hhh-hhhhhhhhhhhh",
            "email" => return text.split_once('@').is_some_and(|(_, host)| host.contains('.')),
            "ipv4" => return text.parse::<std::net::Ipv4Addr>().is_ok(),
            "uri" => return text.parse::<http::Uri>().is_ok_and(|uri| uri.scheme().is_some()),
            other => panic!("no check for {other}"),
        };
        shape.len() == text.len()
            && shape.chars().zip(text.chars()).all(|(shape, c)| match shape {
                '9' => c.is_ascii_digit(),
                'h' => c.is_ascii_hexdigit(),
                fixed => fixed == c,
            })
    }
}
