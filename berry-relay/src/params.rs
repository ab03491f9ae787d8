//! Parameter control: what an operator sets, sets where the client did not, and takes out of requests, by splicing.
//!
//! Members that nobody mentions keep their bytes and their order; what is new comes last. Names are those of the protocol that the
//! backend speaks. A value that is a table goes into the client's table member by member, and `a.b` names a member inside one.
//! `null` counts as absent, as it does for the vendors. A request whose model and backend have no such settings costs nothing here.

use std::borrow::Cow;
use std::ops::Range;

use berry_core::config::snapshot::{Edits, Upstream};
use berry_core::operation::Operation;
use bytes::Bytes;

use crate::body::{Chunks, Edit};
use crate::json::{Cursor, Kind, Raw, quote, unquote};

/// The host whose models all know `max_completion_tokens`; servers that imitate it may know `max_tokens` only.
const OPENAI_HOST: &str = "api.openai.com";

/// What was done to one parameter of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edited {
    /// The parameter, `a.b` inside a table.
    pub name: String,
    /// What was done.
    pub how: How,
}

/// What can be done to a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Set, because the client did not.
    Defaulted,
    /// The client's value was replaced.
    Overridden,
    /// The client's value was taken out.
    Dropped,
    /// It was left out or said in another way, because the upstream had refused it.
    Repaired,
}

impl How {
    /// Its name in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Defaulted => "defaulted",
            Self::Overridden => "overridden",
            Self::Dropped => "dropped",
            Self::Repaired => "repaired",
        }
    }
}

/// What applies to a request: the model's edits, then the backend's.
#[derive(Clone, Copy)]
pub(crate) struct Control<'a> {
    model: &'a Edits,
    backend: &'a Edits,
    operation: Operation,
    upstream: &'a Upstream,
}

impl<'a> Control<'a> {
    /// For one request; `operation` is the call as the upstream gets it.
    pub(crate) fn new(model: &'a Edits, backend: &'a Edits, operation: Operation, upstream: &'a Upstream) -> Self {
        Self { model, backend, operation, upstream }
    }

    /// The body with the edits, and what they changed; the body itself where nothing is configured.
    pub(crate) fn apply(&self, mut body: Chunks, edited: &mut Vec<Edited>) -> Chunks {
        for edits in [self.model, self.backend] {
            if edits.defaults.is_empty() && edits.overrides.is_empty() && edits.drop.is_empty() {
                continue;
            }
            let rules = Rules {
                defaults: borrowed(&edits.defaults),
                overrides: borrowed(&edits.overrides),
                drop: edits.drop.iter().map(|name| &**name).collect(),
            };
            body = rules.apply(body, edited);
        }
        match self.backend.max_output_tokens.or(self.model.max_output_tokens) {
            Some(limit) => self.limit_output(body, limit, edited),
            None => body,
        }
    }

    /// Asks for no more than `limit` output tokens where the request states no limit.
    fn limit_output(&self, body: Chunks, limit: u64, edited: &mut Vec<Edited>) -> Chunks {
        let limit = limit.to_string();
        let (name, synonym, value) = match self.operation {
            Operation::ChatCompletions if self.is_openai() => ("max_completion_tokens", "max_tokens", limit),
            Operation::ChatCompletions => ("max_tokens", "max_completion_tokens", limit),
            Operation::Completions | Operation::Messages => ("max_tokens", "", limit),
            Operation::Responses => ("max_output_tokens", "", limit),
            // Nested, and either spelling is taken; a body in the other one is left as it is.
            Operation::GenerateContent | Operation::StreamGenerateContent | Operation::StreamGenerateContentArray => {
                ("generationConfig", "generation_config", format!("{{\"maxOutputTokens\":{limit}}}"))
            }
            _ => return body,
        };
        let text = body.slice(0..body.len());
        let states_limit = members(&text).is_some_and(|members| {
            members.iter().any(|member| {
                let states = member.key == synonym && member.value.kind() != Kind::Null;
                states
                    || member.key == name
                        && inner(Some(member.value.0)).iter().any(|(key, _)| key == "max_output_tokens")
            })
        });
        if states_limit {
            return body;
        }
        let rules = Rules { defaults: vec![(Cow::Borrowed(name), value.as_bytes())], ..Rules::default() };
        rules.apply(body.clone(), edited)
    }

    fn is_openai(&self) -> bool {
        match self.upstream {
            Upstream::Azure(_) => true,
            Upstream::OpenAi { base } => base.host() == Some(OPENAI_HOST),
            _ => false,
        }
    }
}

fn borrowed(parameters: &[(Box<str>, Box<str>)]) -> Vec<(Cow<'_, str>, &[u8])> {
    parameters.iter().map(|(name, value)| (Cow::Borrowed(&**name), value.as_bytes())).collect()
}

