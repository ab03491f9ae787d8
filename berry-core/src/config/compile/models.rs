//! `[models.*]` and their backends.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use super::headers;
use super::limits;
use super::strings;
use crate::config::decode::{At, Entry, HiddenText, Map, Text};
use crate::config::path::KeyPath;
use crate::config::problem::{Problems, Span, closest};
use crate::config::raw::{Parameters, RawBackend, RawCommit, RawModel, RawPrices};
use crate::config::snapshot::{Backend, BackendLimits, Commit, Edits, Model, Models, PriceTable, Provider};
use crate::id::{BackendId, ModelId, ModelName, ProviderId, UpstreamModel};
use crate::money::Prices;
use crate::policy::ModelPattern;
use crate::tariff::{PriceSource, Tariff};

/// The providers by table key.
type Providers = HashMap<ProviderId, Arc<Provider>>;

/// Compiles `[models]`.
pub(super) fn compile(
    raw: Option<At<Map<RawModel>>>,
    providers: &Providers,
    prices: &Arc<PriceTable>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Models {
    let entries = raw.map(|map| map.value.0).unwrap_or_default();
    if entries.is_empty() && !problems.failed_within(at) {
        problems
            .warning(at, None, "no model: there is nothing that clients could ask for")
            .hint("add [models.NAME] with a [[models.NAME.backends]]");
    } else if !entries.is_empty() && !entries.iter().any(|entry| entry.value.enabled.value) {
        let first = entries.first().map(|entry| entry.span.clone());
        problems.warning(at, first, "every model is switched off: there is nothing that clients could ask for");
    }
    let mut names = Names::default();
    let mut models = Models::default();
    for entry in entries {
        let claims = Claims::of(&entry);
        let model = Arc::new(model(entry, providers, prices, at, problems));
        models.all.push(Arc::clone(&model));
        if !model.enabled {
            continue;
        }
        names.claim(&model, claims, at, problems);
        if model.pattern.is_some() {
            models.patterns.push(Arc::clone(&model));
        } else {
            models.by_name.entry(model.id.as_str().into()).or_insert_with(|| Arc::clone(&model));
            models.by_name.entry(model.name.as_str().into()).or_insert_with(|| Arc::clone(&model));
        }
        for alias in &model.aliases {
            models.by_name.entry(alias.as_str().into()).or_insert_with(|| Arc::clone(&model));
        }
    }
    let literal = |model: &Model| model.name.as_str().chars().filter(|c| *c != '*').count();
    // Stable, so that equally long patterns keep the order of the file.
    models.patterns.sort_by_key(|model| std::cmp::Reverse(literal(model)));
    models
}

/// Where the names of one model stand.
struct Claims {
    table: Span,
    name: Option<Span>,
    aliases: Vec<Option<Span>>,
}

impl Claims {
    fn of(entry: &Entry<RawModel>) -> Self {
        Self {
            table: entry.span.clone(),
            name: entry.value.name.as_ref().and_then(|name| name.span.clone()),
            aliases: entry.value.aliases.value.iter().map(|alias| alias.span.clone()).collect(),
        }
    }
}

/// Every name of every enabled model, to see that each reaches one model only.
#[derive(Default)]
struct Names(HashMap<String, (ModelId, Span)>);

impl Names {
    fn claim(&mut self, model: &Model, places: Claims, at: &KeyPath<'_>, problems: &mut Problems) {
        let at = at.key(model.id.as_str());
        let Claims { table, name, aliases } = places;
        let table_key = model.id.as_str();
        if model.pattern.is_none() {
            self.one(table_key, &model.id, table.clone(), &at, problems);
        }
        let place = name.unwrap_or_else(|| table.clone());
        self.one(model.name.as_str(), &model.id, place, &at.key("name"), problems);
        let list = at.key("aliases");
        for (index, (alias, place)) in model.aliases.iter().zip(aliases).enumerate() {
            let place = place.unwrap_or_else(|| table.clone());
            self.one(alias.as_str(), &model.id, place, &list.index(index), problems);
        }
    }

    fn one(&mut self, name: &str, model: &ModelId, place: Span, at: &KeyPath<'_>, problems: &mut Problems) {
        match self.0.get(name) {
            Some((other, _)) if other == model => {}
            Some((other, first)) => {
                let other = KeyPath::ROOT.key("models").key(other.as_str()).to_string();
                problems
                    .error(at, place, format!("{name:?} is already a name of {other}"))
                    .related(Some(first.clone()), "first used here")
                    .hint("name, aliases and table name of a model all reach it, so each may be used once");
            }
            None => {
                self.0.insert(name.to_owned(), (model.clone(), place));
            }
        }
    }
}

fn model(
    entry: Entry<RawModel>,
    providers: &Providers,
    prices: &Arc<PriceTable>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Model {
    let at = &at.key(&entry.key);
    let RawModel {
        name,
        aliases,
        strategy,
        enabled,
        backends: raw_backends,
        rewrite_response_model,
        default_max_output_tokens,
        defaults,
        r#override,
        drop,
        extra_headers,
        commit,
        loss_policy,
        interchangeable,
        repair,
        queue_timeout_ms,
        queue_max,
    } = entry.value;
    let enabled = enabled.value;
    let name_span = name.as_ref().and_then(|name| name.span.clone());
    let name = name.map_or_else(|| entry.key.clone(), |name| name.value.value);
    if name.trim() != name || name.is_empty() || name.chars().any(char::is_control) {
        problems.error(
            &at.key("name"),
            name_span,
            "is empty, or has white space at an end or control characters in it",
        );
    }
    let pattern = name.contains('*').then(|| ModelPattern::new(&name));
    let id = ModelId::new(entry.key.as_str());
    let pool = Pool { model: &id, enabled, is_pattern: pattern.is_some(), providers, prices };
    let backends = backends(raw_backends, &pool, &at.key("backends"), problems);
    let usable = backends.iter().any(|backend| backend.enabled);
    if enabled && !usable && !problems.failed_within(&at.key("backends")) {
        let message = "no usable backend: requests for this model are answered 503";
        let hint = if backends.is_empty() {
            format!("add [[{}]] with provider and model", at.key("backends"))
        } else {
            "its backends, or their providers, are switched off".to_owned()
        };
        problems.warning(at, entry.span, message).hint(hint);
    }
    let edits = edits(default_max_output_tokens, defaults, r#override, drop, extra_headers, at, problems);
    Model {
        name_header: HeaderValue::from_bytes(name.as_bytes()).ok(),
        name: ModelName::new(name),
        aliases: alias_names(aliases.value, &at.key("aliases"), problems),
        enabled,
        strategy: strategy.value.0,
        pattern,
        rewrite_response_model: rewrite_response_model.value,
        edits,
        commit: hold_back(commit),
        loss_policy: loss_policy.value.0,
        interchangeable: interchangeable.value,
        repair: repair.value,
        queue_timeout: queue_timeout_ms.value.duration(),
        queue_max: queue_max.value,
        backends,
        id,
    }
}

fn alias_names(raw: Vec<At<Text>>, at: &KeyPath<'_>, problems: &mut Problems) -> Vec<ModelName> {
    for (index, alias) in raw.iter().enumerate() {
        let text = alias.value.value.as_str();
        if text.is_empty() || text.contains('*') {
            problems
                .error(&at.index(index), alias.span.clone(), "is not a name")
                .hint("an alias is one name; for a pattern, put it into name");
        }
    }
    strings(raw).into_iter().map(ModelName::new).collect()
}

fn hold_back(raw: Option<At<RawCommit>>) -> Commit {
    raw.map_or_else(Commit::default, |raw| {
        let RawCommit { tokens, ms } = raw.value;
        Commit { tokens: tokens.value, time: ms.value.duration() }
    })
}

fn edits(
    max_output_tokens: Option<At<u64>>,
    defaults: At<Parameters>,
    overrides: At<Parameters>,
    drop: At<Vec<At<Text>>>,
    extra_headers: Option<At<Map<HiddenText>>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Edits {
    let boxed = |parameters: Parameters| {
        parameters.0.into_iter().map(|(name, json)| (name.into_boxed_str(), json.into_boxed_str())).collect()
    };
    for (index, name) in drop.value.iter().enumerate() {
        if matches!(name.value.value.as_str(), "model" | "stream" | "backend" | "messages" | "input" | "") {
            let at = &at.key("drop");
            problems.error(&at.index(index), name.span.clone(), format!("{} cannot be taken out", name.value.shown()));
        }
    }
    Edits {
        defaults: boxed(defaults.value),
        overrides: boxed(overrides.value),
        drop: strings(drop.value).into_iter().map(String::into_boxed_str).collect(),
        extra_headers: headers::compile(extra_headers, &at.key("extra_headers"), problems).with_api_version(),
        max_output_tokens: max_output_tokens.map(|n| n.value),
    }
}

/// What the backends of one model need to know of it.
struct Pool<'a> {
    model: &'a ModelId,
    enabled: bool,
    is_pattern: bool,
    providers: &'a Providers,
    prices: &'a Arc<PriceTable>,
}

fn backends(
    raw: Option<At<Vec<At<RawBackend>>>>,
    pool: &Pool<'_>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Vec<Arc<Backend>> {
    let mut backends: Vec<Arc<Backend>> = Vec::new();
    for (index, raw) in raw.map(|list| list.value).unwrap_or_default().into_iter().enumerate() {
        let Some(mut backend) = backend(raw, pool, &at.index(index), problems) else {
            continue;
        };
        let same = |other: &&Arc<Backend>| {
            other.id.provider == backend.id.provider && other.id.upstream == backend.id.upstream
        };
        let repeat = backends.iter().filter(same).count();
        backend.id.repeat = u16::try_from(repeat).unwrap_or(u16::MAX);
        backends.push(Arc::new(backend));
    }
    backends
}

/// One backend; `None` when it is not known whose it is.
fn backend(raw: At<RawBackend>, pool: &Pool<'_>, at: &KeyPath<'_>, problems: &mut Problems) -> Option<Backend> {
    let RawBackend {
        provider,
        model,
        weight,
        priority,
        enabled,
        billing_mode,
        tags,
        input_price,
        cached_input_price,
        cache_write_price,
        cache_write_1h_price,
        audio_input_price,
        image_input_price,
        output_price,
        reasoning_price,
        audio_output_price,
        image_output_price,
        request_price,
        tool_call_price,
        context_window,
        max_concurrent,
        requests_per_minute,
        tokens_per_minute,
        default_max_output_tokens,
        defaults,
        r#override,
        drop,
        extra_headers,
    } = raw.value;
    let active = pool.enabled && enabled.value;
    let prices = limits::prices(
        RawPrices {
            input_price,
            cached_input_price,
            cache_write_price,
            cache_write_1h_price,
            audio_input_price,
            image_input_price,
            output_price,
            reasoning_price,
            audio_output_price,
            image_output_price,
            request_price,
            tool_call_price,
        },
        at,
        problems,
    );
    let edits = edits(default_max_output_tokens, defaults, r#override, drop, extra_headers, at, problems);
    let provider = found_provider(provider, raw.span.clone(), active, pool, &at.key("provider"), problems);
    let model = upstream_model(model, raw.span, active, provider.as_deref(), pool, &at.key("model"), problems);
    let (provider, upstream) = (provider?, model?);
    let by_name = upstream.as_str() == Backend::REQUESTED && prices == Prices::default();
    let tariff = match prices == Prices::default() {
        true => Arc::clone(pool.prices.find(&provider.upstream, upstream.as_str())),
        false => Arc::new(Tariff::flat(prices, PriceSource::Backend)),
    };
    let capabilities = edits.capabilities(&provider, upstream.as_str());
    Some(Backend {
        id: BackendId { model: pool.model.clone(), provider: provider.id.clone(), upstream, repeat: 0 },
        enabled: active && provider.enabled,
        provider,
        weight: weight.value,
        priority: priority.value,
        tags: strings(tags.value),
        billing: billing_mode.value.0,
        tariff,
        prices_by_name: by_name.then(|| Arc::clone(pool.prices)),
        capabilities,
        limits: BackendLimits {
            context_window: context_window.map(|n| n.value),
            max_concurrent: max_concurrent.map(|n| n.value),
            requests_per_minute: requests_per_minute.map(|n| n.value),
            tokens_per_minute: tokens_per_minute.map(|n| n.value),
        },
        edits,
        derived: false,
    })
}

/// The provider that a backend names. Where the backend is switched off, a wrong name is worth a warning only.
fn found_provider(
    name: Option<At<Text>>,
    table: Option<Span>,
    active: bool,
    pool: &Pool<'_>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Option<Arc<Provider>> {
    let Some(name) = name else {
        if active && !problems.failed_within(at) {
            problems.error(at, table, "missing: the table name of a provider");
        }
        return None;
    };
    if let Some(provider) = pool.providers.get(name.value.value.as_str()) {
        return Some(Arc::clone(provider));
    }
    let mut known: Vec<&str> = pool.providers.keys().map(ProviderId::as_str).collect();
    known.sort_unstable();
    // Names for people are easily taken for those of the tables.
    let called = known.iter().find(|id| pool.providers[**id].name == name.value.value);
    let hint = match called.copied().or_else(|| closest(&name.value.value, known.iter().copied())) {
        Some(close) => format!("did you mean {close:?}?"),
        None if known.is_empty() => "there is no provider at all".to_owned(),
        None => format!("providers here: {}", known.join(", ")),
    };
    let message = format!("no provider {}", name.value.shown());
    let problem =
        if active { problems.error(at, name.span, message) } else { problems.warning(at, name.span, message) };
    problem.hint(hint);
    None
}

/// The model that a backend asks its provider for.
fn upstream_model(
    name: Option<At<Text>>,
    table: Option<Span>,
    active: bool,
    provider: Option<&Provider>,
    pool: &Pool<'_>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Option<UpstreamModel> {
    let Some(name) = name.filter(|name| !name.value.value.is_empty()) else {
        if active && !problems.failed_within(at) {
            problems.error(at, table, "missing: the name that the provider knows the model by");
        }
        return None;
    };
    let text = name.value.value.as_str();
    if text == Backend::REQUESTED {
        if !pool.is_pattern {
            problems
                .error(at, name.span.clone(), "\"$name\" stands for a requested name, and this model has one name only")
                .hint("put a pattern into the model's name, such as \"claude-*\"");
        }
    } else if let Some(provider) = provider
        && active
        && !provider.models.is_empty()
        && !provider.models.iter().any(|model| model.as_str() == text)
    {
        let hint = match closest(text, provider.models.iter().map(UpstreamModel::as_str)) {
            Some(close) => format!("did you mean {close:?}? Otherwise add it to the provider's models"),
            None => "add it to the provider's models, or leave that list out to accept any".to_owned(),
        };
        let message = format!("{} is not among the models of {}", name.value.shown(), provider.id);
        problems.warning(at, name.span.clone(), message).hint(hint);
    }
    Some(UpstreamModel::new(name.value.value))
}
