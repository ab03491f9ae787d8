//! The one scripted upstream.
//!
//! A server that answers like an LLM vendor, without a model and without a network: the demo provider of Berry, the other end
//! of the tests, and what `berry-cli mock` serves. It speaks the vendors' wire formats, keeps a token pace, fails on request,
//! and tells what it saw. The same script and the same request give the same bytes.
//!
//! ```
//! use berry_mock::{Mock, Script};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let mock = Mock::new(Script { token_latency_ms: 20, ..Script::default() });
//! let in_memory = mock.connect(); // the client end of an HTTP/1 connection
//! let address = mock.listen().await?; // or real sockets: HTTP/1 and HTTP/2 on a free port
//! # drop((in_memory, address));
//! # Ok(())
//! # }
//! ```
//!
//! # What it answers
//!
//! OpenAI: models, chat completions, completions, embeddings, moderations, rerank, responses, images, speech and transcriptions;
//! with and without `/v1`, and under the paths of Azure (`/openai/deployments/NAME/...?api-version=`, `/openai/v1/...`).
//! Anthropic: messages, their token count, and the models list where `anthropic-version` is sent. Gemini: models, content plain
//! and streamed, token counts and embeddings.
//! A [`Script`] can replace any of it with exact bytes ([`Reply`]).
//!
//! # Faults
//!
//! The script, or the request header `x-mock-fault`, spoils answers; see [`Fault`] for the list. Several in one header are
//! separated by commas and applied in order, as in `x-mock-fault: crlf, one-byte`.
//!
//! # Limits
//!
//! Text is made by a small grammar and tokens are counted by a rule of thumb. A JSON schema's `pattern` is not obeyed.
//! HTTP framing itself cannot be wrong beyond a head or an answer that is cut.

mod answer;
mod anthropic;
mod body;
mod error;
mod fault;
mod gemini;
mod generate;
mod hash;
mod input;
mod mock;
mod observe;
mod openai;
mod route;
mod schema;
mod script;
mod spoil;
mod text;
mod vector;
mod wire;

pub use fault::{End, FAULTS, Fault, FaultParseError, Place};
pub use mock::Mock;
pub use observe::{Cancellation, Phase, SeenRequest, Stats};
pub use script::{ApiKey, FaultScope, Reply, ReplyChunk, Script, ScriptError};
