//! The thread that fills the database from the journal.
//!
//! Everything reaches the database in one way: a chunk of the journal becomes one transaction, which also notes how far the journal
//! is in. After a crash the thread goes on from there. Sums ([`Rollup`]) are written less often and note a place of their own; what
//! lies between the two places is read again at start, for the sums alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rustc_hash::FxHashMap;

use crate::first;
use crate::journal::{Journal, Position, payloads};
use crate::query::Figures;
use crate::record::{Encoded, Numbers, Rest, Shape as Names};
use crate::rollup::{DAY_US, HOUR_US, Item, MINUTE_US, Rollup};
use crate::store::postgres::Postgres;
use crate::store::schema::{MINUTES_KEPT_SECONDS, Request, Shape, TIE_BITS};
use crate::store::sqlite::{Sqlite, beside};
use crate::store::{Sql, StoreError, Value};
use crate::{Options, Store};

/// Rows wait this long for company, so that a transaction has many. Nobody waits with them: they are safe in the journal, and
/// whoever asks a question has them brought in at once.
const BATCH_WAIT: Duration = Duration::from_secs(1);

/// Pause after a failure; doubles up to the second.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// Sums wait this long, unless somebody asks.
const ROLLUP_US: i64 = MINUTE_US;

/// Rows that retention deletes in one transaction.
const RETENTION_STEP: i64 = 2000;

/// Rows that are made and inserted at once: few enough for the caches of a core.
const ROWS_AT_ONCE: usize = 128;

/// Names in memory, and shapes; beyond, they are all forgotten and looked up again.
const NAMES_MAX: usize = 100_000;

/// What names are of, in the table `name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub(crate) enum Kind {
    User = 1,
    Model = 2,
    Provider = 3,
    Upstream = 4,
    Error = 5,
    Process = 6,
}

/// What the thread and those who talk to it share.
pub(crate) struct Shared {
    pub(crate) journal: Journal,
    /// Something was appended.
    pub(crate) pending: AtomicBool,
    pub(crate) state: Mutex<State>,
    /// The thread waits here for something to do.
    pub(crate) wake: Condvar,
    /// Others wait here for the thread.
    pub(crate) done: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// How often a flush was asked for, and how many of them are done.
    pub(crate) flush_asked: u64,
    pub(crate) flush_done: u64,
    pub(crate) stop: bool,
    pub(crate) stopped: bool,
    /// Why the database is not being filled.
    pub(crate) trouble: Option<String>,
    /// Something an operator should know although rows are being written.
    pub(crate) notice: Option<String>,
    /// Rows that were found in the journal and put into the database, or were there already.
    pub(crate) stored: u64,
    /// Of them, rows that this process appended.
    pub(crate) own: u64,
    /// How often the database was opened.
    pub(crate) connections: u64,
    /// Rows that are twice in the journal.
    pub(crate) duplicates: u64,
    /// Bytes of the journal that are no record.
    pub(crate) lost_bytes: u64,
}

/// What a chunk of the journal had.
#[derive(Debug, Default)]
struct Count {
    records: u64,
    duplicates: u64,
    /// Bytes.
    unreadable: u64,
    spans: Spans,
}

/// Which counters of a process lie in which minute, so that a request id is found without an index of all of them: process and
/// minute, lowest and highest counter.
#[derive(Debug, Default)]
struct Spans {
    all: FxHashMap<(i64, i64), (i64, i64)>,
    /// That of the last row, which is nearly always that of the next; not among `all` yet.
    last: Option<((i64, i64), (i64, i64))>,
}

impl Spans {
    fn add(&mut self, process: i64, slot: i64, counter: i64) {
        if let Some((_, (low, high))) = self.last.as_mut().filter(|(key, _)| *key == (process, slot)) {
            (*low, *high) = ((*low).min(counter), (*high).max(counter));
            return;
        }
        self.end_last();
        self.last = Some(((process, slot), (counter, counter)));
    }

    fn end_last(&mut self) {
        let Some((key, span)) = self.last.take() else { return };
        let (low, high) = self.all.entry(key).or_insert(span);
        (*low, *high) = ((*low).min(span.0), (*high).max(span.1));
    }
}

/// A shape that was met: its number, and its process in full.
#[derive(Clone, Copy)]
struct Known {
    id: i64,
    shape: Shape,
    process: u64,
}

