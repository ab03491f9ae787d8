//! Points of the vendors' protocols that translations of requests have gone wrong at, each with the request that shows it.
#![expect(clippy::unwrap_used, reason = "a test panics where it must")]

use berry_core::config::provider_data::ProviderData;
use berry_core::operation::Dialect;
use berry_relay::dialect::anthropic_messages::AnthropicMessages;
use berry_relay::dialect::gemini_generate::GeminiGenerate;
use berry_relay::dialect::loss::Losses;
use berry_relay::dialect::openai_chat::OpenAiChat;
use berry_relay::dialect::openai_responses::OpenAiResponses;
use berry_relay::dialect::{Codec, Target};
use bytes::Bytes;
use serde_json::{Value, json};

const CHAT: &dyn Codec = &OpenAiChat;
const MESSAGES: &dyn Codec = &AnthropicMessages;
const GEMINI: &dyn Codec = &GeminiGenerate;
const RESPONSES: &dyn Codec = &OpenAiResponses;

/// What a model is sent for a client's request, and what was declared; or why it is refused.
fn try_sent(from: &dyn Codec, model: &str, body: &Value) -> Result<(Value, String), String> {
    let (codec, dialect) = match model {
        model if model.starts_with("claude") => (MESSAGES, Dialect::Anthropic),
        model if model.starts_with("gemini") => (GEMINI, Dialect::Gemini),
        _ => (CHAT, Dialect::OpenAi),
    };
    let mut losses = Losses::default();
    let request = from.decode_request(&Bytes::from(body.to_string()), &mut losses).unwrap();
    let capabilities = ProviderData::bundled().capabilities(dialect, model);
    let target = Target { model, capabilities: &capabilities, own_state: true, ask_usage: false };
    let written = codec.encode_request(&request, &target, &mut losses).map_err(|error| error.to_string())?;
    Ok((serde_json::from_slice(&written.into_bytes()).unwrap(), losses.header()))
}

fn sent(from: &dyn Codec, model: &str, body: Value) -> (Value, String) {
    try_sent(from, model, &body).unwrap()
}

/// A chat request with these turns and members.
fn chat(messages: Value, further: Value) -> Value {
    let mut body = json!({"model": "m", "messages": messages});
    body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    body
}

/// A Messages request with these turns and members.
fn messages(turns: Value, further: Value) -> Value {
    let mut body = chat(turns, json!({"max_tokens": 9000}));
    body.as_object_mut().unwrap().extend(further.as_object().unwrap().clone());
    body
}

fn user() -> Value {
    json!({"role": "user", "content": "x"})
}

fn tool() -> Value {
    json!([{"type": "function", "function": {"name": "f"}}])
}

const CLAUDE: &str = "claude-sonnet-4-5";

