//! The one form between dialects: the union of what they can say, with closed enums, so that a writer that matches all of it
//! cannot leak a foreign word.
//!
//! Texts, schemas, arguments and base64 are slices of the body that they came in ([`super::text`]).

use berry_core::usage::Usage;

use bytes::Bytes;

use super::text::{Json, Text, Writer};
use crate::json::Kind;

/// A request for an answer.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// What stands before the conversation.
    pub system: Vec<SystemBlock>,
    /// The conversation, as the client ordered it; encoders bring it into the order that their dialect accepts.
    pub turns: Vec<Turn>,
    /// Functions that the model may call.
    pub tools: Vec<Tool>,
    /// Whether it must, may or must not call one.
    pub tool_choice: Option<ToolChoice>,
    /// Whether it may call several at once.
    pub parallel_tool_calls: Option<bool>,
    /// The form that the answer must have.
    pub output: Option<OutputFormat>,
    /// How much it is to think.
    pub reasoning: Reasoning,
    /// Most output tokens.
    pub max_tokens: Option<u64>,
    /// As written.
    pub temperature: Option<Json>,
    /// As written.
    pub top_p: Option<Json>,
    /// As written.
    pub top_k: Option<Json>,
    /// Texts that end the answer.
    pub stop: Vec<Text>,
    /// Number of answers.
    pub candidates: Option<u64>,
    /// As written.
    pub seed: Option<Json>,
    /// As written.
    pub presence_penalty: Option<Json>,
    /// As written.
    pub frequency_penalty: Option<Json>,
    /// Whether the probabilities of tokens are asked for.
    pub logprobs: Option<bool>,
    /// For how many alternatives.
    pub top_logprobs: Option<u64>,
    /// Who the end user is.
    pub user: Option<Text>,
    /// The service level that is asked for.
    pub service_tier: Option<ServiceTier>,
    /// What the vendor's prompt cache is to be found by.
    pub prompt_cache_key: Option<Text>,
    /// Whether the answer is to be streamed.
    pub stream: bool,
    /// Whether a stream is to tell its usage in a chunk of its own, where the dialect makes that a choice.
    pub wants_stream_usage: bool,
    /// Top-level fields that have no place above. An encoder takes those that its dialect knows by the same name; what is left is a
    /// loss. `null` is never here.
    pub extras: Vec<Extra>,
}

/// A top-level field that passes by its name or not at all.
#[derive(Clone, Debug)]
pub struct Extra {
    /// Its name in the client's dialect.
    pub name: String,
    /// Its value.
    pub value: Json,
}

/// A block of the system prompt.
#[derive(Clone, Debug)]
pub struct SystemBlock {
    /// What it says.
    pub text: Text,
    /// Whether the prompt up to here is to be cached.
    pub cache: Option<CacheMark>,
}

/// One message.
#[derive(Clone, Debug)]
pub struct Turn {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub parts: Vec<Part>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions inside the conversation; those before it are in [`Request::system`].
    System,
    /// The client. Results of tools are parts of these turns.
    User,
    /// The model.
    Assistant,
}

/// A piece of a message or of an answer.
#[derive(Clone, Debug)]
pub enum Part {
    /// Text.
    Text(TextPart),
    /// A picture.
    Image(Image),
    /// A PDF or a text file.
    Document(Document),
    /// Sound.
    Audio(Audio),
    /// A call of a tool.
    ToolCall(ToolCall),
    /// What a tool gave back.
    ToolResult(ToolResult),
    /// Reasoning that can be read.
    Thinking(Thinking),
    /// Reasoning that only its vendor can read.
    RedactedThinking(Text),
    /// The model's own words for not answering.
    Refusal(Text),
    /// Something that is only known in the client's dialect: its type. Encoders declare it.
    Unknown(String),
}

/// Text with what belongs to it.
#[derive(Clone, Debug, Default)]
pub struct TextPart {
    /// What it says.
    pub text: Text,
    /// Whether the prompt up to here is to be cached.
    pub cache: Option<CacheMark>,
    /// Sources that it quotes.
    pub citations: Vec<Citation>,
    /// Gemini's signature of this part.
    pub signature: Option<Text>,
}