/// A record on its way into the database.
struct Row<'a> {
    time_us: i64,
    user: i64,
    known: Known,
    numbers: Numbers,
    rest: &'a [u8],
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    options: Options,
    sql: Option<Box<dyn Sql>>,
    names: FxHashMap<(Kind, Box<str>), i64>,
    /// By their encoded form.
    shapes: FxHashMap<Box<[u8]>, Known>,
    /// The user of the last record: often that of the next.
    last_user: (String, i64),
    rollup: Rollup,
    /// How far rows are in, how far sums are, and how far the journal was read.
    rows: Position,
    rolled: Position,
    read: Position,
    rolled_at_us: i64,
    minutes_cut_at_us: i64,
    retry: Duration,
    chunk: Vec<u8>,
    fresh: Vec<bool>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, options: Options) -> Self {
        Self {
            shared,
            options,
            sql: None,
            names: FxHashMap::default(),
            shapes: FxHashMap::default(),
            last_user: Default::default(),
            rollup: Rollup::default(),
            rows: Position::default(),
            rolled: Position::default(),
            read: Position::default(),
            rolled_at_us: 0,
            minutes_cut_at_us: 0,
            retry: RETRY_MIN,
            chunk: Vec::new(),
            fresh: Vec::new(),
        }
    }

    /// Runs until it is told to stop; then everything is brought in, if the database takes it.
    pub(crate) fn run(mut self) {
        loop {
            let (asked, stop) = self.wait();
            let flush = asked.is_some() || stop;
            let result = match self.work(flush) {
                // It was set aside; the new one takes rows at once.
                Err(StoreError::Damaged(_)) => self.work(flush),
                other => other,
            };
            let mut state = self.shared.state.lock();
            match result {
                Ok(()) => {
                    state.trouble = None;
                    self.retry = RETRY_MIN;
                }
                Err(error) => state.trouble = Some(error.to_string()),
            }
            // A flush that failed is over as well: whoever asked sees the trouble.
            if let Some(asked) = asked {
                state.flush_done = asked;
            }
            if stop {
                state.stopped = true;
            }
            self.shared.done.notify_all();
            if stop {
                return;
            }
        }
    }

    /// Waits for rows, a request or trouble to be tried again. Sleeps without end when nothing happens.
    fn wait(&mut self) -> (Option<u64>, bool) {
        let mut state = self.shared.state.lock();
        let urgent = |state: &State| state.stop || state.flush_asked > state.flush_done;
        let pending = || self.shared.pending.load(Ordering::Acquire);
        if state.trouble.is_some() {
            if !urgent(&state) {
                self.shared.wake.wait_for(&mut state, self.retry);
                self.retry = (self.retry * 2).min(RETRY_MAX);
            }
        } else {
            let idle = self.sql.is_some() && self.rollup.is_empty();
            while !pending() && !urgent(&state) {
                if self.sql.is_none() {
                    break;
                }
                let limit = if idle { Duration::from_secs(60) } else { Duration::from_secs(5) };
                if self.shared.wake.wait_for(&mut state, limit).timed_out() {
                    break;
                }
            }
            if pending() && !urgent(&state) {
                self.shared.wake.wait_for(&mut state, BATCH_WAIT);
            }
        }
        // Before the journal is read: what is appended from now on is either read or noticed.
        self.shared.pending.swap(false, Ordering::AcqRel);
        let asked = (state.flush_asked > state.flush_done).then_some(state.flush_asked);
        (asked, state.stop)
    }

    fn work(&mut self, flush: bool) -> Result<(), StoreError> {
        let result = self.connect().and_then(|()| self.bring_in(flush)).and_then(|()| self.keep_house());
        if let Err(error) = &result {
            if let Some(sql) = &mut self.sql {
                sql.rollback();
            }
            // The next try begins with a new connection and with what the database says it has.
            self.sql = None;
            let StoreError::Damaged(reason) = error else { return result };
            let Store::Sqlite(path) = &self.options.store else { return result };
            let notice = set_aside(path, (self.options.now_us)(), reason);
            self.shared.state.lock().notice = Some(notice);
        }
        result
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        if self.sql.is_some() {
            return Ok(());
        }
        self.names.clear();
        self.shapes.clear();
        self.last_user = Default::default();
        self.rollup = Rollup::default();
        let mut sql = open(&self.options.store)?;
        let mut places = [0; 4];
        let text = "SELECT segment, place, rolled_segment, rolled_place FROM journal WHERE id = ?1";
        sql.query(text, &[self.shared.journal.id().into()], &mut |row| {
            for (column, place) in places.iter_mut().enumerate() {
                *place = row.int(column)?.unwrap_or_default();
            }
            Ok(false)
        })?;
        let [segment, offset, rolled_segment, rolled_offset] = places.map(i64::cast_unsigned);
        self.rows = Position { segment, offset };
        self.rolled = Position { segment: rolled_segment, offset: rolled_offset };
        self.read = self.rolled;
        self.rolled_at_us = (self.options.now_us)();
        self.sql = Some(sql);
        self.shared.state.lock().connections += 1;
        Ok(())
    }

    fn bring_in(&mut self, flush: bool) -> Result<(), StoreError> {
        // What is appended from here on waits for company: otherwise each transaction would have the few rows that came during the last.
        let collected = self.shared.journal.collect();
        // Where the disk takes nothing, what it has goes on all the same, so that there is room again.
        let end = self.shared.journal.end();
        while self.read < end {
            let mut chunk = std::mem::take(&mut self.chunk);
            let result = self.bring_in_chunk(&mut chunk);
            self.chunk = chunk;
            if !result? {
                break;
            }
            if self.rollup.is_large() {
                self.write_rollup()?;
            }
        }
        if flush || (self.options.now_us)().saturating_sub(self.rolled_at_us) >= ROLLUP_US {
            self.write_rollup()?;
        }
        self.delete_segments()?;
        collected.map_err(journal_error)
    }

    /// One chunk of the journal, one transaction. `false` when there was none.
    fn bring_in_chunk(&mut self, chunk: &mut Vec<u8>) -> Result<bool, StoreError> {
        // Never across the place of the rows: a chunk is either known whole or new whole.
        let until = Some(self.rows).filter(|rows| *rows > self.read);
        let read = self.shared.journal.read(self.read, until, chunk).map_err(journal_error)?;
        if read.next == self.read {
            return Ok(false);
        }
        if read.lost > 0 && read.next > self.rows {
            self.shared.state.lock().lost_bytes += read.lost;
        }
        if !chunk.is_empty() {
            self.insert(chunk, read.next)?;
        }
        self.read = read.next;
        Ok(true)
    }

    fn insert(&mut self, chunk: &[u8], next: Position) -> Result<(), StoreError> {
        let first: Vec<_> = payloads(chunk).filter(|payload| first::is_record(payload)).map(first::record).collect();
        let mut payloads: Vec<&[u8]> = payloads(chunk).filter(|payload| !first::is_record(payload)).collect();
        payloads.extend(first.iter().map(|record| record.as_deref().unwrap_or_default()));
        // Nearly in order already, since requests are recorded at their end.
        payloads.sort_by_key(|payload| Encoded::time_us(payload));
        // Everything up to the place of the rows is in already; only its sums are missing.
        let known = next <= self.rows;
        let mut count = Count::default();
        let mut rows = Vec::with_capacity(ROWS_AT_ONCE);
        self.sql().begin()?;
        for payloads in payloads.chunks(ROWS_AT_ONCE) {
            rows.clear();
            for payload in payloads {
                match Encoded::decode(payload) {
                    Some(record) => rows.extend(self.row(&record)?),
                    None => count.unreadable += payload.len().max(1) as u64,
                }
            }
            self.insert_rows(&rows, known, &mut count)?;
        }
        self.note_spans(&mut count.spans)?;
        self.note_places(self.rows.max(next), self.rolled)?;
        self.sql().commit()?;
        self.rows = self.rows.max(next);
        let mut state = self.shared.state.lock();
        let stored = if known { 0 } else { count.records };
        state.stored += stored;
        state.own += if next.segment >= self.shared.journal.first_segment() { stored } else { 0 };
        state.duplicates += count.duplicates;
        state.lost_bytes += count.unreadable;
        drop(state);
        // The sums must not be counted again with these rows among them.
        if count.duplicates > 0 && self.read >= self.rolled {
            self.read = next;
            self.write_rollup()?;
        }
        Ok(())
    }

    /// Inserts rows, unless they are known to be there, and adds those that were not there to the sums. Where the transaction fails
    /// the sums are begun anew with the next connection.
    fn insert_rows(&mut self, rows: &[Row<'_>], known: bool, count: &mut Count) -> Result<(), StoreError> {
        count.records += rows.len() as u64;
        let mut fresh = std::mem::take(&mut self.fresh);
        if known {
            fresh.clear();
            fresh.resize(rows.len(), true);
        } else {
            let requests: Vec<Request<'_>> = rows.iter().map(Row::request).collect();
            self.sql().insert_requests(&requests, &mut fresh)?;
        }
        for (row, fresh) in rows.iter().zip(&mut fresh) {
            *fresh = *fresh || self.insert_beside(row)?;
            if *fresh {
                self.rollup.add(&row.item());
            } else {
                count.duplicates += 1;
            }
            if !known {
                let slot = row.time_us.div_euclid(MINUTE_US);
                count.spans.add(row.known.shape.process, slot, row.numbers.counter.cast_signed());
            }
        }
        self.fresh = fresh;
        Ok(())
    }

    fn sql(&mut self) -> &mut dyn Sql {
        self.sql.as_deref_mut().expect("connected before anything is done")
    }

    /// `None` where the record is none after all.
    fn row<'a>(&mut self, record: &Encoded<'a>) -> Result<Option<Row<'a>>, StoreError> {
        let Some(known) = self.shape(record.shape)? else { return Ok(None) };
        let user = self.user(record.user)?;
        Ok(Some(Row { time_us: record.time_us, user, known, numbers: record.numbers, rest: record.rest }))
    }

    fn user(&mut self, text: Option<&str>) -> Result<i64, StoreError> {
        let Some(text) = text else { return Ok(0) };
        if self.last_user.1 != 0 && self.last_user.0 == text {
            return Ok(self.last_user.1);
        }
        let id = self.name(Kind::User, Some(text))?;
        self.last_user.0.clear();
        self.last_user.0.push_str(text);
        self.last_user.1 = id;
        Ok(id)
    }

    /// A shape with its number, which it gets when it has none.
    fn shape(&mut self, bytes: &[u8]) -> Result<Option<Known>, StoreError> {
        if let Some(known) = self.shapes.get(bytes) {
            return Ok(Some(*known));
        }
        let Some(names) = Names::decode(bytes) else { return Ok(None) };
        let shape = Shape {
            process: self.name(Kind::Process, Some(&process_text(names.process)))?,
            model: self.name(Kind::Model, names.model)?,
            provider: self.name(Kind::Provider, names.provider)?,
            upstream: self.name(Kind::Upstream, names.upstream_model)?,
            error: self.name(Kind::Error, names.error_class)?,
            status: names.status.into(),
            flags: names.flags.into(),
        };
        let known = Known { id: shape.id(self.sql())?, shape, process: names.process };
        if self.shapes.len() >= NAMES_MAX {
            self.shapes.clear();
        }
        self.shapes.insert(bytes.into(), known);
        Ok(Some(known))
    }

    /// The number of a name, which it gets when it has none.
    fn name(&mut self, kind: Kind, text: Option<&str>) -> Result<i64, StoreError> {
        let Some(text) = text else { return Ok(0) };
        // One lookup without making a key: the usual case.
        if let Some(id) = self.names.get(&(kind, text) as &dyn NameKey) {
            return Ok(*id);
        }
        let sql = self.sql();
        let values = [Value::Int(kind as i64), Value::Text(text)];
        let ask = "SELECT id FROM name WHERE kind = ?1 AND text = ?2";
        let id = match sql.number(ask, &values)? {
            Some(id) => id,
            None => {
                sql.execute("INSERT INTO name (kind, text) VALUES (?1, ?2) ON CONFLICT DO NOTHING", &values)?;
                sql.number(ask, &values)?.ok_or_else(|| StoreError::Away("a name was not taken".into()))?
            }
        };
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert((kind, text.into()), id);
        Ok(id)
    }

    /// A row whose key is taken: by itself, then it is there already; by another of the same moment, then it goes beside it.
    fn insert_beside(&mut self, row: &Row<'_>) -> Result<bool, StoreError> {
        let beginning = Rest::beginning(row.numbers.counter);
        let text = format!(
            "SELECT COUNT(*) FROM request WHERE id = ?1 AND substr(rest, 1, {}) = ?2 \
             AND shape_id IN (SELECT id FROM shape WHERE process_id = ?3)",
            beginning.len()
        );
        let mut request = row.request();
        let mut fresh = Vec::new();
        loop {
            let values = [request.id.into(), Value::Blob(&beginning), row.known.shape.process.into()];
            if self.sql().number(&text, &values)? != Some(0) {
                return Ok(false);
            }
            request.id += 1;
            self.sql().insert_requests(&[request], &mut fresh)?;
            if fresh.first() == Some(&true) {
                return Ok(true);
            }
        }
    }

    fn note_spans(&mut self, spans: &mut Spans) -> Result<(), StoreError> {
        spans.end_last();
        let mut spans: Vec<_> = spans.all.iter().collect();
        spans.sort_unstable();
        for (&(process, slot), &(low, high)) in spans {
            self.sql().execute(
                "INSERT INTO span (process_id, slot, low, high) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (process_id, slot) DO UPDATE SET \
                 low = CASE WHEN excluded.low < span.low THEN excluded.low ELSE span.low END, \
                 high = CASE WHEN excluded.high > span.high THEN excluded.high ELSE span.high END",
                &[process.into(), slot.into(), low.into(), high.into()],
            )?;
        }
        Ok(())
    }

    fn note_places(&mut self, rows: Position, rolled: Position) -> Result<(), StoreError> {
        let numbers = [rows.segment, rows.offset, rolled.segment, rolled.offset].map(u64::cast_signed);
        let [segment, offset, rolled_segment, rolled_offset] = numbers.map(Value::Int);
        let values = [self.shared.journal.id().into(), segment, offset, rolled_segment, rolled_offset];
        let text = "INSERT INTO journal (id, segment, place, rolled_segment, rolled_place) VALUES (?1, ?2, ?3, ?4, ?5) \
                    ON CONFLICT (id) DO UPDATE SET segment = excluded.segment, place = excluded.place, \
                    rolled_segment = excluded.rolled_segment, rolled_place = excluded.rolled_place";
        self.sql().execute(text, &values).map(|_| ())
    }

    fn write_rollup(&mut self) -> Result<(), StoreError> {
        self.rolled_at_us = (self.options.now_us)();
        if self.rollup.is_empty() && self.rolled == self.read {
            return Ok(());
        }
        let rolled = self.read;
        // Segments without a record move no rows.
        let rows = self.rows.max(rolled);
        self.sql().begin()?;
        let rollup = std::mem::take(&mut self.rollup);
        rollup.write(self.sql())?;
        self.note_places(rows, rolled)?;
        self.sql().commit()?;
        (self.rows, self.rolled) = (rows, rolled);
        Ok(())
    }

    fn delete_segments(&mut self) -> Result<(), StoreError> {
        let done = self.rolled.min(self.rows);
        if self.shared.journal.has_before(done) {
            self.sql().make_durable()?;
            self.shared.journal.delete_before(done);
        }
        Ok(())
    }

    /// Deletes what is too old, a little at a time.
    fn keep_house(&mut self) -> Result<(), StoreError> {
        let now = (self.options.now_us)();
        if now.saturating_sub(self.minutes_cut_at_us) >= MINUTE_US {
            self.minutes_cut_at_us = now;
            let oldest = (now - MINUTES_KEPT_SECONDS * 1_000_000).div_euclid(MINUTE_US);
            for table in ["traffic_minute", "latency_minute"] {
                self.sql().execute(&format!("DELETE FROM {table} WHERE slot < ?1"), &[oldest.into()])?;
            }
        }
        let Some(days) = self.options.retention_days else { return Ok(()) };
        let cutoff = now.saturating_sub(i64::from(days) * DAY_US);
        // Up to the last row of a step, so that each is a short transaction.
        let mut last = cutoff << TIE_BITS;
        let step = "SELECT id FROM request WHERE id < ?1 ORDER BY id LIMIT 1 OFFSET ?2";
        let end = self.sql().number(step, &[last.into(), RETENTION_STEP.into()])?;
        let more = end.is_some();
        last = end.unwrap_or(last);
        self.sql().execute("DELETE FROM request WHERE id < ?1", &[last.into()])?;
        if more {
            self.shared.pending.store(true, Ordering::Release);
        } else {
            for (table, unit) in
                [("spend_hour", HOUR_US), ("traffic_hour", HOUR_US), ("latency_hour", HOUR_US), ("span", MINUTE_US)]
            {
                let oldest = cutoff.div_euclid(unit);
                self.sql().execute(&format!("DELETE FROM {table} WHERE slot < ?1"), &[oldest.into()])?;
            }
        }
        Ok(())
    }
}

