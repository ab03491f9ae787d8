//! One upstream stream: frames in, complete events out, and what they meant.
//!
//! Bytes leave as they came and in their order; a part of an event waits for the rest. Only two things are ever changed: a usage
//! chunk that we had asked for ourselves is left out, and the model's name is put back where the operator wants that.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use berry_core::config::snapshot::Backend;
use berry_core::operation::Operation;
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::outcome::Outcome;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;

use crate::decode::{self, Decoder};
use crate::dialect::translate::StreamTranslator;
use crate::error::ForwardError;
use crate::meter::told::{self, Told};
use crate::meter::{EventClass, StreamTap};
use crate::pool::PooledBody;
use crate::prepare::PublicModel;
use crate::sse::{self, Event, Splitter};
use crate::values::{self, Values};

/// Longest event that is looked into; a longer one passes unseen.
const EVENT_BYTES_MAX: usize = 1024 * 1024;
/// Longest event of a stream that is translated, which cannot pass unseen.
const TRANSLATED_EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most bytes that are held before the first content.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long an upstream may keep a stream open after its terminal event: time for a usage chunk and `[DONE]`.
const TERMINAL_GRACE: Duration = Duration::from_secs(2);

/// Why a whole answer is no stream, where it cannot be said as one.
pub(crate) const NO_STREAM: &str = "a plain answer where a stream was asked for";

/// How a stream is treated.
pub(crate) struct Treatment {
    /// Leave out the usage chunk, which the client did not ask for.
    pub(crate) hide_usage: bool,
    /// Put this name in the place of the upstream's.
    pub(crate) model: Option<PublicModel>,
    /// Longest silence.
    pub(crate) idle: Duration,
    /// Says it in the client's dialect.
    pub(crate) translator: Option<Box<StreamTranslator>>,
}

/// Events of one upstream answer.
pub(crate) struct EventStream {
    incoming: PooledBody,
    decoder: Option<Decoder>,
    backend: Arc<Backend>,
    treatment: Treatment,
    nature: Nature,
    splitter: Splitter,
    tap: StreamTap,
    sent_at: Instant,
    committed_at: Option<Instant>,
    ready: VecDeque<Bytes>,
    ready_bytes: usize,
    /// Something other than comments and pings has come since this was last asked.
    meant: bool,
    /// Content events so far.
    contents: u32,
    /// How many there were when the terminal event came.
    contents_at_end: u32,
    /// An error event of the upstream has been passed on.
    error_told: bool,
    /// The error that came before the client had anything.
    told: Option<Told>,
    over: bool,
    /// The upstream's last event had no empty line behind it.
    ends_open: bool,
}

/// What a body is that came where a stream was asked for. What it is called says little: proxies call streams JSON, and errors streams.
enum Nature {
    /// Nothing has come yet but white space.
    Open,
    /// Events.
    Events,
    /// JSON, which no event begins like: a document, or several values that are read as events.
    Values(Values),
    /// A page of a proxy.
    Page,
}

impl Nature {
    /// Of a body that begins with these bytes; [`Nature::Open`] where there is only white space in them.
    fn of(beginning: &[u8]) -> Self {
        match values::first(beginning) {
            None => Self::Open,
            Some(b'{' | b'[') => Self::Values(Values::default()),
            Some(b'<') => Self::Page,
            Some(_) => Self::Events,
        }
    }
}

/// What a look at the upstream brought.
pub(crate) enum Progress {
    /// Bytes were taken in; there may be something to send.
    More,
    /// The stream is over, well or not. What was complete before stays to be sent.
    End(Result<(), ForwardError>),
}

impl EventStream {
    pub(crate) fn new(
        incoming: PooledBody,
        decoder: Option<Decoder>,
        backend: Arc<Backend>,
        operation: Operation,
        treatment: Treatment,
        sent_at: Instant,
    ) -> Self {
        Self {
            incoming,
            decoder,
            backend,
            splitter: Splitter::new(match treatment.translator {
                Some(_) => TRANSLATED_EVENT_BYTES_MAX,
                None => EVENT_BYTES_MAX,
            }),
            treatment,
            nature: Nature::Open,
            tap: StreamTap::new(operation.stream_format()),
            sent_at,
            committed_at: None,
            ready: VecDeque::new(),
            ready_bytes: 0,
            meant: false,
            contents: 0,
            contents_at_end: 0,
            error_told: false,
            told: None,
            over: false,
            ends_open: false,
        }
    }