/// A source of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Citation {
    /// Its address.
    pub url: Option<Text>,
    /// Its name.
    pub title: Option<Text>,
    /// The words that are quoted from it.
    pub quote: Option<Text>,
    /// Where in the text that it supports it begins and ends, in characters.
    pub span: Option<(u64, u64)>,
}

/// A picture.
#[derive(Clone, Debug)]
pub struct Image {
    /// Where its bytes are.
    pub source: Source,
    /// How closely it is to be looked at.
    pub detail: Option<Text>,
    /// Whether the prompt up to here is to be cached.
    pub cache: Option<CacheMark>,
}

/// A document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Where its bytes are.
    pub source: Source,
    /// Its title or file name.
    pub name: Option<Text>,
    /// What the model is told about it beside its title.
    pub context: Option<Text>,
    /// Whether the answer is to quote it.
    pub citations: bool,
    /// Whether the prompt up to here is to be cached.
    pub cache: Option<CacheMark>,
}

/// Sound.
#[derive(Clone, Debug)]
pub struct Audio {
    /// Where its bytes are.
    pub source: Source,
}

/// What a document is called where one needs a name and was given none.
pub const DOCUMENT_NAME: &str = "document.pdf";

/// Where the bytes of a picture, document or sound are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Here, in base64 that is never decoded.
    Base64 {
        /// `image/png`.
        media_type: Text,
        /// The base64.
        data: Text,
    },
    /// At an address that the vendor fetches.
    Url {
        /// The address.
        url: Text,
        /// `image/png`, where it is known.
        media_type: Option<Text>,
    },
    /// In the vendor's own store; the id means nothing elsewhere.
    File(Text),
    /// Here, as plain text.
    Text(Text),
}

/// A call of a tool.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// What its result refers to; `None` where the dialect gives none.
    pub id: Option<String>,
    /// Which tool.
    pub name: String,
    /// With what.
    pub arguments: Arguments,
    /// Gemini's signature of this call.
    pub signature: Option<Text>,
    /// Whether the prompt up to here is to be cached.
    pub cache: Option<CacheMark>,
}

/// What a tool is called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// A string that should hold a JSON object, as OpenAI has it.
    Text(Text),
    /// The object itself, as the others have it.
    Json(Json),
}

impl Arguments {
    /// As a string that holds JSON. Nothing at all is an empty object.
    pub fn as_text(&self) -> Text {
        match self {
            Self::Text(text) if text.is_blank() => Text::plain("{}"),
            Self::Text(text) => text.clone(),
            Self::Json(json) => Text::write(&String::from_utf8_lossy(json.raw())),
        }
    }

    /// As an object. What is no object stands in one member of one, so that nothing is lost; then `false` comes with it.
    pub fn as_object(&self) -> (Json, bool) {
        let json = match self {
            Self::Json(json) => Some(json.clone()),
            Self::Text(text) if text.is_blank() => Some(Json::fixed("{}")),
            Self::Text(text) => Json::read(&Bytes::from(text.read().trim().to_owned())).ok(),
        };
        if let Some(json) = json.filter(|json| json.kind() == Kind::Object) {
            return (json, true);
        }
        let mut writer = Writer::new();
        writer.object(|w| w.key("arguments").text(&self.as_text()));
        (Json::written(writer), false)
    }
}

/// What a tool gave back.
#[derive(Clone, Debug)]
pub struct ToolResult {
    /// The call that it answers; `None` where the dialect gives none.
    pub id: Option<String>,
    /// The tool, where the dialect names it.
    pub name: Option<String>,
    /// What came back: texts, and pictures or documents where the dialect allows them.
    pub parts: Vec<Part>,
    /// Whether the tool failed.
    pub is_error: bool,
    /// Whether the prompt up to here is to be cached.
    pub cache: Option<CacheMark>,
}

