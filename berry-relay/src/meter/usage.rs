//! The usage object of an answer, whatever its vendor, in the one meaning of [`Usage`].
//!
//! Conventions (vendors' API references, 2025 and 2026): OpenAI's `prompt_tokens` and `input_tokens` include cached tokens;
//! Anthropic's `input_tokens` leaves out both cache counts, and its compaction stands beside the rest, in `iterations`; Gemini's
//! `promptTokenCount` includes cached tokens and leaves out those of tool results, and its thoughts stand beside
//! `candidatesTokenCount`. Mistral and DeepSeek have names of their own for cached tokens; xAI counts reasoning beside
//! `completion_tokens`. Parts with prices of their own (long cache writes, audio, images) are kept apart. Left out: what a second
//! model used (Anthropic's adviser), because it has another price.

use berry_core::money::NanoUsd;
use berry_core::usage::{ServiceTier, Usage};

use crate::json::{Cursor, Raw};

/// A count beyond this is no count: no vendor's context comes near it, and sums stay far from overflow.
const TOKENS_MAX: u64 = 1 << 40;

/// A usage object of any dialect. Numbers that are no counts are taken as not reported.
pub(super) fn read(json: &[u8]) -> Usage {
    let mut figures = Figures::default();
    let mut compactions: Option<Usage> = None;
    // It was valid as part of the whole, and what is not as expected is left out.
    let _ = Cursor::new(json).members(|key, value| match key {
        b"iterations" => value.elements(|iteration| {
            let mut own = Figures::default();
            iteration.members(|key, value| own.read(key, value))?;
            if own.is_compaction {
                compactions.get_or_insert_default().add(&own.into_usage());
            }
            Some(())
        }),
        _ => figures.read(key, value),
    });
    let mut usage = figures.into_usage();
    if let Some(compactions) = compactions {
        usage.add(&compactions);
    }
    usage
}

/// Which side of an answer details belong to.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Input,
    Output,
}

/// Figures under the names that vendors give them.
#[derive(Default)]
struct Figures {
    prompt: Option<u64>,
    completion: Option<u64>,
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    cache_write_1h: Option<u64>,
    /// Anthropic's writes for five minutes, where only the parts are told.
    cache_write_5m: Option<u64>,
    reasoning: Option<u64>,
    audio_input: Option<u64>,
    image_input: Option<u64>,
    audio_output: Option<u64>,
    image_output: Option<u64>,
    /// Anthropic's, beside `input`, unless details of `input` stand there too.
    cache_read_input: Option<u64>,
    cache_creation_input: Option<u64>,
    has_input_details: bool,
    gemini_tool_prompt: Option<u64>,
    gemini_thoughts: Option<u64>,
    server_tool_calls: Option<u64>,
    tier: Option<ServiceTier>,
    cost: Option<NanoUsd>,
    /// Anthropic's, of what was used to shorten the conversation before answering.
    is_compaction: bool,
}

