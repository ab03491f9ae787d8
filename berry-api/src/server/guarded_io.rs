//! The stream under a client connection, with the deadlines that the HTTP library cannot keep.
//!
//! A connection is in one of three phases. *Idle*: nothing is asked; it may stay so for the idle timeout. *Head*: the first
//! byte of a request head came; the rest must come within the header deadline, however it trickles. *Busy*: a request is
//! being served; its own deadlines hold. The library's header timeout starts with the idle time and sets a timer for each
//! request; here an ordinary request, whose head comes in one piece, touches no timer at all: the one timer of the
//! connection is only looked at while a read waits.
//!
//! A write that waits starts a clock of its own: a client that takes nothing for too long loses its connection, which drops the
//! answer and with it the upstream request. What is held for it until then is what the library and the kernel buffer.
//! Of HTTP/2 this sees the connection, not a single stream whose window stays closed.
//!
//! Two more things are done here because only the stream sees them. Where the library refuses a malformed head with an empty
//! answer, the answer gets the body that every other error has. And a connection that closes on an unread body is drained
//! for a while first, since the client could not read the answer otherwise: the kernel would reset the connection.
//!
//! HTTP/2 multiplexes, so bytes say nothing of a head there: only the idle timeout holds, from the end of the last request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use berry_relay::alarm::Alarm;
use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::HEAD_BYTES_MAX;
use super::connection::Connection;
use crate::error;

/// What a client of HTTP/2 begins with (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How much is read at once to see which protocol it is. An ordinary request fits, so the parser gets it in one piece.
const FIRST_BYTES_MAX: usize = 8 * 1024;

/// How long an unread body is read away when the connection closes.
const LINGER: Duration = Duration::from_secs(5);

/// Deadlines of a client connection.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// For a head, from its first byte.
    pub header: Duration,
    /// For the first byte of the next head, from the end of the last answer.
    pub idle: Duration,
    /// For the client to take something of what is written.
    pub write_stall: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Head,
    Busy,
}

/// The head that arrives, or the last one that did.
#[derive(Clone, Copy)]
struct Head {
    /// Requests begun when its first byte came.
    begun: u32,
    /// When that was.
    since: Instant,
    /// What came until the request began.
    bytes: usize,
}

/// A client stream with its deadlines.
pub struct GuardedIo<T> {
    io: T,
    connection: Arc<Connection>,
    deadlines: Deadlines,
    http2: bool,
    /// The first bytes, read to see which protocol it is, until the parser takes them.
    first: Bytes,
    head: Option<Head>,
    alarm: Alarm,
    /// Since when a write waits.
    stalled: Option<Instant>,
    stall: Alarm,
    /// What stands in for the library's answer to a malformed head, as far as it is not written.
    substitute: Option<Bytes>,
    expired: bool,
    /// Once our side is shut: how long an unread body is read away.
    drain_until: Option<Instant>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> GuardedIo<T> {
    /// Guards `io`.
    pub fn new(io: T, connection: Arc<Connection>, deadlines: Deadlines) -> Self {
        Self {
            io,
            connection,
            deadlines,
            http2: false,
            first: Bytes::new(),
            head: None,
            alarm: Alarm::default(),
            stalled: None,
            stall: Alarm::default(),
            substitute: None,
            expired: false,
            drain_until: None,
        }
    }

    /// Whether the client begins with HTTP/2; waits for as many bytes as that takes. They are read again by the parser.
    ///
    /// # Errors
    /// Those of the stream, and the passing of a deadline.
    pub async fn speaks_http2(&mut self) -> io::Result<bool> {
        let mut first = Vec::with_capacity(FIRST_BYTES_MAX);
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            if self.read_buf(&mut first).await? == 0 {
                break;
            }
        }
        self.http2 = first.starts_with(PREFACE);
        if self.http2 {
            self.head = None;
        }
        self.first = first.into();
        Ok(self.http2)
    }

    fn phase(&self) -> Phase {
        if self.connection.is_active() {
            Phase::Busy
        } else if self.head.is_some_and(|head| head.begun == self.connection.begun()) {
            Phase::Head
        } else {
            Phase::Idle
        }
    }

    /// Notes the bytes that were just read.
    fn note(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.http2 {
            return;
        }
        if self.phase() == Phase::Idle {
            self.head = Some(Head { begun: self.connection.begun(), since: Instant::now(), bytes: 0 });
        }
        if let Some(head) = &mut self.head {
            head.bytes = head.bytes.saturating_add(bytes.len());
        }
    }

