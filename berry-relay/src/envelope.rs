//! What Berry reads of a JSON request: a handful of top-level members, found by a skipping scan. The body itself stays as it is.

use std::ops::Range;

use berry_core::operation::Operation;
use bytes::Bytes;
use smallvec::{SmallVec, smallvec};

use crate::body::{Chunks, Edit};
use crate::dialect::embeddings::Encoding;
use crate::json::{Cursor, JsonError, Kind, Member, Members, Scanner, Wanted, quote, unquote};

/// The members that are looked at.
static MEMBERS: Wanted = Wanted::new(&[
    "model",
    "stream",
    "backend",
    "stream_options",
    "previous_response_id",
    "encoding_format",
    "safety_identifier",
    "user",
    "metadata",
]);

/// Longest string that is read, as it is written. Names are short; what is not need not be copied to be refused.
const TEXT_BYTES_MAX: usize = 4096;

/// Longest name of a client's own user, bytes.
pub const END_USER_BYTES_MAX: usize = 256;

/// What Gemini puts before the name of a model inside a body.
const GEMINI_MODEL_PREFIX: &str = "models/";

/// What a request says about itself.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// The model that is asked for.
    pub model: String,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// The provider that is forced.
    pub backend: Option<String>,
    /// The earlier response that it goes on from.
    pub previous_response: Option<String>,
    /// How vectors are to be written.
    pub encoding: Encoding,
    /// Whether the client itself asks for usage on its stream.
    pub wants_usage: bool,
    /// Where the client names its own user.
    end_user: Option<EndUser>,
    /// Where the model's name stands; Gemini names it in the URL and in some bodies once more.
    model_values: SmallVec<[Range<usize>; 1]>,
    /// What stands before the name there.
    model_prefix: &'static str,
    backend_member: Option<Range<usize>>,
    stream_options: StreamOptions,
    /// Where a member can be put in at the end.
    close: usize,
}

/// Where a request may name the user of the client who caused it.
#[derive(Clone, Debug)]
enum EndUser {
    /// `safety_identifier`, or the older `user`: the range of the string.
    Text(Range<usize>),
    /// Anthropic's `metadata`, which may have a `user_id`: the range of the object.
    Metadata(Range<usize>),
}

/// State of `stream_options`, as far as it matters for putting `include_usage` into it.
#[derive(Clone, Debug)]
enum StreamOptions {
    /// Not there.
    Absent,
    /// There, but `null`: the range of the value.
    Null(Range<usize>),
    /// An object without `include_usage`: where it closes, and whether it is empty.
    Object { close: usize, empty: bool },
    /// The range of `include_usage`'s value.
    Value(Range<usize>),
    /// Something that only the upstream can judge.
    Odd,
}

/// Why a request cannot be served as it is. Each is the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON.
    #[error("the request body is not valid JSON: {expected} expected at line {line} column {column}")]
    Syntax {
        /// What should have stood there.
        expected: &'static str,
        /// Counted from 1.
        line: usize,
        /// In bytes, counted from 1.
        column: usize,
    },
    /// Nothing at all.
    #[error("the request body is empty; send a JSON object with a `model`")]
    Empty,
    /// JSON, but no object.
    #[error("the request body must be a JSON object")]
    NotAnObject,
    /// No `model`.
    #[error("the request names no model; add a `model` member")]
    MissingModel,
    /// A member of the wrong type.
    #[error("`{field}` must be {expected}, not {found}")]
    WrongType {
        /// The member.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: Kind,
    },
    /// A string that cannot be read.
    #[error("`{field}` is not readable text: {why}")]
    BadText {
        /// The member.
        field: &'static str,
        /// Why.
        why: String,
    },
    /// A member that must be there at most once.
    #[error("`{field}` stands in the request more than once; leave one")]
    Repeated {
        /// The member.
        field: &'static str,
    },
}

impl EnvelopeError {
    /// The member at fault.
    pub fn field(&self) -> Option<&'static str> {
        match self {
            Self::MissingModel => Some("model"),
            Self::WrongType { field, .. } | Self::BadText { field, .. } | Self::Repeated { field } => Some(field),
            Self::Syntax { .. } | Self::Empty | Self::NotAnObject => None,
        }
    }
}

