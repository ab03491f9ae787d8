//! Requests as clients of each dialect write them, made up by proptest from one description of what is wanted.

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// What a request is to say; each dialect says as much of it as it can.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) system: Vec<(String, Mark)>,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) last: Vec<Piece>,
    pub(crate) tools: Vec<ToolWanted>,
    pub(crate) choice: Option<Choice>,
    pub(crate) numbers: Numbers,
    pub(crate) others: Others,
}

/// A cache mark: five minutes, an hour, none.
pub(crate) type Mark = Option<bool>;

/// What the user says and what comes back.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) asks: Vec<Piece>,
    pub(crate) interjection: Option<String>,
    pub(crate) thought: Option<String>,
    pub(crate) says: Option<String>,
    /// Name, arguments, result, whether it failed, and whether a picture is in the result.
    pub(crate) calls: Vec<(String, Value, String, bool, bool)>,
}

/// A piece of what the user says.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Text(String, Mark),
    Image { data: bool, detail: Option<&'static str>, mark: Mark },
    Pdf { name: Option<String>, context: Option<String>, citations: bool, mark: Mark },
    Note(String),
    Sound(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) struct ToolWanted {
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) schema: Option<Value>,
    pub(crate) strict: Option<bool>,
    pub(crate) mark: Mark,
}

#[derive(Clone, Debug)]
pub(crate) enum Choice {
    Auto,
    None,
    Required,
    Named,
    OneOf,
}

#[derive(Clone, Debug)]
pub(crate) struct Numbers {
    pub(crate) max_tokens: Option<u32>,
    pub(crate) temperature: Option<u8>,
    pub(crate) top_p: Option<u8>,
    pub(crate) top_k: Option<u8>,
    pub(crate) n: Option<u8>,
    pub(crate) seed: Option<i32>,
    pub(crate) penalties: (Option<i8>, Option<i8>),
    pub(crate) logprobs: Option<Option<u8>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Others {
    pub(crate) stop: Vec<String>,
    pub(crate) user: Option<String>,
    pub(crate) tier: Option<&'static str>,
    pub(crate) cache_key: Option<String>,
    pub(crate) parallel: Option<bool>,
    pub(crate) effort: Option<&'static str>,
    pub(crate) budget: Option<u32>,
    pub(crate) show: Option<bool>,
    pub(crate) output: Option<Option<Value>>,
    pub(crate) extra: Option<usize>,
}

fn words() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z0-9 ,.\"\\\\/é😀\n\t<>&]{0,30}".prop_map(|text| format!("w{text}w")),
        1 => "\\PC{1,12}".prop_map(|text| format!("x{text}x")),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_]{0,20}".prop_map(|name| name)
}

fn mark() -> impl Strategy<Value = Mark> {
    prop_oneof![6 => Just(None), 1 => any::<bool>().prop_map(Some)]
}

fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "string"})),
        Just(json!({"type": "string", "description": "d \"q\"", "enum": ["a", "b"]})),
        Just(json!({"type": "integer", "minimum": 1, "maximum": 5})),
        Just(json!({"type": ["number", "null"]})),
        Just(json!({"type": "string", "format": "date-time", "maxLength": 9})),
        Just(json!({"type": "boolean", "default": true})),
    ];
    let nested = leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({"type": "array", "items": items, "minItems": 1})),
            vec((name(), inner.clone()), 1..3).prop_map(object),
            vec(inner, 2..3).prop_map(|options| json!({"anyOf": options})),
        ]
    });
    vec((name(), nested), 0..3).prop_map(object)
}

fn object(properties: Vec<(String, Value)>) -> Value {
    let required: Vec<String> = properties.iter().map(|(name, _)| name.clone()).take(1).collect();
    let properties: Map<String, Value> = properties.into_iter().collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        6 => (words(), mark()).prop_map(|(text, mark)| Piece::Text(text, mark)),
        2 => (any::<bool>(), of(select(vec!["low", "high", "auto"])), mark())
            .prop_map(|(data, detail, mark)| Piece::Image { data, detail, mark }),
        2 => (of(words()), of(words()), any::<bool>(), mark())
            .prop_map(|(name, context, citations, mark)| Piece::Pdf { name, context, citations, mark }),
        1 => words().prop_map(Piece::Note),
        1 => select(vec!["wav", "mp3"]).prop_map(Piece::Sound),
    ]
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    (words(), vec(piece(), 0..3)).prop_map(|(text, mut more)| {
        more.push(Piece::Text(text, None));
        more
    })
}

