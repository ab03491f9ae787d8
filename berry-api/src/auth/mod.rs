//! Who is asking: the presented token, the user it belongs to, and what happens when there is none.

pub mod address;
pub mod failures;

use std::borrow::Cow;
use std::sync::{Arc, Weak};

use berry_core::auth::key::TokenDigest;
use berry_core::config::snapshot::{Snapshot, User};
use berry_core::error::ErrorKind;
use berry_core::secret::Secret;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use subtle::ConstantTimeEq as _;

/// Headers that carry a bare token, in the order in which the first present one decides.
const BARE: [HeaderName; 3] = [
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// Why nobody is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// There is no token.
    Missing,
    /// A token header stands there twice.
    Twice,
    /// `Authorization` is not `Bearer TOKEN`.
    NotBearer,
    /// The token belongs to nobody.
    Unknown,
    /// The token's user is switched off.
    Disabled,
    /// The key's time is over.
    Expired,
    /// The key may not be used from the client's address.
    ForeignNetwork,
}

impl Denial {
    /// Which error it is.
    pub fn kind(self) -> ErrorKind {
        match self {
            Self::Disabled => ErrorKind::DisabledUser,
            Self::Missing | Self::Twice | Self::NotBearer | Self::Unknown | Self::Expired | Self::ForeignNetwork => {
                ErrorKind::InvalidToken
            }
        }
    }

    /// In a few words, for the audit.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "no token",
            Self::Twice => "more than one token header of a kind",
            Self::NotBearer => "Authorization is not a bearer token",
            Self::Unknown => "unknown token",
            Self::Disabled => "user is disabled",
            Self::Expired => "key has expired",
            Self::ForeignNetwork => "key is not for this address",
        }
    }

    /// For the client: what happened and what to do.
    pub fn message(self) -> &'static str {
        match self {
            Self::Missing => {
                "No token was sent. Send the token that the operator of this gateway gave you as `Authorization: Bearer \
                 TOKEN` or `x-api-key: TOKEN`."
            }
            Self::Twice => "The header that carries the token was sent more than once. Send it once.",
            Self::NotBearer => "The Authorization header is not of the form `Bearer TOKEN`.",
            Self::Unknown => {
                "The token is not known here. Check that it is the one that the operator of this gateway gave you, not a \
                 provider's key."
            }
            Self::Disabled => "The user of this token is switched off. Ask the operator of this gateway.",
            Self::Expired => "This key has expired. Ask the operator of this gateway for another one.",
            Self::ForeignNetwork => {
                "This key may not be used from your address. Ask the operator of this gateway which networks it is for."
            }
        }
    }
}

/// A denial, with the digest of the token that was presented.
#[derive(Clone, Copy, Debug)]
pub struct Denied {
    /// Why.
    pub denial: Denial,
    /// For the fingerprint in the audit.
    pub digest: Option<TokenDigest>,
}

impl From<Denial> for Denied {
    fn from(denial: Denial) -> Self {
        Self { denial, digest: None }
    }
}

