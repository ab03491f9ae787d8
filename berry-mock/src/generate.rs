//! What would be answered: text, tool calls and token counts, before any dialect gives them a form.

use serde_json::{Value, json};

use crate::hash::{StableHash, id, mix};
use crate::schema::Maker;
use crate::text;

/// A request as far as an answer depends on it. Every dialect fills one.
#[derive(Debug, Default)]
pub(crate) struct Ask {
    /// The texts of the whole conversation, joined by the hash, and their number of tokens.
    pub(crate) prompt: Prompt,
    /// What the user said last.
    pub(crate) user: String,
    /// What tools gave back after the last turn of the assistant; then no tool is called again.
    pub(crate) results: Vec<ToolResult>,
    pub(crate) tools: Vec<Tool>,
    pub(crate) choice: ToolChoice,
    /// Whether several calls may be made at once.
    pub(crate) parallel: bool,
    pub(crate) format: Format,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) stop: Vec<String>,
    /// Length of a text, from the script.
    pub(crate) length: Option<usize>,
}

/// The conversation, reduced to what an answer depends on.
#[derive(Debug)]
pub(crate) struct Prompt {
    hash: StableHash,
    pub(crate) tokens: u64,
}

impl Default for Prompt {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Prompt {
    pub(crate) fn new(seed: u64) -> Self {
        Self { hash: StableHash::new(seed), tokens: 0 }
    }

    /// Adds a text of the conversation.
    pub(crate) fn add(&mut self, text: &str) {
        self.hash.feed(text);
        self.tokens += text::count(text);
    }

    /// Adds something that changes the answer and is no part of the conversation.
    pub(crate) fn salt(&mut self, bytes: impl AsRef<[u8]>) {
        self.hash.feed(bytes);
    }

    /// A number that is the same for the same conversation and seed.
    pub(crate) fn number(&self) -> u64 {
        self.hash.finish()
    }
}

/// What a tool gave back.
#[derive(Debug)]
pub(crate) struct ToolResult {
    pub(crate) name: String,
    pub(crate) content: String,
}

/// A function the model may call.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    /// Schema of its arguments.
    pub(crate) schema: Value,
}

/// Whether tools are called.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    /// When the user seems to want it.
    #[default]
    Auto,
    /// Never.
    None,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// What the text has to be.
#[derive(Debug, Default)]
pub(crate) enum Format {
    #[default]
    Text,
    /// Any JSON object.
    Json,
    /// JSON that satisfies a schema.
    Schema(Value),
}

/// An answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Generated {
    pub(crate) text: String,
    pub(crate) calls: Vec<ToolCall>,
    pub(crate) finish: Finish,
    /// Tokens of the text and the calls.
    pub(crate) tokens: u64,
    /// Makes identifiers for this answer.
    pub(crate) number: u64,
}

/// A call of a tool.
#[derive(Debug, PartialEq)]
pub(crate) struct ToolCall {
    number: u64,
    pub(crate) name: String,
    pub(crate) arguments: Value,
}

impl ToolCall {
    /// Its identifier; the prefix is the dialect's.
    pub(crate) fn id(&self, prefix: &str) -> String {
        id(prefix, self.number, 24)
    }
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    /// At this stop sequence.
    StopSequence(String),
    /// At the limit of tokens.
    Length,
    ToolCalls,
}

/// The answer to a request; `index` tells the alternatives apart when several are wanted.
pub(crate) fn generate(ask: &Ask, index: u64) -> Generated {
    let number = mix(ask.prompt.number() ^ mix(index));
    let called = if ask.results.is_empty() { called_tools(ask) } else { Vec::new() };
    if !called.is_empty() {
        return call_tools(ask, &called, number);
    }
    let mut rng = fastrand::Rng::with_seed(number);
    let whole = match &ask.format {
        Format::Schema(schema) => Maker::new(schema, &ask.user, number).value().to_string(),
        Format::Json => json!({"answer": text::sentence(&mut rng), "source": "Berry's demo upstream"}).to_string(),
        Format::Text if ask.results.is_empty() => text::reply(&mut rng, &ask.user, ask.length),
        Format::Text => {
            text::about_results(&mut rng, ask.results.iter().map(|r| (r.name.as_str(), r.content.as_str())))
        }
    };
    let (text, finish) = cut(whole, ask);
    Generated { tokens: text::count(&text), text, calls: Vec::new(), finish, number }
}

