//! Probabilities of tokens: Gemini tells them beside the answer, the chosen ones and the alternatives in two lists; between the
//! dialects they are in OpenAI's form, each token with its alternatives (ai.google.dev/api/generate-content#LogprobsResult, 2026).

use super::super::text::{Json, Writer};
use crate::json::Kind;

/// Reads `logprobsResult`; `None` where there is nothing in it.
pub(super) fn read(result: &Json) -> Option<Json> {
    let mut result = result.fields();
    let (chosen, steps) = (result.list("chosenCandidates"), result.list("topCandidates"));
    if chosen.is_empty() {
        return None;
    }
    let mut writer = Writer::new();
    writer.object(|w| {
        w.key("content").list(|w| {
            for (place, token) in chosen.iter().enumerate() {
                let others = steps.get(place).map(|step| step.fields().list("candidates")).unwrap_or_default();
                w.object(|w| {
                    write_token(w, token, "logProbability", "logprob");
                    w.key("bytes").literal("null");
                    w.key("top_logprobs").list(|w| {
                        for other in &others {
                            w.object(|w| {
                                write_token(w, other, "logProbability", "logprob");
                                w.key("bytes").literal("null");
                            });
                        }
                    });
                });
            }
        });
        w.key("refusal").literal("null");
    });
    Some(Json::written(writer))
}

/// Writes `logprobsResult` with its key, where there are tokens.
pub(super) fn write(w: &mut Writer, logprobs: &Json) {
    let tokens = logprobs.fields().list("content");
    if tokens.is_empty() {
        return;
    }
    let token = |w: &mut Writer, token: &Json| {
        w.object(|w| write_token(w, token, "logprob", "logProbability"));
    };
    w.key("logprobsResult").object(|w| {
        w.key("topCandidates").list(|w| {
            for one in &tokens {
                w.object(|w| {
                    let others = one.fields().list("top_logprobs");
                    w.key("candidates").list(|w| others.iter().for_each(|other| token(w, other)));
                });
            }
        });
        w.key("chosenCandidates").list(|w| tokens.iter().for_each(|one| token(w, one)));
    });
}

/// Writes a token and its probability, which is called `from` and is to be called `to`. A probability that is not told is that of
/// certainty, which Google leaves out.
fn write_token(w: &mut Writer, token: &Json, from: &str, to: &str) {
    let mut fields = token.fields();
    w.key("token").text(&fields.text("token").unwrap_or_default());
    match fields.take(from).filter(|value| value.kind() == Kind::Number) {
        Some(value) => w.key(to).json(&value),
        None => w.key(to).integer(0),
    }
}
