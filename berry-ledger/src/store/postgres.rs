//! Rows in a PostgreSQL database, which several instances may share.
//!
//! The client blocks, with a runtime of its own inside: it must not be used, nor dropped, on a thread that runs asynchronous tasks.
//!
//! TLS follows `sslmode` of the address. `disable` is plain; `prefer` (without a word) and `require` use TLS where the server has
//! it, and check its certificate against the system's roots in either case.

use std::time::Duration;

use berry_core::secret::Secret;
use postgres::config::SslMode;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, Row, Statement};
use rustc_hash::{FxHashMap, FxHashSet};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::schema::{self, Dialect, Request};
use super::{Cells, Each, Sql, StoreError, Value};

const CONNECT: Duration = Duration::from_secs(5);
/// A server that acknowledges nothing for this long is away.
const SILENCE: Duration = Duration::from_secs(10);

const DIALECT: Dialect =
    Dialect { blob: "BYTEA", clustered: "", id: "id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY" };

/// Any number that no other program locks by: two instances that start at once take turns with the tables.
const MIGRATION_LOCK: i64 = 0x6265_7272_795f_6c67;

pub(crate) struct Postgres {
    client: Client,
    statements: FxHashMap<String, Statement>,
}

impl Postgres {
    /// Connects, makes the tables when they are not there, and brings them to this version.
    pub(crate) fn open(url: &Secret) -> Result<Self, StoreError> {
        let mut store = Self::connect(url)?;
        schema::upgrade(&mut store, &DIALECT)?;
        Ok(store)
    }

    /// Connects, for reading.
    pub(crate) fn connect(url: &Secret) -> Result<Self, StoreError> {
        // The reason may quote the address, and with it the password.
        let mut config: Config =
            url.expose().parse().map_err(|_| StoreError::Away("the address of the database cannot be read".into()))?;
        config.connect_timeout(CONNECT).tcp_user_timeout(SILENCE).application_name("berry-ledger");
        let mut client = if config.get_ssl_mode() == SslMode::Disable {
            config.connect(NoTls)
        } else {
            config.connect(MakeRustlsConnect::new(tls()))
        }
        .map_err(convert)?;
        client.batch_execute("SET statement_timeout = '60s'; SET client_min_messages = 'warning'").map_err(convert)?;
        Ok(Self { client, statements: FxHashMap::default() })
    }

    fn statement(&mut self, sql: &str) -> Result<Statement, StoreError> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(&sql.replace('?', "$")).map_err(convert)?;
        // Questions come in some hundred forms at most; a bound all the same.
        if self.statements.len() >= 256 {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }
}

fn tls() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    ClientConfig::builder_with_provider(std::sync::Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has the usual versions")
        .with_root_certificates(roots)
        .with_no_client_auth()
}

fn convert(error: postgres::Error) -> StoreError {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    StoreError::Away(format!("{error}{cause}"))
}

impl ToSql for Value<'_> {
    fn to_sql(&self, ty: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Int(number) => number.to_sql(ty, out),
            // It ends before a zero, which PostgreSQL takes in no text.
            Self::Text(text) => text.split('\0').next().to_sql(ty, out),
            Self::Blob(bytes) => bytes.to_sql(ty, out),
        }
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::TEXT | Type::BYTEA)
    }

    to_sql_checked!();
}

fn borrowed<'v>(values: &'v [Value<'_>]) -> Vec<&'v (dyn ToSql + Sync)> {
    values.iter().map(|value| value as &(dyn ToSql + Sync)).collect()
}

impl Cells for Row {
    fn int(&self, column: usize) -> Result<Option<i64>, StoreError> {
        // A constant in a SELECT has 32 bits.
        if *self.columns()[column].type_() == Type::INT4 {
            return self.try_get::<_, Option<i32>>(column).map(|number| number.map(i64::from)).map_err(convert);
        }
        self.try_get(column).map_err(convert)
    }

    fn text(&self, column: usize) -> Result<Option<&str>, StoreError> {
        self.try_get(column).map_err(convert)
    }

    fn blob(&self, column: usize) -> Result<Option<&[u8]>, StoreError> {
        self.try_get(column).map_err(convert)
    }
}

impl Sql for Postgres {
    fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let statement = self.statement(sql)?;
        self.client.execute(&statement, &borrowed(values)).map_err(convert)
    }

    fn query(&mut self, sql: &str, values: &[Value<'_>], each: Each<'_>) -> Result<(), StoreError> {
        let statement = self.statement(sql)?;
        for row in self.client.query(&statement, &borrowed(values)).map_err(convert)? {
            if !each(&row)? {
                break;
            }
        }
        Ok(())
    }

    /// All rows in one round trip, as one array for each column.
    fn insert_requests(&mut self, rows: &[Request<'_>], fresh: &mut Vec<bool>) -> Result<(), StoreError> {
        let column = |of: fn(&Request<'_>) -> i64| rows.iter().map(of).collect::<Vec<i64>>();
        let (ids, users, shapes) = (column(|row| row.id), column(|row| row.user), column(|row| row.shape));
        let rests: Vec<&[u8]> = rows.iter().map(|row| row.rest).collect();
        let statement = self.statement(
            "INSERT INTO request (id, user_id, shape_id, rest) \
             SELECT * FROM UNNEST(?1::BIGINT[], ?2::BIGINT[], ?3::BIGINT[], ?4::BYTEA[]) ON CONFLICT DO NOTHING RETURNING id",
        )?;
        let inserted = self.client.query(&statement, &[&ids, &users, &shapes, &rests]).map_err(convert)?;
        let mut inserted: FxHashSet<i64> = inserted.iter().map(|row| row.get(0)).collect();
        fresh.clear();
        // Of two rows with one key only the first went in.
        fresh.extend(ids.iter().map(|id| inserted.remove(id)));
        Ok(())
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.client.batch_execute("BEGIN").map_err(convert)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.client.batch_execute("COMMIT").map_err(convert)
    }

    fn rollback(&mut self) {
        // Without a connection the server has given it up already.
        let _ = self.client.batch_execute("ROLLBACK");
    }

    fn lock_version(&mut self) -> Result<i64, StoreError> {
        self.query("SELECT pg_advisory_xact_lock(?1)", &[MIGRATION_LOCK.into()], &mut |_| Ok(true))?;
        self.execute("CREATE TABLE IF NOT EXISTS ledger_version (version BIGINT NOT NULL)", &[])?;
        Ok(self.number("SELECT version FROM ledger_version", &[])?.unwrap_or(0))
    }

    fn set_version(&mut self, version: i64) -> Result<(), StoreError> {
        self.execute("DELETE FROM ledger_version", &[])?;
        self.execute("INSERT INTO ledger_version (version) VALUES (?1)", &[version.into()]).map(|_| ())
    }

    fn rest_holds(&self, parameter: usize) -> String {
        format!("position(?{parameter}::BYTEA IN rest) > 0")
    }

    fn for_update(&self) -> &'static str {
        " FOR UPDATE"
    }

    fn empty_log(&mut self) -> Result<(), StoreError> {
        // Its log is the server's affair, and so are rows that were overwritten: VACUUM takes them.
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), StoreError> {
        // A commit is, as far as the server's operator wants it.
        Ok(())
    }
}
