//! Asking: the request as this backend is told it, its sending, and once more where a refusal was of what we had added.

use std::sync::Arc;
use std::time::Duration;

use berry_core::operation::{BodyForm, Dialect};
use http::{Method, Request, StatusCode};

use crate::body::Chunks;
use crate::client::ConnectTimeout;
use crate::dialect::loss::Reason;
use crate::error::ForwardError;
use crate::exchange::{Exchange, Facts};
use crate::forward::RelayRequest;
use crate::params::{Edited, How};
use crate::pool::{Choice, PooledBody, SendError};
use crate::prepare::{self, Prepared};
use crate::upstream_body::UpstreamBody;
use crate::{headers, meter, repair};

use super::{Attempt, ERROR_BODY_MAX, ERROR_BODY_READ_MAX, Head, Reply};

impl Attempt<'_> {
    /// Sends the request as it is to be now. Tells whether usage was asked for that the client had not asked for.
    pub(super) async fn ask(
        &self,
        request: &mut RelayRequest,
        exchange: &mut Exchange,
    ) -> Result<(Head, PooledBody, bool), ForwardError> {
        let mut prepared = self.prepared(request, exchange)?;
        let usage_was_added = prepared.usage_was_added;
        exchange.edited = std::mem::take(&mut prepared.edited);
        declare_edits(exchange);
        let (head, incoming) = self.exchange_heads(request, prepared, exchange).await?;
        self.note_acceptance(&head, request, exchange);
        Ok((head, incoming, usage_was_added))
    }

    fn prepared(&self, request: &mut RelayRequest, facts: &mut Facts) -> Result<Prepared, ForwardError> {
        match &self.translation {
            None => {
                if self.operation.dialect() == Dialect::Anthropic {
                    prepare::declare_betas(&self.backend, request, facts)?;
                }
                prepare::request(&self.backend, self.upstream, self.operation, self.streams, request)
            }
            Some(translation) => prepare::translated(&self.backend, self.upstream, translation, request, facts),
        }
    }

    /// Sends the request and waits for the head of the answer. A request that a used connection lost by closing under it,
    /// before the head of an answer, is sent once more on a new one; that is no attempt of its own.
    async fn exchange_heads(
        &self,
        request: &mut RelayRequest,
        prepared: Prepared,
        exchange: &mut Exchange,
    ) -> Result<(Head, PooledBody), ForwardError> {
        let timeouts = &self.backend.provider.timeouts;
        let patience = if self.streams { timeouts.stream_headers } else { timeouts.completion };
        let outgoing = self.outgoing(request, prepared, exchange)?;
        let until = (self.relay.shared.clock.at(self.sent_at) + patience).min(self.deadline.at);
        let mut sent = self.upstream.pool.send(outgoing, Choice::Any, until).await;
        if let Err(SendError::Broken { stale: true, .. }) = sent
            && request.body.can_be_sent_again()
        {
            let prepared = self.prepared(request, exchange)?;
            let outgoing = self.outgoing(request, prepared, exchange)?;
            sent = Box::pin(self.upstream.pool.send(outgoing, Choice::Fresh, until)).await;
        }
        let (parts, incoming) = sent.map_err(|error| self.not_sent(error, until, patience))?.into_parts();
        Ok((Head { status: parts.status, headers: parts.headers }, incoming))
    }

    fn outgoing(
        &self,
        request: &RelayRequest,
        prepared: Prepared,
        facts: &Facts,
    ) -> Result<Request<UpstreamBody>, ForwardError> {
        let provider = &self.backend.provider;
        let mut outgoing = Request::new(prepared.body);
        *outgoing.method_mut() = Method::POST;
        *outgoing.uri_mut() = self
            .upstream
            .url(provider, self.operation, self.backend.upstream_model(request.body.model()))
            .map_err(|error| ForwardError::Internal(format!("{}: {error}", self.backend.id)))?;
        let mut headers = headers::request(&request.headers, &provider.forward_headers, &self.upstream.headers);
        if self.operation.body_form() == BodyForm::Json {
            headers::of_json(&mut headers, &self.upstream.headers);
        }
        if self.translation.is_some() {
            headers::of_another_dialect(&mut headers);
        }
        if provider.upstream.dialect() == Dialect::Anthropic {
            if let Some(vendor) = provider.vendor.as_ref().filter(|vendor| !vendor.betas.pass_all()) {
                headers::filter_betas(&mut headers, &vendor.betas);
            }
            headers::default_version(&mut headers);
        }
        repair::apply_to_headers(&mut headers, &self.upstream.repairs.of(&self.backend.id.upstream));
        for edits in [&request.model.edits, &self.backend.edits] {
            for (name, value) in &edits.extra_headers {
                headers.insert(name, value.clone());
            }
        }
        if let Some(trace) = &facts.trace {
            trace.continue_in(&mut headers, facts.attempts);
        }
        *outgoing.headers_mut() = headers;
        Ok(outgoing)
    }

    fn not_sent(&self, error: SendError, until: tokio::time::Instant, patience: Duration) -> ForwardError {
        let backend = self.backend.id.clone();
        match error {
            SendError::Connect(source) if is_connect_timeout(source.as_ref()) => {
                let waited = self.backend.provider.timeouts.connect;
                ForwardError::Timeout { backend, what: "a connection", waited }
            }
            SendError::Connect(source) => ForwardError::Unreachable { backend, source },
            SendError::Broken { source, .. } => {
                let what = "the connection broke before an answer";
                ForwardError::Network { backend, what, source: Box::new(source) }
            }
            SendError::TimedOut => self.late(until, "the head of its answer", patience),
        }
    }

    /// Notes the status. After a success the request is paid for, whatever becomes of its answer.
    fn note_acceptance(&self, head: &Head, request: &RelayRequest, exchange: &mut Exchange) {
        exchange.note_status(head.status.as_u16());
        if head.status.is_success() {
            exchange.tariff = Some(Arc::clone(self.backend.tariff_of(request.body.model())));
            exchange.prompt_tokens = request.body.json().filter(|_| self.streams).map(meter::likely_tokens);
        }
    }

    /// Handles a refusal that may be of what we added, or of what can be left out: then the request has not been answered yet,
    /// and is sent once more without it.
    pub(super) async fn mend(
        &self,
        head: Head,
        mut incoming: PooledBody,
        usage_was_added: bool,
        has_state: bool,
        request: &mut RelayRequest,
        exchange: &mut Exchange,
    ) -> Result<(Head, Reply), ForwardError> {
        let (body, permit) = self.hold(&head, &mut incoming, ERROR_BODY_MAX, None).await?;
        let is_blamed = usage_was_added && names_stream_options(&body);
        if is_blamed {
            self.upstream.note_refused_stream_options(&self.backend.id.upstream);
        } else if has_state && names_signature(&body) {
            // Signatures may have lost their value, with a key or a region. Without them the question can still be answered.
            request.decoded.iter_mut().for_each(|decoded| decoded.forget_state());
        } else if !(self.may_repair(request) && self.learn(head.status, &body)) {
            return Ok((head, Reply::Held(body, permit)));
        }
        let asked = self.ask(request, exchange).await;
        // Some servers quote the whole request in their errors. What helped is remembered, what did not was something else.
        if is_blamed && !asked.as_ref().is_ok_and(|(head, ..)| head.status.is_success()) {
            self.upstream.forget_refused_stream_options(&self.backend.id.upstream);
        }
        let (mut head, incoming, usage_was_added) = asked?;
        let reply = self.reply(&mut head, incoming, usage_was_added, exchange).await?;
        Ok((head, reply))
    }

    pub(super) fn may_repair(&self, request: &RelayRequest) -> bool {
        self.backend.provider.repair || request.model.repair
    }

    /// Remembers what an error answer asks to be left out; whether that is new, so that asking again may help.
    fn learn(&self, status: StatusCode, body: &Chunks) -> bool {
        let fix = repair::asked(status, &body.slice(0..body.len().min(ERROR_BODY_READ_MAX)));
        fix.is_some_and(|fix| {
            tracing::debug!(backend = %self.backend.id, ?fix, "a refused parameter is left out from now on");
            self.upstream.repairs.note(&self.backend.id.upstream, fix)
        })
    }
}

/// Declares what settings and repairs changed of what the client had said. A default takes nothing away.
fn declare_edits(facts: &mut Facts) {
    for Edited { name, how } in &facts.edited {
        let reason = match how {
            How::Defaulted => continue,
            How::Overridden => Reason::Overridden,
            How::Dropped => Reason::Dropped,
            How::Repaired => Reason::Repaired,
        };
        facts.loss.get_or_insert_default().add(name.clone(), reason);
    }
}

/// Whether an error body complains about the parameter that we had added.
fn names_stream_options(body: &Chunks) -> bool {
    let text = body.slice(0..body.len());
    memchr::memmem::find(&text, b"stream_options").is_some() || memchr::memmem::find(&text, b"include_usage").is_some()
}

/// Whether an error body complains about a signature of earlier thoughts.
fn names_signature(body: &Chunks) -> bool {
    let text = body.slice(0..body.len().min(ERROR_BODY_READ_MAX)).to_ascii_lowercase();
    memchr::memmem::find(&text, b"signature").is_some()
}

fn is_connect_timeout(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.is::<ConnectTimeout>() {
            return true;
        }
        cause = error.source();
    }
    false
}
