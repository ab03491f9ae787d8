//! The server's end of a connection, with a way to cut it.
//!
//! hyper ends connections politely. A scripted upstream must also be able to reset one, or to stop in the middle of a head, so
//! each connection has a [`Cutter`] that the answer's steps use and the task that drives the connection obeys.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::fault::End;

/// Bytes of a head that go out before it is cut: inside the status line's second half.
const HALF_HEAD_BYTES: usize = 12;

/// Ends one connection from within an answer.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    state: Mutex<CutState>,
    cut: Notify,
}

#[derive(Debug, Default)]
struct CutState {
    end: Option<End>,
    /// Bytes that may still be written before the connection ends.
    allowance: Option<usize>,
}

impl Cutter {
    /// Ends the connection now.
    pub(crate) fn kill(&self, end: End) {
        self.state.lock().end = Some(end);
        self.cut.notify_one();
    }

    /// Ends the connection inside the head that is written next.
    pub(crate) fn kill_in_head(&self, end: End) {
        *self.state.lock() = CutState { end: Some(end), allowance: Some(HALF_HEAD_BYTES) };
    }

    /// Returns when the connection has to end.
    pub(crate) async fn killed(&self) {
        self.cut.notified().await;
    }

    fn allowance(&self) -> Option<usize> {
        self.state.lock().allowance
    }

    /// Takes what was written from the allowance; at its end the connection is killed.
    fn spend(&self, bytes: usize) {
        let mut state = self.state.lock();
        if let Some(left) = &mut state.allowance {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.cut.notify_one();
            }
        }
    }

    fn is_reset(&self) -> bool {
        self.state.lock().end == Some(End::Reset)
    }
}

/// What bytes are carried over.
#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
    Memory(DuplexStream),
}

/// A connection that obeys its [`Cutter`].
#[derive(Debug)]
pub(crate) struct Wire {
    transport: Transport,
    cutter: Arc<Cutter>,
}

impl Wire {
    pub(crate) fn new(transport: Transport, cutter: Arc<Cutter>) -> Self {
        Self { transport, cutter }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Transport::Tcp(tcp) = &self.transport
            && self.cutter.is_reset()
        {
            // With a linger time of nothing, closing sends RST. A socket that refuses is already gone.
            let _ = tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Transport::Memory(memory) => Pin::new(memory).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let allowed = match self.cutter.allowance() {
            None => bytes,
            // Nothing more will ever be written; the connection's task drops us.
            Some(0) => return Poll::Pending,
            Some(left) => &bytes[..bytes.len().min(left)],
        };
        let written = ready!(match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write(cx, allowed),
            Transport::Memory(memory) => Pin::new(memory).poll_write(cx, allowed),
        })?;
        self.cutter.spend(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.cutter.allowance().is_some() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Transport::Memory(memory) => Pin::new(memory).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Tcp(tcp) => tcp.is_write_vectored(),
            Transport::Memory(memory) => memory.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Transport::Memory(memory) => Pin::new(memory).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Transport::Memory(memory) => Pin::new(memory).poll_shutdown(cx),
        }
    }
}
