//! Keys that administrators issue while the server runs, beside the users of the configuration.
//!
//! A key acts as a user of its own, so permissions and limits hold for it as for any other. Its token is told once; what is kept,
//! in memory and in `keys.json` of the data directory, is the digest. A change is in force when it is on disk, and at once: keys
//! are looked up for each request, also on connections that are open.
//!
//! Instances that share keys ([`crate::cluster`]) merge what they know: of a key that two know differently the later generation
//! holds, and one that was taken back anywhere stays so, since every instance remembers which those were.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use berry_core::auth::key::{KeyTable, TokenDigest};
use berry_core::config::snapshot::{Budget, RateLimit, User, UserLimits};
use berry_core::id::{ModelName, UserId};
use berry_core::money::NanoUsd;
use berry_core::policy::{self, ModelPattern, ModelPolicy};
use berry_core::secret::Secret;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::auth::Denial;
use crate::data_dir;

/// Keys at a time, those that have run out included.
pub const KEYS_MAX: usize = 10_000;
/// The file below the data directory.
pub const FILE: &str = "keys.json";
/// Keys that were taken back and are remembered as such; the oldest are forgotten.
const REVOKED_MAX: usize = 10_000;
/// The generation of a key that was taken back: later than any other. A float holds it exactly.
const REVOKED: u64 = 1 << 52;
/// Form of the file.
const VERSION: u32 = 1;
/// What tokens begin with, so that people and secret scanners know them.
const TOKEN_PREFIX: &str = "berry-";
/// Longest name, entry or tag, in bytes.
const TEXT_MAX: usize = 200;
/// Most entries of one list.
const ENTRIES_MAX: usize = 200;
/// The tag that a key cannot have.
const ADMIN: &str = "admin";

/// Limits over windows, as `rate_limit` of a user has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rate {
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_hour: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_minute: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens_per_day: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_concurrent: Option<u32>,
}

/// Limits on money, as `budget` of a user has them, USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Money {
    #[serde(skip_serializing_if = "Option::is_none")]
    usd_per_day: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usd_per_month: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usd_total: Option<f64>,
}

/// What a key may do. Everything but the name may be left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grant {
    /// For people.
    pub name: String,
    /// As `allowed_models` of a user; empty = all.
    pub allowed_models: Vec<String>,
    /// Networks or addresses that it may be used from; empty = from everywhere.
    pub allowed_networks: Vec<String>,
    /// As `tags` of a user.
    pub tags: Vec<String>,
    /// Over all models.
    pub rate_limit: Rate,
    /// For single models.
    pub model_rate_limits: BTreeMap<String, Rate>,
    /// On money.
    pub budget: Money,
}

/// A key as it is kept. Times are seconds since 1970.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    id: String,
    token_sha256: String,
    created_at: u64,
    created_by: String,
    #[serde(default)]
    rotated_at: Option<u64>,
    #[serde(default)]
    expires_at: Option<u64>,
    /// Of two states of a key the one with the larger number is the later one.
    #[serde(default, skip_serializing_if = "is_zero")]
    generation: u64,
    grant: Grant,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct Stored<R> {
    version: u32,
    keys: Vec<R>,
    /// Ids, the oldest first.
    #[serde(default)]
    revoked: Vec<String>,
}

/// A key as instances tell each other of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Names it.
    pub id: String,
    /// Of two entries the one with the larger number holds.
    pub generation: u64,
    /// The key; empty for one that was taken back.
    pub text: String,
}

/// A key in force.
#[derive(Debug)]
pub struct Key {
    record: Record,
    digest: TokenDigest,
    networks: Vec<IpNet>,
    user: Arc<User>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// What is asked for cannot be.
    #[error("{0}")]
    Invalid(String),
    /// No key has this id.
    #[error("there is no key with this id; GET /admin/keys lists them")]
    Unknown,
    /// There are [`KEYS_MAX`] keys already.
    #[error("there are {KEYS_MAX} keys; revoke some first")]
    TooMany,
    /// The file is not there to be written.
    #[error("keys cannot be kept: {0}. Give the server a data directory that it can write, see server.data_dir")]
    NotKept(String),
}

/// The keys.
#[derive(Debug, Default)]
pub struct Keys {
    table: ArcSwap<Table>,
    /// Held while keys are changed, so that changes follow each other on disk as they do in memory.
    place: Mutex<Place>,
    /// Ids of what changed here and was not told to other instances; `None` = there are none to be told.
    untold: Mutex<Option<BTreeSet<String>>>,
    /// Rung when something is to be told.
    pub(crate) news: Notify,
}