/// Edits of the members of one object.
#[derive(Default)]
struct Rules<'a> {
    defaults: Vec<(Cow<'a, str>, &'a [u8])>,
    overrides: Vec<(Cow<'a, str>, &'a [u8])>,
    drop: Vec<&'a str>,
}

/// One member of an object, with its place in the text.
struct Member<'a> {
    key: Cow<'a, str>,
    start: usize,
    value: Raw<'a>,
    value_range: Range<usize>,
}

/// What is gathered while an object is walked through.
struct Changes<'a> {
    edits: Vec<Edit>,
    edited: &'a mut Vec<Edited>,
}

impl Rules<'_> {
    fn apply(&self, body: Chunks, edited: &mut Vec<Edited>) -> Chunks {
        let mut changes = Changes { edits: Vec::new(), edited };
        let text = body.slice(0..body.len());
        self.walk(&text, 0, "", &mut changes);
        let mut edits = changes.edits;
        drop(text);
        if edits.is_empty() { body } else { body.splice(&mut edits) }
    }

    /// Makes the edits of the object `text`, which stands at `base` and is called `path`.
    fn walk(&self, text: &[u8], base: usize, path: &str, changes: &mut Changes<'_>) {
        let Some(members) = members(text) else { return };
        let mut kept_before = false;
        let mut previous_end = None;
        for (i, member) in members.iter().enumerate() {
            let name = join(path, &member.key);
            if self.removes(member) {
                let next = members.get(i + 1).map_or(member.value_range.end, |next| next.start);
                let range = match previous_end {
                    Some(end) if kept_before => end..member.value_range.end,
                    _ => member.start..next,
                };
                changes.edit(base, range, &[]);
                changes.note(name, How::Dropped);
            } else {
                kept_before = true;
                self.value(member, base, name, changes);
            }
            previous_end = Some(member.value_range.end);
        }
        let close = text.iter().rposition(|byte| *byte == b'}').expect("an object was read");
        for (name, value, how) in self.missing(&members) {
            let mut member = if kept_before { b",".to_vec() } else { Vec::new() };
            kept_before = true;
            member.extend_from_slice(&quote(name));
            member.push(b':');
            member.extend_from_slice(value);
            changes.edit(base, close..close, &member);
            changes.note(join(path, name), how);
        }
    }

    /// Whether a member goes away and nothing comes in its place.
    fn removes(&self, member: &Member<'_>) -> bool {
        let dropped = self.drop.iter().any(|name| *name == member.key);
        dropped && find(&self.overrides, &member.key).is_none() && find(&self.defaults, &member.key).is_none()
    }

    /// Replaces the value of a member, or parts of it.
    fn value(&self, member: &Member<'_>, base: usize, name: String, changes: &mut Changes<'_>) {
        let dropped = self.drop.iter().any(|name| *name == member.key);
        let is_null = member.value.kind() == Kind::Null;
        let is_object = member.value.kind() == Kind::Object && !dropped;
        let over = find(&self.overrides, &member.key);
        let default = find(&self.defaults, &member.key);
        let replacement = match (over, default) {
            (Some(value), _) if !(is_object && Raw(value).kind() == Kind::Object) => Some((value, How::Overridden)),
            (None, Some(value)) if dropped => Some((value, How::Overridden)),
            (None, Some(value)) if is_null => Some((value, How::Defaulted)),
            _ => None,
        };
        if let Some((value, how)) = replacement {
            if member.value.0 != value {
                changes.edit(base, member.value_range.clone(), value);
                changes.note(name, how);
            }
            return;
        }
        if !is_object {
            return;
        }
        let within = |dropped: &&'_ str| dropped.strip_prefix(&*member.key).is_some_and(|rest| rest.starts_with('.'));
        let drop = self.drop.iter().filter(|dropped| within(dropped)).map(|dropped| &dropped[member.key.len() + 1..]);
        let drop = drop.collect();
        let rules = Rules { defaults: inner(default), overrides: inner(over), drop };
        if !(rules.defaults.is_empty() && rules.overrides.is_empty() && rules.drop.is_empty()) {
            rules.walk(member.value.0, base + member.value_range.start, &name, changes);
        }
    }

    /// What has to be added, and why.
    fn missing<'b>(&'b self, members: &[Member<'_>]) -> Vec<(&'b str, &'b [u8], How)> {
        let absent = |name: &str| members.iter().all(|member| member.key != name);
        let overrides = self.overrides.iter().map(|(name, value)| (&**name, *value, How::Overridden));
        let not_overridden = |name: &str| find(&self.overrides, name).is_none();
        let defaults = self.defaults.iter().filter(|(name, _)| not_overridden(name));
        let defaults = defaults.map(|(name, value)| (&**name, *value, How::Defaulted));
        overrides.chain(defaults).filter(|(name, ..)| absent(name)).collect()
    }
}

