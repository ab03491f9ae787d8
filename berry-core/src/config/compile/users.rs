//! `[users.*]`: tokens, permissions, and who is an administrator.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use super::limits;
use super::strings;
use crate::auth::key::TokenDigest;
use crate::config::decode::{At, Entry, Map, SecretText, Text};
use crate::config::path::KeyPath;
use crate::config::problem::{Problems, Span, closest};
use crate::config::raw::{Digest, RawRateLimit, RawUser};
use crate::config::snapshot::{Models, Provider, User, UserLimits, Users};
use crate::id::{ModelName, ProviderId, UserId};
use crate::policy::{ModelPattern, ModelPolicy};

/// The tag that makes a user an administrator.
const ADMIN: &str = "admin";
/// Tokens below this length are worth a warning: they can be guessed.
const SHORT_TOKEN: usize = 16;

/// Whether a token or key is one that documents and examples show.
pub(crate) fn is_example_secret(text: &str) -> bool {
    const PARTS: &[&str] =
        &["your-", "your_", "-here", "changeme", "change-me", "example", "placeholder", "xxxx", "replace", "..."];
    const TOKENS: &[&str] = &[
        "berry-admin-token-12345",
        "berry-user1-token-67890",
        "berry-premium-token-abcde",
        "berry-admin-123456",
        "berry-user-789012",
        "hr-dept-token-12345",
        "rd-dept-token-67890",
        "dev-team-token",
    ];
    let text = text.to_lowercase();
    TOKENS.contains(&text.as_str()) || PARTS.iter().any(|part| text.contains(part))
}

