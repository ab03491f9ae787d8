//! What a request means, read by other code than the codecs', and the comparator: two requests are equal when they mean the same
//! after what was declared as lost is taken from both.
//!
//! What counts as the same, beside the order of members:
//! - calls are told by their order, not by their ids; results stand before what else the user says, in the order of their calls;
//! - turns of one role that follow each other are one turn; in the model's turn thoughts come first, then its text as one, a
//!   refusal, and its calls;
//! - system texts before the conversation are one text with an empty line between them, texts of a result one with a line break;
//! - an effort is asked for with or without saying that the model thinks as it likes, which is what it does anyway; thoughts are
//!   shown unless they are asked not to be;
//! - the name of an answer's schema and what it is for may stand in the schema; a choice of tools that is left to the model, and
//!   that several may be called at once, may be left out;
//! - a penalty of nothing is none; one of a list of one tool is that tool;
//! - what a dialect insists on and means nothing: a file called `document.pdf`, a schema called `answer`, `detail: auto`, one
//!   answer, `strict: false`, no arguments as an empty object, a tool without arguments with or without a schema that says so,
//!   that a tool's arguments are an object.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Fields by name; one that is not there reads as `null`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub(crate) struct Map(BTreeMap<String, Value>);

impl Map {
    /// One field.
    pub(crate) fn of(name: &str, value: Value) -> Self {
        map([(name, value)])
    }
}

impl std::ops::Index<&str> for Map {
    type Output = Value;

    fn index(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }
}

impl std::ops::Deref for Map {
    type Target = BTreeMap<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl std::ops::DerefMut for Map {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// A request without its dialect.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Meaning {
    /// Fields of the request as a whole, by the names of [`berry_relay::dialect::loss`].
    pub(crate) settings: Map,
    /// Texts before the conversation.
    pub(crate) system: Vec<Map>,
    /// The conversation.
    pub(crate) parts: Vec<Map>,
    /// The tools.
    pub(crate) tools: Vec<Map>,
    /// The settings that the request has, as it is written.
    pub(crate) asked: Vec<String>,
}

fn map<const N: usize>(fields: [(&str, Value); N]) -> Map {
    Map(fields
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.to_owned(), value))
        .collect())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn cache(value: &Value) -> Value {
    match value["cache_control"]["ttl"].as_str() {
        _ if value["cache_control"].is_null() => Value::Null,
        Some("1h") => json!("1h"),
        _ => json!("5m"),
    }
}

/// The bytes of a `data:` address, or an address.
fn source_of_url(url: &Value) -> Value {
    let Some(text) = url.as_str() else { return Value::Null };
    match text.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((kind, data)) => json!({"type": kind, "data": data}),
        None => json!({"url": text}),
    }
}

fn text(role: &str, text: &Value, cache: Value) -> Map {
    map([("role", json!(role)), ("kind", json!("text")), ("text", text.clone()), ("cache", cache)])
}

fn parsed(arguments: &Value) -> Value {
    arguments.as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_else(|| arguments.clone())
}

fn call(id: &Value, name: &Value, arguments: Value, cache: Value) -> Map {
    map([
        ("role", json!("assistant")),
        ("kind", json!("call")),
        ("id", id.clone()),
        ("name", name.clone()),
        ("arguments", arguments),
        ("cache", cache),
    ])
}

fn tool(value: &Value, parameters: &Value, cache: Value) -> Map {
    map([
        ("name", value["name"].clone()),
        ("description", value["description"].clone()),
        ("parameters", parameters.clone()),
        ("strict", value["strict"].clone()),
        ("cache", cache),
    ])
}

impl Meaning {
    /// Reads a request of a dialect.
    pub(crate) fn read(dialect: &str, body: &Value) -> Self {
        let mut meaning = match dialect {
            "chat" => chat(body),
            "messages" => messages(body),
            "responses" => responses(body),
            _ => gemini(body),
        };
        meaning.asked = meaning.settings.keys().cloned().collect();
        meaning.settle();
        meaning
    }