#[test]
fn leading_instructions_stay_blocks_with_their_marks_and_a_later_one_becomes_marked_text() {
    let marked = json!([{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]);
    let turns = json!([{"role": "system", "content": marked}, {"role": "developer", "content": "d"}, user(),
        {"role": "system", "content": "mid"}]);
    let (body, loss) = sent(CHAT, CLAUDE, chat(turns.clone(), json!({})));
    assert_eq!(body["system"][0]["cache_control"], json!({"type": "ephemeral"}));
    assert_eq!(body["system"][1]["text"], "d");
    assert_eq!(body["messages"][0]["content"][1]["text"], "<system>mid</system>");
    assert_eq!(loss, "messages.system;approximated");
    let (body, _) = sent(CHAT, "gemini-2.5-flash", chat(turns, json!({})));
    assert_eq!(body["systemInstruction"]["parts"].as_array().unwrap().len(), 2);
}

#[test]
fn turns_of_one_role_are_merged_empty_texts_go_and_a_prefill_ends_without_white_space() {
    let turns = json!([user(), user(), {"role": "assistant", "content": "a"}, {"role": "assistant", "content": ""},
        {"role": "assistant", "content": "b  "}]);
    let (body, loss) = sent(CHAT, CLAUDE, chat(turns, json!({})));
    let texts = |at: usize| body["messages"][at]["content"].as_array().unwrap().iter().map(|part| part["text"].clone());
    assert_eq!((texts(0).collect::<Value>(), texts(1).collect::<Value>()), (json!(["x", "x"]), json!(["a", "b"])));
    assert_eq!((body["messages"].as_array().unwrap().len(), loss.as_str()), (2, ""));
}

#[test]
fn a_model_that_takes_no_prefill_gets_a_turn_behind_it_and_a_first_turn_is_put_in_both_declared() {
    let (body, loss) =
        sent(CHAT, "claude-sonnet-4-6", chat(json!([user(), {"role": "assistant", "content": "b"}]), json!({})));
    assert_eq!((body["messages"][2]["role"].as_str(), loss.as_str()), (Some("user"), "messages.prefill;model"));
    let turns = json!([{"role": "assistant", "content": "hi"}, {"role": "user", "content": "x", "name": "ann"}]);
    let (body, loss) = sent(CHAT, CLAUDE, chat(turns, json!({})));
    assert_eq!(
        (body["messages"][0]["role"].as_str(), loss.as_str()),
        (Some("user"), "messages.name;unsupported, messages;added")
    );
}

#[test]
fn arguments_that_are_blank_or_no_json_become_an_object_and_results_are_put_in_order() {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let result = |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
    let turns = json!([user(), {"role": "assistant", "content": null, "tool_calls": [call("c1", " "), call("c2", "no")]},
        result("c2", "2"), result("c2", "again"), result("c9", "orphan")]);
    let (body, loss) = sent(CHAT, CLAUDE, chat(turns, json!({"tools": tool()})));
    let calls = &body["messages"][1]["content"];
    assert_eq!((&calls[0]["input"], &calls[1]["input"]), (&json!({}), &json!({"arguments": "no"})));
    let results = body["messages"][2]["content"].as_array().unwrap();
    assert_eq!((results.len(), &results[0]["is_error"], &results[1]["tool_use_id"]), (2, &json!(true), &json!("c2")));
    assert_eq!(results[1]["content"][0]["text"], "2", "the first of two results counts");
    assert_eq!(loss, "messages.tool_result;added, messages.tool_result;invalid, messages.tool_calls.arguments;invalid");
}

#[test]
fn what_a_tools_message_has_no_place_for_follows_it_and_a_failure_is_said() {
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}});
    let pdf = json!({"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "BB"}});
    let content = json!([{"type": "text", "text": "bad"}, image, pdf]);
    let turns = json!([user(), {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "is_error": true, "content": content}]}]);
    let (body, loss) = sent(MESSAGES, "gpt-4o", messages(turns.clone(), json!({})));
    assert_eq!(body["messages"][2]["content"], "Error: bad");
    assert_eq!(body["messages"][3]["content"][0]["image_url"]["url"], "data:image/png;base64,AA");
    assert_eq!(body["messages"][3]["content"][1]["file"]["file_data"], "data:application/pdf;base64,BB");
    assert_eq!(loss, "messages.tool_result.content;approximated, messages.tool_result.is_error;approximated");
    let (body, _) = sent(MESSAGES, "gemini-2.5-flash", messages(turns, json!({})));
    assert!(body["contents"][2]["parts"][0]["functionResponse"]["response"]["error"].is_string());
}

#[test]
fn a_choice_of_tools_fits_what_the_model_and_the_request_allow() {
    let (body, _) = sent(CHAT, CLAUDE, chat(json!([user()]), json!({"tools": tool(), "parallel_tool_calls": false})));
    assert_eq!(body["tool_choice"], json!({"type": "auto", "disable_parallel_tool_use": true}));
    assert_eq!(body["tools"][0]["input_schema"], json!({"type": "object", "properties": {}}));
    let (body, _) = sent(CHAT, CLAUDE, chat(json!([user()]), json!({"tool_choice": "required"})));
    assert!(body.get("tool_choice").is_none(), "without tools there is nothing to choose");
    let thinks = json!({"tools": tool(), "tool_choice": "required", "reasoning_effort": "low", "max_tokens": 5000,
        "temperature": 0.3, "top_p": 0.5});
    let (body, loss) = sent(CHAT, CLAUDE, chat(json!([user()]), thinks));
    assert_eq!(
        (&body["tool_choice"]["type"], body.get("temperature"), body.get("top_p")),
        (&json!("auto"), None, None)
    );
    assert_eq!(loss, "reasoning_effort;approximated, temperature;model, top_p;model, tool_choice;model");
}

