//! There and back: a request of one dialect, written in another and read from there, means what it meant, less exactly what was
//! declared as lost. For every pair of dialects, over requests that proptest makes up and over recorded ones where they are at hand.
#![expect(clippy::unwrap_used, reason = "a test panics where it must")]

mod losses;
mod meaning;
mod wanted;

use std::cell::Cell;

use berry_core::config::provider_data::ProviderData;
use berry_core::operation::Dialect;
use berry_relay::dialect::anthropic_messages::AnthropicMessages;
use berry_relay::dialect::gemini_generate::GeminiGenerate;
use berry_relay::dialect::loss::{Loss, Losses, Reason};
use berry_relay::dialect::openai_chat::OpenAiChat;
use berry_relay::dialect::openai_responses::OpenAiResponses;
use berry_relay::dialect::{Capabilities, Codec, Malformed, Target, ThinkingAsk};
use bytes::Bytes;
use proptest::prelude::ProptestConfig;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde_json::Value;

use self::losses::without;
use self::meaning::Meaning;
use self::wanted::{Wanted, wanted};

/// How many requests are taken there and back for each pair.
const CASES: u32 = 256;
/// Of how many every field is dropped once.
const MUTATED: u32 = 48;

fn codec(dialect: &str) -> &'static dyn Codec {
    match dialect {
        "chat" => &OpenAiChat,
        "messages" => &AnthropicMessages,
        "responses" => &OpenAiResponses,
        _ => &GeminiGenerate,
    }
}

/// Models that differ in what they take.
fn models(dialect: &str) -> &'static [&'static str] {
    match dialect {
        "messages" => &["claude-3-5-haiku", "claude-sonnet-4-5", "claude-opus-4-6", "claude-5"],
        "gemini" => &["gemini-1.5-pro", "gemini-2.5-flash", "gemini-3-pro"],
        _ => &["gpt-4o", "o3"],
    }
}

fn capabilities(dialect: &str, model: &str) -> Capabilities {
    ProviderData::bundled().capabilities(
        match dialect {
            "messages" => Dialect::Anthropic,
            "gemini" => Dialect::Gemini,
            _ => Dialect::OpenAi,
        },
        model,
    )
}

/// A body in another dialect, as a backend with this model gets it, and what was lost.
fn translated(from: &str, to: &str, model: &str, body: &str) -> Result<(String, Losses), Malformed> {
    let mut losses = Losses::default();
    let request = codec(from).decode_request(&Bytes::copy_from_slice(body.as_bytes()), &mut losses)?;
    let capabilities = capabilities(to, model);
    let target = Target { model, capabilities: &capabilities, own_state: false, ask_usage: true };
    let written = codec(to).encode_request(&request, &target, &mut losses)?;
    Ok((String::from_utf8(written.into_bytes().to_vec()).unwrap(), losses))
}

/// The model that the way back is written for: one that takes everything.
fn tolerant(dialect: &str) -> &'static str {
    match dialect {
        "messages" => "claude-opus-4-6",
        "gemini" => "gemini-2.5-flash",
        _ => "gpt-oss",
    }
}

/// What is different between a request and what came back; `None` when nothing is.
fn difference(
    from: &str,
    (to, model): (&str, &str),
    (before, after): (&Value, &Value),
    (lost, lost_again): (&[Loss], &[Loss]),
) -> Option<String> {
    let (mut one, mut other) = (Meaning::read(from, before), Meaning::read(from, after));
    if to == "messages" && !one.settings.contains_key("max_tokens") {
        // Messages insist on a limit: the model's own.
        other.settings.remove("max_tokens");
    }
    for meaning in [&mut one, &mut other] {
        if capabilities(to, model).thinking == ThinkingAsk::None {
            // What cannot think need not be told not to.
            meaning.settings.retain(|_, value| value != "off");
        }
        if ["messages", "gemini"].contains(&to)
            && let Some(Value::Object(format)) = meaning.settings.get_mut("response_format")
        {
            // There, schemas are always followed.
            format.remove("strict");
        }
        if model.contains("gemini-1.5") {
            // Objects are closed in Google's own form.
            meaning.close_objects();
        }
    }
    if let Some(loss) = without(&mut one, &mut other, lost, lost_again) {
        return Some(format!("`{loss}` was declared and nothing of the kind was asked for"));
    }
    (!one.is(&other)).then(|| format!("{one:#?}\n--- came back as\n{other:#?}"))
}

