//! Models that follow from what providers serve.
//!
//! What a provider serves is known from its `models`, or from its own list (`models = "auto"`). Two kinds of models come of it:
//!
//! - `provider/model`, for each that `expose_models` publishes;
//! - for a pattern model, one for each name that matches it and that a provider of its `$name` backends serves. Such a model has a
//!   pool, and so a health, of its own. Its backends are those at providers that serve the name, or whose models are not known.
//!
//! A name that the configuration writes down is left alone, and of several patterns the closest has a name. A pattern answers for
//! further names only with backends at providers whose models are not known: where all are known, nobody serves the name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use http::HeaderValue;

use super::{Backend, BackendLimits, BillingMode, Commit, Edits, Expose, LossPolicy, Model, Models, Provider};
use super::{PriceTable, Snapshot, Strategy};
use crate::id::{BackendId, ModelId, ModelName, ProviderId, UpstreamModel};

/// Models of one provider that are taken; a longer list is cut, by the alphabet.
pub const DISCOVERED_MAX: usize = 2_000;
/// Longest name that is taken, bytes.
const NAME_BYTES_MAX: usize = 256;

/// What the providers with `models = "auto"` said that they serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovered(HashMap<ProviderId, Arc<[UpstreamModel]>>);

impl Discovered {
    /// Takes a provider's list in place of the one before; `false` when it is the same. Names that no configuration could hold
    /// are left out.
    pub fn learn(&mut self, provider: &ProviderId, names: &[String]) -> bool {
        let usable = |name: &&String| {
            let printable = !name.chars().any(char::is_control) && name.trim() == name.as_str();
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && printable && !name.contains('*')
        };
        let mut names: Vec<&str> = names.iter().filter(usable).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names.truncate(DISCOVERED_MAX);
        let same = |known: &&Arc<[UpstreamModel]>| known.iter().map(UpstreamModel::as_str).eq(names.iter().copied());
        if self.0.get(provider).filter(same).is_some() {
            return false;
        }
        self.0.insert(provider.clone(), names.into_iter().map(UpstreamModel::from).collect());
        true
    }

    /// Forgets the lists of providers that `keep` does not want.
    pub fn retain(&mut self, keep: impl Fn(&ProviderId) -> bool) {
        self.0.retain(|provider, _| keep(provider));
    }

    /// A provider's list, sorted; `None` before it was read.
    pub fn of(&self, provider: &ProviderId) -> Option<&Arc<[UpstreamModel]>> {
        self.0.get(provider)
    }
}

impl Snapshot {
    /// This configuration with the models that follow from what its providers serve; itself when there are none.
    pub fn serving(self: &Arc<Self>, discovered: &Discovered) -> Arc<Self> {
        let publishes = |provider: &Arc<Provider>| provider.enabled && provider.expose != Expose::Nothing;
        let mut publishing: Vec<_> = self.providers.values().filter(|provider| publishes(provider)).collect();
        if publishing.is_empty() && self.models.patterns.is_empty() {
            return Arc::clone(self);
        }
        publishing.sort_by(|a, b| a.id.cmp(&b.id));
        let lists = Lists::new(&self.providers, discovered);
        let mut served = Served::begin(&self.models);
        for pattern in &self.models.patterns {
            served.take_apart(pattern, &lists);
        }
        for provider in publishing {
            served.publish(provider, &lists, &self.prices);
        }
        Arc::new(Self { models: served.finish(&self.models), ..(**self).clone() })
    }
}

/// What each provider is known to serve.
struct Lists<'a>(HashMap<&'a ProviderId, (&'a [UpstreamModel], HashSet<&'a str>)>);

impl<'a> Lists<'a> {
    fn new(providers: &'a HashMap<ProviderId, Arc<Provider>>, discovered: &'a Discovered) -> Self {
        let known = providers.values().filter_map(|provider| {
            let list = match provider.discover {
                true => &**discovered.of(&provider.id)?,
                false if provider.models.is_empty() => return None,
                false => provider.models.as_slice(),
            };
            Some((&provider.id, (list, list.iter().map(UpstreamModel::as_str).collect())))
        });
        Self(known.collect())
    }

    fn of(&self, provider: &Provider) -> &'a [UpstreamModel] {
        self.0.get(&provider.id).map_or(&[], |(list, _)| list)
    }

    fn is_known(&self, provider: &Provider) -> bool {
        self.0.contains_key(&provider.id)
    }

    fn may_serve(&self, provider: &Provider, name: &str) -> bool {
        self.0.get(&provider.id).is_none_or(|(_, names)| names.contains(name))
    }
}

/// The models while they are being made.
struct Served<'a> {
    /// Every name that the configuration writes down, of models that are switched off too.
    taken: HashSet<Box<str>>,
    /// By the pattern that they come from.
    of_patterns: HashMap<&'a ModelId, Vec<Arc<Model>>>,
    /// What a pattern does for names that are not known; nothing where it is not in here.
    patterns: HashMap<&'a ModelId, Arc<Model>>,
    published: Vec<Arc<Model>>,
}