#[derive(Debug, Default)]
struct Table {
    known: Known,
    by_digest: KeyTable<Arc<Key>>,
}

/// What is on disk.
#[derive(Clone, Debug, Default)]
struct Known {
    /// In the order in which they were made.
    all: Vec<Arc<Key>>,
    /// Ids of those that were taken back, the oldest first.
    revoked: Vec<String>,
}

impl Known {
    fn revoke(&mut self, id: &str) {
        self.all.retain(|key| key.id() != id);
        self.revoked.push(id.to_owned());
        let over = self.revoked.len().saturating_sub(REVOKED_MAX);
        self.revoked.drain(..over);
    }

    fn entries(&self) -> Vec<Entry> {
        let keys = self.all.iter().map(|key| Entry {
            id: key.id().to_owned(),
            generation: key.record.generation,
            text: serde_json::to_string(&key.record).expect("keys are made of texts and numbers"),
        });
        let revoked = self.revoked.iter();
        keys.chain(revoked.map(|id| Entry { id: id.clone(), generation: REVOKED, text: String::new() })).collect()
    }

    /// Takes in what others know, and says whether any of it was new.
    fn take_in(&mut self, entries: &[Entry]) -> bool {
        let mut at: HashMap<String, usize> =
            self.all.iter().enumerate().map(|(at, key)| (key.id().to_owned(), at)).collect();
        let mut revoked: HashSet<String> = self.revoked.iter().cloned().collect();
        let mut changed = false;
        for entry in entries.iter().filter(|entry| entry.text.is_empty()) {
            if revoked.insert(entry.id.clone()) {
                changed = true;
                self.revoked.push(entry.id.clone());
            }
        }
        for entry in entries.iter().filter(|entry| !entry.text.is_empty() && !revoked.contains(&entry.id)) {
            let Some(key) = entry.key() else { continue };
            match at.get(&entry.id) {
                Some(place) if self.all[*place].record.generation >= entry.generation => continue,
                Some(place) => self.all[*place] = Arc::new(key),
                None if self.all.len() >= KEYS_MAX => continue,
                None => {
                    at.insert(entry.id.clone(), self.all.len());
                    self.all.push(Arc::new(key));
                }
            }
            changed = true;
        }
        self.all.retain(|key| !revoked.contains(key.id()));
        let over = self.revoked.len().saturating_sub(REVOKED_MAX);
        self.revoked.drain(..over);
        changed
    }