impl Figures {
    /// Reads one member of a usage object.
    fn read(&mut self, key: &[u8], value: &mut Cursor<'_>) -> Option<()> {
        match key {
            b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details" => {
                self.has_input_details = true;
                return self.details(value, Side::Input);
            }
            b"completion_tokens_details" | b"output_tokens_details" => return self.details(value, Side::Output),
            b"promptTokensDetails" => return self.modalities(value, Side::Input),
            b"candidatesTokensDetails" => return self.modalities(value, Side::Output),
            b"cache_creation" => return self.cache_creation(value),
            b"server_tool_use" => return self.server_tools(value),
            // Cohere's: what is billed goes before what was counted.
            b"billed_units" => return value.members(|key, value| self.read(key, value)),
            _ => {}
        }
        let place = match key {
            b"prompt_tokens" | b"promptTokenCount" => &mut self.prompt,
            b"completion_tokens" | b"candidatesTokenCount" => &mut self.completion,
            b"input_tokens" => &mut self.input,
            b"output_tokens" => &mut self.output,
            b"total_tokens" => &mut self.total,
            b"cached_tokens" | b"num_cached_tokens" | b"prompt_cache_hit_tokens" | b"cachedContentTokenCount" => {
                &mut self.cached
            }
            b"cache_read_input_tokens" => &mut self.cache_read_input,
            b"cache_creation_input_tokens" => &mut self.cache_creation_input,
            b"toolUsePromptTokenCount" => &mut self.gemini_tool_prompt,
            b"thoughtsTokenCount" => &mut self.gemini_thoughts,
            b"num_sources_used" | b"search_units" => &mut self.server_tool_calls,
            b"cost" => {
                self.cost = dollars(value.value()?);
                return Some(());
            }
            b"service_tier" => {
                self.tier = value.value()?.text().map(ServiceTier::from_wire);
                return Some(());
            }
            b"type" => {
                self.is_compaction = value.value()?.text() == Some(b"compaction");
                return Some(());
            }
            _ => return value.skip(),
        };
        // Some vendors say the same twice; what is no count does not hide one.
        *place = figure(value)?.or(*place);
        Some(())
    }

    /// OpenAI's details, which many others have too.
    fn details(&mut self, cursor: &mut Cursor<'_>, side: Side) -> Option<()> {
        cursor.members(|key, value| {
            let figure = figure(value)?;
            match (key, side) {
                (b"cached_tokens", _) => self.cached = figure.or(self.cached),
                (b"cache_write_tokens" | b"cache_creation_tokens", _) => self.cache_write = figure,
                (b"reasoning_tokens" | b"thinking_tokens", _) => self.reasoning = figure,
                (b"audio_tokens", Side::Input) => self.audio_input = figure,
                (b"audio_tokens", Side::Output) => self.audio_output = figure,
                (b"image_tokens", Side::Input) => self.image_input = figure,
                (b"image_tokens", Side::Output) => self.image_output = figure,
                _ => {}
            }
            Some(())
        })
    }

    /// Gemini's details: a list of `{modality, tokenCount}`.
    fn modalities(&mut self, cursor: &mut Cursor<'_>, side: Side) -> Option<()> {
        cursor.elements(|entry| {
            let (mut modality, mut figure) = (None, None);
            entry.members(|key, value| {
                let value = value.value()?;
                match key {
                    b"modality" => modality = value.text(),
                    b"tokenCount" => figure = count(value),
                    _ => {}
                }
                Some(())
            })?;
            match (modality, side) {
                (Some(b"AUDIO"), Side::Input) => self.audio_input = figure,
                (Some(b"AUDIO"), Side::Output) => self.audio_output = figure,
                (Some(b"IMAGE"), Side::Input) => self.image_input = figure,
                (Some(b"IMAGE"), Side::Output) => self.image_output = figure,
                _ => {}
            }
            Some(())
        })
    }

    /// Anthropic's writes by how long they are kept.
    fn cache_creation(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        cursor.members(|key, value| {
            let figure = figure(value)?;
            match key {
                b"ephemeral_5m_input_tokens" => self.cache_write_5m = figure,
                b"ephemeral_1h_input_tokens" => self.cache_write_1h = figure,
                _ => {}
            }
            Some(())
        })
    }

    /// Anthropic's calls of tools that it charges by the call; fetching a page is not one.
    fn server_tools(&mut self, cursor: &mut Cursor<'_>) -> Option<()> {
        cursor.members(|key, value| {
            let figure = figure(value)?;
            if key == b"web_search_requests" {
                self.server_tool_calls = figure;
            }
            Some(())
        })
    }

    fn into_usage(self) -> Usage {
        let beside = |figure: Option<u64>| figure.unwrap_or(0);
        let parts = match (self.cache_write_5m, self.cache_write_1h) {
            (None, None) => None,
            (short, long) => Some(beside(short) + beside(long)),
        };
        let cache_creation = self.cache_creation_input.or(parts);
        let input = match (self.prompt, self.input) {
            (Some(prompt), _) => Some(prompt + beside(self.gemini_tool_prompt)),
            (None, Some(input)) if self.has_input_details => Some(input),
            (None, Some(input)) => Some(input + beside(self.cache_read_input) + beside(cache_creation)),
            // Embeddings and rankings of some vendors give one figure for all, and all of it is input.
            (None, None) if self.completion.is_none() && self.output.is_none() => self.total,
            (None, None) => None,
        };
        let output = match (self.completion, self.output) {
            (Some(completion), _) => Some(completion + beside(self.gemini_thoughts) + beside(self.outside_reasoning())),
            (None, output) => output.or(self.gemini_thoughts),
        };
        Usage {
            input_tokens: input,
            cached_tokens: self.cached.or(self.cache_read_input),
            cache_write_tokens: self.cache_write.or(cache_creation),
            cache_write_1h_tokens: self.cache_write_1h,
            audio_input_tokens: self.audio_input,
            image_input_tokens: self.image_input,
            tool_prompt_tokens: self.gemini_tool_prompt,
            output_tokens: output,
            reasoning_tokens: self.reasoning.or(self.gemini_thoughts),
            audio_output_tokens: self.audio_output,
            image_output_tokens: self.image_output,
            server_tool_calls: self.server_tool_calls,
            tier: self.tier,
            reported_cost: self.cost,
            estimated: false,
        }
    }

    /// Reasoning that is not part of the completion, which only the total shows.
    fn outside_reasoning(&self) -> Option<u64> {
        let reasoning = self.reasoning?;
        (self.total? == self.prompt? + self.completion? + reasoning).then_some(reasoning)
    }
}

/// An amount of dollars, as OpenRouter writes what it charged. A negative one, or one beyond all bounds, is none.
fn dollars(value: Raw<'_>) -> Option<NanoUsd> {
    NanoUsd::from_usd(std::str::from_utf8(value.0).ok()?.parse().ok()?).ok()
}

/// Reads past the next value, and gives the count that it is.
fn figure(value: &mut Cursor<'_>) -> Option<Option<u64>> {
    match value.few_digits() {
        Some(figure) => Some(Some(figure)),
        None => Some(count(value.value()?)),
    }
}

