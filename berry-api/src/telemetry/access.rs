//! What a finished API request leaves behind: the access line, whose message is "Backend selected", and its spans where it is
//! traced.
//!
//! Both are made from one record of plain values and shared pointers. A request pays for handing it over under one short lock;
//! the writer thread makes text and spans of many records at a time, which costs less than a little for each while it is served.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berry_core::config::snapshot::LogFormat;
use berry_relay::exchange::{End, Facts};
use tracing::Level;

use super::format::{Header, Line};
use super::traces::Traces;
use super::writer::{Item, LogWriter};

/// The target that filters know the access line by.
pub const TARGET: &str = "berry_api::access";

/// A finished request.
#[derive(Debug)]
pub struct Finished {
    /// When it ended.
    time: SystemTime,
    /// From its head to its end.
    latency: Duration,
    /// Whether it has a line in the log.
    pub(super) is_shown: bool,
    /// Where its spans go; `None` when it is not traced.
    traces: Option<Arc<Traces>>,
    /// Everything else.
    facts: Facts,
}

impl Finished {
    /// Hands its spans over.
    pub(super) fn trace(&self) {
        if let Some(traces) = &self.traces {
            traces.take(&self.facts, self.latency);
        }
    }

    /// Counts its spans as lost.
    pub(super) fn lose_trace(&self) {
        if let Some(traces) = &self.traces {
            traces.lose(&self.facts);
        }
    }

    /// Writes its line.
    pub(super) fn write(&self, format: LogFormat, out: &mut Vec<u8>) {
        let header = Header { time: self.time, level: Level::INFO, target: TARGET };
        let mut line = Line::begin(format, &header, "Backend selected", out);
        let facts = &self.facts;
        line.text("request_id", facts.request_id.as_str());
        if let Some(id) = &facts.client_request_id {
            line.text("client_request_id", id);
        }
        if let Some(labels) = &facts.labels {
            line.text("labels", labels);
        }
        line.text("path", facts.operation.path());
        if let Some(user) = &facts.user {
            line.text("user", user.id.as_str());
        }
        if let Some(backend) = &facts.backend {
            line.text("provider", backend.id.provider.as_str());
        }
        if let Some(model) = &facts.model {
            line.text("model", model.name.as_str());
        }
        if let Some(backend) = &facts.backend {
            line.text("upstream_model", facts.upstream_model(backend));
        }
        if let Some(model) = &facts.model {
            line.text("strategy", model.strategy.as_str());
        }
        line.number("attempts", u64::from(facts.attempts));
        if facts.tries.len() > 1 {
            line.text("tries", &tries(facts));
        }
        line.number("status", u64::from(facts.status));
        line.milliseconds("latency_ms", self.latency);
        if let Some(ttft) = facts.ttft {
            line.milliseconds("ttft_ms", ttft);
        }
        line.text("outcome", facts.end.as_str());
        line.boolean("stream", facts.stream);
        if let Some(tokens) = facts.usage.input_tokens {
            line.number("input_tokens", tokens);
        }
        if let Some(tokens) = facts.usage.output_tokens {
            line.number("output_tokens", tokens);
        }
        if let Some(loss) = &facts.loss {
            line.text("loss", &loss.header());
        }
        if let End::Failed(kind) = facts.end {
            line.text("error", kind.code());
        }
        line.end();
    }
}

/// Each attempt as `provider:model=outcome`, with commas between.
fn tries(facts: &Facts) -> String {
    let mut text = String::new();
    for (i, one) in facts.tries.iter().enumerate() {
        let (comma, model) = (if i == 0 { "" } else { "," }, facts.upstream_model(&one.backend));
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{}:{model}={}", one.backend.id.provider, one.outcome_name());
    }
    text
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

    /// Hands over a finished request, for its line and, where it is traced, for its spans in `traces`.
    pub fn take(&self, facts: Facts, latency: Duration, traces: &Arc<Traces>) {
        let is_shown = self.writer.is_some() && !self.hidden;
        let traces = facts.trace.is_some().then(|| Arc::clone(traces));
        if !is_shown && traces.is_none() {
            return;
        }
        let finished = Finished { time: SystemTime::now(), latency, is_shown, traces, facts };
        match &self.writer {
            Some(writer) => writer.push(Item::Finished(finished)),
            None => finished.trace(),
        }
    }

    /// Waits until what was handed over so far is written and its spans are with the exporter, for at most two seconds.
    pub fn flush(&self) {
        if let Some(writer) = &self.writer {
            writer.flush();
        }
    }
}