impl Envelope {
    /// Reads the envelope of a whole body.
    ///
    /// # Errors
    /// [`EnvelopeError`], the first that is met.
    pub fn read(body: &Chunks) -> Result<Self, EnvelopeError> {
        let members = scan(body, &MEMBERS)?;
        let Some(close) = members.close() else {
            return Err(EnvelopeError::NotAnObject);
        };
        for field in ["model", "backend", "stream"] {
            if members.is_repeated(field) {
                return Err(EnvelopeError::Repeated { field });
            }
        }
        let model_member = members.get("model").ok_or(EnvelopeError::MissingModel)?;
        let model = text(body, model_member)?;
        if model.is_empty() {
            return Err(EnvelopeError::MissingModel);
        }
        let backend = members.get("backend").filter(|member| member.kind != Kind::Null);
        let (stream_options, wants_usage) = stream_options(body, &members);
        Ok(Self {
            model,
            stream: stream(body, &members)?,
            backend: backend.map(|member| text(body, member)).transpose()?,
            previous_response: members
                .get("previous_response_id")
                .filter(|member| member.kind == Kind::String)
                .map(|member| text(body, member))
                .transpose()?,
            encoding: encoding(body, &members),
            wants_usage,
            end_user: end_user(&members),
            model_values: smallvec![model_member.value.clone()],
            model_prefix: "",
            backend_member: members.get("backend").map(|member| member.removal.clone()),
            stream_options,
            close,
        })
    }

    /// Reads the envelope of a Gemini call, whose model and streaming are said by its URL. `model` members that repeat the name,
    /// as `models/NAME`, are found where the API has them: in embedding requests and in requests to be counted.
    ///
    /// # Errors
    /// [`EnvelopeError`], the first that is met.
    pub fn read_gemini(body: &Chunks, model: String, operation: Operation) -> Result<Self, EnvelopeError> {
        let members = scan(body, &MEMBERS)?;
        let Some(close) = members.close() else {
            return Err(EnvelopeError::NotAnObject);
        };
        if members.is_repeated("backend") {
            return Err(EnvelopeError::Repeated { field: "backend" });
        }
        let backend = members.get("backend").filter(|member| member.kind != Kind::Null);
        Ok(Self {
            model,
            stream: operation.always_streams(),
            backend: backend.map(|member| text(body, member)).transpose()?,
            previous_response: None,
            encoding: Encoding::Float,
            wants_usage: true,
            end_user: None,
            model_values: gemini_models(body, operation),
            model_prefix: GEMINI_MODEL_PREFIX,
            backend_member: members.get("backend").map(|member| member.removal.clone()),
            stream_options: StreamOptions::Odd,
            close,
        })
    }

    /// The edits that make the client's body the upstream's: its own name for the model, no `backend`, and `include_usage`
    /// where we ask for it.
    pub fn edits(&self, upstream_model: &str, add_usage: bool) -> Vec<Edit> {
        let mut edits = Vec::with_capacity(3);
        if self.model != upstream_model && !self.model_values.is_empty() {
            let name = match self.model_prefix {
                "" => quote(upstream_model),
                prefix => quote(&format!("{prefix}{upstream_model}")),
            };
            let name = Bytes::from(name);
            let values = self.model_values.iter();
            edits.extend(values.map(|range| Edit { range: range.clone(), replacement: name.clone() }));
        }
        if let Some(range) = &self.backend_member {
            edits.push(Edit { range: range.clone(), replacement: Bytes::new() });
        }
        if add_usage {
            edits.extend(self.usage_edit());
        }
        edits
    }

