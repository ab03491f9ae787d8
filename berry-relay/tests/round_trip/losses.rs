//! What a declared loss takes away: the rule that makes two meanings comparable.

use berry_relay::dialect::loss::{Loss, Reason};
use serde_json::{Value, json};

use super::meaning::{Map, Meaning};

/// Takes what was declared as lost from both meanings. Gives the first loss that nothing in the request stands behind.
pub(crate) fn without(before: &mut Meaning, after: &mut Meaning, lost: &[Loss], lost_again: &[Loss]) -> Option<String> {
    let mut pointless = None;
    let (asked, came) = (before.clone(), after.clone());
    for loss in lost_again {
        take(before, after, &loss.field, loss.reason);
    }
    for loss in lost {
        take(before, after, &loss.field, loss.reason);
        if !take(&mut asked.clone(), &mut came.clone(), &loss.field, loss.reason) {
            pointless = pointless.or(Some(format!("{};{}", loss.field, loss.reason.as_str())));
        }
    }
    for meaning in [before, after] {
        mend(meaning);
        meaning.asked.clear();
    }
    pointless
}

/// Texts that stand together again after what stood between them was taken.
fn mend(meaning: &mut Meaning) {
    let mut parts: Vec<Map> = Vec::new();
    for part in std::mem::take(&mut meaning.parts) {
        match parts.last_mut() {
            Some(last)
                if part["kind"] == "text"
                    && part["role"] == "assistant"
                    && last["kind"] == "text"
                    && last["role"] == "assistant" =>
            {
                let joined = format!("{}{}", last["text"].as_str().unwrap_or(""), part["text"].as_str().unwrap_or(""));
                last.insert("text".to_owned(), json!(joined));
            }
            _ => parts.push(part),
        }
    }
    meaning.parts = parts;
    if meaning.system.iter().all(|block| block.get("cache").is_none()) {
        let texts: Vec<&str> = meaning.system.iter().filter_map(|block| block["text"].as_str()).collect();
        meaning.system = if texts.is_empty() { Vec::new() } else { vec![Map::of("text", json!(texts.join("\n\n")))] };
    }
}

fn take(before: &mut Meaning, after: &mut Meaning, field: &str, reason: Reason) -> bool {
    if reason == Reason::Added {
        return take_added(after, field);
    }
    if let Some(keyword) =
        ["tools.parameters.", "tools.input_schema."].iter().find_map(|parent| field.strip_prefix(parent))
    {
        return both(before, after, |meaning| {
            meaning
                .tools
                .iter_mut()
                .filter_map(|tool| tool.get_mut("parameters"))
                .map(|schema| keyword_out(schema, keyword))
                .fold(false, |any, one| any | one)
        });
    }
    if let Some(keyword) = field.strip_prefix("response_format.schema.") {
        return both(before, after, |meaning| {
            meaning.settings.get_mut("response_format").is_some_and(|schema| keyword_out(schema, keyword))
        });
    }
    match field {
        "cache_control" => both(before, after, |meaning| {
            let system = fields_out(&mut meaning.system, |_| true, "cache");
            let parts = fields_out(&mut meaning.parts, |_| true, "cache");
            fields_out(&mut meaning.tools, |_| true, "cache") | system | parts
        }),
        "cache_control.ttl" => both(before, after, |meaning| {
            let marked = meaning.system.iter_mut().chain(&mut meaning.parts).chain(&mut meaning.tools);
            let long = marked.filter_map(|marked| marked.get_mut("cache")).filter(|mark| **mark == "1h");
            long.map(|mark| *mark = json!("5m")).count() > 0
        }),
        "tools.strict" => both(before, after, |meaning| fields_out(&mut meaning.tools, |_| true, "strict")),
        "messages.thinking" | "messages.redacted_thinking" | "messages.signature" => both(before, after, |meaning| {
            parts_out(meaning, |part| part["kind"] == "thinking" || part["kind"] == "redacted")
        }),
        "messages.system" => take_instructions(before, after),
        "messages.image.detail" | "messages.content.image.detail" => {
            both(before, after, |meaning| fields_out(&mut meaning.parts, |part| part["kind"] == "image", "detail"))
        }
        "messages.content.document" => take_as_text(before),
        "messages.document.url" => both(before, after, |meaning| {
            parts_out(meaning, |part| part["kind"] == "document" && part["source"].get("url").is_some())
        }),
        "messages.tool_result.is_error" => {
            for part in after.parts.iter_mut().filter(|part| part["kind"] == "result") {
                if let Some(words) =
                    part["content"].as_str().and_then(|words| words.strip_prefix("Error: ")).map(str::to_owned)
                {
                    part.insert("content".to_owned(), json!(words));
                }
            }
            both(before, after, |meaning| fields_out(&mut meaning.parts, |part| part["kind"] == "result", "is_error"))
        }
        "messages.tool_result.content" => take_media(before, after),
        "response_format.description" | "response_format.name" | "response_format.strict" => {
            let name = field.rsplit('.').next().unwrap_or_default();
            both(before, after, |meaning| {
                meaning
                    .settings
                    .get_mut("response_format")
                    .and_then(Value::as_object_mut)
                    .is_some_and(|format| format.remove(name).is_some())
            })
        }
        "response_format" if reason == Reason::Approximated => {
            take_instruction_of_format(after);
            both(before, after, |meaning| meaning.settings.remove("response_format").is_some())
        }
        _ => match field.strip_prefix("messages.content.document.").or(field.strip_prefix("messages.document.")) {
            Some(name) => take_of_document(before, after, if name == "title" { "name" } else { name }),
            None => take_setting(before, after, field),
        },
    }
}

