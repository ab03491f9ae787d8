//! Sums of rows, kept in memory for a while and then added to the tables that dashboards and budgets read.

use rustc_hash::FxHashMap;

use crate::histogram::Histogram;
use crate::query::Figures;
use crate::store::schema::{SUMS, Shape};
use crate::store::{Sql, StoreError, Value};

pub(crate) const MINUTE_US: i64 = 60_000_000;
pub(crate) const HOUR_US: i64 = 60 * MINUTE_US;
pub(crate) const DAY_US: i64 = 24 * HOUR_US;

/// Groups in memory beyond which they are written, whatever the time.
const GROUPS_MAX: usize = 50_000;

/// A row, as far as sums are concerned. Numbers of names are those of the table `name`; 0 = none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    pub(crate) time_us: i64,
    pub(crate) user: i64,
    pub(crate) shape_id: i64,
    pub(crate) shape: Shape,
    pub(crate) figures: Figures,
    pub(crate) ttft_us: Option<u64>,
    pub(crate) duration_us: u64,
}

type Spend = [i64; 3];
type Traffic = [i64; 6];
type Latency = [i64; 4];

/// What was not added to the tables yet.
#[derive(Debug, Default)]
pub(crate) struct Rollup {
    /// By hour, user, model.
    spend: FxHashMap<Spend, Figures>,
    /// By minute and the number of a shape: finer than the tables have it, and found at once.
    shapes: FxHashMap<(i64, i64), OfShape>,
}

/// What rows of a shape add up to in a minute.
#[derive(Debug)]
struct OfShape {
    shape: Shape,
    figures: Figures,
    ttft: Histogram,
    duration: Histogram,
}

impl OfShape {
    fn new(shape: Shape) -> Self {
        Self { shape, figures: Figures::default(), ttft: Histogram::default(), duration: Histogram::default() }
    }
}

impl Rollup {
    pub(crate) fn add(&mut self, item: &Item) {
        let Item { time_us, user, shape_id, shape, figures, ttft_us, duration_us } = *item;
        self.spend.entry([time_us.div_euclid(HOUR_US), user, shape.model]).or_default().add(&figures);
        let key = (time_us.div_euclid(MINUTE_US), shape_id);
        let of_shape = self.shapes.entry(key).or_insert_with(|| OfShape::new(shape));
        of_shape.figures.add(&figures);
        if let Some(ttft_us) = ttft_us {
            of_shape.ttft.record(ttft_us);
        }
        of_shape.duration.record(duration_us);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    pub(crate) fn is_large(&self) -> bool {
        self.spend.len() + self.shapes.len() > GROUPS_MAX
    }

    /// Adds everything to the tables, inside the caller's transaction.
    pub(crate) fn write(&self, sql: &mut dyn Sql) -> Result<(), StoreError> {
        let spend = ["slot", "user_id", "model_id"];
        add_all(sql, "spend_hour", &spend, &self.spend)?;
        add_all(sql, "spend_day", &spend, &coarser(&self.spend, 24))?;
        let mut traffic = FxHashMap::<Traffic, Figures>::default();
        let mut minutes = FxHashMap::<Latency, [Histogram; 2]>::default();
        let mut hours = FxHashMap::<Latency, [Histogram; 2]>::default();
        for ((minute, _), of_shape) in &self.shapes {
            let Shape { model, provider, upstream, status, error, .. } = of_shape.shape;
            traffic.entry([*minute, model, provider, upstream, status, error]).or_default().add(&of_shape.figures);
            for (latency, slot) in [(&mut minutes, *minute), (&mut hours, minute.div_euclid(60))] {
                let [ttft, duration] = latency.entry([slot, model, provider, upstream]).or_default();
                ttft.merge(&of_shape.ttft);
                duration.merge(&of_shape.duration);
            }
        }
        let columns = ["slot", "model_id", "provider_id", "upstream_id", "status", "error_id"];
        add_all(sql, "traffic_minute", &columns, &traffic)?;
        add_all(sql, "traffic_hour", &columns, &coarser(&traffic, 60))?;
        for (table, latency) in [("latency_minute", &minutes), ("latency_hour", &hours)] {
            let mut sorted: Vec<_> = latency.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| **key);
            sorted.into_iter().try_for_each(|(key, histograms)| merge_latency(sql, table, key, histograms))?;
        }
        Ok(())
    }
}

fn coarser<const N: usize>(groups: &FxHashMap<[i64; N], Figures>, slots: i64) -> FxHashMap<[i64; N], Figures> {
    let mut sums = FxHashMap::<[i64; N], Figures>::default();
    for (key, figures) in groups {
        let mut key = *key;
        key[0] = key[0].div_euclid(slots);
        sums.entry(key).or_default().add(figures);
    }
    sums
}

fn add_all<const N: usize>(
    sql: &mut dyn Sql,
    table: &str,
    keys: &[&str; N],
    groups: &FxHashMap<[i64; N], Figures>,
) -> Result<(), StoreError> {
    let places: Vec<String> = (1..=N + SUMS.len()).map(|place| format!("?{place}")).collect();
    let sums = SUMS.map(|sum| format!("{sum} = {table}.{sum} + excluded.{sum}")).join(", ");
    let text = format!(
        "INSERT INTO {table} ({keys}, {}) VALUES ({}) ON CONFLICT ({keys}) DO UPDATE SET {sums}",
        SUMS.join(", "),
        places.join(", "),
        keys = keys.join(", "),
    );
    // In the order of the table's key: neighbours share a page, and two instances never wait for each other in a circle.
    let mut sorted: Vec<_> = groups.iter().collect();
    sorted.sort_unstable_by_key(|(key, _)| **key);
    for (key, figures) in sorted {
        let values: Vec<Value<'_>> = key.iter().chain(&figures.to_sums()).map(|number| Value::Int(*number)).collect();
        sql.execute(&text, &values)?;
    }
    Ok(())
}

fn merge_latency(sql: &mut dyn Sql, table: &str, key: &Latency, histograms: &[Histogram; 2]) -> Result<(), StoreError> {
    let keys = key.map(Value::Int);
    let mut merged = histograms.clone();
    let place = "slot = ?1 AND model_id = ?2 AND provider_id = ?3 AND upstream_id = ?4";
    // The row is made first, so that two instances cannot both find none.
    let empty = [keys[0], keys[1], keys[2], keys[3], Value::Blob(&[])];
    sql.execute(&format!("INSERT INTO {table} VALUES (?1, ?2, ?3, ?4, ?5, ?5) ON CONFLICT DO NOTHING"), &empty)?;
    sql.query(&format!("SELECT ttft, duration FROM {table} WHERE {place}{}", sql.for_update()), &keys, &mut |row| {
        for (column, histogram) in merged.iter_mut().enumerate() {
            histogram.merge_bytes(row.blob(column)?.unwrap_or_default());
        }
        Ok(false)
    })?;
    let [ttft, duration] = merged.map(|histogram| histogram.to_bytes());
    let values = [keys[0], keys[1], keys[2], keys[3], Value::Blob(&ttft), Value::Blob(&duration)];
    sql.execute(&format!("UPDATE {table} SET ttft = ?5, duration = ?6 WHERE {place}"), &values).map(|_| ())
}