#[test]
fn the_older_words_for_functions_are_understood_and_tools_of_vendors_are_declared() {
    let turns = json!([user(), {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "1"}]);
    let older = json!({"functions": [{"name": "f"}], "function_call": {"name": "f"}});
    let (body, loss) = sent(CHAT, CLAUDE, chat(turns, older));
    assert_eq!((&body["tool_choice"], loss.as_str()), (&json!({"type": "tool", "name": "f"}), ""));
    assert_eq!(body["messages"][1]["content"][0]["id"], body["messages"][2]["content"][0]["tool_use_id"]);
    let (body, loss) =
        sent(CHAT, CLAUDE, chat(json!([user()]), json!({"tools": [{"type": "custom", "custom": {"name": "g"}}]})));
    assert_eq!((body.get("tools"), loss.as_str()), (None, "tools.custom;unsupported"));
}

#[test]
fn pictures_documents_and_sound_go_where_they_have_a_place_and_files_never_to_another_vendor() {
    let part =
        |part: Value| chat(json!([{"role": "user", "content": [part, {"type": "text", "text": "t"}]}]), json!({}));
    let pdf = json!({"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}});
    let (body, loss) = sent(CHAT, CLAUDE, part(pdf.clone()));
    assert_eq!(
        body["messages"][0]["content"][0]["source"],
        json!({"type": "base64", "media_type": "application/pdf", "data": "AA"})
    );
    assert_eq!(loss, "");
    let (body, _) = sent(CHAT, "gemini-2.5-flash", part(pdf));
    let parts = body["contents"][0]["parts"].as_array().unwrap();
    let document = parts.iter().find_map(|part| part.get("inlineData")).unwrap();
    assert_eq!((&document["mimeType"], &document["data"]), (&json!("application/pdf"), &json!("AA")));
    let sound = json!({"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}});
    assert!(try_sent(CHAT, CLAUDE, &part(sound.clone())).is_err(), "an answer without the sound would mislead");
    let (body, _) = sent(CHAT, "gemini-2.5-flash", part(sound));
    assert_eq!(body["contents"][0]["parts"][0]["inlineData"]["mimeType"], "audio/wav");
    let (_, loss) = sent(CHAT, CLAUDE, part(json!({"type": "file", "file": {"file_id": "file-1"}})));
    assert_eq!(loss, "messages.file.file_id;foreign");
    let low = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}});
    let (_, loss) = sent(CHAT, "gemini-2.5-flash", part(low));
    assert_eq!(loss, "messages.content.image.detail;unsupported");
}

#[test]
fn each_model_is_asked_to_think_in_the_way_that_it_knows() {
    let budget = json!({"temperature": 0.2, "thinking": {"type": "enabled", "budget_tokens": 5000}});
    let (body, loss) = sent(MESSAGES, "claude-opus-4-7", messages(json!([user()]), budget.clone()));
    assert_eq!((&body["thinking"], &body["output_config"]), (&json!({"type": "adaptive"}), &json!({"effort": "high"})));
    assert_eq!(loss, "thinking;approximated, temperature;model");
    let (body, loss) = sent(MESSAGES, "o3", messages(json!([user()]), budget));
    assert_eq!((&body["reasoning_effort"], loss.contains("thinking;approximated")), (&json!("high"), true));
    let asks = |max: u64| chat(json!([user()]), json!({"reasoning_effort": "high", "max_tokens": max}));
    let (body, _) = sent(CHAT, CLAUDE, asks(2000));
    assert_eq!(body["thinking"], json!({"type": "enabled", "budget_tokens": 1999}));
    let (body, loss) = sent(CHAT, CLAUDE, asks(500));
    assert_eq!((body.get("thinking"), loss.contains("reasoning_effort;clamped")), (None, true));
}

#[test]
fn a_tool_loop_whose_thoughts_are_gone_runs_without_thinking_and_unsigned_thoughts_stay_here() {
    let call = json!({"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let turns = json!([user(), {"role": "assistant", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "1"}]);
    let asks = json!({"reasoning_effort": "low", "max_tokens": 5000, "tools": tool()});
    let (body, loss) = sent(CHAT, CLAUDE, chat(turns, asks));
    assert_eq!((body.get("thinking"), &body["messages"][1]["content"][0]["type"]), (None, &json!("tool_use")));
    assert!(loss.contains("reasoning_effort;foreign") && loss.contains("messages.thinking;foreign"), "{loss}");
}

#[test]
fn models_that_want_their_thoughts_back_get_them_inside_the_tool_loop_only() {
    let loops = |id: &str, thought: &str| {
        let blocks = json!([{"type": "thinking", "thinking": thought, "signature": ""},
            {"type": "tool_use", "id": id, "name": "f", "input": {}}]);
        [
            json!({"role": "assistant", "content": blocks}),
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "1"}]}),
        ]
    };
    let ([one, done], [two, doing]) = (loops("t1", "old"), loops("t2", "new"));
    let turns = json!([user(), one, done, {"role": "assistant", "content": "so"}, user(), two, doing]);
    let (body, loss) = sent(MESSAGES, "deepseek-chat", messages(turns.clone(), json!({})));
    let thoughts = |body: &Value| -> Vec<Value> {
        body["messages"].as_array().unwrap().iter().filter_map(|turn| turn.get("reasoning_content").cloned()).collect()
    };
    assert_eq!((thoughts(&body), loss.as_str()), (vec![json!("new")], "messages.thinking;foreign"));
    assert!(thoughts(&sent(MESSAGES, "gpt-4o", messages(turns, json!({}))).0).is_empty());
}

