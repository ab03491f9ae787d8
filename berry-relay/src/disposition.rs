//! What an upstream's error means: whose fault it is, whether another backend may do better, what happens to this one.
//!
//! The one table of these decisions, with a test for each row. What the provider data says of an error comes first; then the status
//! is read, then the error's code, then its text; the vendors' wordings are those of their error references (OpenAI, Azure, Anthropic, Google, OpenRouter; 2025).

use std::time::Duration;

use berry_core::config::provider_data::{ErrorTable, Meaning};
use berry_loadbalance::course::Retry;
use berry_loadbalance::outcome::{Consequence, FailureClass};
use http::StatusCode;
use serde_json::Value;

use crate::json::unmarked;

/// What follows from an error answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disposition {
    /// How the backend failed; `None` = the caller's own fault, which counts for nobody.
    pub class: Option<FailureClass>,
    /// Where to try again.
    pub retry: Retry,
    /// What happens to the backend, where the class does not say it.
    pub consequence: Option<Consequence>,
}

/// The parts of an error body that decide something.
#[derive(Debug, Default)]
struct Told {
    /// Codes, types and statuses, lower case, separated by spaces.
    codes: String,
    message: String,
    moderation: bool,
}

/// The disposition of an error answer. What is `known` of the vendor's errors comes before the table.
pub fn of(status: StatusCode, body: &[u8], retry_after: Option<Duration>, known: &ErrorTable) -> Disposition {
    let told = read(body);
    let caller = Disposition { class: None, retry: Retry::No, consequence: None };
    let failure = |class, retry| Disposition { class: Some(class), retry, consequence: None };
    let quota = Disposition {
        class: Some(FailureClass::RateLimit),
        retry: Retry::Elsewhere,
        consequence: Some(Consequence::quota(retry_after)),
    };
    let key = failure(FailureClass::Auth, Retry::Elsewhere);
    match known.meaning(status.as_u16(), &told.codes, &told.message) {
        Some(Meaning::ContextOverflow) => return Disposition { retry: Retry::LargerWindow, ..caller },
        Some(Meaning::ContentFilter) => return caller,
        Some(Meaning::Billing) => return quota,
        Some(Meaning::RateLimit) => return failure(FailureClass::RateLimit, Retry::Anywhere),
        Some(Meaning::Overloaded) => return failure(FailureClass::Server, Retry::Anywhere),
        Some(Meaning::Key) => return key,
        Some(Meaning::Model) => return failure(FailureClass::Model, Retry::Elsewhere),
        None => {}
    }
    match status.as_u16() {
        400 if told.codes.contains("api_key_invalid") => key,
        401 => key,
        402 => quota,
        403 if told.moderation => caller,
        403 if told.is_about_the_account() => key,
        403 => Disposition { consequence: Some(Consequence::strike()), ..key },
        404 | 410 if told.names_an_object() => caller,
        // Path and method are ours: what is not there, no longer there or not asked for in this way is a model's place.
        404 | 405 | 410 => failure(FailureClass::Model, Retry::Elsewhere),
        // A host that is not meant, a request that came too early, and what Text Generation Inference calls a failed generation.
        421 | 424 | 425 => failure(FailureClass::Server, Retry::Anywhere),
        408 => failure(FailureClass::Timeout, Retry::Anywhere),
        429 if told.codes.contains("insufficient_quota") || told.codes.contains("billing") => quota,
        429 => failure(FailureClass::RateLimit, Retry::Anywhere),
        // The model's own slip, which a prompt may provoke: it says nothing of the backend.
        502 if told.codes.contains("malformed_function_call") => Disposition { retry: Retry::Anywhere, ..caller },
        500.. => failure(FailureClass::Server, Retry::Anywhere),
        _ => caller,
    }
}

impl Disposition {
    /// What happens to the backend.
    pub fn consequence_of(&self, class: FailureClass, retry_after: Option<Duration>) -> Consequence {
        self.consequence.unwrap_or_else(|| Consequence::of(class, retry_after))
    }

    /// Whether the key itself was refused, which is nothing that a client should see.
    pub(crate) fn refuses_key(&self) -> bool {
        self.class == Some(FailureClass::Auth)
    }
}