/// Compiles `[users]`.
pub(super) fn compile(
    raw: Option<At<Map<RawUser>>>,
    models: &Models,
    providers: &HashMap<ProviderId, Arc<Provider>>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Users {
    let entries = raw.map(|map| map.value.0).unwrap_or_default();
    if entries.is_empty() && !problems.failed_within(at) {
        problems.warning(at, None, "no user: every request is answered 401").hint("add [users.NAME] with a token");
    } else if !entries.is_empty() && !entries.iter().any(|entry| entry.value.enabled.value) {
        let first = entries.first().map(|entry| entry.span.clone());
        problems.warning(at, first, "every user is switched off: every request is answered 401");
    }
    let admins = Admins::of(&entries);
    if !problems.failed_within(at) {
        admins.report(&entries, at, problems);
    }
    let names = ModelNames { models, providers };
    let mut users = Users::default();
    let mut tokens = Tokens::default();
    for entry in entries {
        let (user, digest) = user(entry, &admins, &names, &mut tokens, at, problems);
        let user = Arc::new(user);
        if let Some(digest) = digest {
            users.by_token.insert(digest, Arc::clone(&user));
        }
        users.by_id.insert(user.id.clone(), user);
    }
    tokens.report_examples(at, problems);
    users
}

/// Who is an administrator: users with the tag; where no user has it, the enabled user `admin` who may use every model.
enum Admins {
    Tagged,
    ByName,
    Nobody,
}

impl Admins {
    fn of(entries: &[Entry<RawUser>]) -> Self {
        if entries.iter().any(|entry| has_tag(&entry.value)) {
            return Self::Tagged;
        }
        let named = |entry: &Entry<RawUser>| {
            entry.key == ADMIN && entry.value.enabled.value && entry.value.allowed_models.value.is_empty()
        };
        if entries.iter().any(named) { Self::ByName } else { Self::Nobody }
    }

    fn report(&self, entries: &[Entry<RawUser>], at: &KeyPath<'_>, problems: &mut Problems) {
        match self {
            Self::Tagged => {}
            Self::ByName => {
                let table = entries.iter().find(|entry| entry.key == ADMIN).map(|entry| entry.span.clone());
                problems
                    .warning(
                        &at.key(ADMIN),
                        table,
                        "is taken for the administrator by its name, since no user has the tag",
                    )
                    .hint("say so: tags = [\"admin\"]");
            }
            Self::Nobody if entries.is_empty() => {}
            Self::Nobody => {
                problems
                    .warning(
                        at,
                        None,
                        "no administrator: /admin/* and the data of the dashboard are closed to everybody",
                    )
                    .hint("give a user tags = [\"admin\"]");
            }
        }
    }

    fn includes(&self, key: &str, tags: &[String]) -> bool {
        match self {
            Self::Tagged => tags.iter().any(|tag| tag == ADMIN),
            Self::ByName => key == ADMIN,
            Self::Nobody => false,
        }
    }
}

fn has_tag(user: &RawUser) -> bool {
    user.tags.value.iter().any(|tag| tag.value.value == ADMIN)
}

fn user(
    entry: Entry<RawUser>,
    admins: &Admins,
    names: &ModelNames<'_>,
    tokens: &mut Tokens,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> (User, Option<TokenDigest>) {
    let at = &at.key(&entry.key);
    let RawUser { name, token, token_sha256, allowed_models, enabled, tags, rate_limit, model_rate_limits, budget } =
        entry.value;
    let id = UserId::new(entry.key.as_str());
    let digest = match (token.filter(|token| !token.value.0.is_empty()), token_sha256) {
        (None, None) => {
            if enabled.value {
                missing_token(entry.span, at, problems);
            }
            None
        }
        (token, digest) => tokens.digest(&id, token, digest, enabled.value, at, problems),
    };
    let tags = strings(tags.value);
    let limits = UserLimits {
        rate: rate_limit.map(|raw| limits::rate(*raw.value.0)).unwrap_or_default(),
        by_model: limits_by_model(model_rate_limits, names, &at.key("model_rate_limits"), problems),
        budget: budget.map(|raw| limits::budget(*raw.value.0, &at.key("budget"), problems)).unwrap_or_default(),
    };
    let user = User {
        name: name.map_or_else(|| entry.key.clone(), |name| name.value.value),
        enabled: enabled.value,
        admin: admins.includes(&entry.key, &tags),
        tags,
        models: policy(allowed_models.value, names, &at.key("allowed_models"), problems),
        limits: (limits != UserLimits::default()).then(|| Box::new(limits)),
        id,
    };
    (user, digest)
}

fn limits_by_model(
    raw: Option<At<Map<RawRateLimit>>>,
    names: &ModelNames<'_>,
    at: &KeyPath<'_>,
    problems: &mut Problems,
) -> Vec<(ModelName, crate::config::snapshot::RateLimit)> {
    let entries = raw.map(|map| map.value.0).unwrap_or_default();
    entries
        .into_iter()
        .map(|entry| {
            names.check(&entry.key, Some(entry.key_span), &at.key(&entry.key), problems);
            (ModelName::new(entry.key), limits::rate(entry.value))
        })
        .collect()
}

fn policy(raw: Vec<At<Text>>, names: &ModelNames<'_>, at: &KeyPath<'_>, problems: &mut Problems) -> ModelPolicy {
    let patterns = raw.into_iter().enumerate().map(|(index, entry)| {
        names.check(&entry.value.value, entry.span, &at.index(index), problems);
        ModelPattern::new(&entry.value.value)
    });
    ModelPolicy::new(patterns.collect())
}

/// What an `allowed_models` entry can mean.
struct ModelNames<'a> {
    models: &'a Models,
    providers: &'a HashMap<ProviderId, Arc<Provider>>,
}

impl ModelNames<'_> {
    /// Warns about an entry that no model answers to.
    fn check(&self, entry: &str, span: Option<Span>, at: &KeyPath<'_>, problems: &mut Problems) {
        if self.means_something(entry) {
            return;
        }
        let names = self.models.all.iter().flat_map(|model| {
            let aliases = model.aliases.iter().map(ModelName::as_str);
            [model.name.as_str(), model.id.as_str()].into_iter().chain(aliases)
        });
        let hint = match closest(entry, names) {
            Some(close) => format!("did you mean {close:?}?"),
            None => "write a public name, an alias, the table name of a model, or a pattern with *".to_owned(),
        };
        problems.warning(at, span, format!("no model is called {entry:?}")).hint(hint);
    }

    fn means_something(&self, entry: &str) -> bool {
        if self.models.by_name.contains_key(entry) {
            return true;
        }
        let pattern = ModelPattern::new(entry);
        let reached = |model: &&Arc<crate::config::snapshot::Model>| {
            let by_pattern = model.pattern.as_ref().is_some_and(|own| own.matches(entry));
            by_pattern
                || pattern.matches(model.name.as_str())
                || pattern.matches(model.id.as_str())
                || model.aliases.iter().any(|alias| pattern.matches(alias.as_str()))
        };
        let published = || {
            entry.split_once('/').is_some_and(|(provider, _)| {
                self.providers.get(provider).is_some_and(|p| p.expose != crate::config::snapshot::Expose::Nothing)
            })
        };
        self.models.all.iter().any(|model| reached(&model)) || published()
    }
}