    /// How much may still be read of a head. The library looks at what it has after each read, so it would take a longer head
    /// that ends inside a large read.
    fn room_for_head(&self) -> usize {
        match (self.phase(), self.head) {
            (Phase::Head, Some(head)) => HEAD_BYTES_MAX.saturating_sub(head.bytes).max(1),
            _ => usize::MAX,
        }
    }

    /// Reads at most `room` bytes.
    fn poll_read_part(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, room: usize) -> Poll<io::Result<()>> {
        let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        buf.advance(read);
        Poll::Ready(Ok(()))
    }

    /// Called while a read waits: has the phase lasted too long?
    fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<Phase> {
        let phase = self.phase();
        let deadline = match (phase, self.head) {
            (Phase::Busy, _) => return Poll::Pending,
            (Phase::Head, Some(head)) => head.since + self.deadlines.header,
            (Phase::Head | Phase::Idle, _) => {
                self.connection.app().clock.at(self.connection.idle_since()) + self.deadlines.idle
            }
        };
        self.alarm.poll(cx, deadline).map(|()| phase)
    }

    /// Ends a connection whose deadline passed. A half-sent head is answered 408, an idle connection just closes.
    fn expire(&mut self, phase: Phase, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.expired = true;
        if phase == Phase::Head {
            let answer = error::raw_http1(408, &self.connection.app().ids.next());
            // Nothing was written to this client since its last answer, so these few bytes fit; if not, it closes bare.
            let _ = Pin::new(&mut self.io).poll_write(cx, &answer);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// Looks at what became of a write: one that waits may not do so for ever.
    fn watch<R>(&mut self, written: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let since = *self.stalled.get_or_insert_with(Instant::now);
        ready!(self.stall.poll(cx, since + self.deadlines.write_stall));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }

    /// Writes what stands in for the library's bytes. Ready when all of it is out.
    fn poll_substitute(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.substitute.as_mut().filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, rest))?;
            rest.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the library is answering a head that it could not parse. Such an answer has no body and none of our headers;
    /// every other one carries our request id.
    fn begins_refusal(&mut self, bytes: &[u8]) -> bool {
        if self.substitute.is_some() {
            return true;
        }
        let small = bytes.len() < 256 && !self.http2 && !self.connection.is_active();
        if !small || !bytes.starts_with(b"HTTP/1.") || bytes.get(8..10) != Some(b" 4") {
            return false;
        }
        if memchr::memmem::find(bytes, b"x-request-id").is_some() {
            return false;
        }
        let status = std::str::from_utf8(&bytes[9..12]).ok().and_then(|digits| digits.parse().ok());
        self.substitute = Some(error::raw_http1(status.unwrap_or(400), &self.connection.app().ids.next()));
        self.connection.linger();
        true
    }

    /// Reads away what the client still sends, until it stops or [`LINGER`] is over.
    fn poll_drain(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let mut scratch = [0; 16 * 1024];
        loop {
            if self.alarm.poll(cx, until).is_ready() {
                return Poll::Ready(());
            }
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for GuardedIo<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.expired {
            return Poll::Ready(Ok(()));
        }
        if !this.first.is_empty() {
            let taken = this.first.split_to(this.first.len().min(buf.remaining()));
            buf.put_slice(&taken);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let room = this.room_for_head();
        let read = match room < buf.remaining() {
            true => this.poll_read_part(cx, buf, room),
            false => Pin::new(&mut this.io).poll_read(cx, buf),
        };
        match read {
            Poll::Ready(Ok(())) => {
                this.note(&buf.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let phase = ready!(this.poll_expired(cx));
                this.expire(phase, cx)
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for GuardedIo<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.begins_refusal(buf) {
            ready!(this.poll_substitute(cx))?;
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.watch(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.begins_refusal(bufs.first().map_or(&[], |buf| &**buf)) {
            ready!(this.poll_substitute(cx))?;
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.watch(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match Pin::new(&mut this.io).poll_flush(cx) {
            // Between writes it has nothing to say; only the wait counts.
            Poll::Pending => this.watch(Poll::Pending, cx),
            flushed => flushed,
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.drain_until.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
        }
        if this.connection.lingers() {
            let until = *this.drain_until.get_or_insert_with(|| Instant::now() + LINGER);
            ready!(this.poll_drain(cx, until));
        }
        Poll::Ready(Ok(()))
    }
}
