//! Reading: the body that comes with a head, as far as it takes to know whether it is an answer.

use std::time::Duration;

use berry_core::operation::Operation;
use berry_core::usage::Usage;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt as _;

use crate::body::Chunks;
use crate::buffer::BufferPermit;
use crate::decode::{self, Decoder};
use crate::dialect::embeddings;
use crate::dialect::translate::{self, Translated};
use crate::error::ForwardError;
use crate::exchange::Exchange;
use crate::json::{Kind, Members, Scanner, Wanted};
use crate::meter::told::Told;
use crate::meter::{self, EventClass, StreamTap};
use crate::objects::Issuer;
use crate::pool::PooledBody;
use crate::prepare::{self, PublicModel};
use crate::sse;
use crate::values::{Read, Values};

use super::{Attempt, ERROR_BODY_MAX, ERROR_BODY_READ_MAX, Head, Reply, Through};

/// Members of a plain answer that are looked at.
static ANSWER_MEMBERS: Wanted =
    Wanted::new(&["model", "usage", "usageMetadata", "meta", "service_tier", "error", "id"]);

/// A look at a plain answer while it arrives: whether it is JSON, and where what it is judged by stands.
pub(super) struct Check {
    scanner: Scanner,
    is_wrong: bool,
}

impl Check {
    fn new() -> Self {
        Self { scanner: Scanner::new(&ANSWER_MEMBERS), is_wrong: false }
    }

    /// The look at an answer that is here.
    pub(super) fn of(body: &Chunks) -> Option<Members> {
        let mut check = Self::new();
        body.iter().for_each(|chunk| check.push(chunk));
        check.finish()
    }

    fn push(&mut self, piece: &[u8]) {
        self.is_wrong = self.is_wrong || self.scanner.push(piece).is_err();
    }

    /// `None` = not JSON.
    fn finish(self) -> Option<Members> {
        if self.is_wrong { None } else { self.scanner.finish().ok() }
    }
}

