//! Clients of a mock over each transport.

use std::fmt;
use std::net::SocketAddr;

use berry_mock::{Mock, Script};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What requests are sent over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Memory,
    Tcp,
    Http2,
}

pub(crate) const TRANSPORTS: [Transport; 3] = [Transport::Memory, Transport::Tcp, Transport::Http2];

/// One connection to a mock.
pub(crate) struct Client {
    sender: Sender,
    /// Drives the connection; dropped, it closes it.
    tasks: JoinSet<Result<(), hyper::Error>>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    pub(crate) async fn new(mock: &Mock, transport: Transport) -> Self {
        match transport {
            Transport::Memory => Self::http1(mock.connect()).await,
            Transport::Tcp => Self::http1(dial(mock.listen().await.unwrap()).await).await,
            Transport::Http2 => Self::http2(dial(mock.listen().await.unwrap()).await).await,
        }
    }

    async fn http1(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Self { sender: Sender::Http1(sender), tasks }
    }

    async fn http2(io: TcpStream) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        Self { sender: Sender::Http2(sender), tasks }
    }

    /// Sends a request and returns the answer's head; its body is read by the caller.
    pub(crate) async fn head(&mut self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => {
                // HTTP/2 has the authority in the address.
                let path = request.uri().path_and_query().unwrap().as_str();
                *request.uri_mut() = format!("http://mock{path}").parse().unwrap();
                sender.send_request(request).await
            }
        }
    }

    /// Sends a request and reads its whole answer, or as much as comes.
    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Got, hyper::Error> {
        let response = self.head(request).await?;
        let (head, mut body) = response.into_parts();
        let mut got = Got { status: head.status, headers: head.headers, frames: Vec::new(), broken: None };
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => got.frames.extend(frame.into_data()),
                Err(error) => {
                    got.broken = Some(error);
                    break;
                }
            }
        }
        Ok(got)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Got {
        self.send(Request::get(path).body(Full::default()).unwrap()).await.unwrap()
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> Got {
        self.send(post(path, body)).await.unwrap()
    }

    /// Leaves, in whatever state the connection is.
    pub(crate) async fn leave(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn dial(address: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    tcp
}

/// An answer, as far as it came.
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) frames: Vec<Bytes>,
    /// Why the body did not end properly.
    pub(crate) broken: Option<hyper::Error>,
}

impl fmt::Debug for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = self.body();
        let (start, end) = (&body[..body.len().min(600)], &body[body.len().saturating_sub(200)..]);
        f.debug_struct("Got")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("frames", &self.frames.len())
            .field("bytes", &body.len())
            .field("start", &String::from_utf8_lossy(start))
            .field("end", &String::from_utf8_lossy(end))
            .field("broken", &self.broken)
            .finish()
    }
}

impl Got {
    pub(crate) fn body(&self) -> Vec<u8> {
        self.frames.concat()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body()).unwrap()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body()).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `error.code` of an error answer.
    #[track_caller]
    pub(crate) fn error_code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The JSON of every event; `[DONE]` as a string.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.text();
        let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.map(|data| if data == "[DONE]" { json!(data) } else { serde_json::from_str(data).unwrap() }).collect()
    }
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Full<Bytes>> {
    let body = Full::from(body.to_string());
    Request::post(path).header("content-type", "application/json").body(body).unwrap()
}

/// A mock that follows the script, and an in-memory client of it.
pub(crate) async fn mock(script: Script) -> (Mock, Client) {
    let mock = Mock::new(script);
    let client = Client::new(&mock, Transport::Memory).await;
    (mock, client)
}

/// A small chat request.
pub(crate) fn chat(user: &str) -> Value {
    json!({"model": "demo-small", "messages": [{"role": "user", "content": user}]})
}

/// The same, streamed, with usage.
pub(crate) fn chat_stream(user: &str) -> Value {
    let mut body = chat(user);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

/// `base` with further members.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}