/// The user whose token came with the request.
///
/// `query` is the query string where `?key=` counts, which is on Gemini's paths only. `known` is what the same connection
/// proved before.
///
/// # Errors
/// [`Denied`] when there is no token, or not one of an enabled user.
pub fn authenticate(
    snapshot: &Arc<Snapshot>,
    known: &Known,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Arc<User>, Denied> {
    let token = presented(headers, query)?;
    if let Some(user) = known.user(snapshot, &token) {
        return Ok(user);
    }
    let digest = TokenDigest::of(&token);
    let denied = |denial| Denied { denial, digest: Some(digest) };
    let user = snapshot.users.of_token(&digest).ok_or_else(|| denied(Denial::Unknown))?;
    if !user.enabled {
        return Err(denied(Denial::Disabled));
    }
    known.keep(snapshot, &token, &user);
    Ok(user)
}

/// The token that was last accepted on a connection, so that a client that keeps its connection is not hashed for each request.
///
/// It holds only while the configuration is the same, and tokens are compared in constant time.
#[derive(Debug, Default)]
pub struct Known(Mutex<Option<Accepted>>);

#[derive(Debug)]
struct Accepted {
    /// Weak, so that an idle connection keeps no configuration alive; its address cannot be another's meanwhile.
    under: Weak<Snapshot>,
    token: Secret,
    user: Arc<User>,
}

impl Known {
    fn user(&self, snapshot: &Arc<Snapshot>, token: &str) -> Option<Arc<User>> {
        let accepted = self.0.lock();
        let accepted = accepted.as_ref()?;
        let same = std::ptr::eq(accepted.under.as_ptr(), Arc::as_ptr(snapshot))
            && bool::from(accepted.token.expose().as_bytes().ct_eq(token.as_bytes()));
        same.then(|| Arc::clone(&accepted.user))
    }

    fn keep(&self, snapshot: &Arc<Snapshot>, token: &str, user: &Arc<User>) {
        *self.0.lock() =
            Some(Accepted { under: Arc::downgrade(snapshot), token: Secret::from(token), user: Arc::clone(user) });
    }
}

/// The token as presented. The first form that is present decides alone, so that a proxy and this gateway cannot disagree on
/// which of two tokens counts.
fn presented<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Result<Cow<'a, str>, Denial> {
    if let Some(value) = single(headers, &AUTHORIZATION)? {
        return bearer(value).map(Cow::Borrowed);
    }
    for name in &BARE {
        if let Some(value) = single(headers, name)? {
            return text(value.as_bytes()).map(Cow::Borrowed);
        }
    }
    let key = query.into_iter().flat_map(|query| query.split('&')).find_map(|pair| pair.strip_prefix("key="));
    match key.map(|key| percent_decode_str(key).decode_utf8()) {
        Some(Ok(key)) if !key.is_empty() => Ok(key),
        Some(_) | None => Err(Denial::Missing),
    }
}

/// The only value of a header.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a HeaderValue>, Denial> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    match values.next() {
        None => Ok(first),
        Some(_) => Err(Denial::Twice),
    }
}

/// `Bearer TOKEN`, the word in any case.
fn bearer(value: &HeaderValue) -> Result<&str, Denial> {
    let value = value.as_bytes();
    let (word, rest) = value.split_at_checked(7).ok_or(Denial::NotBearer)?;
    if !word.eq_ignore_ascii_case(b"bearer ") {
        return Err(Denial::NotBearer);
    }
    text(rest)
}