    /// Whether it means what another one means.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.settings, &self.system, &self.parts, &self.tools)
            == (&other.settings, &other.system, &other.parts, &other.tools)
    }

    fn set(&mut self, name: &str, value: &Value) {
        if !value.is_null() {
            self.settings.insert(name.to_owned(), value.clone());
        }
    }

    fn set_all(&mut self, from: &Value, names: &[(&str, &str)]) {
        names.iter().for_each(|(own, name)| self.set(name, &from[*own]));
    }

    /// Brings what is equal into one form.
    fn settle(&mut self) {
        self.name_calls_by_order();
        for part in &mut self.parts {
            drop_if(part, "detail", &json!("auto"));
            drop_if(part, "name", &json!("document.pdf"));
            drop_if(part, "is_error", &json!(false));
            drop_if(part, "arguments", &json!({}));
        }
        self.parts.retain(|part| part["kind"] != "text" || part.get("text").is_some_and(|text| text != ""));
        let mut parts: Vec<Map> = Vec::new();
        let mut turn = 0;
        let mut role = Value::Null;
        for mut part in std::mem::take(&mut self.parts) {
            turn += usize::from(part["role"] != role);
            role = part["role"].clone();
            part.insert("turn".to_owned(), json!(turn));
            parts.push(part);
        }
        parts.sort_by_key(|part| (part["turn"].as_u64(), rank(part)));
        for mut part in parts {
            part.remove("turn");
            match self.parts.last_mut() {
                Some(last)
                    if part["kind"] == "text"
                        && part["role"] == "assistant"
                        && last["kind"] == "text"
                        && last["role"] == part["role"] =>
                {
                    let joined =
                        format!("{}{}", last["text"].as_str().unwrap_or(""), part["text"].as_str().unwrap_or(""));
                    last.insert("text".to_owned(), json!(joined));
                }
                _ => self.parts.push(part),
            }
        }
        self.system.retain(|block| block.get("text").is_some_and(|text| text != ""));
        for tool in &mut self.tools {
            drop_if(tool, "strict", &json!(false));
            if let Some(Value::Object(schema)) = tool.get_mut("parameters") {
                // Arguments are always an object.
                schema.retain(|name, value| name != "type" || value != "object");
            }
            if tool.get("parameters").is_some_and(says_nothing) {
                tool.remove("parameters");
            }
        }
        drop_if(&mut self.settings, "n", &json!(1));
        self.settle_thinking();
        if let Some(Value::Object(format)) = self.settings.get_mut("response_format") {
            let name = format.remove("name").filter(|name| name.is_string() && name != "answer");
            let description = format.remove("description").filter(Value::is_string);
            for (member, value) in [("title", name), ("description", description)] {
                if let (Some(value), Value::Object(schema)) = (value, &mut format["schema"]) {
                    schema.entry(member).or_insert(value);
                }
            }
            if let Some(schema) =
                format["schema"].as_object_mut().filter(|schema| schema.get("title") == Some(&json!("answer")))
            {
                schema.remove("title");
            }
            if format.get("strict") == Some(&json!(false)) {
                format.remove("strict");
            }
            format.retain(|_, value| !value.is_null());
        }
        drop_if(&mut self.settings, "tool_choice", &json!("auto"));
        drop_if(&mut self.settings, "parallel_tool_calls", &json!(true));
        drop_if(&mut self.settings, "top_logprobs", &json!(0));
        if self.settings.get("tool_choice") == Some(&json!("none")) {
            self.settings.remove("parallel_tool_calls");
        }
        for name in ["presence_penalty", "frequency_penalty"] {
            self.settings.retain(|own, value| own != name || value.as_f64() != Some(0.0));
        }
        if let Some(choice) = self.settings.get_mut("tool_choice")
            && let ("required", Some([only])) =
                (choice["mode"].as_str().unwrap_or_default(), choice["one_of"].as_array().map(Vec::as_slice))
        {
            *choice = json!({"tool": only});
        }
        if self.tools.is_empty() {
            ["tool_choice", "parallel_tool_calls"].iter().for_each(|name| drop(self.settings.remove(*name)));
        }
        for setting in self.settings.values_mut() {
            if let Some(number) = setting.as_f64() {
                *setting = json!(number);
            }
        }
    }

    /// Takes out that objects are closed, for a form in which they always are.
    pub(crate) fn close_objects(&mut self) {
        fn close(schema: &mut Value) {
            match schema {
                Value::Object(members) => {
                    members.retain(|name, value| name != "additionalProperties" || value != false);
                    members.values_mut().for_each(close);
                }
                Value::Array(elements) => elements.iter_mut().for_each(close),
                _ => {}
            }
        }
        self.tools.iter_mut().filter_map(|tool| tool.get_mut("parameters")).for_each(close);
        self.settings.get_mut("response_format").into_iter().for_each(close);
    }

    fn settle_thinking(&mut self) {
        let settings = &mut self.settings;
        for name in ["adaptive", "summarized", "auto"] {
            ["thinking", "reasoning.summary"].iter().for_each(|setting| drop_if(settings, setting, &json!(name)));
        }
        drop_if(settings, "thinking", &json!(-1));
        drop_if(settings, "reasoning.summary", &json!(true));
        let is_off = [json!("disabled"), json!(0)].iter().any(|off| settings.get("thinking") == Some(off));
        if is_off || settings.get("reasoning_effort") == Some(&json!("none")) {
            settings.remove("reasoning_effort");
            settings.insert("thinking".to_owned(), json!("off"));
        }
        if settings.get("reasoning.summary") == Some(&json!("omitted")) {
            settings.insert("reasoning.summary".to_owned(), json!(false));
        }
    }

    fn name_calls_by_order(&mut self) {
        let (mut made, mut open): (u64, Vec<(Value, Value, u64)>) = (0, Vec::new());
        for part in &mut self.parts {
            match part["kind"].as_str() {
                Some("call") => {
                    made += 1;
                    let id = part.remove("id").unwrap_or_default();
                    open.push((id, part["name"].clone(), made));
                }
                Some("result") => {
                    let (id, name) = (part.remove("id").unwrap_or_default(), part.remove("name").unwrap_or_default());
                    let place =
                        open.iter().position(|(own, tool, _)| if id.is_null() { *tool == name } else { *own == id });
                    part.insert("call".to_owned(), json!(place.map(|place| open.remove(place).2)));
                }
                _ => {}
            }
        }
    }
}

