//! What a model can do, guessed from its name where nothing better is known.
//!
//! Facts: Anthropic's and OpenAI's model pages, 2026. Unknown newer models of a family are taken to be like its newest.

use super::{Capabilities, Sampling, ThinkingAsk};

/// Output limit of Claude models that are not listed.
const CLAUDE_OUTPUT_MAX: u64 = 64_000;

/// The capabilities of the model of this name at an Anthropic upstream.
pub fn of_claude(model: &str) -> Capabilities {
    let model = model.to_ascii_lowercase();
    let has = |names: &[&str]| names.iter().any(|name| model.contains(name));
    let plain = |max_output_tokens| Capabilities {
        max_output_tokens: Some(max_output_tokens),
        thinking: ThinkingAsk::None,
        sampling: Sampling::All,
        structured_output: false,
        prefill: true,
    };
    let thinks = |max, thinking| Capabilities { thinking, ..plain(max) };
    if has(&["claude-3-7"]) {
        thinks(64_000, ThinkingAsk::Budget)
    } else if has(&["claude-3-5"]) {
        plain(8192)
    } else if has(&["claude-3", "claude-2", "claude-instant"]) {
        plain(4096)
    } else if has(&["opus-4-1", "opus-4-2025", "opus-4-0"]) {
        Capabilities {
            sampling: Sampling::One,
            structured_output: has(&["opus-4-1"]),
            ..thinks(32_000, ThinkingAsk::Budget)
        }
    } else if has(&["sonnet-4-2025", "sonnet-4-0"]) {
        thinks(64_000, ThinkingAsk::Budget)
    } else if has(&["-4-5"]) {
        Capabilities {
            sampling: Sampling::One,
            structured_output: true,
            ..thinks(CLAUDE_OUTPUT_MAX, ThinkingAsk::Budget)
        }
    } else if has(&["-4-6"]) {
        Capabilities {
            sampling: Sampling::One,
            structured_output: true,
            prefill: false,
            ..thinks(CLAUDE_OUTPUT_MAX, ThinkingAsk::BudgetOrAdaptive)
        }
    } else {
        Capabilities {
            sampling: Sampling::None,
            structured_output: true,
            prefill: false,
            ..thinks(CLAUDE_OUTPUT_MAX, ThinkingAsk::Adaptive)
        }
    }
}

/// The capabilities of the model of this name at an OpenAI-compatible upstream.
pub fn of_openai(model: &str) -> Capabilities {
    let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    let is_o = name.starts_with('o') && name.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let reasons = is_o || name.starts_with("gpt-5") && !name.contains("chat");
    Capabilities {
        max_output_tokens: None,
        thinking: if reasons || name.contains("gpt-oss") { ThinkingAsk::Effort } else { ThinkingAsk::None },
        sampling: if reasons { Sampling::None } else { Sampling::All },
        structured_output: true,
        prefill: !(reasons || name.starts_with("gpt-")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_claude_is_asked_to_think_in_its_own_way() {
        for (model, thinking, sampling) in [
            ("claude-3-5-haiku-20241022", ThinkingAsk::None, Sampling::All),
            ("claude-3-7-sonnet-20250219", ThinkingAsk::Budget, Sampling::All),
            ("claude-sonnet-4-20250514", ThinkingAsk::Budget, Sampling::All),
            ("claude-sonnet-4-5", ThinkingAsk::Budget, Sampling::One),
            ("claude-opus-4-6", ThinkingAsk::BudgetOrAdaptive, Sampling::One),
            ("claude-opus-4-7", ThinkingAsk::Adaptive, Sampling::None),
            ("claude-sonnet-5", ThinkingAsk::Adaptive, Sampling::None),
        ] {
            let capabilities = of_claude(model);
            assert_eq!((capabilities.thinking, capabilities.sampling), (thinking, sampling), "{model}");
        }
    }

    #[test]
    fn reasoning_models_of_openai_take_an_effort_and_no_sampling() {
        for (model, reasons) in
            [("o3-mini", true), ("gpt-5.2", true), ("gpt-5-chat-latest", false), ("gpt-4o", false), ("llama-3", false)]
        {
            assert_eq!(of_openai(model).thinking == ThinkingAsk::Effort, reasons, "{model}");
        }
    }
}