/// A token as text. Tokens need not be ASCII; what is not UTF-8 belongs to nobody.
fn text(value: &[u8]) -> Result<&str, Denial> {
    match std::str::from_utf8(value.trim_ascii()) {
        Ok("") => Err(Denial::Missing),
        Ok(token) => Ok(token),
        Err(_) => Err(Denial::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berry_core::config::{Config, Environment};

    struct NoEnvironment;

    impl Environment for NoEnvironment {
        fn var(&self, _: &str) -> Option<String> {
            None
        }

        fn read_file(&self, _: &std::path::Path) -> std::io::Result<String> {
            Err(std::io::ErrorKind::NotFound.into())
        }
    }

    fn snapshot(users: &[(&str, &str, bool)]) -> Arc<Snapshot> {
        let text: String = users
            .iter()
            .map(|(id, token, enabled)| {
                format!("[users.{id:?}]\nname = {id:?}\ntoken = {token:?}\nenabled = {enabled}\n")
            })
            .collect();
        Config::from_text("test.toml", &text, &NoEnvironment).unwrap().snapshot
    }

    fn users() -> Arc<Snapshot> {
        snapshot(&[("ann", "tok-ann", true), ("bob", "tok-bob", false), ("王", "令牌", true)])
    }

    fn check(headers: &[(&'static str, &str)], query: Option<&str>, expect: Result<&str, Denial>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let found = authenticate(&users(), &Known::default(), &map, query);
        let found = found.as_ref().map(|user| user.id.as_str()).map_err(|denied| denied.denial);
        assert_eq!(found, expect, "{headers:?} {query:?}");
    }

    #[test]
    fn every_documented_form_of_a_token_is_accepted() {
        check(&[("authorization", "Bearer tok-ann")], None, Ok("ann"));
        check(&[("authorization", "bEARER   tok-ann ")], None, Ok("ann"));
        check(&[("authorization", "Bearer 令牌")], None, Ok("王"));
        check(&[("x-api-key", "tok-ann")], None, Ok("ann"));
        check(&[("api-key", "tok-ann")], None, Ok("ann"));
        check(&[("x-goog-api-key", "tok-ann")], None, Ok("ann"));
        check(&[], Some("alt=sse&key=tok%2Dann"), Ok("ann"));
    }

    #[test]
    fn the_first_form_present_decides_alone() {
        check(
            &[("authorization", "Bearer wrong"), ("x-api-key", "tok-ann")],
            Some("key=tok-ann"),
            Err(Denial::Unknown),
        );
        check(&[("authorization", "Basic dG9rLWFubg=="), ("x-api-key", "tok-ann")], None, Err(Denial::NotBearer));
        check(&[("x-api-key", "tok-ann"), ("api-key", "wrong")], None, Ok("ann"));
        check(&[("x-api-key", "wrong"), ("api-key", "tok-ann")], None, Err(Denial::Unknown));
        check(&[("authorization", ""), ("x-api-key", "tok-ann")], None, Err(Denial::NotBearer));
    }

    #[test]
    fn the_same_header_twice_is_refused_even_when_both_are_right() {
        for name in ["authorization", "x-api-key"] {
            let value = if name == "authorization" { "Bearer tok-ann" } else { "tok-ann" };
            check(&[(name, value), (name, value)], None, Err(Denial::Twice));
        }
    }

    #[test]
    fn near_misses_are_unknown_and_nothing_is_missing() {
        for token in ["tok-an", "tok-annn", "TOK-ANN", "tok-ann'--", "tok-ann\u{200b}"] {
            check(&[("x-api-key", token)], None, Err(Denial::Unknown));
        }
        check(&[], None, Err(Denial::Missing));
        check(&[("authorization", "Bearer ")], None, Err(Denial::Missing));
        check(&[("authorization", "Bearer")], None, Err(Denial::NotBearer));
        check(&[("x-api-key", "")], None, Err(Denial::Missing));
        check(&[], Some("key="), Err(Denial::Missing));
    }

    #[test]
    fn a_disabled_user_is_told_so() {
        check(&[("x-api-key", "tok-bob")], None, Err(Denial::Disabled));
        assert_eq!(Denial::Disabled.kind(), ErrorKind::DisabledUser);
    }

    #[test]
    fn what_a_connection_proved_holds_for_that_token_and_that_configuration_only() {
        let known = Known::default();
        let ask = |snapshot: &Arc<Snapshot>, token: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-api-key", token.parse().unwrap());
            authenticate(snapshot, &known, &headers, None)
                .map(|user| user.id.to_string())
                .map_err(|denied| denied.denial)
        };
        let before = snapshot(&[("ann", "tok-ann", true), ("eve", "tok-eve", true)]);
        for _ in 0..2 {
            assert_eq!(ask(&before, "tok-ann"), Ok("ann".to_owned()));
        }
        assert_eq!(ask(&before, "tok-anm"), Err(Denial::Unknown));
        assert_eq!(ask(&before, "tok-eve"), Ok("eve".to_owned()));
        assert_eq!(ask(&before, "tok-ann"), Ok("ann".to_owned()));
        let after = snapshot(&[("ann", "tok-ann", false)]);
        assert_eq!(ask(&after, "tok-ann"), Err(Denial::Disabled));
    }
}