/// The place of a part in its turn.
fn rank(part: &Map) -> (u8, u64) {
    match part["kind"].as_str() {
        Some("result") => (0, part["call"].as_u64().unwrap_or(0)),
        Some("thinking" | "redacted") => (1, 0),
        Some("refusal") => (3, 0),
        Some("call") => (4, 0),
        _ => (2, 0),
    }
}

fn drop_if(map: &mut Map, name: &str, value: &Value) {
    if map.get(name) == Some(value) {
        map.remove(name);
    }
}

/// Whether a schema of arguments allows no argument.
fn says_nothing(schema: &Value) -> bool {
    let Some(members) = schema.as_object() else { return false };
    members.iter().all(|(name, value)| match name.as_str() {
        "type" => value == "object",
        "properties" => *value == json!({}),
        "required" => *value == json!([]),
        "additionalProperties" => value == false,
        _ => false,
    })
}

fn format_of(value: &Value, schema: &Value) -> Value {
    json!({"name": value["name"], "description": value["description"], "strict": value["strict"], "schema": schema})
}

fn chat(body: &Value) -> Meaning {
    let mut meaning = Meaning::default();
    const SAME: &[&str] = &[
        "temperature",
        "top_p",
        "top_k",
        "n",
        "seed",
        "presence_penalty",
        "frequency_penalty",
        "logprobs",
        "top_logprobs",
        "service_tier",
        "prompt_cache_key",
        "parallel_tool_calls",
        "stop",
        "verbosity",
        "metadata",
        "store",
        "logit_bias",
        "modalities",
        "prediction",
        "web_search_options",
        "prompt_cache_retention",
        "user",
        "reasoning_effort",
    ];
    SAME.iter().for_each(|name| meaning.set(name, &body[*name]));
    meaning.set_all(body, &[("max_tokens", "max_tokens"), ("max_completion_tokens", "max_tokens")]);
    meaning.set("user", &body["safety_identifier"]);
    for message in list(&body["messages"]) {
        chat_message(message, &mut meaning);
    }
    for one in list(&body["tools"]) {
        let function = &one["function"];
        meaning.tools.push(tool(function, &function["parameters"], cache(one)));
    }
    meaning.set(
        "tool_choice",
        &match &body["tool_choice"] {
            choice if choice["type"] == "function" => json!({"tool": choice["function"]["name"]}),
            choice if choice["type"] == "allowed_tools" => {
                let names: Vec<&Value> =
                    list(&choice["allowed_tools"]["tools"]).map(|tool| &tool["function"]["name"]).collect();
                json!({"one_of": names, "mode": choice["allowed_tools"]["mode"]})
            }
            choice => choice.clone(),
        },
    );
    meaning.set(
        "response_format",
        &match body["response_format"]["type"].as_str() {
            Some("json_schema") => {
                let schema = &body["response_format"]["json_schema"];
                format_of(schema, &schema["schema"])
            }
            Some("json_object") => json!("json"),
            _ => Value::Null,
        },
    );
    meaning
}