fn both(before: &mut Meaning, after: &mut Meaning, mut change: impl FnMut(&mut Meaning) -> bool) -> bool {
    let changed = change(before);
    change(after) | changed
}

fn take_setting(before: &mut Meaning, after: &mut Meaning, field: &str) -> bool {
    const THINKING: &[&str] = &["thinking", "reasoning_effort", "reasoning.summary"];
    let is_thinking = field.starts_with("thinking") || field.starts_with("reasoning");
    let asked = before.asked.iter().any(|name| name == field || is_thinking && THINKING.contains(&name.as_str()));
    asked
        | both(before, after, |meaning| match field {
            "thinking" | "reasoning" | "reasoning.effort" | "reasoning_effort" | "thinking.budget_tokens" => {
                ["thinking", "reasoning_effort"]
                    .iter()
                    .fold(false, |any, name| meaning.settings.remove(*name).is_some() | any)
            }
            _ => meaning.settings.remove(field).is_some(),
        })
}

fn take_added(after: &mut Meaning, field: &str) -> bool {
    match field {
        "messages" => parts_out(after, |part| part["kind"] == "text" && part["text"] == "."),
        name => after.settings.remove(name).is_some(),
    }
}

fn fields_out(maps: &mut [Map], of: impl Fn(&Map) -> bool, name: &str) -> bool {
    maps.iter_mut().filter(|map| of(map)).fold(false, |any, map| map.remove(name).is_some() | any)
}

fn parts_out(meaning: &mut Meaning, is_it: impl Fn(&Map) -> bool) -> bool {
    let before = meaning.parts.len();
    meaning.parts.retain(|part| !is_it(part));
    meaning.parts.len() < before
}

/// Takes a keyword out of a schema, at any depth.
fn keyword_out(schema: &mut Value, keyword: &str) -> bool {
    match schema {
        Value::Object(members) => {
            let own = members.remove(keyword).is_some();
            members.values_mut().fold(own, |any, value| keyword_out(value, keyword) | any)
        }
        Value::Array(elements) => elements.iter_mut().fold(false, |any, value| keyword_out(value, keyword) | any),
        _ => false,
    }
}

/// An instruction in the middle, which comes back as marked text of the user.
fn take_instructions(before: &mut Meaning, after: &mut Meaning) -> bool {
    let texts: Vec<String> = before
        .parts
        .iter()
        .filter(|part| part["role"] == "system")
        .filter_map(|part| part["text"].as_str().map(str::to_owned))
        .collect();
    let marked: Vec<String> = texts.iter().map(|text| format!("<system>{text}</system>")).collect();
    let came = parts_out(after, |part| part["text"].as_str().is_some_and(|text| marked.iter().any(|own| own == text)));
    parts_out(before, |part| part["role"] == "system") && came
}

/// A text as a document, which comes back as text.
fn take_as_text(before: &mut Meaning) -> bool {
    let is_text = |part: &&mut Map| part["kind"] == "document" && part["source"].get("text").is_some();
    let texts = before.parts.iter_mut().filter(is_text).map(|part| {
        let source = part.remove("source").unwrap_or_default();
        part.insert("kind".to_owned(), json!("text"));
        part.insert("text".to_owned(), source["text"].clone());
    });
    texts.count() > 0
}

/// A title or a note of a document, which goes, or comes back as text before it.
fn take_of_document(before: &mut Meaning, after: &mut Meaning, name: &str) -> bool {
    let values: Vec<Value> = before.parts.iter().filter_map(|part| part.get(name).cloned()).collect();
    for value in values.iter().filter_map(Value::as_str) {
        let said = if name == "name" { format!("File: {value}") } else { value.to_owned() };
        if let Some(at) = after.parts.iter().position(|part| part["role"] == "user" && part["text"] == said) {
            after.parts.remove(at);
        }
    }
    let is_document = |part: &Map| matches!(part["kind"].as_str(), Some("document" | "text"));
    both(before, after, |meaning| fields_out(&mut meaning.parts, is_document, name))
}

/// Pictures inside a result, which come back as the user's own behind it.
fn take_media(before: &mut Meaning, after: &mut Meaning) -> bool {
    for result in &before.parts {
        let place =
            after.parts.iter().position(|part| part["kind"] == "result" && part["call"] == result["call"]).unwrap_or(0);
        for moved in result["media"].as_array().into_iter().flatten() {
            let is_it = |part: &Map| part["kind"] == moved["kind"] && part["source"] == moved["source"];
            if let Some(at) = after.parts[place..].iter().position(is_it) {
                after.parts.remove(place + at);
            }
        }
    }
    fields_out(&mut before.parts, |_| true, "media")
}

/// The words that ask for a form where there is no field for it.
fn take_instruction_of_format(after: &mut Meaning) {
    for block in &mut after.system {
        let text = block["text"].as_str().unwrap_or_default().to_owned();
        if let Some(at) = text.rfind("Answer with ") {
            block.insert("text".to_owned(), json!(text[..at].trim_end_matches("\n\n")));
        }
    }
    after.system.retain(|block| block["text"] != "");
}