    fn save(&self, path: &Path) -> Result<(), String> {
        let keys = self.all.iter().map(|key| &key.record).collect();
        let stored = Stored { version: VERSION, keys, revoked: self.revoked.clone() };
        let text = serde_json::to_vec_pretty(&stored).expect("keys are made of texts and numbers");
        data_dir::replace(path, &text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Table {
    fn of(known: Known) -> Self {
        let mut by_digest = KeyTable::default();
        for key in &known.all {
            by_digest.insert(key.digest, Arc::clone(key));
        }
        Self { known, by_digest }
    }
}

#[derive(Debug, Default)]
enum Place {
    /// There is no data directory, as in tests of other things.
    #[default]
    Nowhere,
    At(PathBuf),
    /// The file is there and cannot be used. It is left as it is.
    Broken(String),
}

impl Keys {
    /// Takes the keys of the data directory and keeps later ones there. A directory or a file that is not there yet is made with
    /// the first key.
    ///
    /// # Errors
    /// When the file is there and cannot be used: none of its keys holds then, none can be made, and the file stays as it is.
    pub fn open(&self, data_dir: &Path) -> Result<usize, String> {
        let path = data_dir.join(FILE);
        let mut place = self.place.lock();
        match read(&path) {
            Ok(known) => {
                let count = known.all.len();
                self.table.store(Arc::new(Table::of(known)));
                *place = Place::At(path);
                Ok(count)
            }
            Err(error) => {
                let error = format!("{}: {error}", path.display());
                *place = Place::Broken(error.clone());
                Err(error)
            }
        }
    }

    /// The user that a token's digest stands for, where the key holds now and may be used from the address. `client` is asked
    /// only for keys with networks.
    ///
    /// # Errors
    /// Why it does not.
    pub fn user(
        &self,
        digest: &TokenDigest,
        client: impl FnOnce() -> IpAddr,
        now: SystemTime,
    ) -> Result<Arc<User>, Denial> {
        let table = self.table.load();
        let key = table.by_digest.get(digest).ok_or(Denial::Unknown)?;
        if key.expires_at().is_some_and(|end| end <= now) {
            return Err(Denial::Expired);
        }
        if !key.networks.is_empty() {
            let client = client();
            if !key.networks.iter().any(|network| network.contains(&client)) {
                return Err(Denial::ForeignNetwork);
            }
        }
        Ok(Arc::clone(&key.user))
    }

    /// All of them, in the order in which they were made.
    pub fn list(&self) -> Vec<Arc<Key>> {
        self.table.load().known.all.clone()
    }

    /// Makes a key; with it comes its token, for the only time. Writes to disk.
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed then.
    pub fn create(
        &self,
        grant: Grant,
        by: &UserId,
        lifetime: Option<Duration>,
        now: SystemTime,
    ) -> Result<(Arc<Key>, Secret), KeyError> {
        check(&grant)?;
        let token = new_token();
        let record = Record {
            id: format!("key_{}", hex(&rand::random::<[u8; 8]>())),
            token_sha256: TokenDigest::of(token.expose()).to_hex(),
            created_at: seconds(now),
            created_by: by.to_string(),
            rotated_at: None,
            expires_at: lifetime.map(|lifetime| seconds(now + lifetime)),
            generation: 0,
            grant,
        };
        let key = Arc::new(Key::new(record).map_err(KeyError::Invalid)?);
        self.change(key.id(), |known| {
            if known.all.len() >= KEYS_MAX {
                return Err(KeyError::TooMany);
            }
            known.all.push(Arc::clone(&key));
            Ok(())
        })?;
        Ok((key, token))
    }

    /// Gives a key another token; the one before is nobody's from now on. Writes to disk.
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed then.
    pub fn rotate(&self, id: &str, now: SystemTime) -> Result<(Arc<Key>, Secret), KeyError> {
        let token = new_token();
        let key = self.change(id, |known| {
            let old = known.all.iter_mut().find(|key| key.id() == id).ok_or(KeyError::Unknown)?;
            let record = Record {
                token_sha256: TokenDigest::of(token.expose()).to_hex(),
                rotated_at: Some(seconds(now)),
                // Two instances may rotate it at once. By different steps, so that all come to hold the same of the two.
                generation: old.record.generation + 1 + u64::from(rand::random::<u16>()),
                ..old.record.clone()
            };
            *old = Arc::new(Key::new(record).map_err(KeyError::Invalid)?);
            Ok(Arc::clone(old))
        })?;
        Ok((key, token))
    }

    /// Takes a key back: its token is nobody's from now on. Writes to disk.
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed then.
    pub fn revoke(&self, id: &str) -> Result<Arc<Key>, KeyError> {
        self.change(id, |known| {
            let key = known.all.iter().find(|key| key.id() == id).cloned().ok_or(KeyError::Unknown)?;
            known.revoke(id);
            Ok(key)
        })
    }

    /// First to disk, then in force.
    fn change<T>(&self, id: &str, change: impl FnOnce(&mut Known) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let place = self.place.lock();
        let path = match &*place {
            Place::At(path) => path,
            Place::Nowhere => return Err(KeyError::NotKept("there is no data directory".to_owned())),
            Place::Broken(why) => return Err(KeyError::NotKept(why.clone())),
        };
        let mut known = self.table.load().known.clone();
        // Another process in the same directory, as during a change of versions, may have written since.
        known.take_in(&read(path).map_err(KeyError::NotKept)?.entries());
        let changed = change(&mut known)?;
        known.save(path).map_err(KeyError::NotKept)?;
        self.table.store(Arc::new(Table::of(known)));
        if let Some(untold) = &mut *self.untold.lock() {
            untold.insert(id.to_owned());
            self.news.notify_one();
        }
        Ok(changed)
    }

    /// From now on notes what changes, for [`Keys::take_untold`].
    pub(crate) fn share(&self) {
        self.untold.lock().get_or_insert_default();
    }

    /// Whether something changed here since the last call of [`Keys::take_untold`].
    pub(crate) fn has_untold(&self) -> bool {
        self.untold.lock().as_ref().is_some_and(|untold| !untold.is_empty())
    }

    /// What changed here since the last call, as it is now.
    pub(crate) fn take_untold(&self) -> Vec<Entry> {
        let ids = self.untold.lock().as_mut().map(std::mem::take).unwrap_or_default();
        self.entries().into_iter().filter(|entry| ids.contains(&entry.id)).collect()
    }

    /// What could not be told after all.
    pub(crate) fn put_back(&self, entries: &[Entry]) {
        if let Some(untold) = &mut *self.untold.lock() {
            untold.extend(entries.iter().map(|entry| entry.id.clone()));
        }
    }

    /// All that is known, those included that were taken back.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.table.load().known.entries()
    }

    /// Takes in what other instances know, in force at once and on disk where that is possible. Entries that no key can be are
    /// passed over.
    ///
    /// # Errors
    /// Why it is not on disk. It holds all the same.
    pub(crate) fn merge(&self, entries: &[Entry]) -> Result<(), String> {
        let place = self.place.lock();
        let mut known = self.table.load().known.clone();
        if !known.take_in(entries) {
            return Ok(());
        }
        let kept = match &*place {
            Place::At(path) => known.save(path),
            Place::Nowhere => Err("there is no data directory".to_owned()),
            Place::Broken(why) => Err(why.clone()),
        };
        self.table.store(Arc::new(Table::of(known)));
        kept
    }
}

impl Entry {
    /// What it says, where a key can be like that.
    fn key(&self) -> Option<Key> {
        let record: Record = serde_json::from_str(&self.text).ok()?;
        let told = record.id == self.id && record.generation == self.generation && check(&record.grant).is_ok();
        Key::new(record).ok().filter(|_| told)
    }
}

fn read(path: &Path) -> Result<Known, String> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Known::default()),
        Err(error) => return Err(error.to_string()),
    };
    let stored: Stored<Record> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if stored.version != VERSION {
        return Err(format!("is of version {}, this server knows version {VERSION}", stored.version));
    }
    let keys = stored.keys.into_iter().map(|record| Key::new(record).map(Arc::new));
    Ok(Known { all: keys.collect::<Result<_, _>>()?, revoked: stored.revoked })
}

