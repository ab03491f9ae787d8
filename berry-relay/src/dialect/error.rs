//! Errors of upstreams, by what they mean, and how each dialect says that.
//!
//! Read by status first, then by code, then by the words of the message; never by the type alone, which vendors use loosely, but for
//! `insufficient_quota`. Vendors' error pages, 2025: platform.openai.com/docs/guides/error-codes, docs.anthropic.com/en/api/errors.

use berry_core::config::provider_data::{ErrorTable, Meaning};

use super::ir::{ErrorClass, UpstreamError};
use super::text::{Fields, Json, Text, Writer};
use bytes::Bytes;

/// Longest message of an upstream that is passed on, characters.
const MESSAGE_CHARS_MAX: usize = 2000;

/// What the upstream said, in the words that the two dialects share.
#[derive(Default)]
struct Said {
    code: String,
    kind: String,
    message: String,
    param: Option<String>,
}

fn read(body: &Bytes) -> Option<Said> {
    let body = Json::read(body).ok()?;
    let body = body.elements().into_iter().next().unwrap_or(body);
    let mut outer = body.fields();
    let error = outer.take("error");
    let mut fields = match &error {
        Some(error) if error.text().is_some() => {
            return Some(Said { message: error.string()?, ..Said::default() });
        }
        Some(error) => error.fields(),
        None => outer,
    };
    let word = |fields: &mut Fields, name| {
        let value = fields.take(name)?;
        value.string().or_else(|| Some(String::from_utf8_lossy(value.raw()).into_owned()))
    };
    Some(Said {
        code: word(&mut fields, "code").unwrap_or_default().to_lowercase(),
        kind: word(&mut fields, "type").or_else(|| word(&mut fields, "status")).unwrap_or_default().to_lowercase(),
        message: message(&mut fields),
        param: fields.string("param"),
    })
}

/// The words of an error: a text, or what FastAPI's servers say of each field that is wrong (vLLM, SGLang, Mistral; 2026).
fn message(fields: &mut Fields) -> String {
    let (message, detail) = (fields.take("message"), fields.take("detail"));
    if let Some(text) = [&message, &detail].into_iter().flatten().find_map(Json::string) {
        return text;
    }
    let Some(list) = detail.or_else(|| message?.fields().take("detail")) else { return String::new() };
    let place = |part: &Json| part.string().or_else(|| part.integer().map(|number| number.to_string()));
    let say = |wrong: &Json| {
        let mut wrong = wrong.fields();
        let place: Vec<String> = wrong.list("loc").iter().filter_map(place).collect();
        wrong.string("msg").map(|why| if place.is_empty() { why } else { format!("{}: {why}", place.join(".")) })
    };
    let said: Vec<String> = list.elements().iter().filter_map(say).collect();
    said.join("; ")
}

/// What an error answer with this status means. A body that is no JSON object is not quoted: it may be a proxy's page.
pub fn of_answer(status: u16, body: &Bytes, known: &ErrorTable) -> UpstreamError {
    let said = read(body).unwrap_or_default();
    let mut message: String = said.message.chars().take(MESSAGE_CHARS_MAX).collect();
    if message.is_empty() {
        message = format!("The upstream answered with status {status}.");
    }
    UpstreamError { kind: class(status, &said, known), message, param: said.param }
}

/// What an error inside a stream means: an error object, or an event that wraps one.
pub fn of_event(data: &Bytes) -> UpstreamError {
    let said = read(data).unwrap_or_default();
    let status = said.code.parse().ok().filter(|status| (400..600).contains(status));
    let status = status.unwrap_or(match &said.kind[..] {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => 500,
    });
    of_answer(status, data, &ErrorTable::default())
}