/// Takes a body there and back. Gives the differences, or `None` where one side refuses it.
fn there_and_back(from: &str, to: &str, model: &str, body: &Value) -> Result<Option<String>, Malformed> {
    let text = body.to_string();
    let (written, lost) = translated(from, to, model, &text)?;
    assert_eq!(translated(from, to, model, &text)?.0, written, "twice");
    Ok(back(from, (to, model), body, &written, &lost))
}

fn back(from: &str, (to, model): (&str, &str), body: &Value, written: &str, lost: &Losses) -> Option<String> {
    let (returned, lost_again) = match translated(to, from, tolerant(from), written) {
        Ok(returned) => returned,
        Err(error) => return Some(format!("what was written is refused: {error}: {written}")),
    };
    let (there, again): (Vec<Loss>, Vec<Loss>) = (lost.iter().cloned().collect(), lost_again.iter().cloned().collect());
    let returned_body = serde_json::from_str(&returned).unwrap();
    let difference = difference(from, (to, model), (body, &returned_body), (&there, &again))?;
    Some(format!(
        "{difference}\nlost there: {}; back: {}\nthere: {written}\nback: {returned}",
        lost.header(),
        lost_again.header()
    ))
}

/// The history as it stands in a body: what follows the settings, the system prompt and the tools.
fn history<'a>(dialect: &str, body: &'a str) -> &'a str {
    let name = match dialect {
        "gemini" => "\"contents\":[",
        "responses" => "\"input\":[",
        _ => "\"messages\":[",
    };
    body.split_once(name).map(|(_, history)| history.trim_end_matches(['}', ']'])).unwrap()
}

/// Runs a check for requests of this dialect at every other one: the same ones each time.
fn for_every_pair(
    from: &'static str,
    to: &'static str,
    cases: u32,
    check: impl Fn(&Wanted, &'static str) -> Result<(), String>,
) {
    let config = ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let models = models(to);
    let ran = runner.run(&(wanted(), 0..models.len()), |(wanted, model)| {
        check(&wanted, models[model])
            .map_err(|why| TestCaseError::fail(format!("{from} to {to} ({}): {why}", models[model])))
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}

fn means_the_same(from: &'static str, to: &'static str) {
    for_every_pair(from, to, CASES, |wanted, model| {
        // What cannot be left out and has no place is refused as a whole, with its name.
        let Ok(difference) = there_and_back(from, to, model, &wanted.said_in(from)) else { return Ok(()) };
        difference.map_or(Ok(()), Err)
    });
}

fn grows_at_its_end(from: &'static str, to: &'static str) {
    for_every_pair(from, to, CASES, |wanted, model| {
        let mut shorter = wanted.clone();
        let Some(last) = shorter.exchanges.pop() else { return Ok(()) };
        shorter.last.clone_from(&last.asks);
        let translated = |wanted: &Wanted| translated(from, to, model, &wanted.said_in(from).to_string());
        let (Ok((short, _)), Ok((long, _))) = (translated(&shorter), translated(wanted)) else { return Ok(()) };
        match history(to, &long).starts_with(history(to, &short)) {
            true => Ok(()),
            false => Err(format!("{short}\n{long}")),
        }
    });
}

/// Every member of every object in a value, as the path to it.
fn members(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    let go = |step: String, value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>| {
        path.push(step);
        members(value, path, found);
        path.pop();
    };
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.push(path.iter().chain([name]).cloned().collect());
                go(name.clone(), value, path, found);
            }
        }
        Value::Array(list) => list.iter().enumerate().for_each(|(at, value)| go(at.to_string(), value, path, found)),
        _ => {}
    }
}

