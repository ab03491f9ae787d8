//! Bodies in the log, where `settings.log_request_body` or `log_response_body` asks for them: at level debug, of API calls only,
//! cut to [`LOGGED_BYTES_MAX`], with every secret that can be recognised hidden.
//!
//! Recognised are the keys of providers, the tokens of users (by their digests, which is all that is known of them), what
//! follows `Bearer`, and words that begin like a vendor's key. A prompt is no secret here: it is what the switch is for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berry_core::auth::key::TokenDigest;
use berry_core::config::snapshot::Snapshot;
use berry_core::id::RequestId;
use berry_relay::answer::RelayBody;
use berry_relay::forward::RequestBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::reply::BoxError;

/// Most of one body that is logged, bytes.
pub const LOGGED_BYTES_MAX: usize = 16 * 1024;
/// Shorter words are no secrets: hiding them would hide half of the text.
const SECRET_CHARS_MIN: usize = 6;
/// How keys of vendors begin.
const KEY_STARTS: &[&str] = &["sk-", "sk_", "pk-", "AIza", "gsk_", "xai-", "hf_", "ghp_", "eyJ"];
/// Words with such a beginning are keys from this length on.
const KEY_CHARS_MIN: usize = 16;
const HIDDEN: &str = "[redacted]";

/// Logs the body of a request, if that is switched on. Of a form only that it is one: its parts stream.
pub fn request(snapshot: &Snapshot, id: &RequestId, body: &RequestBody) {
    if !snapshot.settings.log_request_body || !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    if let RequestBody::Json { body, .. } = body {
        let (text, bytes) = (body.slice(0..body.len().min(LOGGED_BYTES_MAX)), body.len());
        tracing::debug!(request_id = id.as_str(), bytes, body = text_of(&text, bytes, snapshot), "request body");
    }
}

/// Whether the bodies of answers are logged.
pub fn answers_are_logged(snapshot: &Snapshot) -> bool {
    snapshot.settings.log_response_body && tracing::enabled!(tracing::Level::DEBUG)
}

/// An answer whose beginning is kept until it is over, and then logged.
pub struct Logged {
    body: RelayBody,
    kept: Vec<u8>,
    bytes: usize,
    id: RequestId,
    snapshot: Arc<Snapshot>,
}

impl Logged {
    /// Logs `body` when it is over, or when nobody waits for it any more.
    pub fn new(body: RelayBody, id: RequestId, snapshot: Arc<Snapshot>) -> Self {
        Self { body, kept: Vec::new(), bytes: 0, id, snapshot }
    }
}

impl Body for Logged {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            this.bytes += data.len();
            this.kept.extend_from_slice(&data[..data.len().min(LOGGED_BYTES_MAX - this.kept.len())]);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let text = text_of(&self.kept, self.bytes, &self.snapshot);
        tracing::debug!(request_id = self.id.as_str(), bytes = self.bytes, body = text, "response body");
    }
}

/// The beginning of a body of `bytes` bytes as it may be shown.
fn text_of(kept: &[u8], bytes: usize, snapshot: &Snapshot) -> String {
    let text = String::from_utf8_lossy(kept);
    // A word that the cut goes through cannot be recognised, so it is left out.
    let whole = match bytes > kept.len() {
        true => text.trim_end_matches(is_word),
        false => &text,
    };
    mask(whole, snapshot)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '~' | '+' | '/' | '=')
}

fn mask(text: &str, snapshot: &Snapshot) -> String {
    let mut text = text.to_owned();
    let keys = snapshot.providers.values().map(|provider| provider.api_key.expose());
    for key in keys.filter(|key| key.len() >= SECRET_CHARS_MIN) {
        if text.contains(key) {
            text = text.replace(key, HIDDEN);
        }
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |length| start + length);
        let word = &rest[start..end];
        out.push_str(&rest[..start]);
        let after_bearer = out.len() >= 7 && out[..out.len() - 1].to_ascii_lowercase().ends_with("bearer");
        out.push_str(if after_bearer || is_secret(word, snapshot) { HIDDEN } else { word });
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

fn is_secret(word: &str, snapshot: &Snapshot) -> bool {
    let like_a_key = || word.len() >= KEY_CHARS_MIN && KEY_STARTS.iter().any(|start| word.starts_with(start));
    let of_a_user = || snapshot.users.has_token(&TokenDigest::of(word));
    word.len() >= SECRET_CHARS_MIN && (like_a_key() || of_a_user())
}