/// Reasoning that can be read.
#[derive(Clone, Debug, Default)]
pub struct Thinking {
    /// What was thought.
    pub text: Text,
    /// Proof of the vendor that it is unchanged.
    pub signature: Option<Text>,
}

/// A mark that says: cache the prompt up to here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMark {
    /// For five minutes.
    FiveMinutes,
    /// For an hour.
    OneHour,
}

/// A function that the model may call.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<Text>,
    /// JSON schema of its arguments; `None` = it takes none.
    pub parameters: Option<Json>,
    /// Whether its arguments must follow the schema exactly.
    pub strict: Option<bool>,
    /// Whether the prompt up to here is to be cached.
    pub cache: Option<CacheMark>,
}

/// Whether the model must, may or must not call a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// It may.
    Auto,
    /// It must not.
    None,
    /// It must call one.
    Required,
    /// It must call this one.
    Tool(String),
    /// It must call one of these (Gemini, and OpenAI's `allowed_tools`).
    OneOf(Vec<String>),
}

/// The form that an answer must have.
#[derive(Clone, Debug)]
pub enum OutputFormat {
    /// Some JSON object.
    JsonObject,
    /// JSON that follows a schema.
    Schema {
        /// Its name, where the dialect has one.
        name: Option<Text>,
        /// What it is for.
        description: Option<Text>,
        /// The schema.
        schema: Json,
        /// Whether it must be followed exactly.
        strict: Option<bool>,
    },
}

/// How much the model is to think. All absent = the model's own default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// Off, by a budget, or as the model likes.
    pub mode: Option<ThinkingMode>,
    /// How hard.
    pub effort: Option<Effort>,
    /// Whether its thoughts are to be shown.
    pub show: Option<bool>,
}

/// Whether and how the model thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThinkingMode {
    /// Not at all.
    Off,
    /// With at most so many tokens.
    Budget(u64),
    /// As it sees fit.
    Adaptive,
}

/// How hard the model is to think.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effort {
    /// Not at all.
    None,
    /// Hardly.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// Hard.
    High,
    /// Harder.
    XHigh,
    /// As hard as it can.
    Max,
}

impl Effort {
    /// Every effort with its name in the dialects that have it.
    pub const NAMES: &'static [(Self, &'static str)] = &[
        (Self::None, "none"),
        (Self::Minimal, "minimal"),
        (Self::Low, "low"),
        (Self::Medium, "medium"),
        (Self::High, "high"),
        (Self::XHigh, "xhigh"),
        (Self::Max, "max"),
    ];

    /// The effort of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, own)| own.eq_ignore_ascii_case(name)).map(|(effort, _)| *effort)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(effort, _)| *effort == self).expect("every effort is listed").1
    }

    /// Tokens that stand for it where a budget is asked for; 0 = no thinking.
    pub const fn budget(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Minimal | Self::Low => 1024,
            Self::Medium => 4096,
            Self::High => 8192,
            Self::XHigh => 16_384,
            Self::Max => 32_768,
        }
    }

    /// The effort that a budget stands for.
    pub const fn of_budget(tokens: u64) -> Self {
        match tokens {
            0 => Self::None,
            1..1024 => Self::Minimal,
            1024..2048 => Self::Low,
            2048..4096 => Self::Medium,
            _ => Self::High,
        }
    }
}

/// The service level that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceTier {
    /// The vendor decides.
    Auto,
    /// No better than ordinary.
    Default,
    /// Slower and cheaper.
    Flex,
    /// Faster and dearer.
    Priority,
}

/// A whole answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The vendor's name for it.
    pub id: Option<String>,
    /// The model that answered, by the vendor's name.
    pub model: Option<String>,
    /// The answers; most dialects know one.
    pub candidates: Vec<Candidate>,
    /// What was used.
    pub usage: Usage,
}