fn missing_token(table: Span, at: &KeyPath<'_>, problems: &mut Problems) {
    if problems.failed_within(&at.key("token")) || problems.failed_within(&at.key("token_sha256")) {
        return;
    }
    problems
        .error(&at.key("token"), table, "missing: the user cannot present anything")
        .hint("token = \"…\" (openssl rand -hex 32 makes one), or token_sha256, or enabled = false");
}

/// Tokens seen so far.
#[derive(Default)]
struct Tokens {
    seen: HashMap<TokenDigest, (UserId, Option<Span>)>,
    examples: Vec<(String, Option<Span>)>,
}

impl Tokens {
    /// The digest that a user is found by, from the token or the digest that is given.
    fn digest(
        &mut self,
        user: &UserId,
        token: Option<At<SecretText>>,
        digest: Option<At<Digest>>,
        enabled: bool,
        at: &KeyPath<'_>,
        problems: &mut Problems,
    ) -> Option<TokenDigest> {
        let (digest, span, key) = match (token, digest) {
            (Some(token), Some(digest)) => {
                problems
                    .error(&at.key("token"), token.span, "token and token_sha256 are both given")
                    .related(digest.span, "the other one")
                    .hint("keep one of them");
                return None;
            }
            (Some(token), None) => {
                self.check(&token, enabled, &at.key("token"), problems);
                (TokenDigest::of(token.value.0.expose()), token.span, "token")
            }
            (None, digest) => {
                let digest = digest?;
                (digest.value.0, digest.span, "token_sha256")
            }
        };
        if let Some((other, first)) = self.seen.get(&digest) {
            let other = KeyPath::ROOT.key("users").key(other.as_str()).to_string();
            problems
                .error(&at.key(key), span, format!("{other} has the same token"))
                .related(first.clone(), "first used here")
                .hint("a token says who somebody is, so every user needs one of their own");
            return None;
        }
        self.seen.insert(digest, (user.clone(), span));
        Some(digest)
    }

    fn check(&mut self, token: &At<SecretText>, enabled: bool, at: &KeyPath<'_>, problems: &mut Problems) {
        let text = token.value.0.expose();
        if text.trim() != text || HeaderValue::from_bytes(text.as_bytes()).is_err() {
            problems
                .error(at, token.span.clone(), "has a character that no header can carry")
                .hint("often white space or a line break at one end");
        } else if enabled && is_example_secret(text) {
            self.examples.push((at.to_string(), token.span.clone()));
        } else if enabled && text.chars().count() < SHORT_TOKEN {
            problems
                .warning(at, token.span.clone(), format!("is shorter than {SHORT_TOKEN} characters and can be guessed"))
                .hint("openssl rand -hex 32 makes a good one");
        }
    }

    /// One warning for all tokens that everybody knows.
    fn report_examples(self, at: &KeyPath<'_>, problems: &mut Problems) {
        let mut examples = self.examples.into_iter();
        let Some((first, span)) = examples.next() else { return };
        let rest: Vec<(String, Option<Span>)> = examples.collect();
        let message = match rest.len() {
            0 => format!("the token of {} is from an example: anybody may know it", owner(&first)),
            more => format!("the tokens of {} and {more} more are from examples: anybody may know them", owner(&first)),
        };
        let problem = problems.warning(at, span, message);
        for (_, span) in rest {
            problem.related(span, "another one");
        }
        problem.hint("before others can reach the gateway, make new ones: openssl rand -hex 32");
    }
}

/// `users.a` of `users.a.token`.
fn owner(path: &str) -> &str {
    path.strip_suffix(".token").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_examples_are_known_and_real_ones_are_not() {
        for text in
            ["your-admin-token-here", "sk-your-openai-key-here", "berry-admin-token-12345", "dev-team-token", "..."]
        {
            assert!(is_example_secret(text), "{text}");
        }
        for text in ["sk-proj-4f9a8b7c6d5e", "", "3b0c1f77b8b24d1e9a6d"] {
            assert!(!is_example_secret(text), "{text}");
        }
    }
}