fn chat_message(message: &Value, meaning: &mut Meaning) {
    let role = message["role"].as_str().unwrap_or_default();
    let content = &message["content"];
    let pieces: Vec<Map> = match content {
        Value::String(_) => vec![text(role, content, cache(message))],
        _ => list(content).map(|part| chat_part(role, part)).collect(),
    };
    match role {
        "system" | "developer" if meaning.parts.is_empty() => {
            meaning.system.extend(pieces.into_iter().map(|mut piece| {
                ["role", "kind"].iter().for_each(|name| drop(piece.remove(*name)));
                piece
            }));
        }
        "tool" => {
            let texts: Vec<&str> = pieces.iter().filter_map(|piece| piece["text"].as_str()).collect();
            let content = texts.join("\n");
            meaning.parts.push(map([
                ("role", json!("user")),
                ("kind", json!("result")),
                ("id", message["tool_call_id"].clone()),
                ("content", json!(content.strip_prefix("Error: ").unwrap_or(&content))),
                ("is_error", if content.starts_with("Error: ") { json!(true) } else { Value::Null }),
                ("cache", cache(message)),
            ]));
        }
        _ => {
            for block in list(&message["thinking_blocks"]) {
                meaning.parts.push(thought(&block["thinking"], &block["signature"], &block["data"]));
            }
            meaning.parts.extend(pieces.into_iter().map(|mut piece| {
                if role == "developer" {
                    piece.insert("role".to_owned(), json!("system"));
                }
                piece
            }));
            if let refusal @ Value::String(_) = &message["refusal"] {
                meaning.parts.push(refusal_of(refusal));
            }
            for one in list(&message["tool_calls"]) {
                let function = &one["function"];
                meaning.parts.push(call(&one["id"], &function["name"], parsed(&function["arguments"]), cache(one)));
            }
        }
    }
    if let name @ Value::String(_) = &message["name"] {
        meaning.settings.insert("messages.name".to_owned(), name.clone());
    }
}

fn refusal_of(words: &Value) -> Map {
    map([("role", json!("assistant")), ("kind", json!("refusal")), ("text", words.clone())])
}

fn thought(words: &Value, signature: &Value, data: &Value) -> Map {
    let kind = if data.is_null() { "thinking" } else { "redacted" };
    map([
        ("role", json!("assistant")),
        ("kind", json!(kind)),
        ("text", words.clone()),
        ("signature", signature.clone()),
        ("data", data.clone()),
    ])
}

fn chat_part(role: &str, part: &Value) -> Map {
    let file = &part["file"];
    match part["type"].as_str() {
        Some("image_url") => map([
            ("role", json!(role)),
            ("kind", json!("image")),
            ("source", source_of_url(&part["image_url"]["url"])),
            ("detail", part["image_url"]["detail"].clone()),
            ("cache", cache(part)),
        ]),
        Some("file") => map([
            ("role", json!(role)),
            ("kind", json!("document")),
            (
                "source",
                if file["file_id"].is_null() {
                    source_of_url(&file["file_data"])
                } else {
                    json!({"file": file["file_id"]})
                },
            ),
            ("name", file["filename"].clone()),
            ("cache", cache(part)),
        ]),
        Some("input_audio") => audio(role, &part["input_audio"]),
        Some("refusal") => refusal_of(&part["refusal"]),
        Some("text") => text(role, &part["text"], cache(part)),
        kind => map([("role", json!(role)), ("kind", json!("unknown")), ("type", json!(kind))]),
    }
}

