//! Names of OpenAI's chat completions, in both directions (platform.openai.com/docs/api-reference/chat, 2026).

use berry_core::usage::Usage;

use crate::dialect::ir::{ServiceTier, Stop};
use crate::dialect::text::{Fields, Text, Writer};
use crate::meter;

/// Reads `finish_reason`. What is not known is an ordinary end.
pub(super) fn stop_of(reason: &str) -> Stop {
    match &reason.to_ascii_lowercase()[..] {
        // Mistral has a word of its own for the limit of the model, Z.AI for its window and its filter. Proxies leave the words of
        // Messages, Gemini, Bedrock and Cohere as they are.
        "length" | "max_tokens" | "model_length" | "max_output_tokens" => Stop::Length,
        "model_context_window_exceeded" => Stop::ContextFull,
        "tool_calls" | "function_call" | "tool_use" | "tool_call" => Stop::ToolCalls,
        "content_filter"
        | "sensitive"
        | "safety"
        | "recitation"
        | "prohibited_content"
        | "blocklist"
        | "spii"
        | "content_filtered"
        | "guardrail_intervened"
        | "error_toxic" => Stop::Filter,
        "refusal" => Stop::Refusal,
        "pause_turn" => Stop::Pause,
        reason if meter::is_failure(reason.as_bytes()) => Stop::Error,
        _ => Stop::End,
    }
}

/// The `finish_reason` of an end.
pub(super) fn finish_reason(stop: &Stop) -> &'static str {
    match stop {
        Stop::End | Stop::Sequence(_) | Stop::Pause | Stop::MalformedCall | Stop::Error => "stop",
        Stop::Length | Stop::ContextFull => "length",
        Stop::ToolCalls => "tool_calls",
        Stop::Filter | Stop::Refusal => "content_filter",
    }
}

/// Gemini's signature of a call, where Google's endpoint of this dialect puts it (ai.google.dev/gemini-api/docs/openai and
/// /thought-signatures, 2026). Clients that were made for it send it back there.
pub(super) fn signature_of(call: &mut Fields) -> Option<Text> {
    let signature = call.object("extra_content").object("google").text("thought_signature");
    signature.filter(|signature| !signature.is_empty())
}

/// Writes the signature of a call.
pub(super) fn write_signature(w: &mut Writer, signature: &Text) {
    w.key("extra_content").object(|w| {
        w.key("google").object(|w| w.key("thought_signature").text(signature));
    });
}

/// Reads `service_tier`.
pub(super) fn tier_of(name: &str) -> Option<ServiceTier> {
    Some(match name {
        "auto" => ServiceTier::Auto,
        "default" | "standard" => ServiceTier::Default,
        "flex" => ServiceTier::Flex,
        "priority" => ServiceTier::Priority,
        _ => return None,
    })
}

/// The `service_tier` of a level.
pub(super) fn tier_name(tier: ServiceTier) -> &'static str {
    match tier {
        ServiceTier::Auto => "auto",
        ServiceTier::Default => "default",
        ServiceTier::Flex => "flex",
        ServiceTier::Priority => "priority",
    }
}

/// Writes the `usage` object: `prompt_tokens` includes what was cached.
pub(super) fn write_usage(w: &mut Writer, usage: &Usage) {
    let (input, output) = (usage.input_tokens.unwrap_or(0), usage.output_tokens.unwrap_or(0));
    w.object(|w| {
        w.key("prompt_tokens").integer(input);
        w.key("completion_tokens").integer(output);
        w.key("total_tokens").integer(input.saturating_add(output));
        w.key("prompt_tokens_details").object(|w| {
            w.key("cached_tokens").integer(usage.cached_tokens.unwrap_or(0));
            if let Some(written) = usage.cache_write_tokens {
                w.key("cache_creation_tokens").integer(written);
            }
        });
        w.key("completion_tokens_details").object(|w| {
            w.key("reasoning_tokens").integer(usage.reasoning_tokens.unwrap_or(0));
        });
    });
}
