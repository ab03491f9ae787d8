//! Names of Anthropic's Messages, in both directions (docs.anthropic.com/en/api/messages, 2026).

use berry_core::usage::Usage;

use crate::dialect::ir::{CacheMark, Stop};
use crate::dialect::text::{Text, Writer};

/// Reads `stop_reason`, with the text that `stop_sequence` names. What is not known is an ordinary end.
pub(super) fn stop_of(reason: &str, sequence: Option<Text>) -> Stop {
    match reason {
        "stop_sequence" => Stop::Sequence(sequence),
        "max_tokens" => Stop::Length,
        "model_context_window_exceeded" => Stop::ContextFull,
        "tool_use" => Stop::ToolCalls,
        "refusal" => Stop::Refusal,
        "pause_turn" => Stop::Pause,
        _ => Stop::End,
    }
}

/// The `stop_reason` of an end.
pub(super) fn stop_reason(stop: &Stop) -> &'static str {
    match stop {
        Stop::End | Stop::MalformedCall | Stop::Error => "end_turn",
        Stop::Sequence(Some(_)) => "stop_sequence",
        Stop::Sequence(None) => "end_turn",
        Stop::Length => "max_tokens",
        Stop::ContextFull => "model_context_window_exceeded",
        Stop::ToolCalls => "tool_use",
        Stop::Filter | Stop::Refusal => "refusal",
        Stop::Pause => "pause_turn",
    }
}

/// Writes `stop_reason` and `stop_sequence`.
pub(super) fn write_stop(w: &mut Writer, stop: &Stop) {
    w.key("stop_reason").string(stop_reason(stop));
    match stop {
        Stop::Sequence(Some(text)) => w.key("stop_sequence").text(text),
        _ => w.key("stop_sequence").literal("null"),
    }
}

/// Writes the `usage` object: `input_tokens` leaves out what was read from the cache and written to it.
pub(super) fn write_usage(w: &mut Writer, usage: &Usage) {
    let (read, written) = (usage.cached_tokens.unwrap_or(0), usage.cache_write_tokens.unwrap_or(0));
    let input = usage.input_tokens.unwrap_or(0).saturating_sub(read).saturating_sub(written);
    w.object(|w| {
        w.key("input_tokens").integer(input);
        w.key("cache_creation_input_tokens").integer(written);
        w.key("cache_read_input_tokens").integer(read);
        w.key("output_tokens").integer(usage.output_tokens.unwrap_or(0));
    });
}

/// Writes `cache_control`, where there is a mark.
pub(super) fn write_mark(w: &mut Writer, mark: Option<CacheMark>) {
    if let Some(mark) = mark {
        w.key("cache_control").object(|w| {
            w.key("type").word("ephemeral");
            if mark == CacheMark::OneHour {
                w.key("ttl").word("1h");
            }
        });
    }
}
