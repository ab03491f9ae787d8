//! `[ledger]`, `[cluster]`, `[telemetry]` and `[cache]`.

use http::Uri;

use crate::config::decode::{At, SecretText, Text, defaults};
use crate::config::path::KeyPath;
use crate::config::problem::Problems;
use crate::config::raw::{RawBudgetWebhook, RawCache, RawCluster, RawLedger, RawTelemetry};
use crate::config::snapshot::{BudgetWebhook, Cache, Cluster, Ledger, LedgerStore, LogFile, StoreKind, Telemetry};
use crate::secret::Secret;

/// Compiles `[ledger]`.
pub(super) fn ledger(raw: Option<At<RawLedger>>, at: &KeyPath<'_>, problems: &mut Problems) -> Ledger {
    let header = raw.as_ref().and_then(|raw| raw.span.clone());
    let RawLedger { backend, url, path, retention_days, fsync, journal_max_bytes, hash_end_users, on_failure } =
        raw.map_or_else(defaults, |raw| raw.value);
    let url = url.and_then(|url| address(url, &["postgres://", "postgresql://"], &at.key("url"), problems));
    let store = match (backend.value.0, url) {
        (StoreKind::Postgres, Some(url)) => {
            unused(path.as_ref(), &at.key("path"), "sqlite", problems);
            LedgerStore::Postgres(url.value)
        }
        (StoreKind::Postgres, None) if problems.failed_within(&at.key("url")) => LedgerStore::Off,
        (StoreKind::Postgres, None) => {
            problems
                .error(
                    &at.key("url"),
                    backend.span.or(header),
                    "missing: backend = \"postgres\" needs the database's address",
                )
                .hint("url = \"postgres://user:${PG_PASSWORD}@host/berry\"");
            LedgerStore::Off
        }
        (kind, url) => {
            unused(url.as_ref(), &at.key("url"), "postgres", problems);
            if kind == StoreKind::Sqlite {
                LedgerStore::Sqlite(path.map(|path| path.value))
            } else {
                unused(path.as_ref(), &at.key("path"), "sqlite", problems);
                LedgerStore::Off
            }
        }
    };
    Ledger {
        store,
        retention_days: retention_days.map(|days| days.value),
        fsync: fsync.value,
        journal_max_bytes: journal_max_bytes.value,
        hash_end_users: hash_end_users.value,
        on_failure: on_failure.value.0,
    }
}

fn unused<T>(key: Option<&At<T>>, at: &KeyPath<'_>, kind: &str, problems: &mut Problems) {
    if let Some(key) = key {
        problems.warning(at, key.span.clone(), format!("has no effect: it belongs to backend = {kind:?}"));
    }
}

/// Compiles `[cluster]`.
pub(super) fn cluster(raw: Option<At<RawCluster>>, at: &KeyPath<'_>, problems: &mut Problems) -> Option<Cluster> {
    let raw = raw?;
    let RawCluster { redis_url, on_failure, budgets_on_failure, key_prefix, instances } = raw.value;
    let Some(url) = redis_url else {
        if !problems.failed_within(&at.key("redis_url")) {
            problems
                .error(&at.key("redis_url"), raw.span, "missing: instances share their state through it")
                .hint("redis_url = \"redis://host:6379\", or leave the table out");
        }
        return None;
    };
    let url = address(url, &["redis://", "rediss://", "redis+unix://"], &at.key("redis_url"), problems)?;
    let on_failure = on_failure.value.0;
    Some(Cluster {
        redis_url: url.value,
        on_failure,
        budgets_on_failure: budgets_on_failure.map_or(on_failure, |choice| choice.value.0),
        key_prefix: key_prefix.map_or_else(|| "berry".into(), |prefix| prefix.value.value.into()),
        instances: instances.value,
    })
}

