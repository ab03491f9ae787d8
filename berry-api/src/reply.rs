//! The body of every reply.

use std::pin::Pin;
use std::task::{Context, Poll};

use berry_relay::answer::RelayBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::bodies::Logged;
use crate::server::connection::ActiveRequest;

/// An error with all that it was caused by.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body, and the mark that its request is being served, which ends with it.
pub struct Reply {
    content: Content,
    _active: ActiveRequest,
}

/// What a reply consists of.
pub enum Content {
    /// All of it at hand.
    Whole(Bytes),
    /// Relayed from an upstream.
    Relayed(RelayBody),
    /// The same, for the log as well.
    Logged(Box<Logged>),
    /// From the router.
    Routed(axum::body::Body),
}

impl Reply {
    /// A reply to `active`.
    pub fn new(content: Content, active: ActiveRequest) -> Self {
        Self { content, _active: active }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.get_mut().content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Relayed(body) => Pin::new(body).poll_frame(cx),
            Content::Logged(body) => Pin::new(&mut **body).poll_frame(cx),
            Content::Routed(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Relayed(body) => body.is_end_stream(),
            Content::Logged(body) => body.is_end_stream(),
            Content::Routed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Relayed(body) => body.size_hint(),
            Content::Logged(body) => body.size_hint(),
            Content::Routed(body) => body.size_hint(),
        }
    }
}
