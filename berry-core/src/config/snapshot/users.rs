//! The users of a snapshot, kept small: there may be a million of them.
//!
//! A row of 64 bytes for each user, one text with all ids and names, and what many users share (tags, permissions, limits)
//! once. A [`User`] is made when one is asked for. So a million users are a handful of allocations: they load without a
//! million calls of the allocator, and the configuration that a reload replaces is gone in an instant.

use std::fmt;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;

use hashbrown::HashTable;
use rustc_hash::FxHashMap;

use super::UserLimits;
use crate::auth::key::TokenDigest;
use crate::id::UserId;
use crate::policy::ModelPolicy;

/// One user: who holds a token and what they may do.
#[derive(Clone, Debug)]
pub struct User {
    /// Table key.
    pub id: UserId,
    /// Name for people.
    pub name: Box<str>,
    /// Switched off users are refused with 403.
    pub enabled: bool,
    /// Whether the admin endpoints are open to them.
    pub admin: bool,
    /// Labels that pick backends.
    pub tags: Arc<[String]>,
    /// What they may ask for.
    pub models: ModelPolicy,
    /// What they may use up; `None` = as much as they like.
    pub limits: Option<Arc<UserLimits>>,
}

/// The users of a configuration.
#[derive(Default)]
pub struct Users {
    rows: Vec<Row>,
    /// Of each user the id, then the name.
    text: String,
    /// Positions of rows by SHA-256 of the token; disabled users are here too, so that they can be told why they are refused.
    by_token: HashTable<u32>,
    /// Positions of rows by table key.
    by_id: HashTable<u32>,
    /// Keyed for each process, so that nobody can choose tokens that collide.
    hasher: RandomState,
    tags: Vec<Arc<[String]>>,
    models: Vec<ModelPolicy>,
    limits: Vec<Option<Arc<UserLimits>>>,
}

/// One line of the processor's cache, so that a user who is looked up is fetched at once.
#[repr(align(64))]
struct Row {
    /// Where the id begins in the text; the name follows it.
    text_at: usize,
    id_bytes: u32,
    name_bytes: u32,
    /// Places in the lists of what is shared.
    tags: u32,
    models: u32,
    limits: u32,
    token: Option<TokenDigest>,
    enabled: bool,
    admin: bool,
}

impl Users {
    /// The user whose token has this digest.
    pub fn of_token(&self, digest: &TokenDigest) -> Option<Arc<User>> {
        self.place_of_token(digest).map(|place| Arc::new(self.user(place)))
    }

    /// Whether a token with this digest is somebody's.
    pub fn has_token(&self, digest: &TokenDigest) -> bool {
        self.place_of_token(digest).is_some()
    }

    /// The user with this table key.
    pub fn of_id(&self, id: &str) -> Option<Arc<User>> {
        self.place_of_id(id).map(|place| Arc::new(self.user(place)))
    }

    /// All of them, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = User> + '_ {
        (0..self.rows.len()).map(|place| self.user(place))
    }

    /// Every set of limits that some user has, each once.
    pub fn limits(&self) -> impl Iterator<Item = &UserLimits> {
        self.limits.iter().filter_map(Option::as_deref)
    }

    /// How many there are, disabled ones included.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is nobody.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn place_of_token(&self, digest: &TokenDigest) -> Option<usize> {
        let is_it = |place: &u32| self.rows[*place as usize].token.as_ref() == Some(digest);
        self.by_token.find(self.hasher.hash_one(digest), is_it).map(|place| *place as usize)
    }

    fn place_of_id(&self, id: &str) -> Option<usize> {
        let is_it = |place: &u32| self.id(*place as usize) == id;
        self.by_id.find(self.hasher.hash_one(id), is_it).map(|place| *place as usize)
    }

    fn id(&self, place: usize) -> &str {
        let row = &self.rows[place];
        &self.text[row.text_at..row.text_at + row.id_bytes as usize]
    }

    fn user(&self, place: usize) -> User {
        let row = &self.rows[place];
        let name_at = row.text_at + row.id_bytes as usize;
        User {
            id: UserId::from(self.id(place)),
            name: self.text[name_at..name_at + row.name_bytes as usize].into(),
            enabled: row.enabled,
            admin: row.admin,
            tags: Arc::clone(&self.tags[row.tags as usize]),
            models: self.models[row.models as usize].clone(),
            limits: self.limits[row.limits as usize].clone(),
        }
    }
}

/// Says how many there are and names nobody.
impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("len", &self.rows.len()).finish_non_exhaustive()
    }
}

/// A user on the way into the table.
pub(crate) struct NewUser<'a> {
    pub(crate) id: &'a str,
    pub(crate) name: &'a str,
    pub(crate) enabled: bool,
    pub(crate) admin: bool,
    pub(crate) tags: Vec<String>,
    pub(crate) models: ModelPolicy,
    pub(crate) limits: UserLimits,
    pub(crate) token: Option<TokenDigest>,
}

/// Collects users; what several have alike is kept once.
#[derive(Default)]
pub(crate) struct UsersBuilder {
    users: Users,
    tags: Shared<Arc<[String]>>,
    models: Shared<ModelPolicy>,
    limits: Shared<Option<Arc<UserLimits>>>,
}

