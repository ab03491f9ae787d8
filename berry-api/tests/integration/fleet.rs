//! A gateway before up to three scripted upstreams, `a`, `b` and `c`, tried in this order, and what a client gets from it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use berry_api::telemetry::access::AccessLog;
use berry_api::telemetry::writer::LogWriter;
use berry_core::config::snapshot::LogFormat;
use berry_mock::{Fault, Mock, Script};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use serde_json::Value;
use tokio::time::Instant;

use crate::access_log::Lines;
use crate::support::{ADMIN, Answer, TestGateway};

/// Names of the providers.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// What to build.
#[derive(Default)]
pub(crate) struct Plan {
    scripts: Vec<Script>,
    /// Keys of `[settings]`.
    settings: String,
    /// Keys of `[server]`.
    server: String,
    /// Keys of every provider.
    provider: String,
    /// Keys of the model.
    model: String,
    /// Its strategy, where that is not `failover`.
    strategy: Option<String>,
    /// Keys of every backend, by place.
    backends: HashMap<usize, String>,
    /// Whether the upstreams are behind real sockets.
    sockets: bool,
}

/// A plan for upstreams that answer with these faults, one for each, for ever.
pub(crate) fn plan(faults: &[&str]) -> Plan {
    scripted(faults.iter().map(|fault| always(fault)))
}

/// A plan for upstreams that follow these scripts.
pub(crate) fn scripted(scripts: impl IntoIterator<Item = Script>) -> Plan {
    Plan { scripts: scripts.into_iter().collect(), ..Plan::default() }
}

/// Every answer is spoiled.
pub(crate) fn always(fault: &str) -> Script {
    Script { faults: vec![parse(fault)], answer_tokens: Some(8), ..Script::default() }
}

/// The first answers are spoiled, one after the other; later ones are good.
pub(crate) fn at_first(faults: &[&str]) -> Script {
    let faults = faults.iter().map(|fault| parse(fault)).collect();
    Script { faults, faults_once: true, answer_tokens: Some(8), ..Script::default() }
}

fn parse(fault: &str) -> Fault {
    fault.parse().unwrap_or_else(|error| panic!("{error}"))
}

impl Plan {
    pub(crate) fn settings(mut self, keys: &str) -> Self {
        self.settings.push_str(keys);
        self.settings.push('\n');
        self
    }

    pub(crate) fn server(mut self, keys: &str) -> Self {
        self.server.push_str(keys);
        self.server.push('\n');
        self
    }

    pub(crate) fn provider(mut self, keys: &str) -> Self {
        self.provider.push_str(keys);
        self.provider.push('\n');
        self
    }

    pub(crate) fn model(mut self, keys: &str) -> Self {
        self.model.push_str(keys);
        self.model.push('\n');
        self
    }

    pub(crate) fn strategy(mut self, strategy: &str) -> Self {
        self.strategy = Some(strategy.to_owned());
        self
    }

    pub(crate) fn backend(mut self, place: usize, keys: &str) -> Self {
        self.backends.insert(place, keys.to_owned());
        self
    }

    /// Over TCP, for resets that are real. Not for a paused clock.
    pub(crate) fn over_sockets(mut self) -> Self {
        self.sockets = true;
        self
    }

    pub(crate) async fn build(self) -> Fleet {
        let mocks: Vec<Mock> = self.scripts.iter().cloned().map(Mock::new).collect();
        let mut addresses = Vec::new();
        let mut dials = HashMap::new();
        for (mock, name) in mocks.iter().zip(NAMES) {
            if self.sockets {
                addresses.push(mock.listen().await.unwrap().to_string());
            } else {
                addresses.push(format!("{name}.test"));
                let mock = mock.clone();
                dials.insert(name.into(), Arc::new(move || mock.connect()) as _);
            }
        }
        let lines = Lines::default();
        let writer = lines.writer(LogFormat::Json);
        let gateway = TestGateway::with(&self.config(&addresses), AccessLog::new(writer.clone()), dials);
        Fleet { gateway, mocks, lines, writer }
    }

    fn config(&self, addresses: &[String]) -> String {
        let Self { server, settings, provider, .. } = self;
        let mut text = format!("[server]\n{server}[settings]\n{settings}");
        text += &format!("[users.ada]\nname = \"Ada\"\ntoken = \"{ADMIN}\"\ntags = [\"admin\"]\n");
        for (address, name) in addresses.iter().zip(NAMES) {
            text += &format!(
                "[providers.{name}]\nname = \"{name}\"\nbase_url = \"http://{address}/v1\"\n\
                 api_key = \"provider-key-canary\"\n{provider}"
            );
        }
        let strategy = self.strategy.as_deref().unwrap_or("failover");
        text += &format!("[models.m]\nname = \"m\"\nstrategy = \"{strategy}\"\n{}", self.model);
        for (place, name) in NAMES.iter().take(addresses.len()).enumerate() {
            let own = self.backends.get(&place).map_or("", String::as_str);
            text += &format!(
                "[[models.m.backends]]\nprovider = \"{name}\"\nmodel = \"up-{name}\"\npriority = {}\n{own}\n",
                place + 1
            );
        }
        text
    }
}

/// The gateway, its upstreams and its access log.
pub(crate) struct Fleet {
    pub(crate) gateway: TestGateway,
    pub(crate) mocks: Vec<Mock>,
    lines: Lines,
    writer: LogWriter,
}