    /// The client's own user, as `body`, from which this was read, names it: `safety_identifier`, else `user`, else
    /// `metadata.user_id`. `None` where it is not there, empty, longer than [`END_USER_BYTES_MAX`] or no text.
    ///
    /// Sources, read in 2026: platform.openai.com/docs/api-reference/chat (`safety_identifier` in the place of `user`),
    /// docs.anthropic.com/en/api/messages (`metadata.user_id`, at most 256 characters).
    pub fn end_user(&self, body: &Chunks) -> Option<String> {
        let raw = match self.end_user.as_ref()? {
            EndUser::Text(range) => range.clone(),
            EndUser::Metadata(range) => {
                let mut inner = Scanner::new(const { &Wanted::new(&["user_id"]) });
                body.pieces(range.clone()).try_for_each(|piece| inner.push(piece)).ok()?;
                let found = inner.finish().ok()?;
                let value = &found.get("user_id").filter(|member| member.kind == Kind::String)?.value;
                range.start + value.start..range.start + value.end
            }
        };
        // Each byte may be written as an escape of six.
        let raw = Some(raw).filter(|raw| raw.len() <= 2 + 6 * END_USER_BYTES_MAX)?;
        let name = unquote(&body.slice(raw)).ok()?;
        (1..=END_USER_BYTES_MAX).contains(&name.len()).then_some(name)
    }

    /// Whether `include_usage` can be put in.
    pub fn can_add_usage(&self) -> bool {
        !matches!(self.stream_options, StreamOptions::Odd)
    }

    fn usage_edit(&self) -> Option<Edit> {
        let (range, text): (Range<usize>, &'static str) = match &self.stream_options {
            StreamOptions::Absent => (self.close..self.close, ",\"stream_options\":{\"include_usage\":true}"),
            StreamOptions::Null(value) => (value.clone(), "{\"include_usage\":true}"),
            StreamOptions::Object { close, empty: true } => (*close..*close, "\"include_usage\":true"),
            StreamOptions::Object { close, empty: false } => (*close..*close, ",\"include_usage\":true"),
            StreamOptions::Value(value) => (value.clone(), "true"),
            StreamOptions::Odd => return None,
        };
        Some(Edit { range, replacement: Bytes::from_static(text.as_bytes()) })
    }
}

/// Where a Gemini body repeats its model's name.
fn gemini_models(body: &Chunks, operation: Operation) -> SmallVec<[Range<usize>; 1]> {
    let mut found = SmallVec::new();
    if !matches!(operation, Operation::EmbedContent | Operation::BatchEmbedContents | Operation::GeminiCountTokens) {
        return found;
    }
    let text = body.slice(0..body.len());
    let offset = |part: &[u8]| part.as_ptr().addr() - text.as_ptr().addr();
    // The scan has checked the syntax; what is not where it should be is left to the upstream.
    let _ = Cursor::new(&text).members(|key, value| {
        let mut note = |key: &[u8], value: &mut Cursor<'_>| {
            let value = value.value()?;
            if key == b"model" && value.kind() == Kind::String {
                found.push(offset(value.0)..offset(value.0) + value.0.len());
            }
            Some(())
        };
        match key {
            b"generateContentRequest" => value.members(note),
            b"requests" => value.elements(|request| request.members(&mut note)),
            _ => note(key, value),
        }
    });
    found
}

/// Scans a whole body.
fn scan(body: &Chunks, wanted: &'static Wanted) -> Result<Members, EnvelopeError> {
    if body.is_empty() {
        return Err(EnvelopeError::Empty);
    }
    let mut scanner = Scanner::new(wanted);
    body.iter()
        .try_for_each(|chunk| scanner.push(chunk))
        .and_then(|()| scanner.finish())
        .map_err(|error| syntax_error(body, error))
}

fn syntax_error(body: &Chunks, error: JsonError) -> EnvelopeError {
    let (mut line, mut column) = (1, 1);
    for piece in body.pieces(0..error.offset) {
        line += memchr::memchr_iter(b'\n', piece).count();
        column = match memchr::memrchr(b'\n', piece) {
            Some(newline) => piece.len() - newline,
            None => column + piece.len(),
        };
    }
    EnvelopeError::Syntax { expected: error.expected, line, column }
}

fn text(body: &Chunks, member: &Member) -> Result<String, EnvelopeError> {
    if member.kind != Kind::String {
        return Err(EnvelopeError::WrongType { field: member.name, expected: "a string", found: member.kind });
    }
    let bad = |why| EnvelopeError::BadText { field: member.name, why };
    if member.value.len() > TEXT_BYTES_MAX {
        return Err(bad(format!("it is longer than {TEXT_BYTES_MAX} bytes")));
    }
    unquote(&body.slice(member.value.clone())).map_err(|error| bad(error.to_string()))
}