impl UsersBuilder {
    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize) {
        let Users { rows, by_token, by_id, .. } = &mut self.users;
        rows.reserve_exact(more);
        if rows.is_empty() {
            (*by_token, *by_id) = (HashTable::with_capacity(more), HashTable::with_capacity(more));
        }
    }

    /// The position of the user with this table key, counted from 0.
    pub(crate) fn place_of_id(&self, id: &str) -> Option<usize> {
        self.users.place_of_id(id)
    }

    /// The position of the user whose token this is, counted from 0.
    pub(crate) fn place_of_token(&self, digest: &TokenDigest) -> Option<usize> {
        self.users.place_of_token(digest)
    }

    /// The table key of the user at a position.
    pub(crate) fn id(&self, place: usize) -> &str {
        self.users.id(place)
    }

    /// Adds a user. Neither the id nor the token may be there already.
    pub(crate) fn push(&mut self, user: NewUser<'_>) {
        let NewUser { id, name, enabled, admin, tags, models, limits, token } = user;
        let limits = (limits != UserLimits::default()).then(|| Arc::new(limits));
        let users = &mut self.users;
        let row = Row {
            text_at: users.text.len(),
            id_bytes: u32::try_from(id.len()).expect("a key is a small part of a file of 256 MiB"),
            name_bytes: u32::try_from(name.len()).expect("a name is not 4 GiB long"),
            tags: self.tags.place(tags.into(), &mut users.tags),
            models: self.models.place(models, &mut users.models),
            limits: self.limits.place(limits, &mut users.limits),
            token,
            enabled,
            admin,
        };
        let place = u32::try_from(users.rows.len()).expect("a file of 256 MiB has fewer users");
        users.text.push_str(id);
        users.text.push_str(name);
        users.rows.push(row);
        let Users { rows, text, hasher, by_id, by_token, .. } = users;
        let id_of = |place: &u32| {
            let row = &rows[*place as usize];
            hasher.hash_one(&text[row.text_at..row.text_at + row.id_bytes as usize])
        };
        by_id.insert_unique(id_of(&place), place, id_of);
        let token_of = |place: &u32| rows[*place as usize].token.map_or(0, |digest| hasher.hash_one(digest));
        if token.is_some() {
            by_token.insert_unique(token_of(&place), place, token_of);
        }
    }

    /// Makes the user with this table key an administrator.
    pub(crate) fn promote(&mut self, id: &str) {
        if let Some(place) = self.users.place_of_id(id) {
            self.users.rows[place].admin = true;
        }
    }

    /// All of them, without room for more.
    pub(crate) fn finish(self) -> Users {
        let mut users = self.users;
        users.rows.shrink_to_fit();
        users.text.shrink_to_fit();
        on_large_pages(&users.rows);
        on_large_pages(users.text.as_bytes());
        users
    }
}

/// Moves memory to large pages where the system has any, so that finding one of very many users does not wait for the page
/// tables too. What does not fill such pages stays as it is.
fn on_large_pages<T>(memory: &[T]) {
    #[cfg(target_os = "linux")]
    {
        const SMALL_PAGE: usize = 4096;
        let bytes = memory.as_ptr_range();
        let (from, to) = (bytes.start.addr().next_multiple_of(SMALL_PAGE), bytes.end.addr());
        #[expect(unsafe_code, reason = "the kernel is told of a range of memory; what is in it stays the same")]
        // SAFETY: the range is within the slice, and this advice moves pages without changing what is in them. Kernels before
        // 6.1 do not know it and say so, which changes nothing.
        let _ = unsafe {
            libc::madvise(std::ptr::with_exposed_provenance_mut(from), to.saturating_sub(from), libc::MADV_COLLAPSE)
        };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// Finds the place of a value in a list that has each value once.
struct Shared<T>(FxHashMap<T, u32>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self(FxHashMap::default())
    }
}

impl<T: Clone + Eq + Hash> Shared<T> {
    fn place(&mut self, value: T, list: &mut Vec<T>) -> u32 {
        *self.0.entry(value).or_insert_with_key(|value| {
            list.push(value.clone());
            u32::try_from(list.len() - 1).expect("there are no more of them than users")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(users: &[(&str, &str)]) -> Users {
        let mut builder = UsersBuilder::default();
        for (id, name) in users {
            builder.push(NewUser {
                id,
                name,
                enabled: true,
                admin: false,
                tags: vec!["team".to_owned()],
                models: ModelPolicy::default(),
                limits: UserLimits::default(),
                token: Some(TokenDigest::of(id)),
            });
        }
        builder.finish()
    }

    #[test]
    fn every_user_is_found_by_token_and_by_id_and_nobody_else_is() {
        let all: Vec<(String, String)> = (0..3_000).map(|n| (format!("u{n}"), "é".repeat(n % 5))).collect();
        let users = with(&all.iter().map(|(id, name)| (id.as_str(), name.as_str())).collect::<Vec<_>>());
        for (id, name) in &all {
            let user = users.of_id(id).unwrap();
            assert_eq!((user.id.as_str(), &*user.name), (id.as_str(), name.as_str()));
            assert_eq!(users.of_token(&TokenDigest::of(id)).unwrap().id, user.id);
        }
        assert!(users.of_id("u3000").is_none() && !users.has_token(&TokenDigest::of("u3000")));
        assert_eq!((users.len(), users.iter().count()), (3_000, 3_000));
    }

    #[test]
    fn what_users_have_alike_is_kept_once() {
        let users = with(&[("a", "A"), ("b", "B")]);
        assert!(Arc::ptr_eq(&users.of_id("a").unwrap().tags, &users.of_id("b").unwrap().tags));
        assert_eq!(size_of::<Row>(), 64);
    }
}