fn audio(role: &str, audio: &Value) -> Map {
    map([
        ("role", json!(role)),
        ("kind", json!("audio")),
        ("data", audio["data"].clone()),
        ("format", audio["format"].clone()),
    ])
}

fn messages(body: &Value) -> Meaning {
    let mut meaning = Meaning::default();
    const SAME: &[&str] = &[
        "max_tokens",
        "temperature",
        "top_p",
        "top_k",
        "service_tier",
        "container",
        "mcp_servers",
        "context_management",
    ];
    SAME.iter().for_each(|name| meaning.set(name, &body[*name]));
    meaning.set_all(body, &[("stop_sequences", "stop")]);
    meaning.set("user", &body["metadata"]["user_id"]);
    meaning.set("reasoning_effort", &body["output_config"]["effort"]);
    meaning.set("reasoning.summary", &body["thinking"]["display"]);
    meaning.set(
        "thinking",
        &match body["thinking"]["type"].as_str() {
            Some("enabled") => body["thinking"]["budget_tokens"].clone(),
            Some(mode) => json!(mode),
            None => Value::Null,
        },
    );
    match &body["system"] {
        words @ Value::String(_) => meaning.system.push(map([("text", words.clone())])),
        blocks => meaning
            .system
            .extend(list(blocks).map(|block| map([("text", block["text"].clone()), ("cache", cache(block))]))),
    }
    for message in list(&body["messages"]) {
        let role = message["role"].as_str().unwrap_or_default();
        match &message["content"] {
            words @ Value::String(_) => meaning.parts.push(text(role, words, Value::Null)),
            blocks => meaning.parts.extend(list(blocks).map(|block| messages_block(role, block))),
        }
    }
    meaning.tools = list(&body["tools"]).map(|one| tool(one, &one["input_schema"], cache(one))).collect();
    let choice = &body["tool_choice"];
    meaning.set(
        "tool_choice",
        &match choice["type"].as_str() {
            Some("tool") => json!({"tool": choice["name"]}),
            Some("any") => json!("required"),
            Some(mode) => json!(mode),
            None => Value::Null,
        },
    );
    meaning.set(
        "parallel_tool_calls",
        &choice["disable_parallel_tool_use"].as_bool().map_or(Value::Null, |off| json!(!off)),
    );
    let schema = &body["output_config"]["format"]["schema"];
    if !schema.is_null() {
        meaning.set("response_format", &json!({"schema": schema, "strict": true}));
    }
    meaning
}

fn messages_block(role: &str, block: &Value) -> Map {
    let mut part = match block["type"].as_str() {
        Some("text") => text(role, &block["text"], Value::Null),
        Some("image") => {
            map([("role", json!(role)), ("kind", json!("image")), ("source", messages_source(&block["source"]))])
        }
        Some("document") => map([
            ("role", json!(role)),
            ("kind", json!("document")),
            ("source", messages_source(&block["source"])),
            ("name", block["title"].clone()),
            ("context", block["context"].clone()),
            ("citations", if block["citations"]["enabled"] == true { json!(true) } else { Value::Null }),
        ]),
        Some("tool_use") => call(&block["id"], &block["name"], block["input"].clone(), Value::Null),
        Some("tool_result") => {
            let mut part = map([
                ("role", json!("user")),
                ("kind", json!("result")),
                ("id", block["tool_use_id"].clone()),
                ("is_error", block["is_error"].clone()),
            ]);
            contents(&mut part, &block["content"], &|one| messages_block("user", one));
            part
        }
        Some("thinking") => thought(&block["thinking"], &block["signature"], &Value::Null),
        Some("redacted_thinking") => thought(&Value::Null, &Value::Null, &block["data"]),
        kind => map([("role", json!(role)), ("kind", json!("unknown")), ("type", json!(kind))]),
    };
    if let mark @ Value::String(_) = cache(block) {
        part.insert("cache".to_owned(), mark);
    }
    part
}