fn encoding(body: &Chunks, members: &Members) -> Encoding {
    let value = members.get("encoding_format").map(|member| body.slice(member.value.clone()));
    if value.as_deref() == Some(b"\"base64\"") { Encoding::Base64 } else { Encoding::Float }
}

fn end_user(members: &Members) -> Option<EndUser> {
    let value = |name, kind| Some(members.get(name).filter(|member| member.kind == kind)?.value.clone());
    let text = value("safety_identifier", Kind::String).or_else(|| value("user", Kind::String)).map(EndUser::Text);
    text.or_else(|| value("metadata", Kind::Object).map(EndUser::Metadata))
}

fn is_true(body: &Chunks, value: &Range<usize>) -> bool {
    body.slice(value.clone()).starts_with(b"t")
}

fn stream(body: &Chunks, members: &Members) -> Result<bool, EnvelopeError> {
    match members.get("stream") {
        None => Ok(false),
        Some(member) => match member.kind {
            Kind::Null => Ok(false),
            Kind::Bool => Ok(is_true(body, &member.value)),
            found => Err(EnvelopeError::WrongType { field: "stream", expected: "a boolean", found }),
        },
    }
}

/// How `stream_options` stands, and whether it asks for usage already.
fn stream_options(body: &Chunks, members: &Members) -> (StreamOptions, bool) {
    let Some(member) = members.get("stream_options") else {
        return (StreamOptions::Absent, false);
    };
    if members.is_repeated("stream_options") {
        return (StreamOptions::Odd, false);
    }
    let start = member.value.start;
    match member.kind {
        Kind::Null => (StreamOptions::Null(member.value.clone()), false),
        Kind::Object => {
            let mut inner = Scanner::new(const { &Wanted::new(&["include_usage"]) });
            let scanned = body.pieces(member.value.clone()).try_for_each(|piece| inner.push(piece));
            let found = scanned.and_then(|()| inner.finish()).expect("it was valid as part of the whole");
            match found.get("include_usage") {
                None => {
                    let close = start + found.close().expect("it is an object");
                    (StreamOptions::Object { close, empty: found.is_empty() }, false)
                }
                Some(usage) if matches!(usage.kind, Kind::Bool | Kind::Null) && !found.is_repeated("include_usage") => {
                    let value = start + usage.value.start..start + usage.value.end;
                    let asks = is_true(body, &value);
                    (StreamOptions::Value(value), asks)
                }
                Some(_) => (StreamOptions::Odd, false),
            }
        }
        _ => (StreamOptions::Odd, false),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn body(text: &str) -> Chunks {
        Chunks::from(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn edited(text: &str, model: &str) -> String {
        let body = body(text);
        let mut edits = Envelope::read(&body).unwrap().edits(model, true);
        String::from_utf8(body.splice(&mut edits).into_bytes().to_vec()).unwrap()
    }

    #[test]
    fn only_the_named_members_change_and_everything_else_stays_byte_for_byte() {
        for (from, to) in [
            (r#"{"model":"a"}"#, r#"{"model":"up","stream_options":{"include_usage":true}}"#),
            (r#"{"model":"up","x":1.0e5 }"#, r#"{"model":"up","x":1.0e5 ,"stream_options":{"include_usage":true}}"#),
            (
                r#"{"backend":"b", "model":"a","stream_options":null}"#,
                r#"{ "model":"up","stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"mod\u0065l":"a","stream_options":{}}"#,
                r#"{"mod\u0065l":"up","stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream_options":{ "z":1 },"model":"a","backend":null}"#,
                r#"{"stream_options":{ "z":1 ,"include_usage":true},"model":"up"}"#,
            ),
            (
                r#"{"stream_options":{"include_usage": false},"model":"a"}"#,
                r#"{"stream_options":{"include_usage": true},"model":"up"}"#,
            ),
        ] {
            assert_eq!(edited(from, "up"), to, "{from}");
        }
    }

    #[test]
    fn what_a_request_says_is_read_through_escapes_and_nulls() {
        let envelope = Envelope::read(&body(
            r#"{"messages":[{"model":"inner","stream":true}],"m\u006fdel":"gpt-\u0034","stream":null,"backend":"openai"}"#,
        ))
        .unwrap();
        assert_eq!((envelope.model.as_str(), envelope.stream), ("gpt-4", false));
        assert_eq!(envelope.backend.as_deref(), Some("openai"));
    }

    #[test]
    fn each_mistake_has_its_own_error() {
        let fails = |text: &str| Envelope::read(&body(text)).unwrap_err().to_string();
        for (text, expected) in [
            ("", "the request body is empty; send a JSON object with a `model`"),
            ("[]", "the request body must be a JSON object"),
            ("{}", "the request names no model; add a `model` member"),
            (r#"{"model":""}"#, "the request names no model; add a `model` member"),
            (r#"{"model":4}"#, "`model` must be a string, not a number"),
            (r#"{"model":"a","stream":"yes"}"#, "`stream` must be a boolean, not a string"),
            (r#"{"model":"a","backend":[]}"#, "`backend` must be a string, not an array"),
            (r#"{"model":"a","model":"b"}"#, "`model` stands in the request more than once; leave one"),
            (r#"{"model":"a","mod\u0065l":"b"}"#, "`model` stands in the request more than once; leave one"),
            ("{\"model\":\"a\",\n  \"x\" 1}", "the request body is not valid JSON: `:` expected at line 2 column 7"),
        ] {
            assert_eq!(fails(text), expected, "{text}");
        }
    }

    #[test]
    fn a_mistake_is_placed_by_line_and_column_wherever_the_chunks_end() {
        let text = "{\"model\":\"a\",\n \"y\":[1,\n2],\n  \"x\" 1}";
        for cut in 0..=text.len() {
            let mut body = Chunks::default();
            body.push(Bytes::copy_from_slice(&text.as_bytes()[..cut]));
            body.push(Bytes::copy_from_slice(&text.as_bytes()[cut..]));
            let error = Envelope::read(&body).unwrap_err();
            assert_eq!(error, EnvelopeError::Syntax { expected: "`:`", line: 4, column: 7 }, "cut at {cut}");
        }
    }

    #[test]
    fn stream_options_that_only_the_upstream_can_judge_are_left_alone() {
        for options in [
            r#"{"include_usage":"yes"}"#,
            r#"{"include_usage":1}"#,
            r#"{"include_usage":false,"include_usage":true}"#,
            "[]",
            "true",
            r#"{},"stream_options":{}"#,
        ] {
            let envelope = Envelope::read(&body(&format!(r#"{{"model":"a","stream_options":{options}}}"#))).unwrap();
            assert!(!envelope.can_add_usage() && !envelope.wants_usage, "{options}");
            assert!(envelope.edits("a", true).is_empty(), "{options}");
        }
    }

    #[test]
    fn a_clients_own_user_is_found_wherever_its_dialect_has_it() {
        let found = |members: &str| {
            let body = body(&format!(r#"{{"model":"a",{members}}}"#));
            Envelope::read(&body).unwrap().end_user(&body)
        };
        let check = |members: &str, expect: Option<&str>| assert_eq!(found(members).as_deref(), expect, "{members}");
        check(r#""user":"u-1""#, Some("u-1"));
        check(r#""user":"u-1","safety_identifier":"s\u002d1","metadata":{"user_id":"m"}"#, Some("s-1"));
        check(r#""metadata":{"other":{"user_id":"x"},"user_id":"m-1"}"#, Some("m-1"));
        check(r#""user":null,"metadata":{"user_id":"m-1"}"#, Some("m-1"));
        for nobody in [r#""user":"""#, r#""user":7"#, r#""metadata":{"user_id":["x"]}"#, r#""messages":[{"user":"x"}]"#]
        {
            check(nobody, None);
        }
        check(&format!(r#""user":"{}""#, "x".repeat(END_USER_BYTES_MAX)), Some(&"x".repeat(END_USER_BYTES_MAX)));
        check(&format!(r#""user":"{}""#, "x".repeat(END_USER_BYTES_MAX + 1)), None);
    }

    #[test]
    fn a_name_out_of_all_bounds_is_refused_unread() {
        let long = format!(r#"{{"model":"{}"}}"#, "x".repeat(TEXT_BYTES_MAX));
        let error = Envelope::read(&body(&long)).unwrap_err();
        assert_eq!(error.to_string(), "`model` is not readable text: it is longer than 4096 bytes");
        let error = Envelope::read(&body(r#"{"model":"\ud800"}"#)).unwrap_err();
        assert!(matches!(error, EnvelopeError::BadText { field: "model", .. }), "{error}");
    }

    /// A member as the client spelled it and as the upstream must get it; `None` = not at all.
    type Spelling = (String, Option<String>);

    /// Members that pass as they are: odd numbers, escapes, nesting, keys that only look like ours, repeated keys.
    fn foreign_member() -> impl Strategy<Value = Spelling> {
        let key = prop_oneof![Just("messages"), Just("x"), Just("Model"), Just("model "), Just("x"), Just("\\u0078")];
        let value = prop_oneof![
            Just("0.70"),
            Just("1E+2"),
            Just("123456789012345678901234567890"),
            Just("-0.0"),
            Just("\"\\ud83d\\ude00 \\\"model\\\":\\\"z\\\" 漢\""),
            Just("{ \"model\" : \"inner\", \"stream\":true ,\"backend\":[1 , 2]}"),
            Just("[ [], {} ,null ]"),
            Just("true"),
        ];
        (key, value).prop_map(|(key, value)| {
            let member = format!("\"{key}\": {value}");
            (member.clone(), Some(member))
        })
    }

    fn model_member() -> impl Strategy<Value = Spelling> {
        (prop_oneof![Just("model"), Just("m\\u006fdel")], prop_oneof![Just("\"gpt\""), Just("\"g\\u0070t\"")])
            .prop_map(|(key, value)| (format!("\"{key}\" :{value}"), Some(format!("\"{key}\" :\"up/\\\"stream\""))))
    }

    proptest! {
        #[test]
        fn upstream_bytes_are_the_clients_except_for_the_named_splices(
            mut members in proptest::collection::vec(foreign_member(), 0..5),
            model in model_member(),
            model_at in any::<proptest::sample::Index>(),
            backend_at in proptest::option::of(any::<proptest::sample::Index>()),
            space in "[ \n\t]{0,2}",
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..4),
            add_usage in any::<bool>(),
        ) {
            members.insert(model_at.index(members.len() + 1), model);
            if let Some(at) = &backend_at {
                members.insert(at.index(members.len() + 1), ("\"backend\":\"b\"".to_owned(), None));
            }
            let join = |parts: Vec<String>, tail: &str| format!("{{{space}{}{space}{tail}}}", parts.join(&format!("{space},")));
            let client = join(members.iter().map(|member| member.0.clone()).collect(), "");
            let mut chunks = Chunks::default();
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(client.len())).collect();
            places.extend([0, client.len()]);
            places.sort_unstable();
            for pair in places.windows(2) {
                chunks.push(Bytes::copy_from_slice(&client.as_bytes()[pair[0]..pair[1]]));
            }
            let envelope = Envelope::read(&chunks).unwrap();
            prop_assert_eq!(&envelope.model, "gpt");
            let sent = chunks.splice(&mut envelope.edits("up/\"stream", add_usage)).into_bytes();

            let tail = if add_usage { ",\"stream_options\":{\"include_usage\":true}" } else { "" };
            let kept: Vec<String> = members.iter().filter_map(|member| member.1.clone()).collect();
            // Cutting a member out leaves the white space around it, so white space is compared where nothing was cut.
            if backend_at.is_none() {
                prop_assert_eq!(std::str::from_utf8(&sent).unwrap(), join(kept, tail));
            } else {
                let squeeze = |text: &[u8]| text.iter().copied().filter(|byte| !b" \n\t".contains(byte)).collect::<Vec<u8>>();
                prop_assert_eq!(squeeze(&sent), squeeze(join(kept, tail).as_bytes()));
                prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&sent).is_ok());
            }
        }
    }
}