/// What came back, and after how long.
pub(crate) struct Got {
    pub(crate) answer: Answer,
    pub(crate) seconds: f64,
}

/// A chat request, plain or streamed.
pub(crate) fn chat(streamed: bool) -> String {
    let stream = if streamed { r#""stream":true,"# } else { "" };
    format!(r#"{{"model":"m",{stream}"messages":[{{"role":"user","content":"hi"}}]}}"#)
}

impl Fleet {
    pub(crate) async fn ask(&self, streamed: bool) -> Got {
        self.ask_with(streamed, &[]).await
    }

    pub(crate) async fn ask_with(&self, streamed: bool, headers: &[(&str, &str)]) -> Got {
        let began = Instant::now();
        let token = format!("Bearer {ADMIN}");
        let headers: Vec<(&str, &str)> =
            [("authorization", token.as_str())].into_iter().chain(headers.to_vec()).collect();
        let answer = self.gateway.send(http::Method::POST, "/v1/chat/completions", &headers, &chat(streamed)).await;
        Got { answer, seconds: began.elapsed().as_secs_f64() }
    }

    /// Begins a request and returns its head, with the body still to be read.
    pub(crate) async fn begin(&self, body: String) -> Response<berry_api::reply::Reply> {
        let peer: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let connection = Arc::new(self.gateway.gateway.connection(peer));
        let request = Request::post("/v1/chat/completions").header("x-api-key", ADMIN);
        self.gateway.gateway.handle(&connection, request.body(Full::new(Bytes::from(body))).unwrap()).await
    }

    /// Requests that each upstream has seen.
    pub(crate) fn seen(&self) -> Vec<usize> {
        self.mocks.iter().map(|mock| mock.requests().len()).collect()
    }

    /// Fields of the access lines.
    pub(crate) fn access(&self) -> Vec<Value> {
        self.writer.flush();
        self.lines.json().into_iter().map(|line| line["fields"].clone()).collect()
    }
}

impl Got {
    pub(crate) fn status(&self) -> u16 {
        self.answer.status.as_u16()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.answer.body.to_vec()).expect("text")
    }

    /// Checks for one clean answer from `provider`, in `attempts`.
    pub(crate) fn assert_clean(&self, streamed: bool, provider: &str, attempts: u32, why: &str) {
        assert_eq!(self.status(), 200, "{why}: {}", self.text());
        let route = (self.answer.header("x-berry-provider"), self.answer.header("x-berry-attempts"));
        assert_eq!(route, (provider, attempts.to_string().as_str()), "{why}");
        self.assert_whole(streamed, provider, why);
    }

    /// As [`Self::assert_clean`], for a body whose head could not say where it would come from.
    pub(crate) fn assert_whole(&self, streamed: bool, provider: &str, why: &str) {
        let model = format!("up-{provider}");
        if !streamed {
            let json = self.answer.json();
            assert_eq!(json["model"], model, "{why}");
            assert!(json["choices"][0]["message"]["content"].as_str().is_some_and(|text| !text.is_empty()), "{why}");
            return;
        }
        let told = self.told();
        assert!(told.done && told.errors.is_empty() && told.finishes == 1, "{why}: {}", self.text());
        assert!(!told.content.is_empty() && told.openings == 1, "{why}: {}", self.text());
        assert_eq!(told.models, [model], "{why}");
    }

    /// What the events of a stream said. Every line must make sense.
    pub(crate) fn told(&self) -> Told {
        let mut told = Told::default();
        for line in self.text().lines().filter(|line| !line.is_empty() && !line.starts_with(':')) {
            assert!(!told.done, "something after [DONE]: {line}");
            let data = line.strip_prefix("data: ").unwrap_or_else(|| panic!("no data line: {line}"));
            if data == "[DONE]" {
                told.done = true;
                continue;
            }
            let event: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}"));
            told.take(&event);
        }
        told
    }

    /// The code of the one error that ended a stream.
    pub(crate) fn cut_with(&self) -> String {
        assert_eq!(self.status(), 200, "{}", self.text());
        let told = self.told();
        assert!(!told.done && told.finishes == 0, "no fake end: {}", self.text());
        let [error] = &told.errors[..] else { panic!("one error event: {}", self.text()) };
        assert!(self.text().ends_with("\n\n"), "a complete event");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
        error["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// The events of one stream, added up.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) content: String,
    pub(crate) finishes: usize,
    pub(crate) done: bool,
    pub(crate) errors: Vec<Value>,
    /// Events that name the role.
    openings: usize,
    models: Vec<String>,
}

impl Told {
    /// Whether one backend said all of it.
    pub(crate) fn is_from_one(&self) -> bool {
        self.openings == 1 && self.models.len() == 1
    }

    fn take(&mut self, event: &Value) {
        if event["error"].is_object() {
            self.errors.push(event["error"].clone());
            return;
        }
        let model = event["model"].as_str().unwrap_or_default();
        if self.models.iter().all(|known| known != model) {
            self.models.push(model.to_owned());
        }
        let choice = &event["choices"][0];
        self.content += choice["delta"]["content"].as_str().unwrap_or_default();
        self.openings += usize::from(choice["delta"]["role"].is_string());
        self.finishes += usize::from(choice["finish_reason"].is_string());
    }
}