/// The content of a result: its texts as one, and what else is in it.
fn contents(part: &mut Map, content: &Value, read: &dyn Fn(&Value) -> Map) {
    let pieces: Vec<Map> = match content {
        Value::String(_) => vec![text("user", content, Value::Null)],
        _ => list(content).map(read).collect(),
    };
    let texts: Vec<&str> =
        pieces.iter().filter(|piece| piece["kind"] == "text").filter_map(|piece| piece["text"].as_str()).collect();
    part.insert("content".to_owned(), json!(texts.join("\n")));
    let mut rest: Vec<Map> = pieces.into_iter().filter(|piece| piece["kind"] != "text").collect();
    rest.iter_mut().for_each(|piece| drop_if(piece, "detail", &json!("auto")));
    if !rest.is_empty() {
        part.insert("media".to_owned(), json!(rest));
    }
}

fn messages_source(source: &Value) -> Value {
    match source["type"].as_str() {
        Some("base64") => json!({"type": source["media_type"], "data": source["data"]}),
        Some("url") => json!({"url": source["url"]}),
        Some("text") => json!({"text": source["data"]}),
        Some("file") => json!({"file": source["file_id"]}),
        _ => source.clone(),
    }
}

fn responses(body: &Value) -> Meaning {
    let mut meaning = Meaning::default();
    const SAME: &[&str] = &[
        "temperature",
        "top_p",
        "prompt_cache_key",
        "service_tier",
        "parallel_tool_calls",
        "metadata",
        "user",
        "background",
        "truncation",
        "max_tool_calls",
        "prompt",
    ];
    SAME.iter().for_each(|name| meaning.set(name, &body[*name]));
    meaning.set_all(body, &[("max_output_tokens", "max_tokens"), ("safety_identifier", "user")]);
    meaning.set("verbosity", &body["text"]["verbosity"]);
    meaning.set("reasoning_effort", &body["reasoning"]["effort"]);
    meaning.set("reasoning.summary", &body["reasoning"]["summary"]);
    if body["store"] == true {
        meaning.set("store", &body["store"]);
    }
    if let Some(top) = body["top_logprobs"].as_u64() {
        meaning.set("logprobs", &json!(true));
        meaning.set("top_logprobs", &json!(top));
    }
    if list(&body["include"]).any(|wanted| wanted == "message.output_text.logprobs") {
        meaning.set("logprobs", &json!(true));
    }
    if let words @ Value::String(_) = &body["instructions"] {
        meaning.system.push(map([("text", words.clone())]));
    }
    if let words @ Value::String(_) = &body["input"] {
        meaning.parts.push(text("user", words, Value::Null));
    }
    list(&body["input"]).for_each(|item| responses_item(item, &mut meaning));
    meaning.tools = list(&body["tools"]).map(|one| tool(one, &one["parameters"], Value::Null)).collect();
    meaning.set(
        "tool_choice",
        &match &body["tool_choice"] {
            choice if choice["type"] == "function" => json!({"tool": choice["name"]}),
            choice if choice["type"] == "allowed_tools" => {
                let names: Vec<&Value> = list(&choice["tools"]).map(|tool| &tool["name"]).collect();
                json!({"one_of": names, "mode": choice["mode"]})
            }
            choice => choice.clone(),
        },
    );
    let format = &body["text"]["format"];
    meaning.set(
        "response_format",
        &match format["type"].as_str() {
            Some("json_schema") => format_of(format, &format["schema"]),
            Some("json_object") => json!("json"),
            _ => Value::Null,
        },
    );
    meaning
}

