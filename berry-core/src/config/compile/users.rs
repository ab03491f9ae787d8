//! `[users.*]`: tokens, permissions, and who is an administrator.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use super::limits;
use super::strings;
use super::warn_of_odd_secret;
use crate::auth::key::TokenDigest;
use crate::config::decode::{At, Entry, Map, SecretText, Text};
use crate::config::path::KeyPath;
use crate::config::problem::{Problems, Span, closest};
use crate::config::raw::{Digest, RawRateLimit, RawUser};
use crate::config::snapshot::{Models, NewUser, Provider, UserLimits, Users, UsersBuilder};
use crate::id::{ModelName, ProviderId};
use crate::policy::{ModelPattern, ModelPolicy};

/// The tag that makes a user an administrator.
const ADMIN: &str = "admin";
/// Tokens below this length are worth a warning: they can be guessed.
const SHORT_TOKEN: usize = 16;

/// Whether a token or key is one that documents and examples show.
pub(crate) fn is_example_secret(text: &str) -> bool {
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
    // A million tokens are looked at, so only what the first letter leaves possible is compared.
    let has_part = |at: usize| {
        let rest = &text.as_bytes()[at..];
        let parts: &[&str] = match rest[0].to_ascii_lowercase() {
            b'y' => &["your-", "your_"],
            b'-' => &["-here"],
            b'c' => &["changeme", "change-me"],
            b'e' => &["example"],
            b'p' => &["placeholder"],
            b'x' => &["xxxx"],
            b'r' => &["replace"],
            b'.' => &["..."],
            _ => return false,
        };
        parts.iter().any(|part| rest.get(..part.len()).is_some_and(|rest| rest.eq_ignore_ascii_case(part.as_bytes())))
    };
    (0..text.len()).any(has_part) || TOKENS.iter().any(|token| token.eq_ignore_ascii_case(text))
}

/// Compiles `[users]`, as many at a time as the caller likes.
pub(super) struct UserCompiler<'a> {
    names: ModelNames<'a>,
    users: UsersBuilder,
    /// Of each user in the builder, where it begins and where its token is.
    places: Vec<(usize, Span)>,
    examples: Vec<(String, Option<Span>)>,
    admins: Admins,
    /// Where the first one is.
    first: Option<Span>,
    any_enabled: bool,
}

impl<'a> UserCompiler<'a> {
    /// Nobody yet; `allowed_models` is checked against these.
    pub(super) fn new(models: &'a Models, providers: &'a HashMap<ProviderId, Arc<Provider>>) -> Self {
        Self {
            names: ModelNames { models, providers },
            users: UsersBuilder::default(),
            places: Vec::new(),
            examples: Vec::new(),
            admins: Admins::default(),
            first: None,
            any_enabled: false,
        }
    }

    /// Makes room for so many more.
    pub(super) fn reserve(&mut self, more: usize) {
        self.users.reserve(more);
        self.places.reserve(more);
    }

