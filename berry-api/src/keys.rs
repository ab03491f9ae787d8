//! Keys that administrators issue while the server runs, beside the users of the configuration.
//!
//! A key acts as a user of its own, so permissions and limits hold for it as for any other. Its token is told once; what is kept,
//! in memory and in `keys.json` of the data directory, is the digest. A change is in force when it is on disk, and at once: keys
//! are looked up for each request, also on connections that are open.

use std::collections::BTreeMap;
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
use berry_core::policy::{ModelPattern, ModelPolicy};
use berry_core::secret::Secret;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::auth::Denial;
use crate::data_dir;

/// Keys at a time, those that have run out included.
pub const KEYS_MAX: usize = 10_000;
/// The file below the data directory.
pub const FILE: &str = "keys.json";
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
    grant: Grant,
}

#[derive(Serialize, Deserialize)]
struct Stored<R> {
    version: u32,
    keys: Vec<R>,
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
}

#[derive(Debug, Default)]
struct Table {
    /// In the order in which they were made.
    all: Vec<Arc<Key>>,
    by_digest: KeyTable<Arc<Key>>,
}

impl Table {
    fn of(all: Vec<Arc<Key>>) -> Self {
        let mut by_digest = KeyTable::default();
        for key in &all {
            by_digest.insert(key.digest, Arc::clone(key));
        }
        Self { all, by_digest }
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
            Ok(all) => {
                let count = all.len();
                self.table.store(Arc::new(Table::of(all)));
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
        self.table.load().all.clone()
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
            grant,
        };
        let key = Arc::new(Key::new(record).map_err(KeyError::Invalid)?);
        self.change(|all| {
            if all.len() >= KEYS_MAX {
                return Err(KeyError::TooMany);
            }
            all.push(Arc::clone(&key));
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
        let key = self.change(|all| {
            let old = all.iter_mut().find(|key| key.id() == id).ok_or(KeyError::Unknown)?;
            let record = Record {
                token_sha256: TokenDigest::of(token.expose()).to_hex(),
                rotated_at: Some(seconds(now)),
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
        self.change(|all| {
            let place = all.iter().position(|key| key.id() == id).ok_or(KeyError::Unknown)?;
            Ok(all.remove(place))
        })
    }

    /// First to disk, then in force.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<Arc<Key>>) -> Result<T, KeyError>) -> Result<T, KeyError> {
        let place = self.place.lock();
        let path = match &*place {
            Place::At(path) => path,
            Place::Nowhere => return Err(KeyError::NotKept("there is no data directory".to_owned())),
            Place::Broken(why) => return Err(KeyError::NotKept(why.clone())),
        };
        let mut all = self.list();
        let changed = change(&mut all)?;
        let stored = Stored { version: VERSION, keys: all.iter().map(|key| &key.record).collect() };
        let text = serde_json::to_vec_pretty(&stored).expect("keys are made of texts and numbers");
        data_dir::replace(path, &text).map_err(|error| KeyError::NotKept(format!("{}: {error}", path.display())))?;
        self.table.store(Arc::new(Table::of(all)));
        Ok(changed)
    }
}

fn read(path: &Path) -> Result<Vec<Arc<Key>>, String> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.to_string()),
    };
    let stored: Stored<Record> = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    if stored.version != VERSION {
        return Err(format!("is of version {}, this server knows version {VERSION}", stored.version));
    }
    stored.keys.into_iter().map(|record| Key::new(record).map(Arc::new)).collect()
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
    let Grant { name, allowed_models, allowed_networks, tags, model_rate_limits, .. } = grant;
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
    Ok(())
}

/// A network in CIDR form, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| format!("allowed_networks: {text:?} is no network like 10.0.0.0/8 and no address"))
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
    fn a_key_is_good_in_its_networks_only() {
        let directory = tempfile::tempdir().unwrap();
        let keys = keys(directory.path());
        let (_, token) = keys.create(grant(&["10.0.0.0/8", "2001:db8::1"]), &UserId::new("ada"), None, NOW).unwrap();
        for (from, good) in [("10.1.2.3", true), ("2001:db8::1", true), ("11.0.0.1", false), ("2001:db8::2", false)] {
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
}
