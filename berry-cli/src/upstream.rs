//! `health-check` and `test-backend`: questions put to upstreams directly, without a server between.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use berry_core::config::snapshot::{Provider, Snapshot, Upstream};
use berry_mock::{Mock, Script};
use berry_relay::client::{Dial, Upstreams};
use berry_relay::probe::{self, Finding, Probe};
use serde_json::{Value, json};

use crate::ConfigFile;
use crate::check;
use crate::output::{Failure, Output};

/// What was learnt of one provider.
struct Report {
    id: String,
    healthy: bool,
    detail: String,
    latency: Option<Duration>,
}

impl Report {
    fn to_json(&self) -> Value {
        json!({
            "provider": self.id,
            "healthy": self.healthy,
            "detail": self.detail,
            "latency_ms": self.latency.map(|latency| latency.as_millis()),
        })
    }
}

/// Asks every enabled provider, or one, for its models list.
pub(crate) fn health_check(file: &ConfigFile, only: Option<&str>) -> Result<Output, Failure> {
    let snapshot = check::load(file)?.snapshot;
    let providers = match only {
        Some(id) => vec![find_provider(&snapshot, id)?],
        None => enabled_providers(&snapshot),
    };
    let reports = with_upstreams(&snapshot, async |upstreams| {
        let mut reports = Vec::new();
        for provider in &providers {
            reports.push(ask_health(upstreams, &snapshot, provider).await);
        }
        reports
    })?;
    let ok = reports.iter().all(|report| report.healthy);
    let verdict = match (only, ok) {
        (Some(id), true) => format!("✅ Provider {id} is healthy"),
        (Some(id), false) => format!("❌ Provider {id} is not healthy"),
        (None, true) => "✅ Health check completed".to_owned(),
        (None, false) => "❌ Health check completed: not every provider is healthy".to_owned(),
    };
    let text = reports.iter().fold(verdict, |mut text, report| {
        let mark = if report.healthy { "✅" } else { "❌" };
        let _ = write!(text, "\n  {mark} {}: {}", report.id, report.detail);
        text
    });
    Ok(Output {
        text,
        json: json!({"ok": ok, "providers": reports.iter().map(Report::to_json).collect::<Vec<_>>()}),
        ok,
    })
}

/// Sends a one-token chat to one model of one provider.
pub(crate) fn test_backend(file: &ConfigFile, provider: &str, model: &str) -> Result<Output, Failure> {
    let snapshot = check::load(file)?.snapshot;
    let provider = find_provider(&snapshot, provider)?;
    let timeout = provider.timeouts.completion;
    let result = with_upstreams(&snapshot, async |upstreams| {
        probe::ask(upstreams, &provider, Probe::Chat(model), timeout).await
    })?;
    let (ok, detail) = match &result {
        Ok(finding) if finding.status.is_success() => (true, format!("{} ms", finding.latency.as_millis())),
        Ok(finding) => (false, refusal(finding)),
        Err(error) => (false, error.to_string()),
    };
    let name = format!("{}:{model}", provider.id);
    let text = match ok {
        true => format!("✅ Backend {name} connectivity test passed\n  {detail}"),
        false => format!("❌ Backend {name} connectivity test failed\n  {detail}"),
    };
    Ok(Output { text, json: json!({"ok": ok, "provider": provider.id, "model": model, "detail": detail}), ok })
}

fn enabled_providers(snapshot: &Snapshot) -> Vec<Arc<Provider>> {
    let mut providers: Vec<_> = snapshot.providers.values().filter(|provider| provider.enabled).cloned().collect();
    providers.sort_by(|a, b| a.id.cmp(&b.id));
    providers
}

fn find_provider(snapshot: &Snapshot, id: &str) -> Result<Arc<Provider>, Failure> {
    match snapshot.providers.get(id) {
        Some(provider) if provider.enabled => Ok(Arc::clone(provider)),
        Some(_) => {
            Err(Failure::new(format!("provider {id} is disabled"), format!("Set providers.{id}.enabled = true.")))
        }
        None => {
            let mut known: Vec<_> = snapshot.providers.keys().map(|id| id.as_str()).collect();
            known.sort_unstable();
            Err(Failure::new(format!("no provider {id} in the configuration"), format!("Known: {}.", known.join(", "))))
        }
    }
}

/// The models list where there is one; a one-token chat with a configured model where there is none.
async fn ask_health(upstreams: &Upstreams, snapshot: &Snapshot, provider: &Arc<Provider>) -> Report {
    let timeout = snapshot.settings.probing.timeout;
    let mut asked = probe::ask(upstreams, provider, Probe::Models, timeout).await;
    if let (Ok(finding), Some(model)) = (&asked, a_model(snapshot, provider))
        && matches!(finding.status.as_u16(), 404 | 405 | 501)
    {
        asked = probe::ask(upstreams, provider, Probe::Chat(&model), timeout).await;
    }
    let id = provider.id.to_string();
    match asked {
        Ok(finding) if finding.status.is_success() => {
            let models = finding.models.map_or_else(String::new, |models| format!(", {} models", models.len()));
            let detail = format!("{} ms{models}", finding.latency.as_millis());
            Report { id, healthy: true, detail, latency: Some(finding.latency) }
        }
        Ok(finding) => Report { id, healthy: false, detail: refusal(&finding), latency: Some(finding.latency) },
        Err(error) => Report { id, healthy: false, detail: error.to_string(), latency: None },
    }
}

/// A model that some backend uses at this provider.
fn a_model(snapshot: &Snapshot, provider: &Provider) -> Option<String> {
    let backends = snapshot.models.all.iter().flat_map(|model| &model.backends);
    let own =
        backends.filter(|backend| backend.provider.id == provider.id).map(|backend| backend.id.upstream.to_string());
    own.chain(provider.models.iter().map(ToString::to_string)).next()
}

fn refusal(finding: &Finding) -> String {
    let hint = match finding.status.as_u16() {
        401 | 403 => ": the key was refused, check api_key",
        404 => ": not found, check base_url and the model's name",
        429 => ": rate limited or out of quota",
        _ => "",
    };
    format!("status {}{hint}", finding.status.as_u16())
}

/// Runs questions with clients for the configuration's providers.
fn with_upstreams<T>(snapshot: &Snapshot, ask: impl AsyncFnOnce(&Upstreams) -> T) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(format!("no runtime: {error}"), "Try again."))?;
    runtime.block_on(async {
        let dials = demo_dials(snapshot);
        let upstreams = Upstreams::new(snapshot.providers.values(), &dials, None)
            .map_err(|error| Failure::new(error.to_string(), "Mend the provider's TLS or proxy settings."))?;
        Ok(ask(&upstreams).await)
    })
}

/// In-memory upstreams of demo providers.
fn demo_dials(snapshot: &Snapshot) -> HashMap<berry_core::id::ProviderId, Dial> {
    let demos = snapshot.providers.values().filter(|provider| matches!(provider.upstream, Upstream::Demo(_)));
    demos
        .map(|provider| {
            let mock = Mock::new(Script::default());
            (provider.id.clone(), Arc::new(move || mock.connect()) as Dial)
        })
        .collect()
}
