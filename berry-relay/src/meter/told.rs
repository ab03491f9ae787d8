//! Errors that an upstream tells inside an answer with status 200, as a body or as an event of a stream.

use std::sync::LazyLock;

use bytes::Bytes;
use http::StatusCode;
use memchr::memmem::Finder;

use super::{is_bad_call, is_failure};
use crate::json::{Cursor, Kind, Raw, unmarked};

/// An error of an upstream as it would have been with its own status.
#[derive(Debug)]
pub(crate) struct Told {
    /// What it stands for; 502 where the error does not say.
    pub(crate) status: StatusCode,
    /// The body, in the upstream's dialect.
    pub(crate) body: Bytes,
}

/// The error that an event tells. `None` where there is no error object in it.
///
/// It is below `error` (chat, Messages, Gemini), below `response` (a failed response), or the event itself (the `error` event of
/// the Responses API), or in a choice that ended with it.
pub(crate) fn of_event(data: &[u8]) -> Option<Told> {
    let (mut error, mut below, mut has_message, mut is_messages) = (None, None, false, false);
    Cursor::new(data).members(|key, value| {
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
        (None, None) => return of_choices(data),
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
pub(crate) fn may_have_failed(answer: &[u8]) -> bool {
    static REASON: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"finish_reason\""));
    REASON.find_iter(answer).any(|at| {
        let behind = answer[at + REASON.needle().len()..].trim_ascii_start();
        let value = behind.strip_prefix(b":").and_then(|value| Cursor::new(value).value());
        value.and_then(Raw::text).is_some_and(is_failure)
    })
}

/// The failure that a choice of chat completions or a candidate of Gemini ended with, inside an answer or an event. What came until
/// then may be half a sentence, or half a call.
pub(crate) fn of_choices(answer: &[u8]) -> Option<Told> {
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

/// The status that an error object stands for, by the number in it, else by its code, else by its type: the names are those of
/// the error references of OpenAI and Anthropic, 2025. 502 where it does not say.
pub(crate) fn status_of(error: &[u8]) -> StatusCode {
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
        for nothing in [r#"{"error":"boom"}"#, r#"{"choices":[{"finish_reason":"stop"}]}"#, "boom", "{"] {
            assert_eq!(told(nothing), None, "{nothing}");
        }
    }
}
