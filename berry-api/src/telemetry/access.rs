//! What a finished API request leaves behind: the access line, whose message is "Backend selected", and its spans where it is
//! traced.
//!
//! Both are made from one small record of plain values and shared pointers. A request pays for handing it over under one short lock;
//! the writer thread makes text and spans of many records at a time, which costs less than a little for each while it is served.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berry_core::config::snapshot::{Backend, LogFormat, Model, User};
use berry_core::id::RequestId;
use berry_core::money::NanoUsd;
use berry_core::operation::Operation;
use berry_core::time::Instant;
use berry_core::usage::Usage;
use berry_loadbalance::outcome::Outcome;
use berry_relay::dialect::loss::Losses;
use berry_relay::exchange::{End, Facts, Reason, Try};
use berry_relay::trace::Trace;
use smallvec::SmallVec;

use super::alike::Alike;
use super::format::{Line, Name, name};
use super::traces::Traces;
use super::writer::{Item, LogWriter};

/// The target that filters know the access line by.
pub const TARGET: &str = "berry_api::access";

/// How a line begins, after its time.
const HEAD: Name = Name {
    text: "  INFO berry_api::access: Backend selected request_id=",
    json: "\",\"level\":\"INFO\",\"target\":\"berry_api::access\",\"message\":\"Backend selected\",\
           \"fields\":{\"request_id\":",
};

/// A finished request, as far as its line and its spans tell of it. Small, since it goes from one processor core to another: every
/// line of cache counts.
#[derive(Debug)]
#[cfg_attr(not(feature = "observability"), expect(dead_code, reason = "spans tell more than lines"))]
pub struct Finished {
    /// When it ended.
    time: SystemTime,
    /// Its head, by the program's clock.
    pub(super) started: Instant,
    /// From its head to its end.
    pub(super) latency: Duration,
    ttft: Option<Duration>,
    /// Where it stands in a trace; `None` when it is not traced.
    pub(super) trace: Option<Trace>,
    pub(super) request_id: RequestId,
    pub(super) user: Option<Arc<User>>,
    pub(super) model: Option<Arc<Model>>,
    /// The backend that the client was told of.
    pub(super) backend: Option<Arc<Backend>>,
    pub(super) tries: SmallVec<[Tried; 1]>,
    /// What few requests have.
    rare: Option<Box<Rare>>,
    pub(super) tokens: Tokens,
    pub(super) cost: Option<NanoUsd>,
    pub(super) attempts: u32,
    pub(super) status: u16,
    pub(super) operation: Operation,
    pub(super) end: End,
    pub(super) stream: bool,
    /// Whether it has a line in the log.
    pub(super) is_shown: bool,
}

/// One attempt.
#[derive(Debug)]
#[cfg_attr(not(feature = "observability"), expect(dead_code, reason = "spans tell more than lines"))]
pub(super) struct Tried {
    pub(super) backend: Arc<Backend>,
    pub(super) started: Instant,
    pub(super) ended: Instant,
    pub(super) ttft: Option<Duration>,
    /// In one word.
    pub(super) outcome: &'static str,
    /// Whether it ended badly for somebody.
    pub(super) failed: bool,
    pub(super) reason: Reason,
    pub(super) status: u16,
}

impl From<&Try> for Tried {
    fn from(one: &Try) -> Self {
        Self {
            backend: Arc::clone(&one.backend),
            started: one.started,
            ended: one.started + one.duration.unwrap_or_default(),
            ttft: one.ttft,
            outcome: one.outcome_name(),
            failed: matches!(one.outcome, Outcome::Failure { .. } | Outcome::CallerFault),
            reason: one.reason,
            status: one.status,
        }
    }
}

/// What was used, in half of the room that optional numbers take.
#[derive(Debug)]
pub(super) struct Tokens([u64; 5]);

impl Tokens {
    /// Stands for a number that was not reported.
    const UNKNOWN: u64 = u64::MAX;

