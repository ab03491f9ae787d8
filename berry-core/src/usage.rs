//! What a request consumed.

/// Token counts of one answer. `None` = not reported, which is different from zero.
///
/// `input_tokens` holds the whole prompt: `cached_tokens` (served from the vendor's prompt cache) and `cache_write_tokens`
/// (written to it) are parts of it, whatever the vendor's own convention. `reasoning_tokens` is a part of `output_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Usage {
    /// The whole prompt.
    pub input_tokens: Option<u64>,
    /// Of it, read from the prompt cache.
    pub cached_tokens: Option<u64>,
    /// Of it, written to the prompt cache.
    pub cache_write_tokens: Option<u64>,
    /// Everything that was generated.
    pub output_tokens: Option<u64>,
    /// Of it, reasoning.
    pub reasoning_tokens: Option<u64>,
    /// Counted by us, because the vendor said nothing.
    pub estimated: bool,
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
        self.input_tokens = self.input_tokens.max(other.input_tokens);
        self.cached_tokens = self.cached_tokens.max(other.cached_tokens);
        self.cache_write_tokens = self.cache_write_tokens.max(other.cache_write_tokens);
        self.output_tokens = self.output_tokens.max(other.output_tokens);
        self.reasoning_tokens = self.reasoning_tokens.max(other.reasoning_tokens);
        self.estimated |= other.estimated;
    }
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
}