/// A count, tolerant of what upstreams send in its place: whole numbers may be written as fractions, anything else is none.
pub(super) fn count(value: Raw<'_>) -> Option<u64> {
    let text = std::str::from_utf8(value.0).ok()?;
    let whole = || text.parse::<f64>().ok().filter(|number| *number >= 0.0 && number.fract() == 0.0);
    let figure = text.parse::<u64>().ok().or_else(|| Some(whole()? as u64))?;
    (figure <= TOKENS_MAX).then_some(figure)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usage_of_every_dialect_means_the_same() {
        let read = |json: &str| super::read(json.as_bytes());
        let usage = |input, cached, write, output, reasoning| Usage {
            input_tokens: input,
            cached_tokens: cached,
            cache_write_tokens: write,
            output_tokens: output,
            reasoning_tokens: reasoning,
            ..Usage::default()
        };
        for (json, expected) in [
            (
                r#"{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17,"prompt_tokens_details":{"cached_tokens":4},"completion_tokens_details":{"reasoning_tokens":2}}"#,
                usage(Some(10), Some(4), None, Some(7), Some(2)),
            ),
            (
                r#"{"input_tokens":10,"input_tokens_details":{"cached_tokens":0},"output_tokens":7,"output_tokens_details":{"reasoning_tokens":0}}"#,
                usage(Some(10), Some(0), None, Some(7), Some(0)),
            ),
            (
                r#"{"input_tokens":10,"cache_read_input_tokens":20,"cache_creation_input_tokens":5,"output_tokens":7}"#,
                usage(Some(35), Some(20), Some(5), Some(7), None),
            ),
            (
                r#"{"promptTokenCount":10,"candidatesTokenCount":5,"thoughtsTokenCount":3,"cachedContentTokenCount":2}"#,
                usage(Some(10), Some(2), None, Some(8), Some(3)),
            ),
            (
                r#"{"prompt_tokens":10,"prompt_cache_hit_tokens":8,"completion_tokens":1}"#,
                usage(Some(10), Some(8), None, Some(1), None),
            ),
            (r#"{"prompt_tokens":-3,"completion_tokens":1.5,"x":{}}"#, usage(None, None, None, None, None)),
            (r#"{"prompt_tokens":3.0,"completion_tokens":null}"#, usage(Some(3), None, None, None, None)),
        ] {
            assert_eq!(read(json), expected, "{json}");
        }
    }

    #[test]
    fn usage_quirks_of_vendors_end_in_the_same_meaning() {
        let read = |json: &str| {
            let usage = super::read(json.as_bytes());
            [
                usage.input_tokens,
                usage.cached_tokens,
                usage.cache_write_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
            ]
        };
        for (what, json, expected) in [
            (
                "cached tokens that are told in both conventions are counted once",
                r#"{"prompt_tokens":100,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":80},"cache_read_input_tokens":80,"cache_creation_input_tokens":10}"#,
                [Some(100), Some(80), Some(10), Some(5), None],
            ),
            (
                "reasoning beside the completion is output",
                r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":35,"completion_tokens_details":{"reasoning_tokens":20}}"#,
                [Some(10), None, None, Some(25), Some(20)],
            ),
            (
                "reasoning inside the completion is not counted twice",
                r#"{"prompt_tokens":10,"completion_tokens":25,"total_tokens":35,"completion_tokens_details":{"reasoning_tokens":20}}"#,
                [Some(10), None, None, Some(25), Some(20)],
            ),
            (
                "what tools brought is input",
                r#"{"promptTokenCount":10,"toolUsePromptTokenCount":90,"candidatesTokenCount":5,"totalTokenCount":105}"#,
                [Some(100), None, None, Some(5), None],
            ),
            (
                "thoughts alone are output",
                r#"{"promptTokenCount":10,"thoughtsTokenCount":7}"#,
                [Some(10), None, None, Some(7), Some(7)],
            ),
            (
                "a compaction is paid for beside the rest, an adviser is another model's",
                r#"{"input_tokens":181,"cache_read_input_tokens":0,"output_tokens":8,"iterations":[{"type":"compaction","input_tokens":100,"output_tokens":83,"cache_read_input_tokens":55096},{"input_tokens":181,"output_tokens":8,"type":"message"},{"type":"advisor_message","input_tokens":2543,"output_tokens":18}]}"#,
                [Some(181 + 100 + 55096), Some(55096), None, Some(91), None],
            ),
            ("one figure for all is input", r#"{"total_tokens":15}"#, [Some(15), None, None, None, None]),
            (
                "details of a wrong type do not hide the rest",
                r#"{"prompt_tokens":3,"prompt_tokens_details":[1],"completion_tokens_details":"x","completion_tokens":4}"#,
                [Some(3), None, None, Some(4), None],
            ),
            (
                "absurd figures are none",
                r#"{"prompt_tokens":18446744073709551615,"completion_tokens":1e300,"cache_read_input_tokens":99999999999999}"#,
                [None, None, None, None, None],
            ),
            (
                "Mistral's name",
                r#"{"prompt_tokens":100,"completion_tokens":29,"num_cached_tokens":99}"#,
                [Some(100), Some(99), None, Some(29), None],
            ),
        ] {
            assert_eq!(read(json), expected, "{what}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(json in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = super::read(&json);
        }
    }
}
