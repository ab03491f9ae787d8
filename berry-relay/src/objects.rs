//! Objects that live at the upstream that made them: stored responses, and who may ask for them.
//!
//! Ids pass unchanged, so which provider issued one and for whom has to be remembered: the newest [`ISSUED_MAX`] of them, in this
//! process. What is not remembered is refused, never guessed.

use std::collections::{HashMap, VecDeque};

use berry_core::config::snapshot::{Azure, AzureStyle, Provider, Upstream};
use berry_core::id::{BackendId, ProviderId, UserId};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::ForwardError;
use crate::forward::Relay;
use crate::pool::{Choice, SendError};
use crate::upstream_body::UpstreamBody;
use crate::{headers, json, target};

/// Most ids that are remembered; the oldest go first.
pub const ISSUED_MAX: usize = 100_000;
/// Longest id that is remembered; vendors' have some 60 bytes.
const ID_BYTES_MAX: usize = 256;

/// Who issued a response, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The provider that holds it.
    pub provider: ProviderId,
    /// The user whose request made it.
    pub user: UserId,
}

/// Responses that upstreams have issued.
#[derive(Debug, Default)]
pub struct Issued(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_id: HashMap<Box<str>, Issuer>,
    order: VecDeque<Box<str>>,
}

impl Issued {
    /// Remembers an id, given as JSON.
    pub(crate) fn note(&self, id: &[u8], issuer: Issuer) {
        match json::unquote(id) {
            Ok(id) if !id.is_empty() && id.len() <= ID_BYTES_MAX => {
                self.insert(id.into_boxed_str(), issuer, ISSUED_MAX)
            }
            _ => {}
        }
    }

    fn insert(&self, id: Box<str>, issuer: Issuer, most: usize) {
        let mut entries = self.0.lock();
        if entries.by_id.insert(id.clone(), issuer).is_none() {
            entries.order.push_back(id);
        }
        if entries.order.len() > most
            && let Some(oldest) = entries.order.pop_front()
        {
            entries.by_id.remove(&oldest);
        }
    }

    /// Who issued `id`, where it is `user` who may ask for it. Of others' responses nobody learns that they exist.
    pub fn of_user(&self, id: &str, user: &UserId) -> Option<ProviderId> {
        let entries = self.0.lock();
        entries.by_id.get(id).filter(|issuer| issuer.user == *user).map(|issuer| issuer.provider.clone())
    }
}

impl Relay {
    /// Asks a provider about an object that it holds. The answer passes as it comes, errors too, except that the provider refuses our
    /// key.
    ///
    /// # Errors
    /// [`ForwardError`] when there is no answer, or not one for the client.
    pub async fn object(
        &self,
        provider: &Provider,
        method: Method,
        path: &str,
        query: Option<&str>,
        client: &HeaderMap,
    ) -> Result<Response<impl Body<Data = Bytes, Error = hyper::Error> + Send + 'static>, ForwardError> {
        let id =
            || BackendId { model: "responses".into(), provider: provider.id.clone(), upstream: "*".into(), repeat: 0 };
        let internal = |why: String| ForwardError::Internal(format!("{}: {why}", provider.id));
        let upstream = self.upstreams.get(&provider.id).ok_or_else(|| internal("no client".to_owned()))?;
        let mut request = Request::new(UpstreamBody::Held(Box::default()));
        *request.method_mut() = method;
        *request.uri_mut() = address(provider, path, query).map_err(|error| internal(error.to_string()))?;
        *request.headers_mut() = headers::request(client, &provider.forward_headers, &upstream.headers);
        let patience = provider.timeouts.completion;
        let sent = Box::pin(upstream.pool.send(request, Choice::Fresh, Instant::now() + patience)).await;
        let (mut parts, body) = sent
            .map_err(|error| match error {
                SendError::Connect(source) => ForwardError::Unreachable { backend: id(), source },
                SendError::Broken { source, .. } => {
                    let what = "the connection broke before an answer";
                    ForwardError::Network { backend: id(), what, source: Box::new(source) }
                }
                SendError::TimedOut => {
                    ForwardError::Timeout { backend: id(), what: "the head of its answer", waited: patience }
                }
            })?
            .into_parts();
        if matches!(parts.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(ForwardError::KeyRefused { backend: id(), status: parts.status });
        }
        parts.headers = headers::response(&parts.headers);
        Ok(Response::from_parts(parts, body))
    }
}

/// Where an object is at a provider, with the client's query behind the provider's own.
fn address(provider: &Provider, path: &str, query: Option<&str>) -> Result<http::Uri, http::Error> {
    let is_dated = matches!(&provider.upstream, Upstream::Azure(Azure { style: AzureStyle::Deployments, .. }));
    let base = target::below(provider, &format!("{}{path}", if is_dated { "openai/" } else { "" }))?;
    match query.filter(|query| !query.is_empty()) {
        None => Ok(base),
        Some(query) => {
            let separator = if base.query().is_some() { '&' } else { '?' };
            Ok(format!("{base}{separator}{query}").parse::<http::Uri>()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(user: &str) -> Issuer {
        Issuer { provider: "p".into(), user: user.into() }
    }

    #[test]
    fn a_response_is_known_to_its_user_alone() {
        let issued = Issued::default();
        issued.note(br#""resp_1""#, issuer("ann"));
        assert_eq!(issued.of_user("resp_1", &"ann".into()), Some("p".into()));
        assert_eq!(issued.of_user("resp_1", &"bob".into()), None);
        assert_eq!(issued.of_user("resp_2", &"ann".into()), None);
        issued.note(b"7", issuer("ann"));
        issued.note(format!("\"{}\"", "x".repeat(ID_BYTES_MAX + 1)).as_bytes(), issuer("ann"));
        assert_eq!(issued.0.lock().by_id.len(), 1);
    }

    #[test]
    fn the_oldest_are_forgotten_first() {
        let issued = Issued::default();
        for id in ["a", "b", "b", "c"] {
            issued.insert(id.into(), issuer("ann"), 2);
        }
        let known = |id| issued.of_user(id, &"ann".into()).is_some();
        assert_eq!((known("a"), known("b"), known("c")), (false, true, true));
    }
}