    /// Reads once from the upstream; says whether the answer may go to the client now.
    ///
    /// # Errors
    /// Whatever makes this no answer: an error event, an early end, garbage, nothing in it.
    pub(crate) async fn advance(&mut self) -> Result<bool, ForwardError> {
        let progress = std::future::poll_fn(|cx| self.poll_progress(cx)).await;
        if self.error_told {
            return Err(self.bad("it began with an error event"));
        }
        match progress {
            Progress::End(Err(error)) => Err(error),
            Progress::End(Ok(())) if !self.tap.content_seen() && !self.finished_with_a_reason() => {
                Err(self.bad("the stream had nothing in it"))
            }
            Progress::End(Ok(())) => {
                self.over = true;
                Ok(true)
            }
            Progress::More if self.ready_bytes > HELD_BYTES_MAX => Err(self.bad("too much came before any content")),
            Progress::More => Ok(self.tap.content_seen() || self.finished_with_a_reason()),
        }
    }

    /// Whether the upstream said that it had finished, which makes even an answer without content one. `[DONE]` alone does not.
    fn finished_with_a_reason(&self) -> bool {
        self.tap.finish_seen()
    }

    /// Whether more may be held back: no more than `contents` content events have come, or any number where that is 0, the end
    /// has not, and there is room.
    pub(crate) fn may_hold_back(&self, contents: u32) -> bool {
        let few = contents == 0 || self.contents <= contents;
        few && !self.over && !self.finished_with_a_reason() && self.ready_bytes < HELD_BYTES_MAX / 2
    }

    /// Marks the moment from which the stream belongs to the client.
    pub(crate) fn committed_at(&mut self, now: Instant) {
        self.committed_at = Some(now);
    }