fn responses_item(item: &Value, meaning: &mut Meaning) {
    match item["type"].as_str() {
        Some("message") | None => {
            let role = match item["role"].as_str() {
                Some("developer" | "system") => "system",
                Some("assistant") => "assistant",
                _ => "user",
            };
            let pieces: Vec<Map> = match &item["content"] {
                words @ Value::String(_) => vec![text(role, words, Value::Null)],
                parts => list(parts).map(|part| responses_part(role, part)).collect(),
            };
            if role == "system" && meaning.parts.is_empty() {
                meaning.system.extend(pieces.into_iter().map(|piece| map([("text", piece["text"].clone())])));
            } else {
                meaning.parts.extend(pieces);
            }
        }
        Some("function_call") => {
            meaning.parts.push(call(&item["call_id"], &item["name"], parsed(&item["arguments"]), Value::Null));
        }
        Some("function_call_output") => {
            let mut part = map([("role", json!("user")), ("kind", json!("result")), ("id", item["call_id"].clone())]);
            contents(&mut part, &item["output"], &|one| responses_part("user", one));
            if let Some(words) =
                part["content"].as_str().and_then(|words| words.strip_prefix("Error: ")).map(str::to_owned)
            {
                part.insert("content".to_owned(), json!(words));
                part.insert("is_error".to_owned(), json!(true));
            }
            meaning.parts.push(part);
        }
        Some("reasoning") => {
            let texts: Vec<&str> = list(&item["summary"]).filter_map(|piece| piece["text"].as_str()).collect();
            let (words, data) = (texts.join("\n\n"), &item["encrypted_content"]);
            meaning.parts.push(match words.is_empty() {
                true => thought(&Value::Null, &Value::Null, data),
                false => thought(&json!(words), data, &Value::Null),
            });
        }
        kind => {
            meaning.parts.push(map([("role", json!("assistant")), ("kind", json!("unknown")), ("type", json!(kind))]))
        }
    }
}

fn responses_part(role: &str, part: &Value) -> Map {
    match part["type"].as_str() {
        Some("input_text" | "output_text") => text(role, &part["text"], Value::Null),
        Some("refusal") => refusal_of(&part["refusal"]),
        Some("input_image") => map([
            ("role", json!(role)),
            ("kind", json!("image")),
            (
                "source",
                if part["file_id"].is_null() {
                    source_of_url(&part["image_url"])
                } else {
                    json!({"file": part["file_id"]})
                },
            ),
            ("detail", part["detail"].clone()),
        ]),
        Some("input_file") => map([
            ("role", json!(role)),
            ("kind", json!("document")),
            (
                "source",
                match (&part["file_data"], &part["file_url"]) {
                    (Value::Null, Value::Null) => json!({"file": part["file_id"]}),
                    (Value::Null, url) => json!({"url": url}),
                    (data, _) => source_of_url(data),
                },
            ),
            ("name", part["filename"].clone()),
        ]),
        Some("input_audio") => audio(role, &part["input_audio"]),
        kind => map([("role", json!(role)), ("kind", json!("unknown")), ("type", json!(kind))]),
    }
}

fn gemini(body: &Value) -> Meaning {
    let mut meaning = Meaning::default();
    let config = &body["generationConfig"];
    meaning.set_all(
        config,
        &[
            ("temperature", "temperature"),
            ("topP", "top_p"),
            ("topK", "top_k"),
            ("candidateCount", "n"),
            ("maxOutputTokens", "max_tokens"),
            ("stopSequences", "stop"),
            ("presencePenalty", "presence_penalty"),
            ("frequencyPenalty", "frequency_penalty"),
            ("seed", "seed"),
            ("responseLogprobs", "logprobs"),
            ("logprobs", "top_logprobs"),
            ("mediaResolution", "generationConfig.mediaResolution"),
            ("speechConfig", "generationConfig.speechConfig"),
            ("responseModalities", "generationConfig.responseModalities"),
        ],
    );
    meaning.set_all(
        body,
        &[("safetySettings", "safetySettings"), ("cachedContent", "cachedContent"), ("labels", "labels")],
    );
    let thinking = &config["thinkingConfig"];
    meaning.set("thinking", &thinking["thinkingBudget"]);
    meaning.set(
        "reasoning_effort",
        &thinking["thinkingLevel"].as_str().map_or(Value::Null, |level| json!(level.to_lowercase())),
    );
    meaning.set("reasoning.summary", &thinking["includeThoughts"]);
    let parts = list(&body["systemInstruction"]["parts"]);
    meaning.system = parts.map(|part| map([("text", part["text"].clone())])).collect();
    for content in list(&body["contents"]) {
        let role = if content["role"] == "model" { "assistant" } else { "user" };
        meaning.parts.extend(list(&content["parts"]).map(|part| gemini_part(role, part)));
    }
    for one in list(&body["tools"]).flat_map(|tool| list(&tool["functionDeclarations"])) {
        let parameters = if one["parameters"].is_null() {
            one["parametersJsonSchema"].clone()
        } else {
            lower_types(&one["parameters"])
        };
        meaning.tools.push(tool(one, &parameters, Value::Null));
    }
    let calling = &body["toolConfig"]["functionCallingConfig"];
    let names: Vec<&Value> = list(&calling["allowedFunctionNames"]).collect();
    meaning.set(
        "tool_choice",
        &match (calling["mode"].as_str(), &names[..]) {
            (Some("ANY"), []) => json!("required"),
            (Some("ANY"), [one]) => json!({"tool": one}),
            (Some("ANY"), several) => json!({"one_of": several, "mode": "required"}),
            (Some(mode), _) => json!(mode.to_lowercase()),
            (None, _) => Value::Null,
        },
    );
    let schema = if config["responseSchema"].is_null() {
        config["responseJsonSchema"].clone()
    } else {
        lower_types(&config["responseSchema"])
    };
    meaning.set(
        "response_format",
        &match (&schema, config["responseMimeType"].as_str()) {
            (Value::Null, Some("application/json")) => json!("json"),
            (Value::Null, _) => Value::Null,
            (schema, _) => json!({"schema": schema}),
        },
    );
    meaning
}