#[test]
fn the_form_of_an_answer_is_asked_for_as_the_model_can_be_told() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}});
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": true, "schema": schema}});
    let asks = chat(json!([user()]), json!({"response_format": format}));
    let (body, loss) = sent(CHAT, CLAUDE, asks.clone());
    assert_eq!(body["output_config"]["format"]["schema"]["properties"]["a"], json!({"type": "integer"}));
    assert_eq!(loss, "response_format.schema.minimum;unsupported");
    let (body, _) = sent(CHAT, "gemini-2.5-flash", asks.clone());
    assert_eq!(body["generationConfig"]["responseJsonSchema"]["properties"]["a"]["minimum"], 3);
    let (_, loss) = sent(CHAT, "claude-3-5-sonnet", asks);
    assert_eq!(loss, "response_format;approximated");
    let (body, _) =
        sent(CHAT, "gemini-2.5-flash", chat(json!([user()]), json!({"response_format": {"type": "json_object"}})));
    assert_eq!(body["generationConfig"], json!({"responseMimeType": "application/json"}));
}

#[test]
fn limits_are_moved_into_the_range_of_the_model_and_what_has_no_place_is_declared() {
    let all = json!({"temperature": 1.7, "stop": [" ", "a"], "n": 3, "max_tokens": 999_999, "seed": 1, "logit_bias": {"1": 1},
        "user": "u", "metadata": {"a": "b"}, "service_tier": "priority", "presence_penalty": 1, "logprobs": true, "verbosity": "low"});
    let (body, loss) = sent(CHAT, CLAUDE, chat(json!([user()]), all));
    assert_eq!((&body["max_tokens"], &body["temperature"]), (&json!(64000), &json!(1)));
    assert_eq!((&body["stop_sequences"], &body["metadata"]), (&json!(["a"]), &json!({"user_id": "u"})));
    for expected in [
        "max_tokens;clamped",
        "temperature;clamped",
        "stop;unsupported",
        "service_tier;approximated",
        "n;unsupported",
        "seed;unsupported",
        "presence_penalty;unsupported",
        "logprobs;unsupported",
        "logit_bias;unsupported",
        "metadata;unsupported",
        "verbosity;unsupported",
    ] {
        assert!(loss.split(", ").any(|told| told == expected), "{expected}: {loss}");
    }
    let both = chat(json!([user()]), json!({"temperature": 0.7, "top_p": 0.5}));
    assert_eq!(sent(CHAT, CLAUDE, both.clone()).1, "top_p;model");
    assert_eq!(sent(CHAT, "claude-opus-4-7", both).1, "temperature;model, top_p;model");
    let stops = json!({"stop": ["a", "b", "c", "d", "e", "f"], "n": 2, "logprobs": true, "top_logprobs": 0});
    let (body, loss) = sent(CHAT, "gemini-2.5-flash", chat(json!([user()]), stops));
    assert_eq!(body["generationConfig"]["stopSequences"].as_array().unwrap().len(), 5);
    assert_eq!(
        (&body["generationConfig"]["candidateCount"], body["generationConfig"].get("logprobs")),
        (&json!(2), None)
    );
    assert_eq!(loss, "stop;clamped");
    assert_eq!(sent(CHAT, CLAUDE, chat(json!([user()]), json!({}))).0["max_tokens"], 64000, "the model's own limit");
    let (body, _) = sent(MESSAGES, "o3", messages(json!([user()]), json!({})));
    assert_eq!((&body["max_completion_tokens"], body.get("max_tokens")), (&json!(9000), None));
}

