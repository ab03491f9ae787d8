//! From the raw file to the [`Snapshot`]: ranges, references and recognitions.
//!
//! Every function takes its raw struct apart in full, reports each problem with its path and goes on with something harmless,
//! so that one run tells everything. A snapshot that was made beside an error is thrown away by the caller.

pub(super) mod address;
mod headers;
mod limits;
mod models;
mod providers;
mod server;
mod settings;
mod stores;
mod users;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::decode::{At, Entry, Map, Text};
use super::interpolate::Environment;
use super::path::KeyPath;
use super::problem::{Problems, Severity, Span};
use super::provider_data::ProviderData;
use super::raw::{RawConfig, RawUser};
use super::snapshot::{Models, Provider, Snapshot, Users};
use crate::id::ProviderId;
use crate::price_book::PriceBook;

use users::UserCompiler;
pub(crate) use users::is_example_secret;

/// Users who are not in the raw file, one after the other.
pub(crate) trait MoreUsers {
    /// About how many there are.
    fn count(&self) -> usize;

    /// The next one, with what there is to say about how it is written.
    fn next(&mut self, problems: &mut Problems) -> Option<Entry<RawUser>>;

    /// Whether all of them could be read.
    fn all_read(&self) -> bool;
}

/// Nobody else.
impl MoreUsers for () {
    fn count(&self) -> usize {
        0
    }

    fn next(&mut self, _: &mut Problems) -> Option<Entry<RawUser>> {
        None
    }

    fn all_read(&self) -> bool {
        true
    }
}

/// Compiles a whole file.
pub(crate) fn compile(
    raw: RawConfig,
    env: &dyn Environment,
    more_users: &mut dyn MoreUsers,
    problems: &mut Problems,
) -> Snapshot {
    let RawConfig {
        settings,
        users,
        providers,
        models,
        server,
        ledger,
        cluster,
        telemetry,
        cache,
        pricing,
        tags,
        budget_webhook,
    } = raw;
    let root = KeyPath::ROOT;
    let (settings, times) = settings::compile(settings, &root.key("settings"), problems);
    let data = provider_data(times.provider_data.as_ref(), &root.key("settings"), env, problems);
    let providers = providers::compile(providers, &times, &data, &root.key("providers"), problems);
    let book = price_book(times.price_book.as_ref(), &root.key("settings"), env, problems);
    let prices = Arc::new(limits::pricing(pricing, &root.key("pricing"), problems, book));
    let models = models::compile(models, &providers, &prices, &root.key("models"), problems);
    let users = compile_users(users, more_users, &models, &providers, &root.key("users"), problems);
    if !settings.mask_api_keys {
        problems
            .warning(
                &root.key("settings").key("mask_api_keys"),
                times.mask_api_keys,
                "parts of keys are shown in /admin/config",
            )
            .hint("mask_api_keys = true hides them whole");
    }
    Snapshot {
        server: server::compile(server, &root.key("server"), problems),
        settings,
        users: Arc::new(users),
        providers,
        models,
        ledger: stores::ledger(ledger, &root.key("ledger"), problems),
        cluster: stores::cluster(cluster, &root.key("cluster"), problems),
        budget_webhook: stores::budget_webhook(budget_webhook, &root.key("budget_webhook"), problems),
        telemetry: stores::telemetry(telemetry, &root.key("telemetry"), problems),
        cache: stores::cache(cache, &root.key("cache"), problems),
        prices,
        tags: limits::tags(tags, &root.key("tags"), problems),
    }
}

fn compile_users(
    raw: Option<At<Map<RawUser>>>,
    more: &mut dyn MoreUsers,
    models: &Models,
    providers: &HashMap<ProviderId, Arc<Provider>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Users {
    let read = !problems.failed_within(at);
    let mut users = UserCompiler::new(models, providers);
    for entry in raw.map(|map| map.value.0).unwrap_or_default() {
        users.add(entry, at, problems);
    }
    users.reserve(more.count());
    while let Some(entry) = more.next(problems) {
        users.add(entry, at, problems);
    }
    users.finish(read && more.all_read(), at, problems)
}

/// What is known of vendors and models: what is built in, with the file that the settings name over it.
fn provider_data(
    file: Option<&At<PathBuf>>,
    at: &KeyPath<'_>,
    env: &dyn Environment,
    problems: &mut Problems,
) -> Arc<ProviderData> {
    let Some(file) = file else { return ProviderData::bundled() };
    let at = at.key("provider_data");
    let name = file.value.display().to_string();
    let text = match env.read_file(&file.value) {
        Ok(text) => text,
        Err(error) => {
            problems.error(&at, file.span.clone(), format!("the file {name} cannot be read: {error}"));
            return ProviderData::bundled();
        }
    };
    match ProviderData::with_file(&name, &text, env) {
        Ok(data) => Arc::new(data),
        Err(report) => {
            for (_, line) in report.lines().filter(|(severity, _)| *severity == Severity::Error) {
                problems.error(&at, file.span.clone(), line);
            }
            ProviderData::bundled()
        }
    }
}

/// What vendors charge: the bundled book, with the one that the settings name over it.
fn price_book(
    file: Option<&At<PathBuf>>,
    at: &KeyPath<'_>,
    env: &dyn Environment,
    problems: &mut Problems,
) -> Arc<PriceBook> {
    let bundled = PriceBook::bundled();
    let Some(file) = file else { return bundled };
    let name = file.value.display();
    let read = env.read_file(&file.value).map_err(|error| format!("the file {name} cannot be read: {error}"));
    let book =
        read.and_then(|text| bundled.with(&text).map_err(|error| format!("{name}: {}", error.to_string().trim_end())));
    book.map(Arc::new).unwrap_or_else(|message| {
        problems.error(&at.key("price_book"), file.span.clone(), message);
        bundled
    })
}

/// Warns of a key or token that is right by its form and hardly what was meant.
fn warn_of_odd_secret(text: &str, at: &KeyPath<'_>, span: Option<Span>, problems: &mut Problems) {
    let is_name = |name: &str| name.bytes().all(|c| c.is_ascii_uppercase() || c == b'_') && !name.is_empty();
    if text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer ")) {
        problems
            .warning(at, span, "begins with \"Bearer\", which then is a part of it")
            .hint("write what follows it alone");
    } else if text.strip_prefix('$').is_some_and(is_name) {
        problems
            .warning(at, span, "is taken as it stands and not from a variable")
            .hint("a variable is written \"${NAME}\"");
    }
}

/// The strings of a list.
fn strings(list: Vec<At<Text>>) -> Vec<String> {
    list.into_iter().map(|item| item.value.value).collect()
}
