//! What a request consumed.

use crate::money::NanoUsd;

/// Which of a vendor's service classes answered: each may have prices of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// The ordinary one.
    #[default]
    Standard,
    /// Cheaper and slower (OpenAI's `flex`).
    Flex,
    /// Dearer and faster (OpenAI's `priority`).
    Priority,
    /// Answered within a day.
    Batch,
}

impl ServiceTier {
    /// What a vendor's answer calls it; every other name is an ordinary answer.
    pub fn from_wire(name: &[u8]) -> Self {
        match name {
            b"flex" => Self::Flex,
            b"priority" => Self::Priority,
            b"batch" => Self::Batch,
            _ => Self::Standard,
        }
    }
}

/// Token counts of one answer. `None` = not reported, which is different from zero.
///
/// `input_tokens` and `output_tokens` hold everything, whatever the vendor's own convention; all other counts are parts of one of
/// them. [`Usage::buckets`] takes them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The whole prompt.
    pub input_tokens: Option<u64>,
    /// Of it, read from the prompt cache.
    pub cached_tokens: Option<u64>,
    /// Of it, written to the prompt cache.
    pub cache_write_tokens: Option<u64>,
    /// Of what was written to the cache, what is kept for an hour.
    pub cache_write_1h_tokens: Option<u64>,
    /// Of the prompt, audio.
    pub audio_input_tokens: Option<u64>,
    /// Of the prompt, images.
    pub image_input_tokens: Option<u64>,
    /// Of the prompt, what tools of the vendor brought.
    pub tool_prompt_tokens: Option<u64>,
    /// Everything that was generated.
    pub output_tokens: Option<u64>,
    /// Of it, reasoning.
    pub reasoning_tokens: Option<u64>,
    /// Of it, audio.
    pub audio_output_tokens: Option<u64>,
    /// Of it, images.
    pub image_output_tokens: Option<u64>,
    /// Calls of tools that the vendor ran and charges by the call, such as web searches.
    pub server_tool_calls: Option<u64>,
    /// The service class that answered.
    pub tier: Option<ServiceTier>,
    /// What the vendor says that the answer cost.
    pub reported_cost: Option<NanoUsd>,
    /// Counted by us, because the vendor said nothing.
    pub estimated: bool,
}

/// The same tokens without overlap: every token is in exactly one field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Text that was not in the cache.
    pub input: u64,
    /// Read from the cache.
    pub cached: u64,
    /// Written to the cache for some minutes.
    pub cache_write: u64,
    /// Written to the cache for an hour.
    pub cache_write_1h: u64,
    /// Audio of the prompt.
    pub audio_input: u64,
    /// Images of the prompt.
    pub image_input: u64,
    /// Generated text.
    pub output: u64,
    /// Generated reasoning.
    pub reasoning: u64,
    /// Generated audio.
    pub audio_output: u64,
    /// Generated images.
    pub image_output: u64,
}

impl Usage {
    /// Input and output together, as far as they were reported.
    pub fn total(&self) -> u64 {
        self.input_tokens.unwrap_or(0).saturating_add(self.output_tokens.unwrap_or(0))
    }

    /// Whether nothing was reported.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes the larger of each field: vendors that report while they stream repeat cumulative figures, so adding would count
    /// them twice.
    pub fn merge_max(&mut self, other: &Self) {
        self.combine(other, |one, other| one.max(other));
        self.reported_cost = self.reported_cost.max(other.reported_cost);
    }