/// Compiles `[budget_webhook]`.
pub(super) fn budget_webhook(
    raw: Option<At<RawBudgetWebhook>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Option<BudgetWebhook> {
    let raw = raw?;
    let RawBudgetWebhook { url, secret } = raw.value;
    let mut needed = |key: &str, value: Option<At<SecretText>>, hint: &str| {
        let at = at.key(key);
        let given = value.filter(|value| !value.value.0.is_empty());
        if given.is_none() && !problems.failed_within(&at) {
            problems.error(&at, raw.span.clone(), "missing: a receiver is told nothing without it").hint(hint);
        }
        given
    };
    let url = needed("url", url, "url = \"https://host/path\", or leave the table out");
    let secret = needed("secret", secret, "secret = \"${BUDGET_WEBHOOK_SECRET}\"; openssl rand -hex 32 makes one");
    let url = address(url?, &["https://", "http://"], &at.key("url"), problems)?;
    if url.value.expose().parse::<Uri>().is_err() {
        problems.error(&at.key("url"), url.span, "is not a URL").hint("write it as https://host/path");
        return None;
    }
    let secret = secret?;
    if secret.value.0.expose().strip_prefix("whsec_").is_some_and(|key| !is_base64(key)) {
        problems.error(&at.key("secret"), secret.span, "begins with whsec_, and what follows is not Base64");
        return None;
    }
    Some(BudgetWebhook { url: url.value, secret: secret.value.0 })
}

/// Whether a text is Base64 with its padding.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"+/".contains(&byte);
    !body.is_empty() && text.len().is_multiple_of(4) && text.len() - body.len() <= 2 && body.bytes().all(known)
}

/// An address that may hold a password, by its scheme.
fn address(url: At<SecretText>, schemes: &[&str], at: &KeyPath<'_>, problems: &mut Problems) -> Option<At<Secret>> {
    let secret = url.value.0;
    if schemes.iter().any(|scheme| secret.expose().starts_with(scheme)) {
        return Some(At { value: secret, span: url.span });
    }
    problems.error(at, url.span, format!("must start with {}", schemes.join(" or ")));
    None
}

/// Compiles `[telemetry]`.
pub(super) fn telemetry(raw: Option<At<RawTelemetry>>, at: &KeyPath<'_>, problems: &mut Problems) -> Telemetry {
    let RawTelemetry {
        log_format,
        log_file,
        log_file_format,
        log_file_max_bytes,
        log_file_keep,
        otlp_endpoint,
        trace_sample_ratio,
    } = raw.map_or_else(defaults, |raw| raw.value);
    let log_file = log_file.map(|path| LogFile {
        path: path.value,
        format: log_file_format.value.0,
        max_bytes: Some(log_file_max_bytes.value).filter(|bytes| *bytes > 0),
        keep: log_file_keep.value,
    });
    Telemetry {
        log_format: log_format.value.0,
        log_file,
        otlp_endpoint: otlp_endpoint.and_then(|url| http_url(&url, &at.key("otlp_endpoint"), problems)),
        trace_sample_ratio: trace_sample_ratio.value,
    }
}

/// An `http://` or `https://` URL.
pub(super) fn http_url(text: &At<Text>, at: &KeyPath<'_>, problems: &mut Problems) -> Option<Uri> {
    let uri = text.value.value.trim().parse::<Uri>().ok();
    let fits =
        |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|h| !h.is_empty());
    if let Some(uri) = uri.filter(fits) {
        return Some(uri);
    }
    problems.error(at, text.span.clone(), "is not a URL").hint("write it as http://host:port");
    None
}

/// Compiles `[cache]`.
pub(super) fn cache(raw: Option<At<RawCache>>, at: &KeyPath<'_>, problems: &mut Problems) -> Cache {
    let RawCache { enabled, ttl_seconds, max_bytes, max_entry_bytes } = raw.map_or_else(defaults, |raw| raw.value);
    if max_entry_bytes.value > max_bytes.value {
        let span = max_entry_bytes.span.or(max_bytes.span);
        problems.error(
            &at.key("max_entry_bytes"),
            span,
            format!("{} is above max_bytes, {}", max_entry_bytes.value, max_bytes.value),
        );
    }
    Cache {
        enabled: enabled.value,
        ttl: ttl_seconds.value.duration(),
        max_bytes: max_bytes.value,
        max_entry_bytes: max_entry_bytes.value,
    }
}