/// Ends a text at its first stop sequence or at the limit of tokens, whichever is first.
fn cut(mut text: String, ask: &Ask) -> (String, Finish) {
    let mut finish = Finish::Stop;
    let stops = ask.stop.iter().filter(|stop| !stop.is_empty());
    if let Some((at, stop)) = stops.filter_map(|stop| Some((text.find(stop)?, stop))).min_by_key(|(at, _)| *at) {
        text.truncate(at);
        finish = Finish::StopSequence(stop.clone());
    }
    if let Some(max) = ask.max_tokens {
        let kept = text::first_tokens(&text, usize::try_from(max).unwrap_or(usize::MAX)).len();
        if kept < text.len() {
            text.truncate(kept);
            finish = Finish::Length;
        }
    }
    (text, finish)
}

/// Whether a user asks for a tool without naming one.
fn wants_a_tool(user: &str) -> bool {
    let user = user.to_lowercase();
    let mut words = user.split(|c: char| !c.is_alphanumeric());
    words.any(|word| matches!(word, "call" | "tool" | "tools" | "function")) || user.contains("use the ")
}

fn called_tools(ask: &Ask) -> Vec<&Tool> {
    let first = ask.tools.first().into_iter().collect();
    match &ask.choice {
        ToolChoice::None => Vec::new(),
        ToolChoice::Named(name) => ask.tools.iter().filter(|tool| tool.name == *name).take(1).collect(),
        ToolChoice::Required => {
            let mentioned = mentioned_tools(ask);
            if mentioned.is_empty() { first } else { mentioned }
        }
        ToolChoice::Auto => {
            let mentioned = mentioned_tools(ask);
            if mentioned.is_empty() && wants_a_tool(&ask.user) { first } else { mentioned }
        }
    }
}

/// The tools whose name, or a telling part of it, the user wrote. All of them, or the first where only one may be called.
fn mentioned_tools(ask: &Ask) -> Vec<&Tool> {
    /// Parts of names that say nothing about what a tool is for.
    const DULL: &[&str] = &["get", "set", "the", "tool", "find", "fetch", "list", "current", "make", "with", "from"];
    let user = ask.user.to_lowercase();
    let words: Vec<&str> = user.split(|c: char| !c.is_alphanumeric()).collect();
    let mentioned = |tool: &&Tool| {
        let name = tool.name.to_lowercase();
        user.contains(&name)
            || name
                .split(|c: char| !c.is_alphanumeric())
                .any(|part| part.len() >= 3 && !DULL.contains(&part) && words.contains(&part))
    };
    ask.tools.iter().filter(mentioned).take(if ask.parallel { usize::MAX } else { 1 }).collect()
}

