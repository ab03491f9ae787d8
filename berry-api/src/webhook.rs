//! Tells the operator's own receiver when a budget reaches a threshold.
//!
//! A request only puts the news into a bounded queue; one task sends them, one after the other, again and again while the receiver
//! cannot take them. The form is that of Standard Webhooks (standardwebhooks.com, 2026): `webhook-id` names the news and stays the
//! same however often it is sent, `webhook-signature` is `v1,` and the Base64 of HMAC-SHA256 over `id.timestamp.body`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berry_core::config::snapshot::BudgetWebhook;
use berry_core::money::NanoUsd;
use berry_core::quota::{Alert, Period, PeriodKind};
use berry_relay::client::{self, Outside};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Request, StatusCode, Uri};
use parking_lot::Mutex;
use ring::{digest, hmac};
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::telemetry::format::rfc3339;

/// News that wait to be sent. More are counted and lost; the log has them all the same.
const WAITING_MAX: usize = 1_000;
/// How often one is sent before it is given up.
const SENDINGS_MAX: u32 = 8;
/// Before the second sending; doubles with each.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a receiver may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a secret begins with whose rest is the Base64 of the key; any other is the key itself.
const ENCODED: &str = "whsec_";

/// What waits to be told, and what became of the rest.
#[derive(Debug, Default)]
pub struct News {
    waiting: Mutex<VecDeque<(Alert, SystemTime)>>,
    bell: Notify,
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl News {
    /// Takes one; never waits.
    pub fn push(&self, alert: Alert) {
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_MAX {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push_back((alert, SystemTime::now()));
        drop(waiting);
        self.bell.notify_one();
    }

    /// How many were sent, given up, and had no room.
    pub fn counts(&self) -> [(&'static str, u64); 3] {
        [("sent", &self.sent), ("failed", &self.failed), ("dropped", &self.dropped)]
            .map(|(result, count)| (result, count.load(Ordering::Relaxed)))
    }

    fn pop(&self) -> Option<(Alert, SystemTime)> {
        self.waiting.lock().pop_front()
    }
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    user: Option<&'a str>,
    tag: Option<&'a str>,
    period: PeriodKind,
    starts_at: Option<String>,
    percent: u8,
    spent_usd: NanoUsd,
    limit_usd: NanoUsd,
}

/// Sends what comes until `last` is cancelled; then each that is left once. Without `[budget_webhook]` news go nowhere.
pub async fn run(app: Arc<App>, last: CancellationToken) {
    let client = client::outside();
    let news = app.budgets.news();
    loop {
        while let Some((alert, at)) = news.pop() {
            let Some(webhook) = app.runtime().snapshot.budget_webhook.clone() else { continue };
            let sent = deliver(&client, &webhook, &alert, at, &last).await;
            if sent { &news.sent } else { &news.failed }.fetch_add(1, Ordering::Relaxed);
        }
        tokio::select! {
            () = news.bell.notified() => {}
            () = last.cancelled() => return,
        }
    }
}

async fn deliver(
    client: &Outside,
    webhook: &BudgetWebhook,
    alert: &Alert,
    at: SystemTime,
    last: &CancellationToken,
) -> bool {
    let (id, body) = (id(alert), body(alert, at));
    let mut pause = PAUSE;
    for sending in 1..=SENDINGS_MAX {
        let error = match send(client, webhook, &id, body.clone()).await {
            Ok(()) => return true,
            Err(error) => error,
        };
        if !error.passes || sending == SENDINGS_MAX || last.is_cancelled() {
            tracing::warn!(holder = %alert.holder, percent = alert.reached.percent, error = error.why, "budget webhook not taken");
            return false;
        }
        let _ = tokio::time::timeout(pause, last.cancelled()).await;
        pause *= 2;
    }
    false
}

/// Why a message was not taken.
struct Refused {
    why: String,
    /// Whether it may be taken later.
    passes: bool,
}

async fn send(client: &Outside, webhook: &BudgetWebhook, id: &str, body: Bytes) -> Result<(), Refused> {
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).to_string();
    let signature = signature(webhook.secret.expose(), id, &timestamp, &body);
    let address: Uri = webhook.url.expose().parse().expect("the configuration has checked it");
    let request = Request::post(address)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("berry-api/", env!("CARGO_PKG_VERSION")))
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature)
        .body(body.into())
        .expect("address and headers are valid");
    // The client's own error would name the address, which may hold a secret.
    let status = match tokio::time::timeout(PATIENCE, client.request(request)).await {
        Ok(Ok(answer)) => answer.status(),
        Ok(Err(_)) => return Err(Refused { why: "it cannot be reached".to_owned(), passes: true }),
        Err(_) => return Err(Refused { why: format!("no answer within {PATIENCE:?}"), passes: true }),
    };
    let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
    match status.is_success() {
        true => Ok(()),
        false => Err(Refused {
            why: format!("status {}", status.as_u16()),
            passes: status.is_server_error() || later.contains(&status),
        }),
    }
}