impl Key {
    fn new(record: Record) -> Result<Self, String> {
        let digest = TokenDigest::from_hex(&record.token_sha256).ok_or("token_sha256 is not 64 hexadecimal digits")?;
        let networks = record.grant.allowed_networks.iter().map(|text| network(text)).collect::<Result<_, _>>()?;
        let user = Arc::new(record.grant.user(&record.id)?);
        Ok(Self { record, digest, networks, user })
    }

    /// Names it; also the id of its user in logs and figures.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Eight digits that tell its token apart in the audit.
    pub fn fingerprint(&self) -> String {
        self.digest.fingerprint()
    }

    /// The user that it acts as.
    pub fn user(&self) -> &Arc<User> {
        &self.user
    }

    /// What it may do.
    pub fn grant(&self) -> &Grant {
        &self.record.grant
    }

    /// Who made it.
    pub fn created_by(&self) -> &str {
        &self.record.created_by
    }

    /// When it was made.
    pub fn created_at(&self) -> SystemTime {
        time(self.record.created_at)
    }

    /// When it got its token, where that is not the first.
    pub fn rotated_at(&self) -> Option<SystemTime> {
        self.record.rotated_at.map(time)
    }

    /// From when on it is refused.
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.record.expires_at.map(time)
    }
}

impl Grant {
    fn user(&self, id: &str) -> Result<User, String> {
        let by_model = self.model_rate_limits.iter();
        let limits = UserLimits {
            rate: self.rate_limit.compile(),
            by_model: by_model.map(|(name, rate)| (ModelName::new(name.as_str()), rate.compile())).collect(),
            budget: self.budget.compile()?,
        };
        Ok(User {
            id: UserId::new(id),
            name: self.name.as_str().into(),
            enabled: true,
            admin: false,
            tags: self.tags.as_slice().into(),
            models: ModelPolicy::new(self.allowed_models.iter().map(|entry| ModelPattern::new(entry)).collect()),
            limits: (limits != UserLimits::default()).then(|| Arc::new(limits)),
        })
    }
}

impl Rate {
    /// Whether a limit is zero, which no request could keep.
    fn has_zero(self) -> bool {
        let Self {
            requests_per_minute,
            requests_per_hour,
            requests_per_day,
            tokens_per_minute,
            tokens_per_day,
            max_concurrent,
        } = self;
        let limits = [requests_per_minute, requests_per_hour, requests_per_day, tokens_per_minute, tokens_per_day];
        limits.contains(&Some(0)) || max_concurrent == Some(0)
    }