/// Google's own form of a schema as JSON schema.
fn lower_types(schema: &Value) -> Value {
    match schema {
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| match (name.as_str(), value) {
                ("type", Value::String(kind)) => (name.clone(), json!(kind.to_lowercase())),
                _ => (name.clone(), lower_types(value)),
            })
            .collect(),
        Value::Array(elements) => elements.iter().map(lower_types).collect(),
        other => other.clone(),
    }
}

fn gemini_part(role: &str, part: &Value) -> Map {
    let signature = &part["thoughtSignature"];
    if part["thought"] == true {
        return thought(&part["text"], signature, &Value::Null);
    }
    let mut read = match part {
        part if !part["text"].is_null() => text(role, &part["text"], Value::Null),
        part if !part["inlineData"].is_null() => {
            let (kind, data) = (&part["inlineData"]["mimeType"], &part["inlineData"]["data"]);
            medium(role, kind, json!({"type": kind, "data": data}))
        }
        part if !part["fileData"].is_null() => {
            medium(role, &part["fileData"]["mimeType"], json!({"url": part["fileData"]["fileUri"]}))
        }
        part if !part["functionCall"].is_null() => {
            let one = &part["functionCall"];
            call(&one["id"], &one["name"], one["args"].clone(), Value::Null)
        }
        part if !part["functionResponse"].is_null() => {
            let one = &part["functionResponse"];
            let response = &one["response"];
            let failed = !response["error"].is_null();
            let inside =
                ["error", "result", "output"].iter().map(|name| &response[*name]).find(|value| !value.is_null());
            let content = match inside.unwrap_or(response) {
                Value::String(words) => words.clone(),
                other => other.to_string(),
            };
            map([
                ("role", json!("user")),
                ("kind", json!("result")),
                ("id", one["id"].clone()),
                ("name", one["name"].clone()),
                ("content", json!(content)),
                ("is_error", if failed { json!(true) } else { Value::Null }),
            ])
        }
        part => map([
            ("role", json!(role)),
            ("kind", json!("unknown")),
            ("type", json!(part.as_object().and_then(|part| part.keys().next()))),
        ]),
    };
    if !signature.is_null() {
        read.insert("signature".to_owned(), signature.clone());
    }
    read
}

fn medium(role: &str, kind: &Value, source: Value) -> Map {
    let media = kind.as_str().unwrap_or_default();
    if let Some(format) = media.strip_prefix("audio/") {
        let format = if format == "mpeg" { "mp3" } else { format };
        return map([
            ("role", json!(role)),
            ("kind", json!("audio")),
            ("data", source["data"].clone()),
            ("format", json!(format)),
        ]);
    }
    let kind = if media.starts_with("image/") { "image" } else { "document" };
    map([("role", json!(role)), ("kind", json!(kind)), ("source", source)])
}
