//! Errors that an upstream tells inside an answer with status 200, as a body or as an event of a stream.

use std::sync::LazyLock;

use bytes::Bytes;
use http::StatusCode;
use memchr::memmem::Finder;

use super::{is_bad_call, is_failure};
use crate::json::{Cursor, Kind, Raw, unmarked};

/// An error of an upstream as it would have been with its own status.
#[derive(Debug)]
pub struct Told {
    /// What it stands for; 502 where the error does not say.
    pub status: StatusCode,
    /// The body, in the upstream's dialect.
    pub body: Bytes,
}

/// The error that an event tells. `None` where there is no error object in it.
///
/// It is below `error` (chat, Messages, Gemini), below `response` (a failed response), or the event itself (the `error` event of
/// the Responses API), or in a choice that ended with it.
pub fn of_event(data: &[u8]) -> Option<Told> {
    let (mut error, mut below, mut has_message, mut is_messages) = (None, None, false, false);
    super::read(data, |key, value| {
        match key {
            b"response" => {
                return value.members(|key, value| {
                    let value = value.value()?;
                    below = if key == b"error" { Some(value) } else { below };
                    Some(())
                });
            }
            b"error" => error = Some(value.value()?),
            b"type" => is_messages = value.value()?.text() == Some(b"error"),
            b"message" => has_message = value.value()?.text().is_some(),
            _ => value.skip()?,
        }
        Some(())
    })?;
    let object = |value: &Raw<'_>| value.kind() == Kind::Object;
    let (error, is_whole) = match (error.filter(object), below.filter(object)) {
        (Some(error), _) => (error.0, is_messages),
        (None, Some(below)) => (below.0, false),
        (None, None) if has_message => (data, false),
        (None, None) => return of_no_answer(data).or_else(|| of_choices(data)),
    };
    let body = match is_whole {
        true => Bytes::copy_from_slice(data),
        false => Bytes::from([b"{\"error\":", error, b"}"].concat()),
    };
    Some(Told { status: status_of(error), body })
}

/// What stands for a failure of which the upstream says no more than that.
const FAILED: &[u8] = br#"{"message":"The upstream failed inside its answer.","type":"server_error"}"#;
/// What stands for an answer of Gemini that is no answer. Nobody's fault, and another try often ends better.
const BAD_CALL: &[u8] =
    br#"{"message":"The model wrote a tool call that cannot be read.","code":"malformed_function_call"}"#;

/// Whether an answer of chat completions, or its end, names a reason that is a failure: a quick look for what [`of_choices`] reads. A name
/// inside of a string is followed by a backslash, so that content does not count.
pub fn may_have_failed(answer: &[u8]) -> bool {
    static REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"finish_reason\""));
    REASON.find_iter(answer).any(|at| {
        let behind = answer[at + REASON.needle().len()..].trim_ascii_start();
        let value = behind.strip_prefix(b":").and_then(|value| Cursor::new(value).value());
        value.and_then(Raw::text).is_some_and(is_failure)
    })
}

/// The failure that a choice of chat completions or a candidate of Gemini ended with, inside an answer or an event. What came until
/// then may be half a sentence, or half a call.
pub fn of_choices(answer: &[u8]) -> Option<Told> {
    let (mut failed, mut bad_call, mut error) = (false, false, None);
    Cursor::new(unmarked(answer)).members(|key, value| match key {
        b"choices" | b"candidates" => value.elements(|choice| {
            choice.members(|key, value| {
                let value = value.value()?;
                match key {
                    b"finish_reason" => failed |= value.text().is_some_and(is_failure),
                    b"finishReason" => bad_call |= value.text().is_some_and(is_bad_call),
                    b"error" if value.kind() == Kind::Object => error = Some(value.0),
                    _ => {}
                }
                Some(())
            })
        }),
        _ => value.skip(),
    })?;
    let error = match (failed, bad_call) {
        (true, _) => error.unwrap_or(FAILED),
        (false, true) => BAD_CALL,
        (false, false) => return None,
    };
    Some(Told { status: status_of(error), body: Bytes::from([b"{\"error\":", error, b"}"].concat()) })
}