    fn of(usage: &Usage) -> Self {
        let Usage { input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens, .. } = *usage;
        let counts = [input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens];
        Self(counts.map(|count| count.unwrap_or(Self::UNKNOWN)))
    }

    /// Input, output, read from the cache, written to the cache, reasoning.
    pub(super) fn counts(&self) -> [Option<u64>; 5] {
        self.0.map(|count| (count != Self::UNKNOWN).then_some(count))
    }
}

/// What few requests have.
#[derive(Debug)]
struct Rare {
    client_request_id: Option<Box<str>>,
    labels: Option<Box<str>>,
    requested: Option<Box<str>>,
    loss: Option<Box<Losses>>,
}

impl Rare {
    fn take(facts: &mut Facts) -> Option<Box<Self>> {
        let Facts { client_request_id, labels, requested, loss, .. } = facts;
        let any = client_request_id.is_some() || labels.is_some() || requested.is_some() || loss.is_some();
        any.then(|| {
            let (client_request_id, labels) = (client_request_id.take(), labels.take());
            Box::new(Self { client_request_id, labels, requested: requested.take(), loss: loss.take() })
        })
    }
}

/// What decides how the middle of a line reads, beside model and backend: status and attempts.
pub(super) type Middle = (u16, u32);

impl Finished {
    /// Takes what it needs out of the facts of a request that took so long.
    fn take(facts: &mut Facts, latency: Duration, is_shown: bool) -> Self {
        let mut tries = SmallVec::new();
        for one in &facts.tries {
            tries.push(Tried::from(one));
        }
        Self {
            time: SystemTime::now(),
            started: facts.started,
            latency,
            ttft: facts.ttft,
            trace: facts.trace,
            request_id: facts.request_id,
            user: facts.user.take(),
            model: facts.model.take(),
            backend: facts.backend.take(),
            tries,
            rare: Rare::take(facts),
            tokens: Tokens::of(&facts.usage),
            cost: facts.cost.map(|cost| cost.total),
            attempts: facts.attempts,
            status: facts.status,
            operation: facts.operation,
            end: facts.end,
            stream: facts.stream,
            is_shown,
        }
    }

    /// Whether other requests of its model and backend say the same of what upstreams were asked for.
    pub(super) fn is_usual(&self) -> bool {
        self.rare.as_deref().is_none_or(|rare| rare.requested.is_none())
    }

    /// The model that `backend` was asked for.
    pub(super) fn upstream_model<'a>(&'a self, backend: &'a Backend) -> &'a str {
        let requested = self.rare.as_deref().and_then(|rare| rare.requested.as_deref());
        requested.map_or(backend.id.upstream.as_str(), |requested| backend.upstream_model(requested))
    }

    /// Writes its line.
    pub(super) fn write(&self, format: LogFormat, alike: &mut Alike<Middle>, out: &mut Vec<u8>) {
        let mut line = Line::begin(format, self.time, HEAD, out);
        line.end_head(self.request_id.as_str());
        let rare = self.rare.as_deref();
        if let Some(id) = rare.and_then(|rare| rare.client_request_id.as_deref()) {
            line.text(name!("client_request_id"), id);
        }
        if let Some(labels) = rare.and_then(|rare| rare.labels.as_deref()) {
            line.text(name!("labels"), labels);
        }
        line.word(name!("path"), self.operation.path());
        if let Some(user) = &self.user {
            line.text(name!("user"), user.id.as_str());
        }
        match (&self.model, &self.backend) {
            (Some(model), Some(backend)) if self.attempts == 1 && self.is_usual() => {
                let key = ((self.status, self.attempts), model, backend);
                line.alike(alike, key, |line| self.middle(line));
            }
            _ => self.middle(&mut line),
        }
        line.milliseconds(name!("latency_ms"), self.latency);
        if let Some(ttft) = self.ttft {
            line.milliseconds(name!("ttft_ms"), ttft);
        }
        line.word(name!("outcome"), self.end.as_str());
        line.boolean(name!("stream"), self.stream);
        let [input, output, ..] = self.tokens.counts();
        if let Some(tokens) = input {
            line.number(name!("input_tokens"), tokens);
        }
        if let Some(tokens) = output {
            line.number(name!("output_tokens"), tokens);
        }
        if let Some(loss) = rare.and_then(|rare| rare.loss.as_deref()) {
            line.text(name!("loss"), &loss.header());
        }
        if let End::Failed(kind) = self.end {
            line.word(name!("error"), kind.code());
        }
        line.end();
    }

