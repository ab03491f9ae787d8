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

/// Body of an upstream request. Small, because a connection keeps room for many requests.
pub(crate) enum UpstreamBody {
    /// Held whole, in one piece.
    Whole(Bytes),
    /// Held whole, so it can be sent again.
    Held(Box<Chunks>),
    /// Sent once.
    Streaming(Box<Streaming>),
}

/// A held beginning, then what is still arriving.
pub(crate) struct Streaming {
    pub(crate) held: Chunks,
    pub(crate) rest: Arriving,
    /// Length of both together, where the client declared it.
    pub(crate) length: Option<u64>,
}

impl From<Chunks> for UpstreamBody {
    fn from(mut held: Chunks) -> Self {
        match held.iter().count() {
            0 | 1 => Self::Whole(held.pop_front().unwrap_or_default()),
            _ => Self::Held(Box::new(held)),
        }
    }
}

impl Streaming {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match self.held.pop_front() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => self.rest.0.get_mut().as_mut().poll_frame(cx),
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(length)) = (&frame, &mut self.length) {
            *length = length.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
        }
        frame
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let next = match self.get_mut() {
            Self::Whole(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            Self::Held(held) => held.pop_front(),
            Self::Streaming(streaming) => return streaming.poll_frame(cx),
        };
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Held(held) => held.is_empty(),
            // The end of the rest must be polled: it says whether the form was whole.
            Self::Streaming(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        let length = match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Held(held) => Some(held.len() as u64),
            Self::Streaming(streaming) => streaming.length,
        };
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