    fn compile(self) -> RateLimit {
        let Self {
            requests_per_minute,
            requests_per_hour,
            requests_per_day,
            tokens_per_minute,
            tokens_per_day,
            max_concurrent,
        } = self;
        RateLimit {
            requests_per_minute,
            requests_per_hour,
            requests_per_day,
            tokens_per_minute,
            tokens_per_day,
            max_concurrent,
        }
    }
}

impl Money {
    fn compile(self) -> Result<Budget, String> {
        let amount =
            |usd: Option<f64>| usd.map(NanoUsd::from_usd).transpose().map_err(|error| format!("budget: {error}"));
        Ok(Budget {
            per_day: amount(self.usd_per_day)?,
            per_month: amount(self.usd_per_month)?,
            total: amount(self.usd_total)?,
        })
    }
}

/// Refuses what a key cannot be. A file that was written by hand may hold more.
fn check(grant: &Grant) -> Result<(), KeyError> {
    let Grant { name, allowed_models, allowed_networks, tags, rate_limit, model_rate_limits, budget: _ } = grant;
    let invalid = |why: &str| Err(KeyError::Invalid(why.to_owned()));
    if name.trim().is_empty() || name.len() > TEXT_MAX {
        return invalid("`name` must have 1 to 200 bytes: say whose key it is");
    }
    if tags.iter().any(|tag| tag == ADMIN) {
        return invalid("a key cannot have the tag `admin`: administrators are users of the configuration");
    }
    let lists = [allowed_models, allowed_networks, tags];
    let too_many = lists.iter().any(|list| list.len() > ENTRIES_MAX) || model_rate_limits.len() > ENTRIES_MAX;
    let texts = lists.into_iter().flatten().chain(model_rate_limits.keys());
    if too_many || texts.into_iter().any(|text| text.is_empty() || text.len() > TEXT_MAX) {
        return invalid("a list may have 200 entries of 1 to 200 bytes");
    }
    if std::iter::once(rate_limit).chain(model_rate_limits.values()).any(|rate| rate.has_zero()) {
        return invalid("a rate limit must be at least 1; a key that may do nothing is revoked");
    }
    Ok(())
}

/// A network in CIDR form, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    policy::network(text)
        .ok_or_else(|| format!("allowed_networks: {text:?} is no network like 10.0.0.0/8 and no address"))
}