fn call_tools(ask: &Ask, tools: &[&Tool], number: u64) -> Generated {
    let calls: Vec<ToolCall> = tools
        .iter()
        .zip(0..)
        .map(|(tool, i)| {
            let number = mix(number ^ mix(i));
            let arguments = match Maker::new(&tool.schema, &ask.user, number).value() {
                object @ Value::Object(_) => object,
                // Arguments are an object in every dialect, whatever the schema says.
                _ => json!({}),
            };
            ToolCall { number, name: tool.name.clone(), arguments }
        })
        .collect();
    let tokens = calls.iter().map(|call| text::count(&call.name) + text::count(&call.arguments.to_string())).sum();
    Generated { text: String::new(), calls, finish: Finish::ToolCalls, tokens, number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(user: &str, tools: &[&str]) -> Ask {
        let mut ask = Ask { user: user.to_owned(), parallel: true, ..Ask::default() };
        ask.prompt.add(user);
        ask.tools = tools
            .iter()
            .map(|name| Tool {
                name: (*name).to_owned(),
                schema: json!({"type": "object", "properties": {"city": {"type": "string"}}}),
            })
            .collect();
        ask
    }

    fn called(ask: &Ask) -> Vec<String> {
        generate(ask, 0).calls.into_iter().map(|call| call.name).collect()
    }

    #[test]
    fn same_conversation_same_answer() {
        assert_eq!(generate(&ask("Hello", &[]), 0), generate(&ask("Hello", &[]), 0));
        assert_ne!(generate(&ask("Hello", &[]), 0).text, generate(&ask("Hello", &[]), 1).text);
    }

    #[test]
    fn a_tool_is_called_when_the_user_seems_to_want_it() {
        let tools = ["get_weather", "get_time"];
        assert_eq!(called(&ask("What is the weather in Paris?", &tools)), ["get_weather"]);
        assert_eq!(called(&ask("weather and time, please", &tools)), tools);
        assert_eq!(called(&ask("Call something", &tools)), ["get_weather"]);
        assert!(called(&ask("Tell me a story", &tools)).is_empty());
    }

    #[test]
    fn tool_choice_is_obeyed() {
        let with = |choice| Ask { choice, ..ask("Tell me a story about the weather", &["get_time", "get_weather"]) };
        assert!(called(&with(ToolChoice::None)).is_empty());
        assert_eq!(called(&with(ToolChoice::Required)), ["get_weather"]);
        assert_eq!(called(&with(ToolChoice::Named("get_time".into()))), ["get_time"]);
        assert_eq!(called(&Ask { choice: ToolChoice::Required, ..ask("Hi", &["a", "b"]) }), ["a"]);
    }

    #[test]
    fn one_call_where_parallel_calls_are_refused() {
        let ask = Ask { parallel: false, ..ask("weather and time", &["get_weather", "get_time"]) };
        assert_eq!(called(&ask), ["get_weather"]);
    }

    #[test]
    fn results_are_answered_in_text_that_mentions_them() {
        let mut ask = ask("weather?", &["get_weather"]);
        ask.results.push(ToolResult { name: "get_weather".into(), content: "14 degrees and fog".into() });
        let answer = generate(&ask, 0);
        assert!(answer.calls.is_empty() && answer.text.contains("14 degrees and fog"), "{answer:?}");
    }

    #[test]
    fn a_limit_of_tokens_ends_the_text() {
        let answer = generate(&Ask { max_tokens: Some(5), ..ask("Hello", &[]) }, 0);
        assert_eq!((answer.tokens, answer.finish), (5, Finish::Length));
        let whole = generate(&ask("Hello", &[]), 0).tokens;
        let answer = generate(&Ask { max_tokens: Some(whole), ..ask("Hello", &[]) }, 0);
        assert_eq!((answer.tokens, answer.finish), (whole, Finish::Stop));
    }

    #[test]
    fn a_stop_sequence_ends_the_text_before_itself() {
        let whole = generate(&ask("Hello", &[]), 0).text;
        let stop = whole.split(' ').nth(3).unwrap();
        let answer = generate(&Ask { stop: vec!["@@".into(), stop.to_owned()], ..ask("Hello", &[]) }, 0);
        assert_eq!(answer.text, whole[..whole.find(stop).unwrap()]);
        assert_eq!(answer.finish, Finish::StopSequence(stop.to_owned()));
    }

    #[test]
    fn a_schema_makes_json() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let answer = generate(&Ask { format: Format::Schema(schema.clone()), ..ask("Hello", &[]) }, 0);
        let value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(crate::schema::check::violations(&schema, &schema, &value), [""; 0]);
    }
}