/// The same for the same threshold of the same period, so that a receiver can tell what it has seen.
fn id(alert: &Alert) -> String {
    let reached = &alert.reached;
    let name = format!("{}\n{}\n{}\n{}", alert.holder, reached.kind.as_str(), reached.starts, reached.percent);
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    let hex: String = digest.as_ref()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("msg_{hex}")
}

fn body(alert: &Alert, at: SystemTime) -> Bytes {
    let Alert { holder, reached } = alert;
    let name = |kind: &str| (holder.kind() == kind).then(|| holder.name());
    let starts = jiff::Timestamp::from_second(reached.starts).ok().filter(|_| reached.starts != Period::EVER.starts);
    let message = Message {
        r#type: "budget.threshold_reached",
        timestamp: rfc3339(at),
        data: Data {
            user: name("user"),
            tag: name("tag"),
            period: reached.kind,
            starts_at: starts.map(|starts| rfc3339(starts.into())),
            percent: reached.percent,
            spent_usd: reached.spent,
            limit_usd: reached.limit,
        },
    };
    Bytes::from(serde_json::to_vec(&message).expect("texts and numbers always serialise"))
}

fn signature(secret: &str, id: &str, timestamp: &str, body: &[u8]) -> String {
    let decoded = secret.strip_prefix(ENCODED).and_then(|encoded| STANDARD.decode(encoded).ok());
    let key = hmac::Key::new(hmac::HMAC_SHA256, decoded.as_deref().unwrap_or(secret.as_bytes()));
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, &signed)))
}

#[cfg(test)]
mod tests {
    use berry_core::quota::{Holder, Reached};

    use super::*;

    fn alert(percent: u8) -> Alert {
        let (spent, limit) = (NanoUsd::from_nanos(500_000_000), NanoUsd::from_nanos(1_000_000_000));
        let reached = Reached { kind: PeriodKind::Day, starts: 86_400, percent, spent, limit };
        Alert { holder: Holder::User("ben".into()), reached }
    }

    #[test]
    fn the_signature_is_hmac_sha256_over_id_time_and_body() {
        let raw = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"Jefe"), b"a.1.{}");
        assert_eq!(signature("Jefe", "a", "1", b"{}"), format!("v1,{}", STANDARD.encode(raw)));
        assert_eq!(signature("whsec_SmVmZQ==", "a", "1", b"{}"), signature("Jefe", "a", "1", b"{}"));
        assert_ne!(signature("Jefe", "a", "2", b"{}"), signature("Jefe", "a", "1", b"{}"));
    }

    #[test]
    fn the_message_says_whose_what_and_how_much() {
        let text = String::from_utf8(body(&alert(50), UNIX_EPOCH).to_vec()).unwrap();
        let expected = "{\"type\":\"budget.threshold_reached\",\"timestamp\":\"1970-01-01T00:00:00.000000Z\",\"data\":{\"user\":\"ben\",\
             \"tag\":null,\"period\":\"day\",\"starts_at\":\"1970-01-02T00:00:00.000000Z\",\"percent\":50,\"spent_usd\":\"0.5\",\
             \"limit_usd\":\"1\"}}";
        assert_eq!(text, expected);
    }

    #[test]
    fn an_id_is_that_of_the_threshold_in_its_period() {
        assert_eq!(id(&alert(50)), id(&alert(50)));
        assert_ne!(id(&alert(50)), id(&alert(80)));
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_counted() {
        let news = News::default();
        (0..=WAITING_MAX).for_each(|_| news.push(alert(50)));
        assert_eq!(news.counts(), [("sent", 0), ("failed", 0), ("dropped", 1)]);
    }
}
