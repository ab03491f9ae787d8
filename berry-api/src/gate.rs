//! Lets a request through, or says why not. The same rules for the data path and for the router.

use std::sync::Arc;
use std::time::SystemTime;

use berry_core::config::snapshot::{Snapshot, User};
use berry_core::error::ErrorKind;
use berry_core::id::RequestId;
use berry_core::operation::Dialect;
use http::Uri;
use http::header::USER_AGENT;
use http::request::Parts;

use crate::app::App;
use crate::auth::address::client_address;
use crate::auth::failures::Verdict;
use crate::auth::{self, Denial, Denied};
use crate::error::ApiError;
use crate::routes::gemini;
use crate::server::connection::Connection;

/// Longest text of a client that goes into an audit event.
const AUDIT_TEXT_MAX: usize = 200;

/// The user that a request comes from.
///
/// A failure is counted for the client's address and audited; beyond the limit the address is answered 429. A valid token
/// never gets that far.
///
/// # Errors
/// 401 or 429, ready to be told.
pub fn authenticate(
    app: &App,
    snapshot: &Arc<Snapshot>,
    connection: &Connection,
    id: &RequestId,
    parts: &Parts,
) -> Result<Arc<User>, ApiError> {
    let query = if is_gemini(&parts.uri) { parts.uri.query() } else { None };
    auth::authenticate(snapshot, &connection.known, &parts.headers, query)
        .or_else(|denied| by_key(app, snapshot, connection, parts, denied))
        .map_err(|denied| refuse(app, snapshot, connection, id, parts, denied))
}

/// A token that the configuration does not know may be that of a key. No connection remembers one, so that it ends at once when
/// it is revoked.
fn by_key(
    app: &App,
    snapshot: &Snapshot,
    connection: &Connection,
    parts: &Parts,
    denied: Denied,
) -> Result<Arc<User>, Denied> {
    let Denied { denial: Denial::Unknown, digest: Some(digest) } = denied else {
        return Err(denied);
    };
    let client = || client_address(connection.peer.ip(), &parts.headers, &snapshot.server.trusted_proxies);
    match app.keys.user(&digest, client, SystemTime::now()) {
        Ok(user) => Ok(user),
        Err(denial) => {
            let known = match (denial, &app.authenticator) {
                (Denial::Unknown, Some(authenticator)) => {
                    authenticator.user(&digest, parts).filter(|user| user.enabled)
                }
                _ => None,
            };
            known.ok_or(Denied { denial, digest: Some(digest) })
        }
    }
}

#[cold]
fn refuse(
    app: &App,
    snapshot: &Arc<Snapshot>,
    connection: &Connection,
    id: &RequestId,
    parts: &Parts,
    denied: Denied,
) -> ApiError {
    let Denied { denial, digest } = denied;
    let client = client_address(connection.peer.ip(), &parts.headers, &snapshot.server.trusted_proxies);
    let limit = snapshot.server.auth_failures_per_minute;
    let (verdict, wait) = app.failures.count(client, limit, app.clock.now());
    if verdict != Verdict::Limited {
        let user_agent = parts.headers.get(USER_AGENT).map_or("", |value| value.to_str().unwrap_or(""));
        tracing::warn!(
            target: "berry_api::auth",
            request_id = id.as_str(),
            client = %client,
            user_agent = user_agent.get(..AUDIT_TEXT_MAX).unwrap_or(user_agent),
            path = parts.uri.path().get(..AUDIT_TEXT_MAX).unwrap_or_else(|| parts.uri.path()),
            token = digest.map(|digest| digest.fingerprint()).unwrap_or_default(),
            reason = denial.reason(),
            limited = verdict == Verdict::LimitReached,
            "Authentication failed"
        );
    }
    if verdict == Verdict::Audit {
        return ApiError::new(denial.kind(), denial.message());
    }
    ApiError {
        retry_after: Some(wait),
        ..ApiError::new(
            ErrorKind::RateLimitExceeded,
            "Too many requests with a wrong token came from your address. Mend the token; a valid one is served at once.",
        )
    }
}

/// Paths of the Gemini API, where a token may stand in the query.
pub fn is_gemini(uri: &Uri) -> bool {
    let path = uri.path();
    path == "/v1beta" || path.starts_with("/v1beta/") || path.contains(':') && gemini::call(uri).is_some()
}

/// The dialect in which a path's callers expect to be told of errors.
pub fn dialect_of(parts: &Parts) -> Dialect {
    let path = parts.uri.path();
    if is_gemini(&parts.uri) {
        Dialect::Gemini
    } else if path == "/v1/messages" || path.starts_with("/v1/messages/") || speaks_anthropic(parts) {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    }
}

/// Anthropic's clients name the version of their API on every call, the model list included.
pub fn speaks_anthropic(parts: &Parts) -> bool {
    parts.headers.contains_key("anthropic-version")
}