fn read(body: &[u8]) -> Told {
    let Ok(body) = serde_json::from_slice::<Value>(unmarked(body)) else {
        return Told::default();
    };
    // Gemini may wrap its error into a list.
    let body = body.get(0).unwrap_or(&body);
    let error = body.get("error").unwrap_or(body);
    let word = |value: &Value| match value {
        Value::String(text) => text.to_lowercase(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    };
    let mut codes: Vec<String> = ["code", "type", "status"].iter().map(|name| word(&error[*name])).collect();
    let details = error["details"].as_array().into_iter().flatten();
    codes.extend(details.map(|detail| word(&detail["reason"])));
    codes.push(word(&error["innererror"]["code"]));
    let metadata = &error["metadata"];
    Told {
        codes: codes.join(" "),
        message: word(&error["message"]),
        moderation: metadata.get("flagged_input").is_some()
            || metadata.get("reasons").is_some()
            || codes.iter().any(|code| code.contains("content_filter") || code.contains("content_policy")),
    }
}

impl Told {
    fn says(&self, phrases: &[&str]) -> bool {
        phrases.iter().any(|phrase| self.codes.contains(phrase) || self.message.contains(phrase))
    }

    /// Key, permission, region or billing.
    fn is_about_the_account(&self) -> bool {
        self.says(&[
            "api key",
            "api_key",
            "permission",
            "unsupported_country",
            "region",
            "billing",
            "authentication",
            "organization",
        ])
    }

    /// Something that the client itself named: a response, a file.
    fn names_an_object(&self) -> bool {
        !self.codes.contains("model_not_found")
            && self.says(&["previous_response", "response with id", "file not found", "no such file", "vector store"])
    }
}

#[cfg(test)]
mod tests {
    use berry_loadbalance::breaker::{Cause, Verdict};

    use super::*;

    /// Whether the circuit opens at once.
    fn opens_circuit(judged: &Disposition) -> bool {
        let consequence = judged.class.map(|class| judged.consequence_of(class, None));
        consequence.is_some_and(|consequence| consequence.circuit == Some(Verdict::Open(Cause::Key)))
    }

    fn judge(status: u16, body: &str) -> Disposition {
        of(StatusCode::from_u16(status).unwrap(), body.as_bytes(), None, &ErrorTable::default())
    }

    #[test]
    fn each_row_of_the_table_holds() {
        use FailureClass::{Auth, Model, RateLimit, Server, Timeout};
        use Retry::{Anywhere, Elsewhere, LargerWindow, No};
        for (status, body, class, retry) in [
            (400, r#"{"error":{"code":"invalid_value"}}"#, None, No),
            (400, r#"{"error":{"code":"context_length_exceeded"}}"#, None, LargerWindow),
            (400, r#"{"type":"error","error":{"message":"prompt is too long: 9 > 8"}}"#, None, LargerWindow),
            (400, r#"{"error":{"message":"The input token count (9) exceeds 8"}}"#, None, LargerWindow),
            (400, r#"{"error":{"code":"content_filter"}}"#, None, No),
            (400, r#"[{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}]"#, Some(Auth), Elsewhere),
            (401, "", Some(Auth), Elsewhere),
            (402, "{}", Some(RateLimit), Elsewhere),
            (403, r#"{"error":{"metadata":{"reasons":["violence"],"flagged_input":"x"}}}"#, None, No),
            (403, r#"{"error":{"code":"unsupported_country_region_territory"}}"#, Some(Auth), Elsewhere),
            (403, "<html>", Some(Auth), Elsewhere),
            (404, r#"{"error":{"code":"model_not_found"}}"#, Some(Model), Elsewhere),
            (404, r#"{"error":{"code":"DeploymentNotFound"}}"#, Some(Model), Elsewhere),
            (404, r#"{"error":{"code":"previous_response_not_found"}}"#, None, No),
            (405, "<html>", Some(Model), Elsewhere),
            (410, r#"{"error":"this model is no longer served"}"#, Some(Model), Elsewhere),
            (408, "", Some(Timeout), Anywhere),
            (421, "", Some(Server), Anywhere),
            (424, r#"{"error":"generation failed","error_type":"generation"}"#, Some(Server), Anywhere),
            (425, "", Some(Server), Anywhere),
            (413, "", None, No),
            (409, "{}", None, No),
            (422, "{}", None, No),
            (429, "{}", Some(RateLimit), Anywhere),
            (502, r#"{"error":{"code":"malformed_function_call"}}"#, None, Anywhere),
            (429, r#"{"error":{"type":"insufficient_quota"}}"#, Some(RateLimit), Elsewhere),
            (500, "", Some(Server), Anywhere),
            (503, "", Some(Server), Anywhere),
            (529, "", Some(Server), Anywhere),
        ] {
            let judged = judge(status, body);
            assert_eq!((judged.class, judged.retry), (class, retry), "{status} {body}");
        }
    }

    #[test]
    fn a_bad_key_opens_the_circuit_and_an_unknown_403_is_one_failure() {
        assert!(opens_circuit(&judge(401, "")));
        assert!(opens_circuit(&judge(403, r#"{"error":{"message":"Your API key is disabled"}}"#)));
        assert!(!opens_circuit(&judge(403, "<html>")));
        assert!(!opens_circuit(&judge(500, "")));
    }

    #[test]
    fn no_quota_is_parked_and_a_rate_limit_is_not() {
        let pause = |body| judge(429, body).consequence_of(FailureClass::RateLimit, None).pause.unwrap();
        assert!(pause(r#"{"error":{"code":"insufficient_quota"}}"#).0.is_parking());
        assert!(!pause(r#"{"error":{"code":"rate_limit_exceeded"}}"#).0.is_parking());
    }
}