impl Attempt<'_> {
    pub(super) async fn reply(
        &self,
        head: &mut Head,
        mut incoming: PooledBody,
        usage_was_added: bool,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        match head.status {
            status if status.is_client_error() || status.is_server_error() => {
                let (body, permit) = self.hold(head, &mut incoming, ERROR_BODY_MAX, None).await?;
                Ok(Reply::Held(body, permit))
            }
            status if !status.is_success() => Err(self.bad(format!("unexpected status {}", status.as_u16()))),
            _ if self.streams && head.is("text/event-stream") => {
                self.open_stream(head, incoming, usage_was_added, exchange).await
            }
            _ if !self.operation.holds_plain_answer() => self.through(head, incoming),
            // Many servers and proxies call a stream something else; what is none shows in its first bytes.
            _ if self.streams => {
                head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
                self.open_stream(head, incoming, usage_was_added, exchange).await
            }
            _ => self.plain(head, &mut incoming, exchange).await,
        }
    }

    /// A plain JSON answer: held whole, checked, its usage read.
    async fn plain(
        &self,
        head: &mut Head,
        incoming: &mut PooledBody,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        let reader = self.translation.as_deref().filter(|translation| translation.reads_answers());
        let mut check = reader.is_none().then(Check::new);
        let (chunks, permit) = self.hold(head, incoming, self.relay.limits.max_response_bytes, check.as_mut()).await?;
        // Nothing else need look at what a translation reads. An error among it, and what it cannot read, goes the long way.
        let chunks = match reader {
            Some(reader) => {
                let body = chunks.into_bytes();
                if !may_hold_error(&body)
                    && let Ok(answer) = reader.answer(&body)
                {
                    return Ok(translated(answer, Usage::default(), permit, head, exchange));
                }
                Chunks::from(body)
            }
            None => chunks,
        };
        match check.map_or_else(|| Check::of(&chunks), Check::finish) {
            Some(members) => self.answer(head, chunks, &members, permit, exchange),
            None => self.instead_of_an_answer(head, chunks.into_bytes(), permit, exchange),
        }
    }

    /// A plain answer that is JSON, with what stands in it.
    fn answer(
        &self,
        head: &mut Head,
        chunks: Chunks,
        members: &Members,
        permit: BufferPermit,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        if let Some(status) = self.error_in_answer(&chunks, members) {
            head.status = status;
            return Ok(Reply::Held(chunks, permit));
        }
        let usage = meter::usage_of_answer(&chunks, members);
        if let Some(Told { status, body }) = self.failure_in_answer(&chunks, usage) {
            head.status = status;
            return Ok(Reply::Held(Chunks::from(body), permit));
        }
        if let Some(translation) = &self.translation {
            let answer = translation.answer(&chunks.into_bytes()).map_err(|error| self.bad(error.to_string()))?;
            return Ok(translated(answer, usage, permit, head, exchange));
        }
        exchange.usage = usage;
        if let Some(id) = members.get("id") {
            self.note_issued(&chunks.slice(id.value.clone()), exchange);
        }
        let rename = PublicModel::wanted(exchange.model.as_ref()).and_then(|name| name.edit(members));
        let chunks = match rename {
            Some(edit) => chunks.splice(&mut [edit]),
            None => chunks,
        };
        // Some servers ignore in which form vectors are asked for, and clients cannot read the other one.
        let chunks = match self.operation {
            Operation::Embeddings => embeddings::in_encoding(chunks, self.encoding),
            _ => Ok(chunks),
        };
        let chunks = chunks.map_err(|error| self.bad(error.to_string()))?;
        Ok(Reply::Held(chunks, permit))
    }

    /// What is no JSON where a plain answer was asked for: a stream, which some relays always give, is said as the answer that it
    /// should have been, and one that tells an error is that error. An answer with a stream's end behind it is that answer.
    fn instead_of_an_answer(
        &self,
        head: &mut Head,
        body: Bytes,
        permit: BufferPermit,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        let no_json = || self.bad("it is not valid JSON".to_owned());
        let body = match Values::of(&body) {
            Some(Read::Events(events)) => events,
            Some(Read::Document(document)) => {
                let chunks = Chunks::from(document);
                let members = Check::of(&chunks).ok_or_else(no_json)?;
                return self.answer(head, chunks, &members, permit, exchange);
            }
            None => body,
        };
        let mut tap = StreamTap::new(self.operation.stream_format());
        for event in sse::events(&body) {
            if tap.see(&event) == EventClass::Error {
                let told = event.data.as_deref().and_then(meter::told::of_event);
                let Told { status, body } = told.ok_or_else(no_json)?;
                head.fail(status);
                return Ok(Reply::Held(Chunks::from(body), permit));
            }
        }
        if !tap.terminal_seen() {
            return Err(no_json());
        }
        let answer = match &self.translation {
            Some(translation) => translation.stream_as_answer(&body),
            None => translate::as_answer(self.operation, &body, &prepare::reply_to(exchange, false)),
        };
        let answer = answer.map_err(|_| no_json())?;
        Ok(translated(answer, Usage::default(), permit, head, exchange))
    }

    /// The status that an error object in an answer with status 200 stands for. A failed response of the Responses API holds
    /// one by right.
    pub(super) fn error_in_answer(&self, body: &Chunks, members: &Members) -> Option<StatusCode> {
        let error = members.get("error").filter(|member| member.kind == Kind::Object)?;
        if self.operation == Operation::Responses {
            return None;
        }
        Some(meter::told::status_of(&body.slice(error.value.clone())))
    }

    /// The failure that an answer with status 200 ended with, or that stands in its place, as an error answer. Gemini's own clients
    /// read its reasons themselves.
    pub(super) fn failure_in_answer(&self, body: &Chunks, usage: Usage) -> Option<Told> {
        let is_chat = self.operation == Operation::ChatCompletions;
        // Few answers have nothing in them.
        if is_chat && usage.output_tokens.unwrap_or(0) == 0 && body.len() <= ERROR_BODY_READ_MAX {
            let told = meter::told::of_no_answer(&body.slice(0..body.len()));
            if told.is_some() {
                return told;
            }
        }
        let may_be = match self.translation {
            Some(_) => true,
            None => is_chat && may_have_failed(body),
        };
        may_be.then(|| meter::told::of_choices(&body.slice(0..body.len()))).flatten()
    }

    pub(super) async fn hold(
        &self,
        head: &Head,
        incoming: &mut PooledBody,
        limit: usize,
        mut check: Option<&mut Check>,
    ) -> Result<(Chunks, BufferPermit), ForwardError> {
        if head.declared_length().is_some_and(|length| length > limit as u64) {
            return Err(self.bad(format!("it announces more than {limit} bytes (server.max_response_bytes)")));
        }
        let mut decoder = self.decoder(head)?;
        let (mut chunks, mut permit) = (Chunks::default(), self.relay.shared.buffers.permit());
        let idle = self.backend.provider.timeouts.stream_idle;
        while let Some(piece) = self.next_piece(incoming, idle, &mut decoder).await? {
            if chunks.len() + piece.len() > limit {
                return Err(self.bad(format!("it is over {limit} bytes (server.max_response_bytes)")));
            }
            permit.grow(piece.len()).map_err(|_| ForwardError::Overloaded)?;
            // What is not JSON is still read to its end, so that the connection can be used again.
            check.iter_mut().for_each(|check| check.push(&piece));
            chunks.push(piece);
        }
        Ok((chunks, permit))
    }

    /// The next bytes of a body, decoded; `None` at its end.
    async fn next_piece(
        &self,
        incoming: &mut PooledBody,
        idle: Duration,
        decoder: &mut Option<Decoder>,
    ) -> Result<Option<Bytes>, ForwardError> {
        loop {
            let frame = match self.within(idle, "the next part of its answer", incoming.frame()).await? {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(self.broken(error)),
                None => return Ok(decode::rest(decoder)),
            };
            let Ok(data) = frame.into_data() else { continue };
            return match decoder {
                Some(decoder) => decoder.push(data).map(Some).map_err(|error| self.bad(error.to_string())),
                None => Ok(Some(data)),
            };
        }
    }

    fn through(&self, head: &Head, incoming: PooledBody) -> Result<Reply, ForwardError> {
        let decoder = self.decoder(head)?;
        let length = if decoder.is_some() { None } else { head.declared_length() };
        let idle = self.backend.provider.timeouts.stream_idle;
        let through = Through { incoming, decoder, length, idle, sent_at: self.sent_at };
        Ok(Reply::Through(Box::new(through)))
    }

    pub(super) fn decoder(&self, head: &Head) -> Result<Option<Decoder>, ForwardError> {
        Decoder::for_headers(&head.headers).map_err(|coding| self.bad(format!("it is encoded as {coding:?}, unasked")))
    }

    /// Remembers whose a response is that the upstream keeps.
    pub(super) fn note_issued(&self, id: &[u8], exchange: &Exchange) {
        if self.operation == Operation::Responses
            && let Some(user) = &exchange.user
        {
            let issuer = Issuer { provider: self.backend.provider.id.clone(), user: user.id.clone() };
            self.relay.shared.issued.note(id, issuer);
        }
    }
}

/// A translated answer, and what was used by its own word or else by `usage`.
fn translated(
    answer: Translated,
    usage: Usage,
    permit: BufferPermit,
    head: &mut Head,
    exchange: &mut Exchange,
) -> Reply {
    exchange.usage = answer.usage.unwrap_or(usage);
    head.translated("application/json");
    Reply::Held(Chunks::from(answer.body), permit)
}

/// Whether an answer may have a member `error`. Its text may quote the word too.
fn may_hold_error(body: &[u8]) -> bool {
    memchr::memmem::find(body, b"\"error\"").is_some()
}

/// Whether a plain chat answer may end with a failure. Its reason stands behind its content.
fn may_have_failed(body: &Chunks) -> bool {
    const TAIL: usize = 4096;
    meter::told::may_have_failed(&body.slice(body.len().saturating_sub(TAIL)..body.len()))
}
