//! What is sent upstream.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use sync_wrapper::SyncWrapper;

use crate::body::Chunks;
use crate::error::BoxError;

/// A client's body that is still arriving.
pub struct Arriving(SyncWrapper<Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>>);

impl Arriving {
    /// Takes over a body.
    pub(crate) fn new(body: impl Body<Data = Bytes, Error = BoxError> + Send + 'static) -> Self {
        Self(SyncWrapper::new(Box::pin(body)))
    }
}

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
                    None => rest.0.get_mut().as_mut().poll_frame(cx),
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
            // The end of the rest must be polled: it says whether the form was whole.
            Self::Streaming { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Held(held) => SizeHint::with_exact(held.len() as u64),
            Self::Streaming { length: Some(length), .. } => SizeHint::with_exact(*length),
            Self::Streaming { .. } => SizeHint::default(),
        }
    }
}