/// 256 bits from the operating system's generator, by way of the thread's.
fn new_token() -> Secret {
    Secret::from(format!("{TOKEN_PREFIX}{}", hex(&rand::random::<[u8; 32]>())).as_str())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn keys(directory: &Path) -> Keys {
        let keys = Keys::default();
        keys.open(directory).unwrap();
        keys
    }

    fn grant(networks: &[&str]) -> Grant {
        let allowed_networks = networks.iter().map(|text| (*text).to_owned()).collect();
        Grant { name: "a team".to_owned(), allowed_networks, ..Grant::default() }
    }

    fn ask(keys: &Keys, token: &Secret, from: &str, after: u64) -> Result<String, Denial> {
        let now = NOW + Duration::from_secs(after);
        let client = || from.parse().unwrap();
        keys.user(&TokenDigest::of(token.expose()), client, now).map(|user| user.id.to_string())
    }

    #[test]
    fn keys_survive_a_restart_and_their_tokens_are_not_on_disk() {
        let directory = tempfile::tempdir().unwrap();
        let ada = UserId::new("ada");
        let (key, token) = keys(directory.path()).create(grant(&[]), &ada, None, NOW).unwrap();
        let text = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
        assert!(!text.contains(token.expose()) && !text.contains(&token.expose()[TOKEN_PREFIX.len()..]));
        let again = keys(directory.path());
        assert_eq!(ask(&again, &token, "192.0.2.1", 0), Ok(key.id().to_owned()));
        assert_eq!(again.list()[0].grant(), key.grant());
    }

    #[test]
    fn a_key_ends_exactly_when_its_time_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(directory.path());
        let lifetime = Some(Duration::from_secs(60));
        let (key, token) = keys.create(grant(&[]), &UserId::new("ada"), lifetime, NOW).unwrap();
        assert_eq!(ask(&keys, &token, "192.0.2.1", 59), Ok(key.id().to_owned()));
        assert_eq!(ask(&keys, &token, "192.0.2.1", 60), Err(Denial::Expired));
    }

    #[test]
    fn rotation_and_revocation_hold_at_once_and_over_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let first = keys(directory.path());
        let (key, old) = first.create(grant(&[]), &UserId::new("ada"), None, NOW).unwrap();
        let (_, new) = first.rotate(key.id(), NOW).unwrap();
        let again = keys(directory.path());
        for keys in [&first, &again] {
            assert_eq!(ask(keys, &old, "192.0.2.1", 0), Err(Denial::Unknown));
            assert_eq!(ask(keys, &new, "192.0.2.1", 0), Ok(key.id().to_owned()));
        }
        again.revoke(key.id()).unwrap();
        assert_eq!(ask(&again, &new, "192.0.2.1", 0), Err(Denial::Unknown));
        assert!(matches!(again.revoke(key.id()), Err(KeyError::Unknown)));
    }

    #[test]
    fn what_another_process_in_the_same_directory_changed_is_not_undone() {
        let directory = tempfile::tempdir().unwrap();
        let ada = UserId::new("ada");
        let first = keys(directory.path());
        let (gone, gone_token) = first.create(grant(&[]), &ada, None, NOW).unwrap();
        let second = keys(directory.path());
        let (_, of_second) = second.create(grant(&[]), &ada, None, NOW).unwrap();
        first.revoke(gone.id()).unwrap();
        let (_, late) = second.create(grant(&[]), &ada, None, NOW).unwrap();
        for keys in [&second, &keys(directory.path())] {
            assert_eq!(ask(keys, &gone_token, "192.0.2.1", 0), Err(Denial::Unknown), "it was revoked");
            assert!(ask(keys, &of_second, "192.0.2.1", 0).is_ok() && ask(keys, &late, "192.0.2.1", 0).is_ok());
        }
    }

    #[test]
    fn a_key_is_good_in_its_networks_only() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(directory.path());
        let (_, token) = keys
            .create(grant(&["10.0.0.0/8", "2001:db8::1", "::ffff:192.0.2.0/120"]), &UserId::new("ada"), None, NOW)
            .unwrap();
        let good = ["10.1.2.3", "2001:db8::1", "192.0.2.7"].map(|from| (from, true));
        let foreign = ["11.0.0.1", "2001:db8::2", "192.0.3.7"].map(|from| (from, false));
        for (from, good) in good.into_iter().chain(foreign) {
            assert_eq!(ask(&keys, &token, from, 0).is_ok(), good, "{from}");
        }
    }

    #[test]
    fn what_a_key_cannot_be_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(directory.path());
        let tags = vec!["admin".to_owned()];
        let budget = Money { usd_total: Some(-1.0), ..Money::default() };
        for bad in [
            Grant::default(),
            grant(&["10.0.0.0/40"]),
            grant(&["localhost"]),
            Grant { tags, ..grant(&[]) },
            Grant { budget, ..grant(&[]) },
        ] {
            let refused = keys.create(bad.clone(), &UserId::new("ada"), None, NOW);
            assert!(matches!(refused, Err(KeyError::Invalid(_))), "{bad:?}");
        }
        assert!(keys.list().is_empty());
        assert!(!directory.path().join(FILE).exists());
    }

    #[test]
    fn names_and_lists_may_be_as_long_as_they_say_and_no_limit_may_be_zero() {
        let good = |grant: &Grant| check(grant).is_ok();
        let named = |name: String| Grant { name, ..Grant::default() };
        let long = |length: usize| "x".repeat(length);
        assert!(good(&named(long(200))));
        assert!(!good(&named(long(201))) && !good(&named(" ".to_owned())));
        let lists: [fn(Vec<String>) -> Grant; 3] = [
            |allowed_models| Grant { allowed_models, ..grant(&[]) },
            |allowed_networks| Grant { allowed_networks, ..grant(&[]) },
            |tags| Grant { tags, ..grant(&[]) },
        ];
        let limits = |names: Vec<String>, rate: Rate| Grant {
            model_rate_limits: names.into_iter().map(|name| (name, rate)).collect(),
            ..grant(&[])
        };
        let numbered = |count: usize| (0..count).map(|number| number.to_string()).collect::<Vec<_>>();
        for of in lists {
            assert!(good(&of(vec![long(200); 200])));
            assert!(!good(&of(vec![long(1); 201])) && !good(&of(vec![long(201)])) && !good(&of(vec![String::new()])));
        }
        let of = |names| limits(names, Rate::default());
        assert!(good(&of(numbered(200))) && !good(&of(numbered(201))) && !good(&of(vec![long(201)])));
        for place in 0..6 {
            let of = |limit: u32| {
                let at = |here: usize| (here == place).then_some(u64::from(limit));
                Rate {
                    requests_per_minute: at(0),
                    requests_per_hour: at(1),
                    requests_per_day: at(2),
                    tokens_per_minute: at(3),
                    tokens_per_day: at(4),
                    max_concurrent: (place == 5).then_some(limit),
                }
            };
            for (limit, expected) in [(1, true), (0, false)] {
                assert_eq!(good(&Grant { rate_limit: of(limit), ..grant(&[]) }), expected);
                assert_eq!(good(&limits(vec!["m".to_owned()], of(limit))), expected);
            }
        }
    }

    #[test]
    fn there_are_no_more_keys_than_the_most_and_the_oldest_that_were_taken_back_are_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(directory.path());
        let (key, token) = keys.create(grant(&[]), &UserId::new("ada"), None, NOW).unwrap();
        let entry = keys.entries().remove(0);
        let more = (1..=KEYS_MAX).map(|number| {
            let id = format!("key_{number}");
            Entry { text: entry.text.replace(key.id(), &id), id, ..entry.clone() }
        });
        keys.merge(&more.collect::<Vec<_>>()).unwrap();
        assert_eq!(keys.list().len(), KEYS_MAX);
        let refused = keys.create(grant(&[]), &UserId::new("ada"), None, NOW);
        assert!(matches!(refused, Err(KeyError::TooMany)));
        let gone = |number: usize| Entry { id: format!("key_{number}"), generation: REVOKED, text: String::new() };
        keys.merge(&(1..=REVOKED_MAX).map(gone).collect::<Vec<_>>()).unwrap();
        assert_eq!((keys.list().len(), keys.entries().len()), (1, 1 + REVOKED_MAX));
        keys.revoke(key.id()).unwrap();
        assert_eq!(ask(&keys, &token, "192.0.2.1", 0), Err(Denial::Unknown));
        let ids = |keys: &Keys| keys.entries().into_iter().map(|entry| entry.id).collect::<Vec<_>>();
        let known = ids(&keys);
        assert_eq!((known.len(), &*known[0], &*known[REVOKED_MAX - 1]), (REVOKED_MAX, "key_2", key.id()));
        keys.merge(&[gone(0)]).unwrap();
        let known = ids(&keys);
        assert_eq!((known.len(), &*known[0], &*known[REVOKED_MAX - 1]), (REVOKED_MAX, "key_3", "key_0"));
    }

    #[test]
    fn what_another_instance_tells_holds_even_where_it_cannot_be_kept() {
        let directory = tempfile::tempdir().unwrap();
        let source = keys(directory.path());
        let (key, token) = source.create(grant(&[]), &UserId::new("ada"), None, NOW).unwrap();
        let nowhere = Keys::default();
        assert!(nowhere.merge(&source.entries()).is_err());
        assert_eq!(ask(&nowhere, &token, "192.0.2.1", 0), Ok(key.id().to_owned()));
        assert_eq!(nowhere.merge(&source.entries()), Ok(()), "nothing new is not written");
        // Of two that say something else with one number the one that is here stays.
        let mut other = source.entries();
        other[0].text = other[0].text.replace("a team", "a tram");
        nowhere.merge(&other).unwrap();
        assert_eq!(nowhere.list()[0].grant().name, "a team");
    }

    #[test]
    fn times_of_a_key_are_kept_and_a_rotation_counts() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(directory.path());
        let at = |seconds| NOW + Duration::from_secs(seconds);
        let (key, token) = keys.create(grant(&[]), &UserId::new("ada"), Some(Duration::from_secs(9)), at(5)).unwrap();
        assert_eq!((key.created_at(), key.rotated_at(), key.expires_at()), (at(5), None, Some(at(14))));
        assert_eq!((key.id().len(), token.expose().len()), (4 + 16, TOKEN_PREFIX.len() + 64));
        let (rotated, _) = keys.rotate(key.id(), at(7)).unwrap();
        assert_eq!(
            (rotated.created_at(), rotated.rotated_at(), rotated.expires_at()),
            (at(5), Some(at(7)), Some(at(14)))
        );
        assert!((1..=1 << 16).contains(&keys.entries()[0].generation));
        assert!(matches!(keys.rotate("key_0", at(8)), Err(KeyError::Unknown)));
        let user = key.user();
        assert!(user.enabled && !user.admin && user.limits.is_none());
    }

    #[test]
    fn a_file_of_another_version_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FILE), r#"{"version":2,"keys":[]}"#).unwrap();
        assert!(Keys::default().open(directory.path()).is_err_and(|error| error.contains("version 2")));
    }

    #[test]
    fn a_broken_file_is_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        std::fs::write(&path, "{\"version\":1,").unwrap();
        let keys = Keys::default();
        keys.open(directory.path()).unwrap_err();
        let refused = keys.create(grant(&[]), &UserId::new("ada"), None, NOW);
        assert!(matches!(refused, Err(KeyError::NotKept(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"version\":1,");
    }

    #[test]
    fn instances_come_to_know_the_same_whatever_the_order_in_which_they_hear_it() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] = directories.each_ref().map(|directory| keys(directory.path()));
        let ada = UserId::new("ada");
        let (kept, _) = first.create(grant(&[]), &ada, None, NOW).unwrap();
        let (gone, gone_token) = first.create(grant(&[]), &ada, None, NOW).unwrap();
        second.merge(&first.entries()).unwrap();
        let before = second.entries();
        let (_, rotated) = first.rotate(kept.id(), NOW).unwrap();
        second.revoke(gone.id()).unwrap();
        first.merge(&second.entries()).unwrap();
        second.merge(&first.entries()).unwrap();
        // Old news change nothing, and a restart forgets nothing.
        second.merge(&before).unwrap();
        let [first, second] = directories.each_ref().map(|directory| keys(directory.path()));
        first.merge(&before).unwrap();
        for keys in [&first, &second] {
            assert_eq!(ask(keys, &rotated, "192.0.2.1", 0), Ok(kept.id().to_owned()));
            assert_eq!(ask(keys, &gone_token, "192.0.2.1", 0), Err(Denial::Unknown));
            assert_eq!(keys.list().len(), 1);
        }
    }

    #[test]
    fn of_two_rotations_at_once_all_instances_come_to_hold_the_same() {
        let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [first, second] = directories.each_ref().map(|directory| keys(directory.path()));
        // The steps of one are the same by chance once in 65,536 times.
        let made = [(); 8].map(|()| first.create(grant(&[]), &UserId::new("ada"), None, NOW).unwrap().0);
        second.merge(&first.entries()).unwrap();
        for key in &made {
            first.rotate(key.id(), NOW).unwrap();
            second.rotate(key.id(), NOW).unwrap();
        }
        let told = first.entries();
        first.merge(&second.entries()).unwrap();
        second.merge(&told).unwrap();
        let tokens = |keys: &Keys| keys.list().iter().map(|key| key.fingerprint()).collect::<Vec<_>>();
        let (of_first, of_second) = (tokens(&first), tokens(&second));
        assert!(of_first.iter().zip(&of_second).filter(|(first, second)| first == second).count() >= 7);
    }

    #[test]
    fn what_another_instance_tells_is_held_to_the_same_rules() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (keys, source) = (keys(directory.path()), keys(other.path()));
        source.create(grant(&[]), &UserId::new("ada"), None, NOW).unwrap();
        let good = source.entries().remove(0);
        let admin = Entry { text: good.text.replace("\"tags\":[]", "\"tags\":[\"admin\"]"), ..good.clone() };
        assert_ne!(admin, good);
        let renamed = Entry { id: "key_0".to_owned(), ..good.clone() };
        let newer = Entry { generation: 9, ..good.clone() };
        let broken = Entry { text: "{".to_owned(), ..good };
        keys.merge(&[admin, renamed, newer, broken]).unwrap();
        assert!(keys.list().is_empty());
    }

    #[test]
    fn what_changed_is_told_once_unless_that_failed() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(directory.path());
        let (key, _) = keys.create(grant(&[]), &UserId::new("ada"), None, NOW).unwrap();
        keys.put_back(&keys.entries());
        assert!(!keys.has_untold());
        assert_eq!(keys.take_untold(), [], "nobody is to be told");
        keys.share();
        assert!(!keys.has_untold());
        keys.revoke(key.id()).unwrap();
        keys.share();
        assert!(keys.has_untold());
        let told = keys.take_untold();
        assert_eq!(told, [Entry { id: key.id().to_owned(), generation: REVOKED, text: String::new() }]);
        assert_eq!(keys.take_untold(), []);
        keys.put_back(&told);
        assert_eq!(keys.take_untold(), told);
    }
}