    /// What other requests of its model, backend, status and number of attempts say as well, unless there were several attempts.
    fn middle(&self, line: &mut Line<'_>) {
        if let Some(backend) = &self.backend {
            line.text(name!("provider"), backend.id.provider.as_str());
        }
        if let Some(model) = &self.model {
            line.text(name!("model"), model.name.as_str());
        }
        if let Some(backend) = &self.backend {
            line.text(name!("upstream_model"), self.upstream_model(backend));
        }
        if let Some(model) = &self.model {
            line.text(name!("strategy"), model.strategy.as_str());
        }
        line.number(name!("attempts"), u64::from(self.attempts));
        if self.tries.len() > 1 {
            line.text(name!("tries"), &self.tries_text());
        }
        line.number(name!("status"), u64::from(self.status));
    }

    /// Each attempt as `provider:model=outcome`, with commas between.
    fn tries_text(&self) -> String {
        let mut text = String::new();
        for (i, one) in self.tries.iter().enumerate() {
            let (comma, model) = (if i == 0 { "" } else { "," }, self.upstream_model(&one.backend));
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{}:{model}={}", one.backend.id.provider, one.outcome);
        }
        text
    }
}

/// Takes finished requests.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    writer: Option<LogWriter>,
    hidden: bool,
}

impl AccessLog {
    /// Writes through `writer`.
    pub fn new(writer: LogWriter) -> Self {
        Self { writer: Some(writer), hidden: false }
    }

    /// Writes no lines of requests: the filter hides them. Other lines, and spans, go through `writer`.
    pub fn hidden(writer: LogWriter) -> Self {
        Self { writer: Some(writer), hidden: true }
    }

    /// Lines of all kinds that the log could not take, since the start.
    pub fn lines_dropped(&self) -> u64 {
        self.writer.as_ref().map_or(0, LogWriter::dropped)
    }

    /// Tells where the spans of traced requests go. One program has one such place; the first one stays.
    pub fn export_to(&self, traces: &Arc<Traces>) {
        if let Some(writer) = &self.writer {
            writer.export_to(traces);
        }
    }

    /// Hands over a finished request, for its line and, where it is traced, for its spans. `traces` takes these where there is no
    /// writer.
    pub fn take(&self, facts: &mut Facts, latency: Duration, traces: &Traces) {
        let is_shown = self.writer.is_some() && !self.hidden;
        if !is_shown && facts.trace.is_none() {
            return;
        }
        let finished = Finished::take(facts, latency, is_shown);
        match &self.writer {
            Some(writer) => writer.push(Item::Finished(finished)),
            None => traces.take(&finished),
        }
    }

    /// Waits until what was handed over so far is written and its spans are with the exporter, for at most two seconds.
    pub fn flush(&self) {
        if let Some(writer) = &self.writer {
            writer.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use tracing::Level;

    use super::*;
    use crate::telemetry::format::{Fields, Header, write_event};

    #[test]
    fn the_line_begins_as_an_event_of_its_target_does() {
        let header = Header { time: UNIX_EPOCH, level: Level::INFO, target: TARGET };
        let mut fields = Fields::default();
        fields.push_text("request_id", "req_1");
        for format in [LogFormat::Text, LogFormat::Json] {
            let (mut event, mut access) = (Vec::new(), Vec::new());
            write_event(format, &header, "Backend selected", &fields, &mut event);
            let mut line = Line::begin(format, UNIX_EPOCH, HEAD, &mut access);
            line.end_head("req_1");
            line.end();
            assert_eq!(String::from_utf8(access).unwrap(), String::from_utf8(event).unwrap());
        }
    }
}