#[test]
fn cache_marks_are_four_never_on_nothing_and_long_ones_never_behind_short_ones() {
    let text = |text: &str, ttl: Option<&str>| {
        let mut mark = json!({"type": "ephemeral"});
        ttl.into_iter().for_each(|ttl| mark["ttl"] = json!(ttl));
        json!({"type": "text", "text": text, "cache_control": mark})
    };
    let parts = json!([
        text("1", Some("1h")),
        text("", None),
        text("2", None),
        text("3", Some("1h")),
        text("4", None),
        text("5", None)
    ]);
    let (body, loss) = sent(CHAT, CLAUDE, chat(json!([{"role": "user", "content": parts}]), json!({})));
    let marks: Vec<&Value> =
        body["messages"][0]["content"].as_array().unwrap().iter().map(|part| &part["cache_control"]).collect();
    let (short, long) = (json!({"type": "ephemeral"}), json!({"type": "ephemeral", "ttl": "1h"}));
    assert_eq!(marks, [&long, &short, &short, &short, &Value::Null]);
    assert_eq!(loss, "cache_control.ttl;clamped, cache_control;clamped");
    let (_, loss) =
        sent(MESSAGES, "gpt-4o", messages(json!([{"role": "user", "content": [text("1", None)]}]), json!({})));
    assert_eq!(loss, "cache_control;unsupported");
}

#[test]
fn fields_of_responses_and_of_gemini_that_have_no_place_in_chat_are_declared() {
    let (body, loss) =
        sent(RESPONSES, "gpt-4o", json!({"input": "x", "store": true, "truncation": "auto", "max_tool_calls": 2}));
    assert_eq!(body["messages"][0], user());
    assert_eq!(loss, "store;unsupported, truncation;unsupported, max_tool_calls;unsupported");
    let gemini = json!({"contents": [{"role": "user", "parts": [{"text": "x"}]}], "safetySettings": [{"category": "a"}],
        "generationConfig": {"candidateCount": 2, "topK": 3, "mediaResolution": "M"}, "labels": {"a": "b"}});
    let (body, loss) = sent(GEMINI, "gpt-4o", gemini);
    assert_eq!(body["n"], 2);
    assert_eq!(
        loss,
        "generationConfig.mediaResolution;unsupported, top_k;unsupported, labels;unsupported, safetySettings;unsupported"
    );
}

#[test]
fn names_of_tools_that_another_vendor_refuses_are_changed_without_meeting() {
    let tools = json!([{"functionDeclarations": [{"name": "a.b"}, {"name": "a_b"}]}]);
    let (body, _) = sent(GEMINI, "gpt-4o", json!({"contents": [{"parts": [{"text": "x"}]}], "tools": tools}));
    let names: Vec<&str> =
        body["tools"].as_array().unwrap().iter().map(|tool| tool["function"]["name"].as_str().unwrap()).collect();
    assert!(names[0].starts_with("a_b_") && names[1] == "a_b", "{names:?}");
}

#[test]
fn empty_and_missing_contents_make_no_empty_turns() {
    let image = json!([{"type": "image_url", "image_url": {"url": "https://example.com/y.png"}}]);
    let turns = json!([{"role": "user", "content": ""}, {"role": "assistant", "content": null}, {"role": "user", "content": image}]);
    let (body, _) = sent(CHAT, CLAUDE, chat(turns, json!({})));
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    assert_eq!(body["messages"][0]["content"][0]["source"]["type"], "url");
}