/// A name to look up, without owning it.
trait NameKey {
    fn parts(&self) -> (Kind, &str);
}

impl NameKey for (Kind, &str) {
    fn parts(&self) -> (Kind, &str) {
        (self.0, self.1)
    }
}

impl NameKey for (Kind, Box<str>) {
    fn parts(&self) -> (Kind, &str) {
        (self.0, &self.1)
    }
}

impl<'a> std::borrow::Borrow<dyn NameKey + 'a> for (Kind, Box<str>) {
    fn borrow(&self) -> &(dyn NameKey + 'a) {
        self
    }
}

impl std::hash::Hash for dyn NameKey + '_ {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

impl PartialEq for dyn NameKey + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn NameKey + '_ {}

pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(crate) fn process_text(process: u64) -> String {
    format!("{process:013x}")
}

impl<'a> Row<'a> {
    fn request(&self) -> Request<'a> {
        let tie = (self.numbers.counter ^ self.known.process.wrapping_mul(31)) & ((1 << TIE_BITS) - 1);
        let id = (self.time_us << TIE_BITS) | tie.cast_signed();
        Request { id, user: self.user, shape: self.known.id, rest: self.rest }
    }

    fn item(&self) -> Item {
        let Numbers { ttft_us, duration_us, .. } = self.numbers;
        let Known { id, shape, .. } = self.known;
        let figures = figures(&shape, &self.numbers);
        Item { time_us: self.time_us, user: self.user, shape_id: id, shape, figures, ttft_us, duration_us }
    }
}