    /// The next bytes for the client.
    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        let bytes = self.ready.pop_front()?;
        self.ready_bytes -= bytes.len();
        Some(bytes)
    }

    /// Longest silence to wait out; short once the terminal event has come. Some upstreams give a reason to end and go on all the
    /// same, and those that give several answers one after the other.
    pub(crate) fn idle(&self) -> Duration {
        let is_over = self.tap.terminal_seen() && self.contents == self.contents_at_end;
        if is_over { TERMINAL_GRACE.min(self.treatment.idle) } else { self.treatment.idle }
    }

    /// Whether anything but comments and pings has come since the last call.
    pub(crate) fn take_meant(&mut self) -> bool {
        std::mem::take(&mut self.meant)
    }

    /// Whether a comment may be put in now.
    pub(crate) fn between_events(&self) -> bool {
        // A translation writes whole events only.
        self.treatment.translator.is_some() || self.splitter.between_events()
    }

    /// Whether what the client has ends inside an event: one that was too long to be kept together, or the last one, to which its
    /// empty line is missing.
    pub(crate) fn cut_inside_event(&self) -> bool {
        self.treatment.translator.is_none() && (self.splitter.inside_long_event() || self.ends_open)
    }

    /// The id of a response, as JSON.
    pub(crate) fn response_id(&self) -> Option<&[u8]> {
        self.tap.response_id()
    }

    /// What was used, when nothing more comes.
    pub(crate) fn settled_usage(&self, is_whole: bool) -> Usage {
        self.tap.settled_usage(is_whole)
    }

    /// Whether the upstream itself told the client an error.
    pub(crate) fn error_told(&self) -> bool {
        self.error_told
    }

    /// Whether the event has come after which an answer has nothing more that its record needs. It may not have gone out yet.
    pub(crate) fn last_seen(&self) -> bool {
        self.tap.last_seen()
    }

    /// The outcome of a stream that ended well.
    pub(crate) fn success(&self, now: Instant) -> Outcome {
        Outcome::Success { ttft: self.committed_at.map(|at| at.since(self.sent_at)), latency: now.since(self.sent_at) }
    }

    /// What a silence of `waited` means: nothing wrong after the terminal event, a timeout before it.
    pub(crate) fn went_silent(&self, waited: Duration) -> Option<ForwardError> {
        if self.tap.terminal_seen() {
            return None;
        }
        Some(ForwardError::Timeout { backend: self.backend.id.clone(), what: "the next part of the stream", waited })
    }

    /// Takes in the next frame of the upstream.
    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Progress> {
        if self.over {
            return Poll::Ready(Progress::End(Ok(())));
        }
        let frame = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(self.end(Some(error))),
            None => match decode::rest(&mut self.decoder) {
                Some(rest) => return Poll::Ready(self.taken(rest)),
                None => return Poll::Ready(self.end(None)),
            },
        };
        let Ok(data) = frame.into_data() else {
            return Poll::Ready(Progress::More);
        };
        let data = match &mut self.decoder {
            None => data,
            Some(decoder) => match decoder.push(data) {
                Ok(data) => data,
                Err(error) => return Poll::Ready(Progress::End(Err(self.bad(error.to_string())))),
            },
        };
        Poll::Ready(self.taken(data))
    }

    fn taken(&mut self, data: Bytes) -> Progress {
        match self.take(data) {
            Ok(()) => Progress::More,
            Err(error) => Progress::End(Err(error)),
        }
    }

    /// The end of the upstream's bytes, clean or broken.
    fn end(&mut self, error: Option<hyper::Error>) -> Progress {
        if error.is_none() && matches!(&self.nature, Nature::Values(values) if !values.follow()) {
            self.over = true;
            return Progress::End(Err(self.bad(NO_STREAM)));
        }
        let tail = self.splitter.finish();
        let ends_open = !tail.is_empty();
        // A last event without its empty line is whole when it makes sense.
        if error.is_none() {
            if let Err(error) = self.take_whole(tail) {
                return Progress::End(Err(error));
            }
            self.ends_open = ends_open;
        }
        self.over = true;
        if self.tap.is_complete() && (error.is_none() || self.tap.terminal_seen()) || self.error_told {
            self.conclude();
            return Progress::End(Ok(()));
        }
        let backend = self.backend.id.clone();
        Progress::End(Err(match error {
            None => ForwardError::Incomplete { backend },
            Some(source) if self.committed_at.is_some() => {
                tracing::debug!(%backend, %source, "the connection broke inside the stream");
                ForwardError::Incomplete { backend }
            }
            Some(source) => {
                let what = "the connection broke before any content";
                ForwardError::Network { backend, what, source: Box::new(source) }
            }
        }))
    }

    /// Writes how a stream that ended well ends for the client.
    pub(crate) fn conclude(&mut self) {
        if let Some(translator) = &mut self.treatment.translator {
            let mut out = BytesMut::new();
            translator.finish(&mut out);
            self.send(out.freeze());
        }
    }

    fn take(&mut self, data: Bytes) -> Result<(), ForwardError> {
        if !matches!(self.nature, Nature::Events) {
            if let Nature::Open = self.nature {
                self.nature = Nature::of(&data);
                if let Nature::Values(_) = self.nature {
                    // The white space before it, which nothing follows there.
                    self.splitter.finish();
                }
            }
            match &mut self.nature {
                Nature::Values(values) => {
                    let events = values.push(&data);
                    let is_long = values.held_bytes() > HELD_BYTES_MAX;
                    return if is_long { Err(self.bad("too much came in one piece")) } else { self.take_whole(events) };
                }
                Nature::Page => return Err(self.bad(NO_STREAM)),
                Nature::Open | Nature::Events => {}
            }
        }
        let cut = self.splitter.push(data);
        if self.treatment.translator.is_some() {
            return match cut.unseen.is_empty() {
                true => self.translate(&cut.events),
                false => Err(self.bad("an event of the stream is too long to be translated")),
            };
        }
        if !cut.unseen.is_empty() {
            let class = self.tap.see_long(&cut.unseen, !self.splitter.inside_long_event());
            self.error_told |= class == EventClass::Error;
            self.meant = true;
            self.send(cut.unseen);
        }
        self.take_events(cut.events)
    }

    fn take_whole(&mut self, events: Bytes) -> Result<(), ForwardError> {
        match self.treatment.translator {
            Some(_) => self.translate(&events),
            None => self.take_events(events),
        }
    }

    /// Says whole events in the client's dialect.
    fn translate(&mut self, bytes: &Bytes) -> Result<(), ForwardError> {
        // Most answers are about as long in one dialect as in another.
        let mut out = BytesMut::with_capacity(bytes.len());
        let mut wrong = None;
        for event in sse::events(bytes) {
            let class = self.tap.see(&event);
            self.meant |= class != EventClass::Empty;
            self.count(class);
            let Some(translator) = &mut self.treatment.translator else { break };
            match translator.push(&event, bytes, &mut out) {
                Ok(()) if class == EventClass::Error => self.note_error(&event),
                // A slip of the model: worth another try, and nothing that speaks against the backend.
                Ok(()) if translator.has_failed() && self.committed_at.is_none() => self.note_error(&event),
                Ok(()) => {}
                Err(error) => {
                    wrong = Some(error);
                    break;
                }
            }
        }
        self.send(out.freeze());
        match wrong {
            None => Ok(()),
            Some(error) => Err(self.bad(format!("a part of the stream cannot be read: {error}"))),
        }
    }

    #[inline]
    fn count(&mut self, class: EventClass) {
        self.contents = self.contents.saturating_add(u32::from(class == EventClass::Content));
        if class == EventClass::Terminal {
            self.contents_at_end = self.contents;
        }
    }

    fn note_error(&mut self, event: &Event<'_>) {
        self.error_told = true;
        if self.committed_at.is_none() {
            self.told = event.data.as_deref().and_then(told::of_event);
        }
    }

    /// The whole document that came in the place of a stream.
    pub(crate) fn take_document(&mut self) -> Option<Bytes> {
        match &mut self.nature {
            Nature::Values(values) if self.over && !values.follow() => Some(std::mem::take(values).into_document()),
            _ => None,
        }
    }

    /// The error that came before the stream belonged to the client.
    pub(crate) fn take_told(&mut self) -> Option<Told> {
        self.told.take()
    }

    /// Looks at whole events and queues them, in one piece where nothing has to change.
    fn take_events(&mut self, bytes: Bytes) -> Result<(), ForwardError> {
        let mut changed: Option<BytesMut> = None;
        let mut at = 0;
        for event in sse::events(&bytes) {
            let start = at;
            at += event.raw.len();
            let class = self.tap.see(&event);
            self.meant |= class != EventClass::Empty;
            self.count(class);
            let replacement = match class {
                EventClass::UsageOnly if self.treatment.hide_usage => Some(Bytes::new()),
                EventClass::Unparsable => {
                    let before = changed.map_or_else(|| bytes.slice(..start), BytesMut::freeze);
                    self.send(before);
                    return Err(self.bad("a line of the stream is not valid JSON"));
                }
                EventClass::Error => {
                    self.note_error(&event);
                    self.tap.retold(&event)
                }
                _ => self.renamed(&event),
            };
            if let Some(replacement) = replacement {
                changed.get_or_insert_with(|| BytesMut::from(&bytes[..start])).extend_from_slice(&replacement);
            } else if let Some(changed) = &mut changed {
                changed.extend_from_slice(event.raw);
            }
        }
        self.send(changed.map_or(bytes, BytesMut::freeze));
        Ok(())
    }

    /// The event with the public model's name, where that is wanted and the event names a model.
    fn renamed(&self, event: &Event<'_>) -> Option<Bytes> {
        self.treatment.model.as_ref()?.rename_event(event)
    }

    fn send(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.ready_bytes += bytes.len();
            self.ready.push_back(bytes);
        }
    }

    fn bad(&self, why: impl Into<String>) -> ForwardError {
        ForwardError::BadAnswer { backend: self.backend.id.clone(), why: why.into() }
    }
}