fn class(status: u16, said: &Said, known: &ErrorTable) -> ErrorClass {
    let codes = format!("{} {}", said.code, said.kind.to_lowercase());
    match known.meaning(status, &codes, &said.message.to_lowercase()) {
        Some(Meaning::ContextOverflow) => return ErrorClass::ContextTooLong,
        Some(Meaning::ContentFilter) => return ErrorClass::ContentFilter,
        Some(Meaning::Billing) => return ErrorClass::Billing,
        Some(Meaning::RateLimit) => return ErrorClass::RateLimit,
        Some(Meaning::Overloaded) => return ErrorClass::Overloaded,
        Some(Meaning::Key) => return ErrorClass::BadKey,
        Some(Meaning::Model) => return ErrorClass::NotFound,
        None => {}
    }
    let is_quota = [&said.code, &said.kind].iter().any(|word| word.contains("insufficient_quota"));
    match status {
        400 | 403 if said.code.contains("content_filter") || said.code.contains("content_policy") => {
            ErrorClass::ContentFilter
        }
        401 => ErrorClass::BadKey,
        402 => ErrorClass::Billing,
        403 => ErrorClass::Forbidden,
        404 => ErrorClass::NotFound,
        408 | 504 => ErrorClass::Timeout,
        413 => ErrorClass::TooLarge,
        429 if is_quota => ErrorClass::Billing,
        429 => ErrorClass::RateLimit,
        503 | 529 => ErrorClass::Overloaded,
        500.. => ErrorClass::Server,
        _ => ErrorClass::BadRequest,
    }
}

/// The status that OpenAI's clients know for it.
fn openai_row(kind: ErrorClass) -> (u16, &'static str, Option<&'static str>) {
    match kind {
        ErrorClass::BadRequest => (400, "invalid_request_error", None),
        ErrorClass::ContextTooLong => (400, "invalid_request_error", Some("context_length_exceeded")),
        ErrorClass::ContentFilter => (400, "invalid_request_error", Some("content_filter")),
        ErrorClass::BadKey => (401, "authentication_error", Some("invalid_api_key")),
        ErrorClass::Billing => (429, "insufficient_quota", Some("insufficient_quota")),
        ErrorClass::Forbidden => (403, "permission_error", None),
        ErrorClass::NotFound => (404, "invalid_request_error", Some("model_not_found")),
        ErrorClass::TooLarge => (413, "invalid_request_error", None),
        ErrorClass::RateLimit => (429, "rate_limit_error", Some("rate_limit_exceeded")),
        ErrorClass::Server => (500, "server_error", None),
        ErrorClass::Overloaded => (503, "server_error", Some("overloaded")),
        ErrorClass::Timeout => (504, "timeout", None),
    }
}

/// The status that Anthropic's clients know for it.
fn anthropic_row(kind: ErrorClass) -> (u16, &'static str) {
    match kind {
        ErrorClass::BadRequest | ErrorClass::ContextTooLong | ErrorClass::ContentFilter => {
            (400, "invalid_request_error")
        }
        ErrorClass::BadKey => (401, "authentication_error"),
        ErrorClass::Billing => (402, "billing_error"),
        ErrorClass::Forbidden => (403, "permission_error"),
        ErrorClass::NotFound => (404, "not_found_error"),
        ErrorClass::TooLarge => (413, "request_too_large"),
        ErrorClass::RateLimit => (429, "rate_limit_error"),
        ErrorClass::Server => (500, "api_error"),
        ErrorClass::Overloaded => (529, "overloaded_error"),
        ErrorClass::Timeout => (504, "timeout_error"),
    }
}

/// The status for a client of OpenAI's dialects. Where the upstream's own status says the same, it stays.
pub fn openai_status(error: &UpstreamError, upstream: u16) -> u16 {
    let (status, ..) = openai_row(error.kind);
    match error.kind {
        ErrorClass::Server | ErrorClass::BadRequest | ErrorClass::Timeout if upstream >= 400 && upstream != 529 => {
            upstream
        }
        _ => status,
    }
}

/// The status for a client of Anthropic's dialect.
pub fn anthropic_status(error: &UpstreamError, upstream: u16) -> u16 {
    let (status, _) = anthropic_row(error.kind);
    match error.kind {
        ErrorClass::Server | ErrorClass::BadRequest | ErrorClass::Timeout if upstream >= 400 && upstream != 503 => {
            upstream
        }
        _ => status,
    }
}

