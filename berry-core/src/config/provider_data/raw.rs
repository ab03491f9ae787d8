//! A file of provider data as it is written.

use super::{Meaning, RerankForm, Sampling, ThinkingAsk, UnknownBetas};
use crate::config::decode::{At, Choice, Decode, Fields, Map, OneOf, Table, Text, bare_name, table};
use crate::config::raw::BackendType;
use crate::config::schema::{Bounds, KeySchema, TableSchema};
use crate::operation::Dialect;

macro_rules! choices {
    ($($ty:ident { $($name:literal => $value:ident,)* })*) => {$(
        impl Choice for $ty {
            const NAMES: &'static [(&'static str, Self)] = &[$(($name, Self::$value)),*];
        }
    )*};
}

choices! {
    Dialect { "openai" => OpenAi, "anthropic" => Anthropic, "gemini" => Gemini, }
    ThinkingAsk {
        "none" => None,
        "budget" => Budget,
        "budget_or_adaptive" => BudgetOrAdaptive,
        "adaptive" => Adaptive,
        "effort" => Effort,
        "level" => Level,
    }
    Sampling { "all" => All, "one" => One, "none" => None, }
    RerankForm { "cohere" => Cohere, "jina" => Jina, "voyage" => Voyage, }
    UnknownBetas { "pass" => Pass, "drop" => Drop, }
    Meaning {
        "context_overflow" => ContextOverflow,
        "content_filter" => ContentFilter,
        "billing" => Billing,
        "rate_limit" => RateLimit,
        "overloaded" => Overloaded,
        "key" => Key,
        "model" => Model,
    }
}

table! {
    /// Provider data: one of the files that are built in, or the operator's own.
    struct RawData {
        /// Vendors by the name that `vendor` of a provider takes.
        vendors: optional<Map<RawVendor>>;
        /// What models can do.
        capabilities: optional<Vec<At<RawCapabilities>>>;
        /// What errors mean at any vendor.
        errors: optional<Vec<At<RawError>>>;
    }

    /// One vendor.
    struct RawVendor {
        /// Name for people.
        name: optional<Text>;
        /// Where its API is.
        base_url: optional<Text>;
        /// Where its API for clients of Claude is.
        claude_base_url: optional<Text>;
        /// Further hosts that it is recognised by; `*` for any run of characters.
        hosts: optional<Vec<At<Text>>>;
        /// What it speaks.
        speaks: optional<OneOf<BackendType>>;
        /// Whether it wants a key.
        key: optional<bool>;
        /// Whether it has OpenAI's Responses API.
        responses: optional<bool>;
        /// Whose form its reranking has.
        rerank: optional<OneOf<RerankForm>>;
        /// Path of its reranking, from the root of its host.
        rerank_path: optional<Text>;
        /// Values of `anthropic-beta` and what they are called there; empty for one that it must not get.
        betas: optional<Map<Text>>;
        /// What happens to values that are not in `betas`.
        unknown_betas: optional<OneOf<UnknownBetas>>;
        /// What its errors mean.
        errors: optional<Vec<At<RawError>>>;
    }

    /// What some models can do.
    struct RawCapabilities {
        /// What their upstream speaks.
        dialect: required<OneOf<Dialect>>;
        /// Their names there.
        models: required<Vec<At<Text>>>;
        /// Most output tokens of one answer.
        max_output_tokens: optional<u64>, Bounds::at_least(1.0);
        /// How they are asked to think.
        thinking: optional<OneOf<ThinkingAsk>>;
        /// Efforts that they know.
        efforts: optional<Vec<At<Text>>>;
        /// The least budget for thinking that they take.
        min_thinking_tokens: optional<u64>;
        /// Which sampling parameters they take.
        sampling: optional<OneOf<Sampling>>;
        /// Whether they follow a schema by themselves.
        structured_output: optional<bool>;
        /// Whether schemas may be JSON schemas as they are.
        json_schema: optional<bool>;
        /// Whether they go on with a last turn of the assistant.
        prefill: optional<bool>;
        /// Whether they want their thoughts back inside a tool loop, as `reasoning_content`.
        echoes_thinking: optional<bool>;
    }

    /// What an error means.
    struct RawError {
        /// Statuses; any without it.
        status: optional<Vec<At<u32>>>;
        /// Codes, one of which the error has.
        codes: optional<Vec<At<Text>>>;
        /// Phrases, one of which is in its codes or its message.
        says: optional<Vec<At<Text>>>;
        /// What it means.
        means: required<OneOf<Meaning>>;
    }
}

impl RawVendor {
    /// These keys over those of another description of the vendor.
    pub(super) fn over(self, base: Self) -> Self {
        Self {
            name: self.name.or(base.name),
            base_url: self.base_url.or(base.base_url),
            claude_base_url: self.claude_base_url.or(base.claude_base_url),
            hosts: self.hosts.or(base.hosts),
            speaks: self.speaks.or(base.speaks),
            key: self.key.or(base.key),
            responses: self.responses.or(base.responses),
            rerank: self.rerank.or(base.rerank),
            rerank_path: self.rerank_path.or(base.rerank_path),
            betas: self.betas.or(base.betas),
            unknown_betas: self.unknown_betas.or(base.unknown_betas),
            errors: self.errors.or(base.errors),
        }
    }
}