/// One of the answers.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    /// What it consists of.
    pub parts: Vec<Part>,
    /// Why it ended; `None` where the upstream did not say.
    pub stop: Option<Stop>,
    /// Probabilities of its tokens, in OpenAI's form.
    pub logprobs: Option<Json>,
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was done.
    End,
    /// It wrote one of the stop texts; which, where the vendor says so.
    Sequence(Option<Text>),
    /// It reached the limit of tokens.
    Length,
    /// The context window was full.
    ContextFull,
    /// It calls tools.
    ToolCalls,
    /// A filter of the vendor stopped it.
    Filter,
    /// The model refused.
    Refusal,
    /// A long turn that the client may let go on.
    Pause,
    /// The model wrote a call that cannot be read.
    MalformedCall,
    /// The upstream failed.
    Error,
}

impl Stop {
    /// What the client is told, given whether the answer has a call in it: some upstreams say `stop` when they mean a call, and the
    /// other way round. A cut, filtered or failed answer never looks whole.
    #[must_use]
    pub fn settled(stop: Option<Self>, has_call: bool) -> Self {
        match (stop, has_call) {
            (None | Some(Self::End), true) => Self::ToolCalls,
            (Some(Self::ToolCalls) | None, false) => Self::End,
            (Some(stop), _) => stop,
        }
    }
}

/// One step of a streamed answer. Indices of blocks count over all blocks of a candidate; several may be open at once.
#[derive(Clone, Debug)]
pub enum Event {
    /// The answer begins. Comes first, and once.
    Start {
        /// The vendor's name for it.
        id: Option<String>,
        /// The model that answers.
        model: Option<String>,
    },
    /// A block opens.
    Open {
        /// Of which answer.
        candidate: u32,
        /// Which block.
        index: u32,
        /// What it is.
        block: Block,
    },
    /// More of an open block.
    Delta {
        /// Of which answer.
        candidate: u32,
        /// Which block.
        index: u32,
        /// What comes.
        delta: Delta,
    },
    /// A block is whole.
    Close {
        /// Of which answer.
        candidate: u32,
        /// Which block.
        index: u32,
    },
    /// An answer has ended. Its blocks are closed before.
    Stop {
        /// Which answer.
        candidate: u32,
        /// Why; already [`Stop::settled`].
        stop: Stop,
    },
    /// Figures so far: cumulative, to be merged field by field.
    Usage(Usage),
    /// The upstream failed; nothing comes after it.
    Error(UpstreamError),
    /// A sign of life.
    Ping,
}

/// What a block of a stream is.
#[derive(Clone, Debug)]
pub enum Block {
    /// Text.
    Text,
    /// Reasoning.
    Thinking,
    /// Reasoning that only its vendor can read; whole.
    RedactedThinking(Text),
    /// A call of a tool.
    ToolCall {
        /// What its result refers to.
        id: Option<String>,
        /// Which tool.
        name: String,
        /// Gemini's signature of this call.
        signature: Option<Text>,
    },
    /// The model's own words for not answering.
    Refusal,
}

/// More of a block.
#[derive(Clone, Debug)]
pub enum Delta {
    /// Text of a text, thinking or refusal block.
    Text(Text),
    /// Proof of a thinking block, or Gemini's signature of a text block.
    Signature(Text),
    /// A piece of the JSON text of a call's arguments. The pieces together are the text; none at all means no arguments.
    Arguments(Text),
    /// A source of a text block.
    Citation(Citation),
    /// Probabilities of the tokens since the last ones, in OpenAI's form.
    Logprobs(Json),
}

/// An error of the upstream, by what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamError {
    /// What it means.
    pub kind: ErrorClass,
    /// The upstream's words.
    pub message: String,
    /// The field of the request that is wrong, where it says so.
    pub param: Option<String>,
}

/// What an error means, over all dialects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request is wrong.
    BadRequest,
    /// It is longer than the model's window.
    ContextTooLong,
    /// A filter stopped it.
    ContentFilter,
    /// The key was refused.
    BadKey,
    /// No money or quota.
    Billing,
    /// Not allowed.
    Forbidden,
    /// No such model or object.
    NotFound,
    /// The body is too large.
    TooLarge,
    /// Too many requests.
    RateLimit,
    /// The upstream broke.
    Server,
    /// The upstream has too much to do.
    Overloaded,
    /// It took too long.
    Timeout,
}
