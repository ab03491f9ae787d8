//! Who may use which model, and which backend, and from where.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use crate::id::{ModelId, ModelName};

/// Bits of an IPv6 address before the IPv4 address that it may stand for.
const MAPPED_BITS: u8 = 96;

/// An address, or a network in CIDR form; `None` when it is neither. Networks of IPv4 addresses that are written as IPv6
/// (`::ffff:10.0.0.0/104`) are those of IPv4, since that is how addresses are compared.
pub fn network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let IpNet::V6(wide) = net else { return Some(net) };
    let narrow = wide.prefix_len().checked_sub(MAPPED_BITS).zip(Ipv6Addr::to_ipv4_mapped(&wide.addr()));
    Some(narrow.and_then(|(bits, address)| Ipv4Net::new(address, bits).ok()).map_or(net, IpNet::from))
}

/// One entry of `allowed_models`: a public name, an alias, a table key, or a glob over them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelPattern(Box<str>);

impl ModelPattern {
    /// Any text is a pattern; `*` stands for any run of characters, everything else for itself.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` is covered. Case counts, as it does in model names.
    pub fn matches(&self, name: &str) -> bool {
        glob(self.0.as_bytes(), name.as_bytes())
    }
}

/// Linear-time glob with `*` only: on a mismatch it returns to the last star, and never further back.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(c) if *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match retry {
                Some((star, at)) => {
                    retry = Some((star, at + 1));
                    p = star + 1;
                    t = at + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// What a user may ask for. An empty list allows every model. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ModelPolicy(Arc<[ModelPattern]>);

impl ModelPolicy {
    /// From the entries of `allowed_models`.
    pub fn new(patterns: Vec<ModelPattern>) -> Self {
        Self(patterns.into())
    }

    /// Whether the model may be used, whichever of its names the entry was written for.
    pub fn allows(&self, id: &ModelId, name: &ModelName, aliases: &[ModelName]) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|p| {
                p.matches(name.as_str())
                    || p.matches(id.as_str())
                    || aliases.iter().any(|alias| p.matches(alias.as_str()))
            })
    }

    /// Whether a name that a pattern model stands for may be used.
    pub fn allows_name(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| pattern.matches(name))
    }

    /// The entries as written.
    pub fn patterns(&self) -> &[ModelPattern] {
        &self.0
    }
}

/// Whether a user with `user_tags` may use a backend with `backend_tags`.
///
/// A user without tags may use every backend, a backend without tags is open to all, an `admin` may use all; otherwise they
/// must share one.
pub fn tags_allow<U: AsRef<str>, B: AsRef<str>>(user_tags: &[U], backend_tags: &[B]) -> bool {
    user_tags.is_empty()
        || backend_tags.is_empty()
        || user_tags
            .iter()
            .any(|user| user.as_ref() == "admin" || backend_tags.iter().any(|tag| tag.as_ref() == user.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_any_run_and_nothing_else() {
        for (pattern, name, expected) in [
            ("gpt-4", "gpt-4", true),
            ("gpt-4", "gpt-4o", false),
            ("gpt-*", "gpt-4o", true),
            ("gpt-*", "GPT-4o", false),
            ("*", "", true),
            ("*-mini", "gpt-4o-mini", true),
            ("*-mini", "gpt-4o-mini-2", false),
            ("a*b*c", "a-b-b-c", true),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(ModelPattern::new(pattern).matches(name), expected, "{pattern} over {name}");
        }
    }

    #[test]
    fn allowed_models_take_public_names_table_keys_aliases_and_globs() {
        let (id, name, alias) = (ModelId::from("gpt_4"), ModelName::from("gpt-4"), ModelName::from("best"));
        for (entry, expected) in
            [("gpt-4", true), ("gpt_4", true), ("best", true), ("gpt-*", true), ("gpt-4o", false), ("claude-*", false)]
        {
            let allowed = ModelPolicy::new(vec![ModelPattern::new(entry)]);
            assert_eq!(allowed.allows(&id, &name, std::slice::from_ref(&alias)), expected, "{entry}");
        }
        assert!(ModelPolicy::new(Vec::new()).allows(&id, &name, &[]), "no entry allows all");
    }

    #[test]
    fn networks_of_mapped_addresses_are_those_of_ipv4() {
        for (text, expected) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:0.0.0.0/96", "0.0.0.0/0"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text), Some(expected.parse().unwrap()), "{text}");
        }
        assert_eq!([network("localhost"), network("10.0.0.0/33"), network("")], [None; 3]);
    }

    #[test]
    fn a_hostile_glob_stays_linear_enough() {
        let pattern = "*a".repeat(200);
        assert!(!ModelPattern::new(&pattern).matches(&"a".repeat(199)));
    }

    #[test]
    fn tags_are_a_fence_only_where_both_sides_have_them() {
        let none: [&str; 0] = [];
        assert!(tags_allow(&none, &["premium"]));
        assert!(tags_allow(&["basic"], &none));
        assert!(!tags_allow(&["basic"], &["premium"]));
        assert!(tags_allow(&["basic", "premium"], &["premium", "eu"]));
        assert!(tags_allow(&["admin"], &["premium"]));
    }
}