/// What servers write in the place of an answer, each in its own way, with status 200 or as an event.
#[derive(Default)]
struct Odd<'a> {
    /// There is an answer; then nothing here is an error.
    answers: bool,
    /// It says of itself that it is an error, or has a code that is none of success.
    fails: bool,
    message: Option<&'a [u8]>,
    code: Option<&'a [u8]>,
    status: Option<u16>,
}

/// The error that stands in the place of an answer of chat completions, and is no `error` object. `None` where there is an answer, and
/// where it does not say clearly that it is an error.
///
/// vLLM and FastChat: `{"object":"error","message","code"}`; Ollama and Text Generation Inference: `{"error":"…"}`; FastAPI:
/// `{"detail"}`; Alibaba: `{"code","message"}`; MiniMax: `{"base_resp":{"status_code","status_msg"}}`; Baidu:
/// `{"error_code","error_msg"}`; iFlytek: `{"header":{"code","message"}}`; relays: `{"success":false,"message"}` (their API references
/// and issues, 2024 to 2026).
pub fn of_no_answer(data: &[u8]) -> Option<Told> {
    let mut odd = Odd::default();
    Cursor::new(unmarked(data)).members(|key, value| match key {
        b"base_resp" | b"header" => value.members(|key, value| odd.note(key, value.value()?)),
        _ => odd.note(key, value.value()?),
    })?;
    let message = odd.message.filter(|_| odd.fails && !odd.answers)?;
    let status = odd.status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::BAD_GATEWAY);
    let code = odd.code.unwrap_or(b"null");
    let body = [b"{\"error\":{\"message\":", message, b",\"code\":", code, b"}}"].concat();
    Some(Told { status, body: Bytes::from(body) })
}

impl<'a> Odd<'a> {
    fn note(&mut self, key: &[u8], value: Raw<'a>) -> Option<()> {
        match key {
            b"choices" | b"candidates" | b"content" | b"output" | b"data" | b"results" | b"text" | b"delta" => {
                self.answers |= !value.is_nothing();
            }
            b"error" | b"error_msg" if value.text().is_some_and(|text| !text.is_empty()) => self.fail(value),
            b"detail" | b"errors" if matches!(value.kind(), Kind::String | Kind::Array) && !value.is_nothing() => {
                self.fail(value);
            }
            b"message" | b"msg" | b"status_msg" if value.text().is_some() => {
                self.message = self.message.or(Some(value.0))
            }
            b"code" | b"status_code" | b"error_code" | b"errcode" => self.note_code(value),
            b"object" | b"status" | b"type" => self.fails |= value.text() == Some(b"error"),
            b"success" => self.fails |= value.0 == b"false",
            _ => {}
        }
        Some(())
    }

    fn fail(&mut self, message: Raw<'a>) {
        self.fails = true;
        self.message = Some(message.0);
    }

    fn note_code(&mut self, value: Raw<'a>) {
        let text = value.text().unwrap_or(value.0);
        if value.is_nothing() || matches!(text, b"0" | b"200" | b"ok" | b"OK" | b"success" | b"Success") {
            return;
        }
        self.fails = true;
        self.code = Some(value.0);
        let number: Option<u16> = std::str::from_utf8(text).ok().and_then(|digits| digits.parse().ok());
        self.status = number.filter(|number| (400..600).contains(number)).or_else(|| status_of_name(text));
    }
}

/// The status that an error object stands for, by the number in it, else by its code, else by its type: the names are those of
/// the error references of OpenAI and Anthropic, 2025. 502 where it does not say.
pub fn status_of(error: &[u8]) -> StatusCode {
    let (mut named, mut code, mut kind) = (None, None, None);
    let read = Cursor::new(error).members(|key, value| {
        let value = value.value()?;
        let text = value.text().unwrap_or(value.0);
        match key {
            b"status" | b"code" => {
                let status = std::str::from_utf8(text).ok().and_then(|digits| digits.parse().ok());
                named = named.or(status.filter(|status| (400..600).contains(status)));
                code = status_of_name(text).or(code);
            }
            b"type" => kind = status_of_name(text),
            _ => {}
        }
        Some(())
    });
    let status = read.and_then(|()| named.or(code).or(kind));
    status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(StatusCode::BAD_GATEWAY)
}

