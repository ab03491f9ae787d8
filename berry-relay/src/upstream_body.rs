//! What is sent upstream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::body::Chunks;
use crate::error::BoxError;

/// A client's body that is still arriving.
///
/// `Sync` only because what holds it is shared across an await; nobody polls it from two places.
pub type Arriving = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send + Sync>>;

/// Body of an upstream request.
pub(crate) enum UpstreamBody {
    /// Held whole, so it can be sent again.
    Held(Chunks),
    /// A held beginning, then what is still arriving; sent once.
    Streaming {
        held: Chunks,
        rest: Arriving,
        /// Length of both together, where the client declared it.
        length: Option<u64>,
    },
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Held(held) => Poll::Ready(held.pop_front().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streaming { held, rest, length } => {
                let frame = match held.pop_front() {
                    Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                    None => rest.as_mut().poll_frame(cx),
                };
                if let (Poll::Ready(Some(Ok(frame))), Some(length)) = (&frame, length) {
                    *length = length.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Held(held) => held.is_empty(),
            Self::Streaming { held, rest, .. } => held.is_empty() && rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Held(held) => SizeHint::with_exact(held.len() as u64),
            Self::Streaming {
                length: Some(length), ..
            } => SizeHint::with_exact(*length),
            Self::Streaming { .. } => SizeHint::default(),
        }
    }
}