impl<'a> Served<'a> {
    fn begin(models: &Models) -> Self {
        let written = models.all.iter().flat_map(|model| {
            let aliases = model.aliases.iter().map(ModelName::as_str);
            [model.id.as_str(), model.name.as_str()].into_iter().chain(aliases)
        });
        Self {
            taken: written.map(Box::from).collect(),
            of_patterns: HashMap::new(),
            patterns: HashMap::new(),
            published: Vec::new(),
        }
    }

    fn take_apart(&mut self, model: &'a Arc<Model>, lists: &Lists<'_>) {
        let asked_for = |backend: &&Arc<Backend>| backend.enabled && backend.takes_any_name();
        let names = model.backends.iter().filter(asked_for).flat_map(|backend| lists.of(&backend.provider));
        let covered = |name: &&str| model.pattern.as_ref().is_some_and(|pattern| pattern.matches(name));
        let mut own = Vec::new();
        for name in names.map(UpstreamModel::as_str).filter(covered) {
            if self.taken.insert(name.into()) {
                own.push(Arc::new(one_of(model, name, lists)));
            }
        }
        self.of_patterns.insert(&model.id, own);
        let open = |backend: &&Arc<Backend>| !backend.takes_any_name() || !lists.is_known(&backend.provider);
        let backends: Vec<_> = model.backends.iter().filter(open).map(Arc::clone).collect();
        if backends.len() == model.backends.len() {
            self.patterns.insert(&model.id, Arc::clone(model));
        } else if backends.iter().any(|backend| backend.enabled) {
            self.patterns.insert(&model.id, Arc::new(Model { backends, ..(**model).clone() }));
        }
    }

    fn publish(&mut self, provider: &Arc<Provider>, lists: &Lists<'_>, prices: &PriceTable) {
        for upstream in lists.of(provider) {
            let name = format!("{}/{upstream}", provider.id);
            if provider.expose.includes(upstream.as_str()) && self.taken.insert(name.as_str().into()) {
                self.published.push(Arc::new(published(provider, upstream, name, prices)));
            }
        }
    }

    /// In the order of the file, each pattern followed by what comes of it.
    fn finish(mut self, written: &Models) -> Models {
        let mut models = Models { by_name: written.by_name.clone(), ..Models::default() };
        for model in &written.all {
            let Some(own) = self.of_patterns.remove(&model.id) else {
                models.all.push(Arc::clone(model));
                continue;
            };
            // An alias is a promise of the configuration: it is tried everywhere.
            let kept = if model.aliases.is_empty() { self.patterns.get(&model.id) } else { Some(model) };
            models.all.extend(kept.map(Arc::clone));
            models.all.extend(own);
        }
        models.all.extend(self.published);
        for model in models.all.iter().filter(|model| model.enabled && model.pattern.is_none()) {
            models.by_name.entry(model.name.as_str().into()).or_insert_with(|| Arc::clone(model));
        }
        models.patterns = written.patterns.iter().filter_map(|model| self.patterns.remove(&model.id)).collect();
        models
    }
}

/// What a pattern model is for one of its names.
fn one_of(model: &Model, name: &str, lists: &Lists<'_>) -> Model {
    let id = ModelId::from(name);
    let serves = |backend: &&Arc<Backend>| !backend.takes_any_name() || lists.may_serve(&backend.provider, name);
    let own = |backend: &Arc<Backend>| {
        let upstream = UpstreamModel::from(backend.upstream_model(name));
        Arc::new(Backend {
            id: BackendId { model: id.clone(), upstream, ..backend.id.clone() },
            tariff: Arc::clone(backend.tariff_of(name)),
            prices_by_name: None,
            capabilities: backend.capabilities_of(name).into_owned(),
            derived: true,
            ..(**backend).clone()
        })
    };
    Model {
        name: ModelName::from(name),
        name_header: HeaderValue::from_str(name).ok(),
        // Whoever may use the pattern by the name of its table may use what comes of it.
        aliases: vec![ModelName::from(model.id.as_str())],
        pattern: None,
        backends: model.backends.iter().filter(serves).map(own).collect(),
        id,
        ..model.clone()
    }
}

/// A model that is what one provider serves, with the default of everything.
fn published(provider: &Arc<Provider>, upstream: &UpstreamModel, name: String, prices: &PriceTable) -> Model {
    let id = ModelId::from(name.as_str());
    let backend = Backend {
        id: BackendId { model: id.clone(), provider: provider.id.clone(), upstream: upstream.clone(), repeat: 0 },
        provider: Arc::clone(provider),
        enabled: true,
        weight: 1.0,
        priority: 1,
        tags: Vec::new(),
        billing: BillingMode::default(),
        tariff: Arc::clone(prices.find(&provider.upstream, upstream.as_str())),
        prices_by_name: None,
        capabilities: Edits::default().capabilities(provider, upstream.as_str()),
        limits: BackendLimits::default(),
        edits: Edits::default(),
        derived: true,
    };
    Model {
        id,
        name_header: HeaderValue::from_str(&name).ok(),
        name: ModelName::new(name),
        aliases: Vec::new(),
        enabled: true,
        strategy: Strategy::SmartAi,
        pattern: None,
        rewrite_response_model: false,
        edits: Edits::default(),
        commit: Commit::default(),
        loss_policy: LossPolicy::default(),
        interchangeable: false,
        repair: false,
        queue_timeout: std::time::Duration::ZERO,
        queue_max: 0,
        backends: vec![Arc::new(backend)],
    }
}
