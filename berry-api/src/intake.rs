//! Reading what a client sends, within limits: its size, the bytes held by all requests together, and the time it may take.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use berry_core::config::snapshot::Server;
use berry_core::error::ErrorKind;
use berry_relay::alarm::Alarm;
use berry_relay::body::Chunks;
use berry_relay::buffer::BufferPermit;
use bytes::Bytes;
use http::Version;
use http::header::EXPECT;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::error::ApiError;
use crate::reply::BoxError;
use crate::server::connection::Connection;

/// What a slow body earns for each byte: one KiB a second.
const EARNED_PER_KIB: Duration = Duration::from_secs(1);

/// How much of an unwanted body is read away so that the connection stays usable.
const DISCARD_BYTES_MAX: usize = 64 * 1024;

/// How long that may take.
const DISCARD_WAIT: Duration = Duration::from_secs(1);

/// The time that a body may take. The clock is only looked at once the body makes us wait.
struct Patience {
    allowed: Duration,
    began: Option<Instant>,
    alarm: Alarm,
}

impl Patience {
    fn new(allowed: Duration) -> Self {
        Self { allowed, began: None, alarm: Alarm::default() }
    }

    /// Ready when a body of which `received` bytes came has taken too long.
    fn poll(&mut self, cx: &mut Context<'_>, received: usize) -> Poll<()> {
        let began = *self.began.get_or_insert_with(Instant::now);
        let earned = EARNED_PER_KIB * u32::try_from(received / 1024).unwrap_or(u32::MAX);
        self.alarm.poll(cx, began + self.allowed + earned)
    }
}

/// Refuses a body that declares too much, before a byte of it is read.
///
/// # Errors
/// 413.
pub fn check_declared_size<B: Body>(body: &B, server: &Server) -> Result<(), ApiError> {
    if body.size_hint().lower() > server.max_body_bytes as u64 {
        return Err(too_large(server));
    }
    Ok(())
}

/// Reads a body piece by piece under all limits.
pub struct Reader<'a, B> {
    body: &'a mut B,
    server: &'a Server,
    permit: &'a mut BufferPermit,
    patience: Patience,
    received: usize,
}

impl<'a, B> Reader<'a, B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    /// What is read is counted in `permit`.
    pub fn new(body: &'a mut B, server: &'a Server, permit: &'a mut BufferPermit) -> Self {
        Self { body, server, permit, patience: Patience::new(server.body_timeout), received: 0 }
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// 413 at the size limit, 503 when all requests together hold too much, 408 when it takes too long, 400 when it breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        loop {
            let (body, patience, received) = (&mut *self.body, &mut self.patience, self.received);
            let next = poll_fn(|cx| match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Ready(frame) => Poll::Ready(Ok(frame)),
                Poll::Pending => patience.poll(cx, received).map(Err),
            });
            let frame = match next.await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    let error: BoxError = error.into();
                    tracing::debug!(%error, "request body broke off");
                    return Err(broken());
                }
                Err(()) => return Err(too_slow(self.server)),
            };
            // Trailers say nothing that matters here.
            if let Ok(data) = frame.into_data() {
                self.received += data.len();
                if self.received > self.server.max_body_bytes {
                    return Err(too_large(self.server));
                }
                self.permit.grow(data.len()).map_err(|_| overloaded())?;
                return Ok(Some(data));
            }
        }
    }

    /// Everything, in the chunks in which it came.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub async fn read_whole(mut self) -> Result<Chunks, ApiError> {
        let mut chunks = Chunks::default();
        while let Some(data) = self.next().await? {
            chunks.push(data);
        }
        Ok(chunks)
    }

    /// Whether nothing more will come, as far as is known without waiting.
    pub fn is_at_end(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// A body that streams on to the upstream, under the same time limit as one that is read here.
pub struct Timed<B> {
    body: B,
    patience: Patience,
    received: usize,
}

impl<B> Timed<B> {
    /// Starts the time anew: until here the client was in time.
    pub fn new(body: B, server: &Server) -> Self {
        Self { body, patience: Patience::new(server.body_timeout), received: 0 }
    }
}

impl<B> Body for Timed<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some(Ok(frame)) = &frame {
                    this.received += frame.data_ref().map_or(0, Bytes::len);
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                ready!(this.patience.poll(cx, this.received));
                Poll::Ready(Some(Err("the request body did not arrive in time".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Makes the connection usable after a refusal: reads away a small body; leaves a large one to the close of the connection.
/// Tells whether the connection can go on.
///
/// Nothing is read where the client waits to be asked for its body (`Expect: 100-continue`), and nothing need be on HTTP/2.
pub async fn discard<B>(body: &mut B, parts: &Parts, connection: &Connection) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() || parts.version == Version::HTTP_2 {
        return true;
    }
    let small = body.size_hint().lower() <= DISCARD_BYTES_MAX as u64 && !parts.headers.contains_key(EXPECT);
    let ended = small && tokio::time::timeout(DISCARD_WAIT, read_away(body)).await == Ok(true);
    if !ended {
        connection.linger();
    }
    ended
}

/// Whether the body ended within the bytes that are read away.
async fn read_away<B>(body: &mut B) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut read = 0;
    while read <= DISCARD_BYTES_MAX {
        match poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len),
        }
    }
    false
}

fn too_large(server: &Server) -> ApiError {
    ApiError::new(
        ErrorKind::PayloadTooLarge,
        format!(
            "The request body is larger than {} bytes, the limit of this gateway (server.max_body_bytes).",
            server.max_body_bytes
        ),
    )
}

fn overloaded() -> ApiError {
    ApiError::new(
        ErrorKind::Overloaded,
        "The gateway holds as much data as it may (server.max_buffered_bytes). Try again shortly.",
    )
}

fn too_slow(server: &Server) -> ApiError {
    ApiError {
        close: true,
        ..ApiError::new(
            ErrorKind::BodyTimeout,
            format!(
                "The request body did not arrive in {} s plus one for each KiB. Send it faster, or in smaller requests.",
                server.body_timeout.as_secs()
            ),
        )
    }
}

fn broken() -> ApiError {
    ApiError {
        close: true,
        ..ApiError::new(ErrorKind::InvalidRequest, "The request body broke off, or its chunks are malformed.")
    }
}