fn arguments() -> impl Strategy<Value = Value> {
    vec(
        (
            name(),
            prop_oneof![
                words().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                Just(json!([1, null, {"a": 0.5}]))
            ],
        ),
        0..3,
    )
    .prop_map(|members| Value::Object(members.into_iter().collect()))
}

fn exchange() -> impl Strategy<Value = Exchange> {
    let result = prop_oneof![3 => words(), 1 => Just(r#"{"degrees": 21.50, "list": [1]}"#.to_owned())];
    let one_call = (0..3_usize, arguments(), result, any::<bool>(), any::<bool>());
    (pieces(), prop_oneof![5 => Just(None), 1 => words().prop_map(Some)], of(words()), of(words()), vec(one_call, 0..3))
        .prop_map(|(asks, interjection, thought, says, calls)| {
            let calls = calls.into_iter();
            let calls = calls.map(|(tool, arguments, result, failed, picture)| {
                (format!("tool_{tool}"), arguments, result, failed, picture)
            });
            let calls: Vec<_> = calls.collect();
            // A turn of the model says something or calls something.
            let says = if says.is_none() && calls.is_empty() { Some("yes".to_owned()) } else { says };
            Exchange { asks, interjection, thought, says, calls }
        })
}

fn tools() -> impl Strategy<Value = Vec<ToolWanted>> {
    vec((of(words()), of(schema()), of(any::<bool>()), mark()), 0..3).prop_map(|tools| {
        let tools = tools.into_iter().enumerate();
        tools
            .map(|(at, (description, schema, strict, mark))| ToolWanted {
                name: format!("tool_{at}"),
                description,
                schema,
                strict,
                mark,
            })
            .collect()
    })
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let penalties = (of(-20..20_i8), of(-20..20_i8));
    (
        of(1..200_000_u32),
        of(0..=20_u8),
        of(1..=20_u8),
        of(1..60_u8),
        of(1..4_u8),
        of(any::<i32>()),
        penalties,
        of(of(1..5_u8)),
    )
        .prop_map(|(max_tokens, temperature, top_p, top_k, n, seed, penalties, logprobs)| Numbers {
            max_tokens,
            temperature,
            top_p,
            top_k,
            n,
            seed,
            penalties,
            logprobs,
        })
}

fn others() -> impl Strategy<Value = Others> {
    let effort = select(vec!["none", "minimal", "low", "medium", "high", "xhigh"]);
    let tier = select(vec!["auto", "default", "flex", "priority"]);
    let thinking = (of(effort), of(prop_oneof![Just(0), 1..40_000_u32]), of(any::<bool>()));
    (
        vec(words(), 0..6),
        of(words()),
        of(tier),
        of(name()),
        of(any::<bool>()),
        thinking,
        of(of(schema())),
        of(0..100_usize),
    )
        .prop_map(|(stop, user, tier, cache_key, parallel, (effort, budget, show), output, extra)| Others {
            stop,
            user,
            tier,
            cache_key,
            parallel,
            effort,
            budget,
            show,
            output,
            extra,
        })
}

/// Requests of every kind.
pub(crate) fn wanted() -> impl Strategy<Value = Wanted> {
    let choice = of(select(vec![Choice::Auto, Choice::None, Choice::Required, Choice::Named, Choice::OneOf]));
    (vec((words(), mark()), 0..3), vec(exchange(), 0..3), pieces(), tools(), choice, numbers(), others()).prop_map(
        |(system, exchanges, last, tools, choice, numbers, others)| Wanted {
            system,
            exchanges,
            last,
            tools,
            choice,
            numbers,
            others,
        },
    )
}

/// Puts a member in, unless it is null.
fn put(object: &mut Value, name: &str, value: Value) {
    if !value.is_null() {
        object[name] = value;
    }
}

fn marked(mut value: Value, mark: Mark) -> Value {
    match mark {
        Some(true) => put(&mut value, "cache_control", json!({"type": "ephemeral", "ttl": "1h"})),
        Some(false) => put(&mut value, "cache_control", json!({"type": "ephemeral"})),
        None => {}
    }
    value
}

const PICTURE: &str = "iVBORw0KGgo=";
const PICTURE_URL: &str = "https://example.org/a.png?x=1&y=2";
const PDF: &str = "JVBERi0xLjQ=";
const SOUND: &str = "UklGRg==";

impl Wanted {
    /// The request as a client of this dialect writes it.
    pub(crate) fn said_in(&self, dialect: &str) -> Value {
        match dialect {
            "chat" => self.chat(),
            "messages" => self.messages(),
            "responses" => self.responses(),
            _ => self.gemini(),
        }
    }

    fn sampling(&self, body: &mut Value) {
        put(body, "temperature", json!(self.numbers.temperature.map(|t| f64::from(t) / 10.0)));
        put(body, "top_p", json!(self.numbers.top_p.map(|p| f64::from(p) / 20.0)));
    }

    fn choice_words(&self) -> Option<(&Choice, String)> {
        let first = self.tools.first()?.name.clone();
        self.choice.as_ref().map(|choice| (choice, first))
    }

    fn chat(&self) -> Value {
        let mut messages: Vec<Value> = Vec::new();
        for (text, mark) in &self.system {
            messages.push(json!({"role": "system", "content": [marked(json!({"type": "text", "text": text}), *mark)]}));
        }
        let mut id = 0;
        for exchange in &self.exchanges {
            messages.push(
                json!({"role": "user", "content": exchange.asks.iter().filter_map(chat_piece).collect::<Vec<_>>()}),
            );
            if let Some(text) = &exchange.interjection {
                messages.push(json!({"role": "system", "content": text}));
            }
            let mut answer = json!({"role": "assistant", "content": exchange.says});
            if let Some(thought) = &exchange.thought {
                answer["thinking_blocks"] = json!([{"type": "thinking", "thinking": thought, "signature": "c2ln"}]);
            }
            let first = id;
            let calls: Vec<Value> = exchange.calls.iter().map(|(name, arguments, ..)| {
                id += 1;
                json!({"id": format!("call_{id}"), "type": "function", "function": {"name": name, "arguments": arguments.to_string()}})
            }).collect();
            if !calls.is_empty() {
                answer["tool_calls"] = json!(calls);
            }
            messages.push(answer);
            for (at, (_, _, result, ..)) in exchange.calls.iter().enumerate() {
                messages.push(
                    json!({"role": "tool", "tool_call_id": format!("call_{}", first + at + 1), "content": result}),
                );
            }
        }
        messages.push(json!({"role": "user", "content": self.last.iter().filter_map(chat_piece).collect::<Vec<_>>()}));
        let mut body = json!({"model": "m", "messages": messages});
        self.sampling(&mut body);
        put(&mut body, "max_completion_tokens", json!(self.numbers.max_tokens));
        put(&mut body, "n", json!(self.numbers.n));
        put(&mut body, "seed", json!(self.numbers.seed));
        put(&mut body, "presence_penalty", json!(self.numbers.penalties.0.map(|p| f64::from(p) / 10.0)));
        put(&mut body, "frequency_penalty", json!(self.numbers.penalties.1.map(|p| f64::from(p) / 10.0)));
        if let Some(top) = self.numbers.logprobs {
            body["logprobs"] = json!(true);
            put(&mut body, "top_logprobs", json!(top));
        }
        if !self.others.stop.is_empty() {
            body["stop"] = json!(self.others.stop.iter().take(4).collect::<Vec<_>>());
        }
        put(&mut body, "user", json!(self.others.user));
        put(&mut body, "service_tier", json!(self.others.tier));
        put(&mut body, "prompt_cache_key", json!(self.others.cache_key));
        put(&mut body, "reasoning_effort", json!(self.others.effort));
        match &self.others.output {
            Some(Some(schema)) => {
                body["response_format"] =
                    json!({"type": "json_schema", "json_schema": {"name": "given", "schema": schema, "strict": true}});
            }
            Some(None) => body["response_format"] = json!({"type": "json_object"}),
            None => {}
        }
        if !self.tools.is_empty() {
            let tool = |tool: &ToolWanted| {
                let mut function = json!({"name": tool.name});
                put(&mut function, "description", json!(tool.description));
                put(&mut function, "parameters", json!(tool.schema));
                put(&mut function, "strict", json!(tool.strict));
                marked(json!({"type": "function", "function": function}), tool.mark)
            };
            body["tools"] = self.tools.iter().map(tool).collect();
            put(&mut body, "parallel_tool_calls", json!(self.others.parallel));
        }
        if let Some((choice, first)) = self.choice_words() {
            let named = json!({"type": "function", "function": {"name": first}});
            body["tool_choice"] = match choice {
                Choice::Auto => json!("auto"),
                Choice::None => json!("none"),
                Choice::Required => json!("required"),
                Choice::Named => named,
                Choice::OneOf => {
                    json!({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [named]}})
                }
            };
        }
        const EXTRAS: &[(&str, &str)] = &[
            ("logit_bias", r#"{"50256":-100}"#),
            ("metadata", r#"{"k":"v"}"#),
            ("store", "true"),
            ("verbosity", r#""low""#),
            ("modalities", r#"["text"]"#),
            ("prediction", r#"{"type":"content","content":"x"}"#),
            ("web_search_options", "{}"),
        ];
        extra(&mut body, EXTRAS, self.others.extra);
        body
    }

    fn messages(&self) -> Value {
        let mut messages: Vec<Value> = Vec::new();
        let mut results: Vec<Value> = Vec::new();
        let mut id = 0;
        for exchange in &self.exchanges {
            let mut content = std::mem::take(&mut results);
            content.extend(exchange.asks.iter().filter_map(messages_piece));
            messages.push(json!({"role": "user", "content": content}));
            let mut answer: Vec<Value> = Vec::new();
            if let Some(thought) = &exchange.thought {
                answer.push(json!({"type": "thinking", "thinking": thought, "signature": "c2ln"}));
                answer.push(json!({"type": "redacted_thinking", "data": "ZGF0YQ=="}));
            }
            answer.extend(exchange.says.as_ref().map(|text| json!({"type": "text", "text": text})));
            for (name, arguments, result, failed, picture) in &exchange.calls {
                id += 1;
                let own = format!("toolu_{id}");
                answer.push(json!({"type": "tool_use", "id": own, "name": name, "input": arguments}));
                let mut content = vec![json!({"type": "text", "text": result})];
                if *picture {
                    content.push(json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}));
                }
                let mut result = json!({"type": "tool_result", "tool_use_id": own, "content": content});
                if *failed {
                    result["is_error"] = json!(true);
                }
                results.push(result);
            }
            messages.push(json!({"role": "assistant", "content": answer}));
        }
        let mut content = results;
        content.extend(self.last.iter().filter_map(messages_piece));
        messages.push(json!({"role": "user", "content": content}));
        let mut body = json!({"model": "m", "messages": messages, "max_tokens": self.numbers.max_tokens.unwrap_or(77)});
        if !self.system.is_empty() {
            body["system"] =
                self.system.iter().map(|(text, mark)| marked(json!({"type": "text", "text": text}), *mark)).collect();
        }
        put(&mut body, "temperature", json!(self.numbers.temperature.map(|t| f64::from(t) / 20.0)));
        put(&mut body, "top_p", json!(self.numbers.top_p.map(|p| f64::from(p) / 20.0)));
        put(&mut body, "top_k", json!(self.numbers.top_k));
        if !self.others.stop.is_empty() {
            body["stop_sequences"] = json!(self.others.stop);
        }
        if let Some(user) = &self.others.user {
            body["metadata"] = json!({"user_id": user});
        }
        put(
            &mut body,
            "service_tier",
            json!(self.others.tier.map(|tier| if tier == "default" { "standard_only" } else { "auto" })),
        );
        let mut config = json!({});
        put(
            &mut config,
            "effort",
            json!(self.others.effort.filter(|effort| ["low", "medium", "high"].contains(effort))),
        );
        if let Some(Some(schema)) = &self.others.output {
            config["format"] = json!({"type": "json_schema", "schema": schema});
        }
        if config != json!({}) {
            body["output_config"] = config;
        }
        if let Some(budget) = self.others.budget {
            body["thinking"] = match budget {
                0 => json!({"type": "disabled"}),
                1..100 => json!({"type": "adaptive"}),
                _ => json!({"type": "enabled", "budget_tokens": budget.max(1024)}),
            };
            if let (Some(show), 1..) = (self.others.show, budget) {
                body["thinking"]["display"] = json!(if show { "summarized" } else { "omitted" });
            }
        }
        if !self.tools.is_empty() {
            let tool = |tool: &ToolWanted| {
                let schema = tool.schema.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}));
                let mut written = json!({"name": tool.name, "input_schema": schema});
                put(&mut written, "description", json!(tool.description));
                put(&mut written, "strict", json!(tool.strict));
                marked(written, tool.mark)
            };
            body["tools"] = self.tools.iter().map(tool).collect();
        }
        if let Some((choice, first)) = self.choice_words() {
            body["tool_choice"] = match choice {
                Choice::Auto => json!({"type": "auto"}),
                Choice::None => json!({"type": "none"}),
                Choice::Required | Choice::OneOf => json!({"type": "any"}),
                Choice::Named => json!({"type": "tool", "name": first}),
            };
            if let (Some(parallel), false) = (self.others.parallel, matches!(choice, Choice::None)) {
                body["tool_choice"]["disable_parallel_tool_use"] = json!(!parallel);
            }
        }
        extra(
            &mut body,
            &[
                ("container", r#""c""#),
                ("mcp_servers", r#"[{"type":"url"}]"#),
                ("context_management", r#"{"edits":[]}"#),
            ],
            self.others.extra,
        );
        body
    }

    fn responses(&self) -> Value {
        let mut input: Vec<Value> = Vec::new();
        let mut id = 0;
        for exchange in &self.exchanges {
            input.push(json!({"type": "message", "role": "user", "content": exchange.asks.iter().filter_map(responses_piece).collect::<Vec<_>>()}));
            if let Some(text) = &exchange.interjection {
                input.push(json!({"role": "developer", "content": text}));
            }
            if let Some(thought) = &exchange.thought {
                input.push(json!({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": thought}], "encrypted_content": "ZGF0YQ=="}));
            }
            if let Some(text) = &exchange.says {
                input.push(json!({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text, "annotations": []}]}));
            }
            let first = id;
            for (name, arguments, ..) in &exchange.calls {
                id += 1;
                input.push(json!({"type": "function_call", "call_id": format!("call_{id}"), "name": name, "arguments": arguments.to_string()}));
            }
            for (at, (_, _, result, _, picture)) in exchange.calls.iter().enumerate() {
                let mut output = json!(result);
                if *picture {
                    let url = format!("data:image/png;base64,{PICTURE}");
                    output = json!([{"type": "input_text", "text": result}, {"type": "input_image", "image_url": url}]);
                }
                input.push(json!({"type": "function_call_output", "call_id": format!("call_{}", first + at + 1), "output": output}));
            }
        }
        input
            .push(json!({"role": "user", "content": self.last.iter().filter_map(responses_piece).collect::<Vec<_>>()}));
        let mut body = json!({"model": "m", "input": input});
        if !self.system.is_empty() {
            let texts: Vec<&str> = self.system.iter().map(|(text, _)| text.as_str()).collect();
            body["instructions"] = json!(texts.join("\n\n"));
        }
        self.sampling(&mut body);
        put(&mut body, "max_output_tokens", json!(self.numbers.max_tokens.map(|limit| limit.max(16))));
        if let Some(Some(top)) = self.numbers.logprobs {
            body["top_logprobs"] = json!(top);
        }
        put(&mut body, "safety_identifier", json!(self.others.user));
        put(&mut body, "service_tier", json!(self.others.tier));
        put(&mut body, "prompt_cache_key", json!(self.others.cache_key));
        let mut reasoning = json!({});
        put(&mut reasoning, "effort", json!(self.others.effort));
        if self.others.show == Some(true) {
            reasoning["summary"] = json!("auto");
        }
        if reasoning != json!({}) {
            body["reasoning"] = reasoning;
        }
        match &self.others.output {
            Some(Some(schema)) => {
                body["text"] =
                    json!({"format": {"type": "json_schema", "name": "given", "schema": schema, "strict": true}})
            }
            Some(None) => body["text"] = json!({"format": {"type": "json_object"}, "verbosity": "low"}),
            None => {}
        }
        if !self.tools.is_empty() {
            let tool = |tool: &ToolWanted| {
                let mut written = json!({"type": "function", "name": tool.name, "parameters": tool.schema, "strict": tool.strict.unwrap_or(false)});
                put(&mut written, "description", json!(tool.description));
                written
            };
            body["tools"] = self.tools.iter().map(tool).collect();
            put(&mut body, "parallel_tool_calls", json!(self.others.parallel));
        }
        if let Some((choice, first)) = self.choice_words() {
            let named = json!({"type": "function", "name": first});
            body["tool_choice"] = match choice {
                Choice::Auto => json!("auto"),
                Choice::None => json!("none"),
                Choice::Required => json!("required"),
                Choice::Named => named,
                Choice::OneOf => json!({"type": "allowed_tools", "mode": "required", "tools": [named]}),
            };
        }
        const EXTRAS: &[(&str, &str)] = &[
            ("metadata", r#"{"k":"v"}"#),
            ("store", "true"),
            ("background", "true"),
            ("truncation", r#""auto""#),
            ("max_tool_calls", "3"),
        ];
        extra(&mut body, EXTRAS, self.others.extra);
        body
    }

    fn gemini(&self) -> Value {
        let mut contents: Vec<Value> = Vec::new();
        let mut results: Vec<Value> = Vec::new();
        for exchange in &self.exchanges {
            let mut parts = std::mem::take(&mut results);
            parts.extend(exchange.asks.iter().filter_map(gemini_piece));
            contents.push(json!({"role": "user", "parts": parts}));
            let mut parts: Vec<Value> = Vec::new();
            if let Some(thought) = &exchange.thought {
                parts.push(json!({"text": thought, "thought": true}));
            }
            parts.extend(exchange.says.as_ref().map(|text| json!({"text": text})));
            for (name, arguments, result, failed, _) in &exchange.calls {
                parts.push(json!({"functionCall": {"name": name, "args": arguments}}));
                let read = serde_json::from_str::<Value>(result).ok().filter(Value::is_object);
                let response = match (failed, read) {
                    (true, _) => json!({"error": result}),
                    (false, Some(object)) => object,
                    (false, None) => json!({"result": result}),
                };
                results.push(json!({"functionResponse": {"name": name, "response": response}}));
            }
            contents.push(json!({"role": "model", "parts": parts}));
        }
        let mut parts = results;
        parts.extend(self.last.iter().filter_map(gemini_piece));
        contents.push(json!({"role": "user", "parts": parts}));
        let mut config = json!({});
        put(&mut config, "temperature", json!(self.numbers.temperature.map(|t| f64::from(t) / 10.0)));
        put(&mut config, "topP", json!(self.numbers.top_p.map(|p| f64::from(p) / 20.0)));
        put(&mut config, "topK", json!(self.numbers.top_k));
        put(&mut config, "candidateCount", json!(self.numbers.n));
        put(&mut config, "seed", json!(self.numbers.seed));
        put(&mut config, "presencePenalty", json!(self.numbers.penalties.0.map(|p| f64::from(p) / 10.0)));
        put(&mut config, "frequencyPenalty", json!(self.numbers.penalties.1.map(|p| f64::from(p) / 10.0)));
        put(&mut config, "maxOutputTokens", json!(self.numbers.max_tokens));
        if let Some(top) = self.numbers.logprobs {
            config["responseLogprobs"] = json!(true);
            put(&mut config, "logprobs", json!(top));
        }
        if !self.others.stop.is_empty() {
            config["stopSequences"] = json!(self.others.stop);
        }
        let mut thinking = json!({});
        match (self.others.budget, self.others.effort) {
            (Some(1..100), _) => thinking["thinkingBudget"] = json!(-1),
            (Some(budget), _) => thinking["thinkingBudget"] = json!(budget),
            (None, Some(effort @ ("low" | "high"))) => thinking["thinkingLevel"] = json!(effort.to_uppercase()),
            _ => {}
        }
        put(&mut thinking, "includeThoughts", json!(self.others.show));
        if thinking != json!({}) {
            config["thinkingConfig"] = thinking;
        }
        if let Some(output) = &self.others.output {
            config["responseMimeType"] = json!("application/json");
            put(&mut config, "responseJsonSchema", json!(output));
        }
        let mut body = json!({"contents": contents});
        if !self.system.is_empty() {
            body["systemInstruction"] =
                json!({"parts": self.system.iter().map(|(text, _)| json!({"text": text})).collect::<Vec<_>>()});
        }
        if config != json!({}) {
            body["generationConfig"] = config;
        }
        if !self.tools.is_empty() {
            let tool = |tool: &ToolWanted| {
                let mut written = json!({"name": tool.name});
                put(&mut written, "description", json!(tool.description));
                put(&mut written, "parametersJsonSchema", json!(tool.schema));
                written
            };
            body["tools"] = json!([{"functionDeclarations": self.tools.iter().map(tool).collect::<Vec<_>>()}]);
        }
        if let Some((choice, first)) = self.choice_words() {
            let mut calling = json!({"mode": match choice {
                Choice::Auto => "AUTO",
                Choice::None => "NONE",
                _ => "ANY",
            }});
            match choice {
                Choice::Named => calling["allowedFunctionNames"] = json!([first]),
                Choice::OneOf => calling["allowedFunctionNames"] = json!([first, "tool_9"]),
                _ => {}
            }
            body["toolConfig"] = json!({"functionCallingConfig": calling});
        }
        extra(
            &mut body,
            &[("safetySettings", "[{}]"), ("cachedContent", r#""c""#), ("labels", r#"{"a":"b"}"#)],
            self.others.extra,
        );
        body
    }
}

fn extra(body: &mut Value, known: &[(&str, &str)], choice: Option<usize>) {
    if let Some((name, value)) = choice.and_then(|choice| known.get(choice % (2 * known.len()))) {
        body[*name] = serde_json::from_str(value).unwrap();
    }
}

fn chat_piece(piece: &Piece) -> Option<Value> {
    Some(match piece {
        Piece::Text(text, mark) => marked(json!({"type": "text", "text": text}), *mark),
        Piece::Note(text) => json!({"type": "text", "text": text}),
        Piece::Image { data, detail, mark } => {
            let url = if *data { format!("data:image/png;base64,{PICTURE}") } else { PICTURE_URL.to_owned() };
            let mut image = json!({"url": url});
            put(&mut image, "detail", json!(detail));
            marked(json!({"type": "image_url", "image_url": image}), *mark)
        }
        Piece::Pdf { name, mark, .. } => {
            let mut file = json!({"file_data": format!("data:application/pdf;base64,{PDF}")});
            put(&mut file, "filename", json!(name));
            marked(json!({"type": "file", "file": file}), *mark)
        }
        Piece::Sound(format) => json!({"type": "input_audio", "input_audio": {"data": SOUND, "format": format}}),
    })
}

fn messages_piece(piece: &Piece) -> Option<Value> {
    Some(match piece {
        Piece::Text(text, mark) => marked(json!({"type": "text", "text": text}), *mark),
        Piece::Note(text) => {
            json!({"type": "document", "title": "note", "source": {"type": "text", "media_type": "text/plain", "data": text}})
        }
        Piece::Image { data, mark, .. } => {
            let source = match data {
                true => json!({"type": "base64", "media_type": "image/png", "data": PICTURE}),
                false => json!({"type": "url", "url": PICTURE_URL}),
            };
            marked(json!({"type": "image", "source": source}), *mark)
        }
        Piece::Pdf { name, context, citations, mark } => {
            let mut document =
                json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}});
            put(&mut document, "title", json!(name));
            put(&mut document, "context", json!(context));
            if *citations {
                document["citations"] = json!({"enabled": true});
            }
            marked(document, *mark)
        }
        Piece::Sound(_) => return None,
    })
}

fn responses_piece(piece: &Piece) -> Option<Value> {
    Some(match piece {
        Piece::Text(text, _) | Piece::Note(text) => json!({"type": "input_text", "text": text}),
        Piece::Image { data, detail, .. } => {
            let url = if *data { format!("data:image/png;base64,{PICTURE}") } else { PICTURE_URL.to_owned() };
            json!({"type": "input_image", "image_url": url, "detail": detail.unwrap_or("auto")})
        }
        Piece::Pdf { name, citations, .. } => match citations {
            true => json!({"type": "input_file", "file_url": "https://example.org/a.pdf"}),
            false => {
                let mut file = json!({"type": "input_file", "file_data": format!("data:application/pdf;base64,{PDF}")});
                put(&mut file, "filename", json!(name));
                file
            }
        },
        Piece::Sound(format) => json!({"type": "input_audio", "input_audio": {"data": SOUND, "format": format}}),
    })
}

fn gemini_piece(piece: &Piece) -> Option<Value> {
    Some(match piece {
        Piece::Text(text, _) | Piece::Note(text) => json!({"text": text}),
        Piece::Image { data: true, .. } => json!({"inlineData": {"mimeType": "image/png", "data": PICTURE}}),
        Piece::Image { .. } => json!({"fileData": {"mimeType": "image/png", "fileUri": PICTURE_URL}}),
        Piece::Pdf { .. } => json!({"inlineData": {"mimeType": "application/pdf", "data": PDF}}),
        Piece::Sound(format) => {
            json!({"inlineData": {"mimeType": format!("audio/{}", if *format == "mp3" { "mpeg" } else { format }), "data": SOUND}})
        }
    })
}