/// The error object of OpenAI's dialects.
pub fn openai_body(error: &UpstreamError) -> Bytes {
    let (_, kind, code) = openai_row(error.kind);
    let mut writer = Writer::new();
    writer.object(|w| {
        w.key("error").object(|w| {
            w.key("message").string(&error.message);
            w.key("type").string(kind);
            write_or_null(w.key("param"), error.param.as_deref());
            write_or_null(w.key("code"), code);
        });
    });
    writer.finish().into_bytes()
}

fn write_or_null(writer: &mut Writer, text: Option<&str>) {
    match text {
        Some(text) => writer.string(text),
        None => writer.literal("null"),
    }
}

/// The error object of Anthropic's dialect. Its clients know an overflow by its words.
pub fn anthropic_body(error: &UpstreamError, request_id: Option<&str>) -> Bytes {
    let (_, kind) = anthropic_row(error.kind);
    let message = match error.kind {
        ErrorClass::ContextTooLong if !error.message.contains("prompt is too long") => {
            format!("prompt is too long: {}", error.message)
        }
        _ => error.message.clone(),
    };
    let mut writer = Writer::new();
    writer.object(|w| {
        w.key("type").text(&Text::plain("error"));
        w.key("error").object(|w| {
            w.key("type").string(kind);
            w.key("message").string(&message);
        });
        if let Some(id) = request_id {
            w.key("request_id").string(id);
        }
    });
    writer.finish().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_means_the_same_in_every_dialect() {
        use ErrorClass as E;
        for (status, body, kind, openai, anthropic) in [
            (400, r#"{"error":{"message":"no","type":"invalid_request_error"}}"#, E::BadRequest, 400, 400),
            (400, r#"{"type":"error","error":{"message":"prompt is too long: 9 > 8"}}"#, E::ContextTooLong, 400, 400),
            (400, r#"{"error":{"code":"context_length_exceeded"}}"#, E::ContextTooLong, 400, 400),
            (400, r#"{"error":{"code":"content_filter"}}"#, E::ContentFilter, 400, 400),
            (422, r#"{"detail":"odd"}"#, E::BadRequest, 422, 422),
            (402, "{}", E::Billing, 429, 402),
            (429, r#"{"error":{"type":"insufficient_quota"}}"#, E::Billing, 429, 402),
            (429, r#"{"error":{"type":"rate_limit_error"}}"#, E::RateLimit, 429, 429),
            (404, "{}", E::NotFound, 404, 404),
            (413, "{}", E::TooLarge, 413, 413),
            (500, "<html>", E::Server, 500, 500),
            (503, "", E::Overloaded, 503, 529),
            (529, r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#, E::Overloaded, 503, 529),
            (408, "", E::Timeout, 408, 408),
        ] {
            let error = of_answer(status, &Bytes::from_static(body.as_bytes()), &ErrorTable::default());
            assert_eq!(error.kind, kind, "{status} {body}");
            assert_eq!(
                (openai_status(&error, status), anthropic_status(&error, status)),
                (openai, anthropic),
                "{body}"
            );
        }
    }

    #[test]
    fn an_error_in_a_stream_is_read_by_its_code_then_its_type() {
        let kind = |data: &'static str| of_event(&Bytes::from_static(data.as_bytes())).kind;
        assert_eq!(kind(r#"{"error":{"code":429,"message":"x"}}"#), ErrorClass::RateLimit);
        assert_eq!(kind(r#"{"type":"error","error":{"type":"overloaded_error"}}"#), ErrorClass::Overloaded);
        assert_eq!(kind("plain text"), ErrorClass::Server);
    }

    #[test]
    fn what_is_wrong_with_each_field_is_said() {
        for body in [
            r#"{"detail":[{"loc":["body","messages",0],"msg":"field required"},{"msg":"odd"}]}"#,
            r#"{"object":"error","message":{"detail":[{"loc":["body","messages",0],"msg":"field required"},{"msg":"odd"}]}}"#,
        ] {
            let error = of_answer(422, &Bytes::from_static(body.as_bytes()), &ErrorTable::default());
            assert_eq!(error.message, "body.messages.0: field required; odd");
        }
    }

    #[test]
    fn a_page_of_a_proxy_is_not_quoted() {
        let error = of_answer(502, &Bytes::from_static(b"<html>secret.host</html>"), &ErrorTable::default());
        assert_eq!(error.message, "The upstream answered with status 502.");
    }
}