/// What a row adds to sums.
pub(crate) fn figures(shape: &Shape, numbers: &Numbers) -> Figures {
    let of = |number: Option<u64>| number.map_or(0, signed);
    let [input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens] = numbers.tokens.map(of);
    Figures {
        requests: 1,
        errors: i64::from(shape.error != 0 || shape.status >= 400),
        input_tokens,
        cached_tokens,
        cache_write_tokens,
        output_tokens,
        reasoning_tokens,
        cost_nanos: of(numbers.cost),
        ttft_count: i64::from(numbers.ttft_us.is_some()),
        ttft_us: of(numbers.ttft_us),
        duration_us: signed(numbers.duration_us),
    }
}

fn journal_error(error: std::io::Error) -> StoreError {
    StoreError::Away(format!("journal: {error}"))
}

/// Opens the database for writing.
pub(crate) fn open(store: &Store) -> Result<Box<dyn Sql>, StoreError> {
    match store {
        Store::Sqlite(path) => Sqlite::open(path).map(|sql| Box::new(sql) as Box<dyn Sql>),
        Store::Postgres(url) => Postgres::open(url).map(|sql| Box::new(sql) as Box<dyn Sql>),
    }
}

/// Opens the database for questions.
pub(crate) fn open_reader(store: &Store) -> Result<Box<dyn Sql>, StoreError> {
    match store {
        Store::Sqlite(path) => Sqlite::open_reader(path).map(|sql| Box::new(sql) as Box<dyn Sql>),
        Store::Postgres(url) => Postgres::connect(url).map(|sql| Box::new(sql) as Box<dyn Sql>),
    }
}

/// Moves a damaged file and its log out of the way; what an operator should know of it.
fn set_aside(path: &std::path::Path, now_us: i64, reason: &str) -> String {
    let name = |suffix: &str| -> PathBuf { beside(path, &format!(".damaged-{}{suffix}", now_us / 1_000_000)) };
    let mut moved = true;
    for suffix in ["", "-wal", "-shm"] {
        let result = std::fs::rename(beside(path, suffix), name(suffix));
        moved &= !suffix.is_empty() || result.is_ok();
    }
    if moved {
        format!("{reason}; the damaged file is now {}, a new one was begun", name("").display())
    } else {
        format!("{reason}; the damaged file could not be moved aside")
    }
}