/// The value without the member at a path.
fn lacking(value: &Value, path: &[String]) -> Value {
    let mut value = value.clone();
    let (last, parents) = path.split_last().unwrap();
    let parent = parents.iter().fold(&mut value, |at, step| match at {
        Value::Array(list) => &mut list[step.parse::<usize>().unwrap()],
        other => &mut other[step.as_str()],
    });
    parent.as_object_mut().unwrap().remove(last);
    value
}

/// Members that a reader supplies where they are missing: a result without an id answers the first call, sound is `wav`, a choice
/// that names a tool is of that tool, an answer's schema is followed exactly and closed where there is no other. And what only
/// the upstream reads: Google's word for calls of another model.
const SUPPLIED: &[&str] =
    &["tool_call_id", "tool_use_id", "call_id", "format", "type", "strict", "additionalProperties", "thoughtSignature"];

/// A translator that drops one field more than it declares is found out: what the upstream's body means less without a member is
/// a difference on the way back, or is declared there.
fn notices_a_field_that_is_dropped(from: &'static str, to: &'static str) {
    let noticed = Cell::new(0);
    for_every_pair(from, to, MUTATED, |wanted, model| {
        let body = wanted.said_in(from);
        let Ok((written, lost)) = translated(from, to, model, &body.to_string()) else { return Ok(()) };
        // What is said in another way may be missed or not.
        if lost.iter().any(|loss| matches!(loss.reason, Reason::Approximated | Reason::Added | Reason::Clamped)) {
            return Ok(());
        }
        let whole: Value = serde_json::from_str(&written).unwrap();
        let declared = |body: &str| translated(to, from, tolerant(from), body).map(|(_, lost)| lost);
        let usual = declared(&written);
        let lost_there: Vec<Loss> = usual.iter().flat_map(Losses::iter).cloned().collect();
        let mut paths = Vec::new();
        members(&whole, &mut Vec::new(), &mut paths);
        for path in paths {
            let less = lacking(&whole, &path);
            let is_supplied = SUPPLIED.contains(&path.last().unwrap().as_str());
            // The limit that Messages insist on is not the client's.
            let is_insisted_on =
                path == ["max_tokens"] && !Meaning::read(from, &body).settings.contains_key("max_tokens");
            // What the client's own dialect has no place for is missed by nobody on the way back, and declared there anyway.
            let (mut more, mut fewer) = (Meaning::read(to, &whole), Meaning::read(to, &less));
            without(&mut more, &mut fewer, &[], &lost_there);
            if is_supplied || is_insisted_on || more.is(&fewer) {
                continue;
            }
            noticed.set(noticed.get() + 1);
            let less = less.to_string();
            if declared(&less) == usual && back(from, (to, model), &body, &less, &lost).is_none() {
                return Err(format!("nobody misses {}\nthere: {written}\nlost: {}", path.join("."), lost.header()));
            }
        }
        Ok(())
    });
    assert!(noticed.get() > 100, "{} fields were dropped", noticed.get());
}

macro_rules! pairs {
    ($($name:ident: $from:literal to $to:literal;)*) => {
        /// A request means the same there and back, less what is declared.
        mod means_the_same {
            $(#[test] fn $name() { super::means_the_same($from, $to); })*
        }

        /// The history of the next turn begins with the bytes of this one's.
        mod grows_at_its_end {
            $(#[test] fn $name() { super::grows_at_its_end($from, $to); })*
        }

        /// A translator that drops one field more than it declares is found out.
        mod notices_a_field_that_is_dropped {
            $(#[test] fn $name() { super::notices_a_field_that_is_dropped($from, $to); })*
        }
    };
}

pairs! {
    chat_to_messages: "chat" to "messages";
    chat_to_responses: "chat" to "responses";
    chat_to_gemini: "chat" to "gemini";
    messages_to_chat: "messages" to "chat";
    messages_to_responses: "messages" to "responses";
    messages_to_gemini: "messages" to "gemini";
    responses_to_chat: "responses" to "chat";
    responses_to_messages: "responses" to "messages";
    responses_to_gemini: "responses" to "gemini";
    gemini_to_chat: "gemini" to "chat";
    gemini_to_messages: "gemini" to "messages";
    gemini_to_responses: "gemini" to "responses";
}