    /// Adds a user; `at` is `users`.
    pub(super) fn add(&mut self, entry: Entry<RawUser>, at: &KeyPath<'_>, problems: &mut Problems) {
        if let Some(place) = self.users.place_of_id(&entry.key) {
            let (first, _) = self.places[place];
            problems
                .error(&at.key(&entry.key), entry.key_span, "this table is there twice")
                .related(Some(first..first + entry.key.len()), "first used here");
            return;
        }
        self.first.get_or_insert_with(|| entry.span.clone());
        self.any_enabled |= entry.value.enabled.value;
        self.admins.note(&entry);
        let at = &at.key(&entry.key);
        let RawUser { name, token, token_sha256, allowed_models, enabled, tags, rate_limit, model_rate_limits, budget } =
            entry.value;
        let (token, token_span) = match (token.filter(|token| !token.value.0.is_empty()), token_sha256) {
            (None, None) => {
                if enabled.value {
                    missing_token(entry.span, at, problems);
                }
                None
            }
            (token, digest) => self.digest(token, digest, enabled.value, at, problems),
        }
        .unzip();
        let tags = strings(tags.value);
        let limits = UserLimits {
            rate: rate_limit.map(|raw| limits::rate(*raw.value.0)).unwrap_or_default(),
            by_model: limits_by_model(model_rate_limits, &self.names, &at.key("model_rate_limits"), problems),
            budget: budget.map(|raw| limits::budget(*raw.value.0, &at.key("budget"), problems)).unwrap_or_default(),
        };
        self.places.push((entry.key_span.start, token_span.flatten().unwrap_or_default()));
        self.users.push(NewUser {
            id: &entry.key,
            name: name.as_ref().map_or(&entry.key, |name| &name.value.value),
            enabled: enabled.value,
            admin: tags.iter().any(|tag| tag == ADMIN),
            tags,
            models: policy(allowed_models.value, &self.names, &at.key("allowed_models"), problems),
            limits,
            token,
        });
    }

    /// All users, with what there is to say about them together; `read` where each of them could be read.
    pub(super) fn finish(mut self, read: bool, at: &KeyPath<'_>, problems: &mut Problems) -> Users {
        let first = self.first.take();
        if first.is_none() && read {
            problems.warning(at, None, "no user: every request is answered 401").hint("add [users.NAME] with a token");
        } else if first.is_some() && !self.any_enabled {
            problems.warning(at, first.clone(), "every user is switched off: every request is answered 401");
        }
        if read && first.is_some() {
            self.admins.report(at, problems);
        }
        if self.admins.by_name() {
            self.users.promote(ADMIN);
        }
        report_examples(self.examples, at, problems);
        self.users.finish()
    }

    /// The digest that a user is found by, from the token or the digest that is given, and where that is.
    fn digest(
        &mut self,
        token: Option<At<SecretText>>,
        digest: Option<At<Digest>>,
        enabled: bool,
        at: &KeyPath<'_>,
        problems: &mut Problems,
    ) -> Option<(TokenDigest, Option<Span>)> {
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
        if let Some(place) = self.users.place_of_token(&digest) {
            let other = KeyPath::ROOT.key("users").key(self.users.id(place)).to_string();
            problems
                .error(&at.key(key), span, format!("{other} has the same token"))
                .related(Some(self.places[place].1.clone()), "first used here")
                .hint("a token says who somebody is, so every user needs one of their own");
            return None;
        }
        Some((digest, span))
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
        } else {
            warn_of_odd_secret(text, at, token.span.clone(), problems);
        }
    }
}

/// Who is an administrator: users with the tag; where no user has it, the enabled user `admin` who may use every model.
#[derive(Default)]
struct Admins {
    tagged: bool,
    /// Where the table of that user is.
    named: Option<Span>,
}

impl Admins {
    fn note(&mut self, entry: &Entry<RawUser>) {
        let RawUser { enabled, allowed_models, tags, .. } = &entry.value;
        self.tagged |= tags.value.iter().any(|tag| tag.value.value == ADMIN);
        if entry.key == ADMIN && enabled.value && allowed_models.value.is_empty() {
            self.named = Some(entry.span.clone());
        }
    }

    fn by_name(&self) -> bool {
        !self.tagged && self.named.is_some()
    }

    fn report(&self, at: &KeyPath<'_>, problems: &mut Problems) {
        match &self.named {
            _ if self.tagged => {}
            Some(table) => {
                problems
                    .warning(
                        &at.key(ADMIN),
                        table.clone(),
                        "is taken for the administrator by its name, since no user has the tag",
                    )
                    .hint("say so: tags = [\"admin\"]");
            }
            None => {
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

/// One warning for all tokens that everybody knows.
fn report_examples(examples: Vec<(String, Option<Span>)>, at: &KeyPath<'_>, problems: &mut Problems) {
    let mut examples = examples.into_iter();
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