fn status_of_name(name: &[u8]) -> Option<u16> {
    Some(match name {
        b"invalid_request_error" | b"invalid_prompt" | b"context_length_exceeded" => 400,
        b"content_filter" | b"content_policy_violation" => 400,
        b"authentication_error" | b"invalid_api_key" => 401,
        b"billing_error" => 402,
        b"permission_error" => 403,
        b"not_found_error" | b"model_not_found" => 404,
        b"request_too_large" => 413,
        b"rate_limit_error" | b"rate_limit_exceeded" | b"insufficient_quota" => 429,
        b"server_error" | b"api_error" => 500,
        b"overloaded" | b"server_is_overloaded" => 503,
        b"timeout" | b"timeout_error" => 504,
        b"overloaded_error" => 529,
        // Of Alibaba.
        b"InvalidParameter" | b"DataInspectionFailed" | b"data_inspection_failed" => 400,
        b"InvalidApiKey" => 401,
        b"Arrearage" => 402,
        b"AccessDenied" => 403,
        b"ModelNotFound" => 404,
        b"Throttling" | b"Throttling.RateQuota" | b"Throttling.AllocationQuota" => 429,
        // Of MiniMax: limits, the account, the key, filters, parameters, time.
        b"1002" | b"1039" | b"2056" => 429,
        b"1008" => 402,
        b"1004" | b"2049" => 401,
        b"1026" | b"1027" | b"2013" => 400,
        b"1001" => 504,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_reason_that_is_a_failure_is_looked_into() {
        for (answer, failed) in [
            (r#"{"choices":[{"finish_reason":"stop"}]}"#, false),
            (r#"{"choices":[{"finish_reason":"stop"},{"finish_reason": "error"}]}"#, true),
            ("{\"choices\":[{\"finish_reason\" :\n \"insufficient_system_resource\"}]}", true),
            (r#"ut"},"finish_reason":"network_error","index":0}]}"#, true),
            (r#"{"choices":[{"message":{"content":"\"finish_reason\":\"error\""},"finish_reason":null}]}"#, false),
            (r#"{"choices":[{"finish_reason"#, false),
            (r#"{"choices":[{"finish_reason""#, false),
            (r#"{"choices":[{"finish_reason":"error"#, false),
        ] {
            assert_eq!(may_have_failed(answer.as_bytes()), failed, "{answer}");
        }
    }

    #[test]
    fn an_error_object_names_its_status_or_stands_for_502() {
        for (error, status) in [
            (r#"{"code":"content_filter","status":400}"#, 400),
            (r#"{"code":429,"message":"slow down"}"#, 429),
            (r#"{"code":"401","message":"bad key"}"#, 401),
            (r#"{"code":"context_length_exceeded","type":"server_error"}"#, 400),
            (r#"{"code":null,"type":"overloaded_error"}"#, 529),
            (r#"{"code":"invalid_api_key","type":"invalid_request_error"}"#, 401),
            (r#"{"code":"InvalidApiKey"}"#, 401),
            (r#"{"code":200}"#, 502),
            (r#"{"message":"boom"}"#, 502),
            ("{", 502),
        ] {
            assert_eq!(status_of(error.as_bytes()).as_u16(), status, "{error}");
        }
    }

    #[test]
    fn a_choice_that_failed_is_told_as_the_body_of_an_error_answer() {
        let told = |data: &str| of_choices(data.as_bytes()).map(|told| (told.status.as_u16(), told.body));
        let own = r#"{"choices":[{"message":{"content":"ha"},"finish_reason":"error","error":{"code":429,"message":"busy"}}]}"#;
        assert_eq!(told(own), Some((429, r#"{"error":{"code":429,"message":"busy"}}"#.into())));
        let silent = r#"{"choices":[{"finish_reason":"stop"},{"finish_reason":"insufficient_system_resource"}]}"#;
        assert_eq!(told(silent).map(|(status, _)| status), Some(500));
        let bad_call = told(r#"{"candidates":[{"finishReason":"MALFORMED_FUNCTION_CALL","index":0}]}"#).unwrap();
        assert_eq!(bad_call.0, 502);
        for well in [
            r#"{"choices":[{"message":{"content":"\"finish_reason\":\"error\""},"finish_reason":"stop"}]}"#,
            r#"{"candidates":[{"finishReason":"SAFETY"}]}"#,
            r#"{"choices":null}"#,
            "{}",
            "boom",
        ] {
            assert_eq!(told(well), None, "{well}");
        }
    }

    #[test]
    fn an_event_is_told_as_the_body_of_an_error_answer() {
        let told = |data: &str| of_event(data.as_bytes()).map(|told| (told.status.as_u16(), told.body));
        let chat = r#"{"id":"c","choices":[],"error":{"code":400,"message":"too long"}}"#;
        assert_eq!(told(chat), Some((400, r#"{"error":{"code":400,"message":"too long"}}"#.into())));
        let messages = r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#;
        assert_eq!(told(messages), Some((529, messages.into())));
        let failed = r#"{"type":"response.failed","response":{"id":"r","error":{"code":"rate_limit_exceeded"}}}"#;
        assert_eq!(told(failed), Some((429, r#"{"error":{"code":"rate_limit_exceeded"}}"#.into())));
        let bare = r#"{"type":"error","code":"server_error","message":"boom"}"#;
        assert_eq!(told(bare), Some((500, format!(r#"{{"error":{bare}}}"#).into())));
        assert_eq!(told(r#"{"error":"boom"}"#), Some((502, r#"{"error":{"message":"boom","code":null}}"#.into())));
        // What is no JSON as a whole would be none as a body.
        let cut = "{\"type\":\"error\",\"error\":{\"message\":\"busy\"}} boom";
        for nothing in [r#"{"choices":[{"finish_reason":"stop"}]}"#, "boom", "{", cut] {
            assert_eq!(told(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn what_stands_in_the_place_of_an_answer_is_an_error_where_it_says_so() {
        let told = |data: &str| of_no_answer(data.as_bytes()).map(|told| (told.status.as_u16(), told.body));
        for (data, status, message, code) in [
            (
                r#"{"object":"error","message":"No model.","type":"NotFoundError","code":404}"#,
                404,
                r#""No model.""#,
                "404",
            ),
            (r#"{"error":"boom","error_type":"overloaded"}"#, 502, r#""boom""#, "null"),
            ("\u{feff}{\"error\":\"boom\"}", 502, r#""boom""#, "null"),
            (r#"{"detail":"Not Found"}"#, 502, r#""Not Found""#, "null"),
            (r#"{"detail":[{"msg":"x"}]}"#, 502, r#"[{"msg":"x"}]"#, "null"),
            (
                r#"{"code":"InvalidParameter","message":"bad","request_id":"r"}"#,
                400,
                r#""bad""#,
                r#""InvalidParameter""#,
            ),
            (
                r#"{"id":"1","choices":null,"usage":{"total_tokens":0},"base_resp":{"status_code":1002,"status_msg":"rate"}}"#,
                429,
                r#""rate""#,
                "1002",
            ),
            (r#"{"error_code":17,"error_msg":"daily limit"}"#, 502, r#""daily limit""#, "17"),
            (r#"{"header":{"code":10013,"message":"filtered"}}"#, 502, r#""filtered""#, "10013"),
            (r#"{"success":false,"message":"no channel"}"#, 502, r#""no channel""#, "null"),
            (r#"{"code":"503","msg":"busy"}"#, 503, r#""busy""#, r#""503""#),
        ] {
            let body = format!(r#"{{"error":{{"message":{message},"code":{code}}}}}"#);
            assert_eq!(told(data), Some((status, body.into())), "{data}");
        }
        for well in [
            r#"{"choices":[{"message":{"content":"a"}}],"code":400,"message":"x"}"#,
            r#"{"choices":[],"base_resp":{"status_code":0,"status_msg":"success"}}"#,
            r#"{"code":200,"msg":"success"}"#,
            r#"{"code":null,"error":null,"message":"x"}"#,
            r#"{"message":"working on it"}"#,
            r#"{"choices":[],"prompt_filter_results":[]}"#,
            r#"{"error":false,"message":"x"}"#,
            "{}",
            "17",
            "{",
        ] {
            assert_eq!(told(well), None, "{well}");
        }
    }
}