    /// Adds what something else used, under the same request.
    pub fn add(&mut self, other: &Self) {
        let add = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.saturating_add(other)),
            (one, other) => one.or(other),
        };
        self.combine(other, add);
        self.reported_cost = match (self.reported_cost, other.reported_cost) {
            (Some(one), Some(other)) => Some(one + other),
            (one, other) => one.or(other),
        };
    }

    fn combine(&mut self, other: &Self, join: impl Fn(Option<u64>, Option<u64>) -> Option<u64>) {
        // Taken apart in full, so that a new count cannot be forgotten.
        let Self {
            input_tokens,
            cached_tokens,
            cache_write_tokens,
            cache_write_1h_tokens,
            audio_input_tokens,
            image_input_tokens,
            tool_prompt_tokens,
            output_tokens,
            reasoning_tokens,
            audio_output_tokens,
            image_output_tokens,
            server_tool_calls,
            tier,
            reported_cost: _,
            estimated,
        } = *other;
        self.input_tokens = join(self.input_tokens, input_tokens);
        self.cached_tokens = join(self.cached_tokens, cached_tokens);
        self.cache_write_tokens = join(self.cache_write_tokens, cache_write_tokens);
        self.cache_write_1h_tokens = join(self.cache_write_1h_tokens, cache_write_1h_tokens);
        self.audio_input_tokens = join(self.audio_input_tokens, audio_input_tokens);
        self.image_input_tokens = join(self.image_input_tokens, image_input_tokens);
        self.tool_prompt_tokens = join(self.tool_prompt_tokens, tool_prompt_tokens);
        self.output_tokens = join(self.output_tokens, output_tokens);
        self.reasoning_tokens = join(self.reasoning_tokens, reasoning_tokens);
        self.audio_output_tokens = join(self.audio_output_tokens, audio_output_tokens);
        self.image_output_tokens = join(self.image_output_tokens, image_output_tokens);
        self.server_tool_calls = join(self.server_tool_calls, server_tool_calls);
        self.tier = tier.or(self.tier);
        self.estimated |= estimated;
    }

    /// The tokens without overlap. A part that is larger than its whole counts only as far as the whole goes, in the order: read
    /// from the cache, written to it, audio, images; for output audio, images, reasoning.
    pub fn buckets(&self) -> Buckets {
        let mut input = self.input_tokens.unwrap_or(0);
        let mut output = self.output_tokens.unwrap_or(0);
        let cached = take(&mut input, self.cached_tokens);
        let mut cache_write = take(&mut input, self.cache_write_tokens);
        let cache_write_1h = take(&mut cache_write, self.cache_write_1h_tokens);
        let audio_input = take(&mut input, self.audio_input_tokens);
        let image_input = take(&mut input, self.image_input_tokens);
        let audio_output = take(&mut output, self.audio_output_tokens);
        let image_output = take(&mut output, self.image_output_tokens);
        let reasoning = take(&mut output, self.reasoning_tokens);
        Buckets {
            input,
            cached,
            cache_write,
            cache_write_1h,
            audio_input,
            image_input,
            output,
            reasoning,
            audio_output,
            image_output,
        }
    }
}

/// Takes a part out of a whole.
fn take(whole: &mut u64, part: Option<u64>) -> u64 {
    let part = part.unwrap_or(0).min(*whole);
    *whole -= part;
    part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_reports_are_merged_and_never_added() {
        let mut usage = Usage { input_tokens: Some(10), output_tokens: Some(1), ..Usage::default() };
        usage.merge_max(&Usage { output_tokens: Some(7), cached_tokens: Some(4), ..Usage::default() });
        usage.merge_max(&Usage { output_tokens: Some(7), ..Usage::default() });
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.cached_tokens), (Some(10), Some(7), Some(4)));
    }

    #[test]
    fn every_token_is_in_one_bucket_and_no_part_is_larger_than_its_whole() {
        let usage = Usage {
            input_tokens: Some(100),
            cached_tokens: Some(30),
            cache_write_tokens: Some(20),
            cache_write_1h_tokens: Some(15),
            audio_input_tokens: Some(10),
            image_input_tokens: Some(99),
            output_tokens: Some(50),
            reasoning_tokens: Some(60),
            audio_output_tokens: Some(5),
            ..Usage::default()
        };
        let expected = Buckets {
            cached: 30,
            cache_write: 5,
            cache_write_1h: 15,
            audio_input: 10,
            image_input: 40,
            reasoning: 45,
            audio_output: 5,
            ..Buckets::default()
        };
        assert_eq!(usage.buckets(), expected);
    }
}