impl Changes<'_> {
    fn edit(&mut self, base: usize, range: Range<usize>, replacement: &[u8]) {
        let range = base + range.start..base + range.end;
        self.edits.push(Edit { range, replacement: Bytes::copy_from_slice(replacement) });
    }

    fn note(&mut self, name: String, how: How) {
        self.edited.push(Edited { name, how });
    }
}

/// The edits that take one member out of an object.
pub(crate) fn removal(text: &[u8], name: &str) -> Vec<Edit> {
    let mut changes = Changes { edits: Vec::new(), edited: &mut Vec::new() };
    Rules { drop: vec![name], ..Rules::default() }.walk(text, 0, "", &mut changes);
    changes.edits
}

fn find<'a>(parameters: &[(Cow<'_, str>, &'a [u8])], name: &str) -> Option<&'a [u8]> {
    parameters.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The members of a setting that is a table.
fn inner(value: Option<&[u8]>) -> Vec<(Cow<'_, str>, &[u8])> {
    let members = value.and_then(members).unwrap_or_default();
    members.into_iter().map(|member| (member.key, member.value.0)).collect()
}

/// The members of an object in their order; `None` for anything else.
fn members(text: &[u8]) -> Option<Vec<Member<'_>>> {
    let offset = |part: &[u8]| part.as_ptr().addr() - text.as_ptr().addr();
    let mut found = Vec::new();
    let mut cursor = Cursor::new(text);
    let mut is_object = false;
    cursor.members(|key, cursor| {
        is_object = true;
        let value = cursor.value()?;
        let start = offset(key) - 1;
        let at = offset(value.0);
        let value_range = at..at + value.0.len();
        let key = match memchr::memchr(b'\\', key) {
            None => String::from_utf8_lossy(key),
            Some(_) => Cow::Owned(unquote(&text[start..start + key.len() + 2]).unwrap_or_default()),
        };
        found.push(Member { key, start, value, value_range });
        Some(())
    })?;
    let is_object = is_object || text.trim_ascii_start().starts_with(b"{");
    is_object.then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edits(defaults: &[(&str, &str)], overrides: &[(&str, &str)], drop: &[&str]) -> Edits {
        let boxed =
            |list: &[(&str, &str)]| list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Edits {
            defaults: boxed(defaults),
            overrides: boxed(overrides),
            drop: drop.iter().map(|name| (*name).into()).collect(),
            ..Edits::default()
        }
    }

    fn openai(base: &'static str) -> Upstream {
        Upstream::OpenAi { base: http::Uri::from_static(base) }
    }

    /// The body after the edits of a model and of a backend, and what was noted.
    fn apply(
        body: &str,
        model: &Edits,
        backend: &Edits,
        operation: Operation,
    ) -> (String, Vec<(String, &'static str)>) {
        let mut edited = Vec::new();
        let upstream = openai("http://h/v1");
        let control = Control::new(model, backend, operation, &upstream);
        // Two chunks, so that places are right across a cut.
        let (a, b) = body.split_at(body.len() / 2);
        let mut chunks = Chunks::default();
        [a, b].iter().for_each(|part| chunks.push(Bytes::copy_from_slice(part.as_bytes())));
        let body = control.apply(chunks, &mut edited).into_bytes();
        let noted = edited.into_iter().map(|edited| (edited.name, edited.how.as_str())).collect();
        (String::from_utf8(body.to_vec()).unwrap(), noted)
    }

    fn chat(body: &str, edits: &Edits) -> String {
        apply(body, edits, &Edits::default(), Operation::ChatCompletions).0
    }

    #[test]
    fn a_default_is_set_last_and_only_when_the_client_did_not() {
        let edits = edits(&[("temperature", "0.50"), ("seed", "7")], &[], &[]);
        assert_eq!(chat(r#"{ "a":1.0 }"#, &edits), r#"{ "a":1.0 ,"temperature":0.50,"seed":7}"#);
        assert_eq!(chat(r#"{"temperature": 1e0}"#, &edits), r#"{"temperature": 1e0,"seed":7}"#);
        assert_eq!(chat(r#"{"temperature": null,"seed":1}"#, &edits), r#"{"temperature": 0.50,"seed":1}"#);
        assert_eq!(chat("{ }", &edits), r#"{ "temperature":0.50,"seed":7}"#);
    }

    #[test]
    fn an_override_takes_the_place_of_the_clients_value() {
        let edits = edits(&[], &[("temperature", "0")], &[]);
        assert_eq!(chat(r#"{"x":"é","temperature" : 1 ,"y":2}"#, &edits), r#"{"x":"é","temperature" : 0 ,"y":2}"#);
        assert_eq!(chat(r#"{"temp\u0065rature":1}"#, &edits), r#"{"temp\u0065rature":0}"#);
        assert_eq!(chat(r#"{"x":{"temperature":1}}"#, &edits), r#"{"x":{"temperature":1},"temperature":0}"#);
    }

    #[test]
    fn what_is_dropped_leaves_valid_json_wherever_it_stood() {
        let edits = edits(&[], &[], &["a", "b"]);
        for (body, expected) in [
            (r#"{"a":1,"b":2}"#, "{}"),
            (r#"{"a":1,"b":2,"c":3}"#, r#"{"c":3}"#),
            (r#"{"c":3,"a":1,"b":2}"#, r#"{"c":3}"#),
            (r#"{"a":1, "c":3, "b":2, "d":4}"#, r#"{"c":3, "d":4}"#),
            (r#"{"c":[{"a":1}]}"#, r#"{"c":[{"a":1}]}"#),
            (r#"{"a":1,"a":2,"c":3,"a":4}"#, r#"{"c":3}"#),
        ] {
            assert_eq!(chat(body, &edits), expected);
        }
    }

    #[test]
    fn tables_go_into_tables_member_by_member() {
        let edits = edits(
            &[("reasoning", r#"{"effort":"low","summary":"auto"}"#)],
            &[("text", r#"{"verbosity":"low"}"#)],
            &["metadata.secret"],
        );
        assert_eq!(
            chat(
                r#"{"reasoning":{"effort":"high"},"text":{"verbosity":"high","f":1},"metadata":{"secret":1,"k":2}}"#,
                &edits
            ),
            r#"{"reasoning":{"effort":"high","summary":"auto"},"text":{"verbosity":"low","f":1},"metadata":{"k":2}}"#
        );
        assert_eq!(
            chat(r#"{"reasoning":{},"text":"x"}"#, &edits),
            r#"{"reasoning":{"effort":"low","summary":"auto"},"text":{"verbosity":"low"}}"#
        );
    }

    #[test]
    fn the_backends_edits_come_after_the_models() {
        let model = edits(&[("a", "1")], &[("b", "1")], &[]);
        let backend = edits(&[], &[("b", "2")], &["a"]);
        let (body, noted) = apply(r#"{"b":0}"#, &model, &backend, Operation::ChatCompletions);
        assert_eq!(body, r#"{"b":2}"#);
        let noted: Vec<_> = noted.iter().map(|(name, how)| (name.as_str(), *how)).collect();
        assert_eq!(noted, [("b", "overridden"), ("a", "defaulted"), ("b", "overridden"), ("a", "dropped")]);
    }

    #[test]
    fn an_output_limit_is_asked_for_where_the_client_states_none_in_the_calls_own_words() {
        let model = Edits { max_output_tokens: Some(9), ..Edits::default() };
        let backend = Edits { max_output_tokens: Some(5), ..Edits::default() };
        let limited = |body, backend, operation| apply(body, &model, backend, operation).0;
        let own = Edits::default();
        assert_eq!(limited("{}", &own, Operation::ChatCompletions), r#"{"max_tokens":9}"#);
        assert_eq!(limited("{}", &backend, Operation::Responses), r#"{"max_output_tokens":5}"#);
        let stated = r#"{"max_completion_tokens":3}"#;
        assert_eq!(limited(stated, &own, Operation::ChatCompletions), stated);
        assert_eq!(limited("{}", &own, Operation::Embeddings), "{}");
        for (body, expected) in [
            ("{}", r#"{"generationConfig":{"maxOutputTokens":9}}"#),
            (r#"{"generationConfig":{"topK":1}}"#, r#"{"generationConfig":{"topK":1,"maxOutputTokens":9}}"#),
            (r#"{"generationConfig":{"maxOutputTokens":3}}"#, r#"{"generationConfig":{"maxOutputTokens":3}}"#),
            (r#"{"generationConfig":{"max_output_tokens":3}}"#, r#"{"generationConfig":{"max_output_tokens":3}}"#),
            (r#"{"generation_config":{}}"#, r#"{"generation_config":{}}"#),
        ] {
            assert_eq!(limited(body, &own, Operation::GenerateContent), expected);
        }
        let openai = openai("https://api.openai.com/v1");
        let control = Control::new(&model, &own, Operation::ChatCompletions, &openai);
        let body = control.apply(Chunks::from(Bytes::from_static(b"{}")), &mut Vec::new());
        assert_eq!(body.into_bytes(), r#"{"max_completion_tokens":9}"#);
    }

    #[test]
    fn without_settings_the_body_is_the_same_memory() {
        let bytes = Bytes::from_static(b"{\"a\":1}");
        let (none, upstream) = (Edits::default(), openai("http://h/v1"));
        let control = Control::new(&none, &none, Operation::ChatCompletions, &upstream);
        let body = control.apply(Chunks::from(bytes.clone()), &mut Vec::new()).into_bytes();
        assert_eq!(body.as_ptr(), bytes.as_ptr());
    }
}
