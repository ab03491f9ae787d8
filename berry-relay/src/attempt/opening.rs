//! The opening of a stream: read up to its first content, or found to be something else.

use std::sync::Arc;

use berry_core::config::snapshot::Commit;
use berry_core::usage::Usage;
use bytes::Bytes;

use crate::answer::JsonArray;
use crate::body::Chunks;
use crate::dialect::translate;
use crate::error::ForwardError;
use crate::exchange::{Exchange, Facts};
use crate::meter::told::Told;
use crate::pool::PooledBody;
use crate::prepare::{self, PublicModel};
use crate::stream::{self, EventStream, Treatment};

use super::reply::Check;
use super::{Attempt, Head, Reply};

impl Attempt<'_> {
    /// A stream, read up to its first content. One that begins with an error is that error, as an answer with its status.
    pub(super) async fn open_stream(
        &self,
        head: &mut Head,
        incoming: PooledBody,
        hide_usage: bool,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        let timeouts = &self.backend.provider.timeouts;
        let model = PublicModel::wanted(exchange.model.as_ref());
        let translator = self.translation.as_ref().map(|translation| Box::new(translation.stream()));
        let treatment = Treatment { hide_usage, model, idle: timeouts.stream_idle, translator };
        let (decoder, backend) = (self.decoder(head)?, Arc::clone(&self.backend));
        let events = EventStream::new(incoming, decoder, backend, self.operation, treatment, self.sent_at);
        let commit = exchange.model.as_ref().map(|model| model.commit).unwrap_or_default();
        let mut opening = Opening { events: Some(Box::new(events)), facts: exchange };
        let events = opening.events.as_mut().expect("taken at the end only");
        let until_content = async {
            while !self.within(timeouts.stream_idle, "the next part of the stream", events.advance()).await?? {}
            Ok::<(), ForwardError>(())
        };
        let mut opened = match timeouts.first_token {
            Some(patience) => self.within(patience, "the first token", until_content).await?,
            None => until_content.await,
        };
        if opened.is_ok() && commit != Commit::default() {
            opened = Box::pin(self.hold_back(events, commit)).await;
        }
        if let Err(error) = opened {
            if let Some(document) = events.take_document() {
                drop(opening);
                return self.instead_of_a_stream(head, document, hide_usage, exchange);
            }
            let Told { status, body } = events.take_told().ok_or(error)?;
            head.fail(status);
            return Ok(Reply::Held(Chunks::from(body), self.relay.shared.buffers.permit()));
        }
        let mut events = opening.events.take().expect("taken here only");
        drop(opening);
        if let Some(id) = events.response_id() {
            self.note_issued(id, exchange);
        }
        events.committed_at(exchange.now());
        Ok(Reply::Events(events))
    }

    /// Holds a stream back after its first content, as its model asks, so that more failures can be rescued.
    async fn hold_back(&self, events: &mut EventStream, commit: Commit) -> Result<(), ForwardError> {
        let idle = self.backend.provider.timeouts.stream_idle;
        let enough = async {
            while events.may_hold_back(commit.tokens) {
                self.within(idle, "the next part of the stream", events.advance()).await??;
            }
            Ok(())
        };
        match commit.time.is_zero() {
            true => enough.await,
            // Time that is over is no failure: what has come is the client's then.
            false => tokio::time::timeout(commit.time, enough).await.unwrap_or(Ok(())),
        }
    }

    /// A plain answer where a stream was asked for: an error that came with the wrong status, or a whole answer, which is said as
    /// the stream that it should have been.
    pub(super) fn instead_of_a_stream(
        &self,
        head: &mut Head,
        body: Bytes,
        hide_usage: bool,
        exchange: &mut Exchange,
    ) -> Result<Reply, ForwardError> {
        let no_stream = || self.bad(stream::NO_STREAM.to_owned());
        let mut permit = self.relay.shared.buffers.permit();
        permit.grow(body.len()).map_err(|_| ForwardError::Overloaded)?;
        let chunks = Chunks::from(body);
        let members = Check::of(&chunks).ok_or_else(no_stream)?;
        let told = match self.error_in_answer(&chunks, &members) {
            Some(status) => Some((status, chunks.clone())),
            None => self
                .failure_in_answer(&chunks, Usage::default())
                .map(|Told { status, body }| (status, Chunks::from(body))),
        };
        if let Some((status, body)) = told {
            head.fail(status);
            return Ok(Reply::Held(body, permit));
        }
        let body = chunks.into_bytes();
        let answer = match &self.translation {
            Some(translation) => translation.answer_as_stream(&body),
            None => translate::as_stream(self.operation, &body, &prepare::reply_to(exchange, !hide_usage)),
        };
        let answer = answer.map_err(|_| no_stream())?;
        exchange.usage = answer.usage.unwrap_or_default();
        if self.translation.is_some() {
            head.translated("text/event-stream");
        }
        Ok(Reply::Held(Chunks::from(JsonArray::alone(exchange.operation, answer.body)), permit))
    }
}

/// A stream before its commit point. When it comes to nothing, or the client leaves, what it used so far is kept: that is billed.
struct Opening<'a> {
    events: Option<Box<EventStream>>,
    facts: &'a mut Facts,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(events) = &self.events {
            self.facts.note_used(events.settled_usage(false));
        }
    }
}
