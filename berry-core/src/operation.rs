//! The API calls that clients may make, as data: which dialect each is spoken in, where it lives, what its body is.

/// A wire format, on either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// OpenAI's REST API and everything that imitates it.
    OpenAi,
    /// Anthropic's Messages API.
    Anthropic,
    /// Google's Gemini `generateContent` API.
    Gemini,
}

impl Dialect {
    /// Its name in logs and admin replies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }
}

/// How a request body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyForm {
    /// One JSON object with a `model` member.
    Json,
    /// `multipart/form-data` with a `model` field, usually beside a file.
    Multipart,
}

/// What a streamed answer consists of; decides how its end, its content and its usage are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamFormat {
    /// Chat completion chunks: `finish_reason` or `[DONE]` ends it.
    Chat,
    /// Text completion chunks, framed like chat.
    Completions,
    /// Responses API events: `response.completed`, `.incomplete` or `.failed` ends it.
    Responses,
    /// Anthropic Messages events: `message_stop` ends it.
    Messages,
    /// Gemini chunks: `finishReason` or a block reason ends it.
    Gemini,
    /// Framing that is not known: a clean end of the body ends it.
    Opaque,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $dialect:ident $method_path:literal $upstream:literal $body:ident $stream:ident,)*) => {
        /// One API call that reaches a backend.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation {
            $($(#[$doc])* $name,)*
        }

        impl Operation {
            /// Every operation, for route tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The dialect that its clients speak.
            pub const fn dialect(self) -> Dialect {
                match self { $(Self::$name => Dialect::$dialect,)* }
            }

            /// The path at Berry. Gemini's stand for any model in the place of `{model}`.
            pub const fn path(self) -> &'static str {
                match self { $(Self::$name => $method_path,)* }
            }

            /// The path below an upstream's versioned base (`…/v1`), without a leading slash; for Gemini's calls the action,
            /// which stands behind the model's name and a colon.
            pub const fn upstream_path(self) -> &'static str {
                match self { $(Self::$name => $upstream,)* }
            }

            /// How its request body is written.
            pub const fn body_form(self) -> BodyForm {
                match self { $(Self::$name => BodyForm::$body,)* }
            }

            /// What its streamed answer looks like.
            pub const fn stream_format(self) -> StreamFormat {
                match self { $(Self::$name => StreamFormat::$stream,)* }
            }
        }
    };
}

operations! {
    /// OpenAI chat.
    ChatCompletions = OpenAi "/v1/chat/completions" "chat/completions" Json Chat,
    /// OpenAI's older text completion.
    Completions = OpenAi "/v1/completions" "completions" Json Completions,
    /// OpenAI Responses.
    Responses = OpenAi "/v1/responses" "responses" Json Responses,
    /// Embedding vectors.
    Embeddings = OpenAi "/v1/embeddings" "embeddings" Json Opaque,
    /// Content classification.
    Moderations = OpenAi "/v1/moderations" "moderations" Json Opaque,
    /// Relevance ranking, as Cohere, Jina and others serve it.
    Rerank = OpenAi "/v1/rerank" "rerank" Json Opaque,
    /// Image from text.
    ImageGenerations = OpenAi "/v1/images/generations" "images/generations" Json Opaque,
    /// Image from images and text.
    ImageEdits = OpenAi "/v1/images/edits" "images/edits" Multipart Opaque,
    /// Image from an image.
    ImageVariations = OpenAi "/v1/images/variations" "images/variations" Multipart Opaque,
    /// Speech from text.
    AudioSpeech = OpenAi "/v1/audio/speech" "audio/speech" Json Opaque,
    /// Text from speech.
    AudioTranscriptions = OpenAi "/v1/audio/transcriptions" "audio/transcriptions" Multipart Opaque,
    /// English text from speech.
    AudioTranslations = OpenAi "/v1/audio/translations" "audio/translations" Multipart Opaque,
    /// Anthropic Messages.
    Messages = Anthropic "/v1/messages" "messages" Json Messages,
    /// Anthropic token counting.
    CountTokens = Anthropic "/v1/messages/count_tokens" "messages/count_tokens" Json Opaque,
    /// Gemini, answered in one piece.
    GenerateContent = Gemini "/v1beta/models/{model}:generateContent" "generateContent" Json Gemini,
    /// Gemini as server-sent events.
    StreamGenerateContent = Gemini "/v1beta/models/{model}:streamGenerateContent?alt=sse" "streamGenerateContent" Json Gemini,
    /// Gemini as one JSON array that grows.
    StreamGenerateContentArray = Gemini "/v1beta/models/{model}:streamGenerateContent" "streamGenerateContent" Json Gemini,
    /// Gemini token counting.
    GeminiCountTokens = Gemini "/v1beta/models/{model}:countTokens" "countTokens" Json Opaque,
    /// One embedding vector of Gemini.
    EmbedContent = Gemini "/v1beta/models/{model}:embedContent" "embedContent" Json Opaque,
    /// Several embedding vectors of Gemini.
    BatchEmbedContents = Gemini "/v1beta/models/{model}:batchEmbedContents" "batchEmbedContents" Json Opaque,
}

impl Operation {
    /// The Gemini call that an action and the query of its URL ask for: `alt=sse` decides how a stream is framed.
    pub fn of_gemini_action(action: &str, query: Option<&str>) -> Option<Self> {
        let sse =
            || query.unwrap_or_default().split('&').any(|pair| matches!(pair, "alt=sse" | "$alt=sse" | "%24alt=sse"));
        Some(match action {
            "generateContent" => Self::GenerateContent,
            "streamGenerateContent" if sse() => Self::StreamGenerateContent,
            "streamGenerateContent" => Self::StreamGenerateContentArray,
            "countTokens" => Self::GeminiCountTokens,
            "embedContent" => Self::EmbedContent,
            "batchEmbedContents" => Self::BatchEmbedContents,
            _ => return None,
        })
    }

    /// Whether it asks for vectors, which mean something among those of the same model only.
    pub const fn makes_vectors(self) -> bool {
        matches!(self, Self::Embeddings | Self::EmbedContent | Self::BatchEmbedContents)
    }

    /// Whether the call itself asks for a stream; elsewhere the body does.
    pub const fn always_streams(self) -> bool {
        matches!(self, Self::StreamGenerateContent | Self::StreamGenerateContentArray)
    }

    /// Whether a plain answer is held whole and checked before its head is sent. Images and audio stream through instead.
    pub const fn holds_plain_answer(self) -> bool {
        !matches!(
            self,
            Self::ImageGenerations
                | Self::ImageEdits
                | Self::ImageVariations
                | Self::AudioSpeech
                | Self::AudioTranscriptions
                | Self::AudioTranslations
        )
    }

    /// Whether `stream_options.include_usage` is a parameter of its streams.
    pub const fn knows_stream_options(self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }
}
