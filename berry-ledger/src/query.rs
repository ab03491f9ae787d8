//! Questions: lists of requests, sums of them, latencies, what was spent.

use berry_core::id::RequestId;
use berry_core::money::NanoUsd;
use berry_core::usage::Usage;
use rustc_hash::FxHashMap;

use crate::histogram::Histogram;
use crate::record::{AttemptRow, Rest, decode_attempts, decode_more, read_flags};
use crate::rollup::{DAY_US, HOUR_US, MINUTE_US};
use crate::store::schema::{MINUTES_KEPT_SECONDS, SUMS, Shape, TIE_BITS};
use crate::store::{Cells, Sql, StoreError, Value};
use crate::writer::{Kind, figures, process_text, signed};

/// Most rows of one page.
pub const PAGE_MAX: usize = 1000;

/// Which requests. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// From this moment on, microseconds since 1970.
    pub from_us: Option<i64>,
    /// Before this moment.
    pub to_us: Option<i64>,
    /// Of this user.
    pub user: Option<String>,
    /// For this public model.
    pub model: Option<String>,
    /// Whose last attempt was at this provider.
    pub provider: Option<String>,
    /// Whose last attempt was for this model there.
    pub upstream_model: Option<String>,
    /// That the client got this status for.
    pub status: Option<u16>,
    /// That ended with this class of error.
    pub error_class: Option<String>,
    /// On behalf of this end user.
    pub end_user: Option<String>,
    /// With this label: key and value.
    pub label: Option<(String, String)>,
    /// Only what failed: a class of error, or a status of 400 and more.
    pub errors_only: bool,
}

/// What sums may be grouped by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// Users.
    User,
    /// Public models.
    Model,
    /// Providers.
    Provider,
    /// Models at providers.
    UpstreamModel,
    /// Statuses.
    Status,
    /// Classes of errors.
    ErrorClass,
    /// End users; adds up rows one by one, so ask for short periods.
    EndUser,
    /// Values of the label with this key; adds up rows one by one, so ask for short periods.
    Label(String),
}

/// How long a slot of a time series is. All are aligned to UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Step {
    /// Its length in microseconds.
    pub const fn micros(self) -> i64 {
        match self {
            Self::Minute => MINUTE_US,
            Self::Hour => HOUR_US,
            Self::Day => DAY_US,
        }
    }
}

/// What requests add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Figures {
    /// How many.
    pub requests: i64,
    /// How many of them failed.
    pub errors: i64,
    /// Tokens of prompts.
    pub input_tokens: i64,
    /// Of them, read from a cache.
    pub cached_tokens: i64,
    /// Of them, written to a cache.
    pub cache_write_tokens: i64,
    /// Tokens of answers.
    pub output_tokens: i64,
    /// Of them, reasoning.
    pub reasoning_tokens: i64,
    /// Cost in billionths of a dollar.
    pub cost_nanos: i64,
    /// Requests that had a first content.
    pub ttft_count: i64,
    /// The time to it, all together, microseconds.
    pub ttft_us: i64,
    /// The time of all requests together, microseconds.
    pub duration_us: i64,
}

impl Figures {
    /// Adds, stopping at the largest number.
    pub fn add(&mut self, other: &Self) {
        let sums = self.to_sums();
        let others = other.to_sums();
        *self = Self::from_sums(std::array::from_fn(|sum| sums[sum].saturating_add(others[sum])));
    }

    pub(crate) fn to_sums(self) -> [i64; SUMS.len()] {
        let Self {
            requests,
            errors,
            input_tokens,
            cached_tokens,
            cache_write_tokens,
            output_tokens,
            reasoning_tokens,
            cost_nanos,
            ttft_count,
            ttft_us,
            duration_us,
        } = self;
        [
            requests,
            errors,
            input_tokens,
            cached_tokens,
            cache_write_tokens,
            output_tokens,
            reasoning_tokens,
            cost_nanos,
            ttft_count,
            ttft_us,
            duration_us,
        ]
    }

    pub(crate) fn from_sums(sums: [i64; SUMS.len()]) -> Self {
        let [
            requests,
            errors,
            input_tokens,
            cached_tokens,
            cache_write_tokens,
            output_tokens,
            reasoning_tokens,
            cost_nanos,
            ttft_count,
            ttft_us,
            duration_us,
        ] = sums;
        Self {
            requests,
            errors,
            input_tokens,
            cached_tokens,
            cache_write_tokens,
            output_tokens,
            reasoning_tokens,
            cost_nanos,
            ttft_count,
            ttft_us,
            duration_us,
        }
    }
}

/// One sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    /// Beginning of its slot, microseconds since 1970; `None` without a step.
    pub slot_us: Option<i64>,
    /// What it is of; `None` for what has no such thing, and without a group.
    pub key: Option<String>,
    /// What it adds up to.
    pub figures: Figures,
}

/// Latencies of one group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies {
    /// What they are of.
    pub key: Option<String>,
    /// From the request to the first content.
    pub ttft: Histogram,
    /// From the request to its end.
    pub duration: Histogram,
}

/// One request as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its place among all rows, later ones after earlier ones; goes into [`Page::next`].
    pub cursor: i64,
    /// When its head had arrived: microseconds since 1970 in UTC.
    pub time_us: i64,
    /// Our name for it.
    pub request_id: RequestId,
    /// The client's own name for it.
    pub client_request_id: Option<String>,
    /// Who asked.
    pub user: Option<String>,
    /// On whose behalf.
    pub end_user: Option<String>,
    /// `key=value` with commas between.
    pub labels: Option<String>,
    /// The public model.
    pub model: Option<String>,
    /// The provider of the last attempt.
    pub provider: Option<String>,
    /// What the model is called there.
    pub upstream_model: Option<String>,
    /// What the client got; 0 when it left before.
    pub status: u16,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// From the request to the first content, microseconds.
    pub ttft_us: Option<u64>,
    /// From the request to its end, microseconds.
    pub duration_us: u64,
    /// What was used.
    pub usage: Usage,
    /// What it cost; `None` when no upstream accepted it.
    pub cost: Option<NanoUsd>,
    /// Whether everything that was used has a price.
    pub priced: bool,
    /// What went wrong.
    pub error_class: Option<String>,
    /// Each attempt, in order.
    pub attempts: Vec<AttemptRow>,
}

/// Some rows, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// Where the next page begins; `None` when there is none.
    pub next: Option<i64>,
}

/// Names and shapes by their number, for the length of one question.
#[derive(Default)]
struct Names {
    texts: FxHashMap<i64, String>,
    shapes: FxHashMap<i64, Shape>,
}

impl Names {
    fn shape(&mut self, sql: &mut dyn Sql, id: i64) -> Result<Shape, StoreError> {
        if let Some(shape) = self.shapes.get(&id) {
            return Ok(*shape);
        }
        let shape = Shape::of(sql, id)?;
        self.shapes.insert(id, shape);
        Ok(shape)
    }

    fn get(&mut self, sql: &mut dyn Sql, id: i64) -> Result<Option<String>, StoreError> {
        if id == 0 {
            return Ok(None);
        }
        if let Some(name) = self.texts.get(&id) {
            return Ok(Some(name.clone()));
        }
        let mut found = None;
        sql.query("SELECT text FROM name WHERE id = ?1", &[id.into()], &mut |row| {
            found = row.text(0)?.map(str::to_owned);
            Ok(false)
        })?;
        self.texts.extend(found.iter().map(|name| (id, name.clone())));
        Ok(found)
    }
}

/// A filter with numbers instead of names. Which tables can answer it follows from what it names.
#[derive(Clone, Debug)]
struct Bound {
    from_us: i64,
    to_us: i64,
    /// Columns of names and the status, with what each must be.
    columns: Vec<(&'static str, i64)>,
    end_user: Option<String>,
    /// `key=value`.
    label: Option<String>,
    errors_only: bool,
}

/// What failed, by its shape or by its sums.
const FAILED: &str = "(error_id <> 0 OR status >= 400)";

/// Far enough for every time, and small enough to become a key.
const TIME_MAX: i64 = i64::MAX >> (TIE_BITS + 1);

impl Bound {
    /// `None` when nothing can match, because a name was never seen.
    fn new(sql: &mut dyn Sql, filter: &Filter) -> Result<Option<Self>, StoreError> {
        let Filter {
            from_us,
            to_us,
            user,
            model,
            provider,
            upstream_model,
            status,
            error_class,
            end_user,
            label,
            errors_only,
        } = filter;
        let mut columns = Vec::new();
        for (column, kind, name) in [
            ("user_id", Kind::User, user),
            ("model_id", Kind::Model, model),
            ("provider_id", Kind::Provider, provider),
            ("upstream_id", Kind::Upstream, upstream_model),
            ("error_id", Kind::Error, error_class),
        ] {
            let Some(name) = name else { continue };
            let values = [Value::Int(kind as i64), Value::Text(name)];
            match sql.number("SELECT id FROM name WHERE kind = ?1 AND text = ?2", &values)? {
                Some(id) => columns.push((column, id)),
                None => return Ok(None),
            }
        }
        columns.extend(status.map(|status| ("status", i64::from(status))));
        Ok(Some(Self {
            from_us: from_us.unwrap_or(0).clamp(0, TIME_MAX),
            to_us: to_us.unwrap_or(TIME_MAX).clamp(0, TIME_MAX),
            columns,
            end_user: end_user.clone(),
            label: label.as_ref().map(|(key, value)| format!("{key}={value}")),
            errors_only: *errors_only,
        }))
    }

    /// What follows WHERE for rows of `request`, with values from `?3` on; `?1` and `?2` are the bounds of the key. Of end users and
    /// labels the database knows less than [`Bound::keeps`]: it passes every row that has their bytes.
    fn rows(&self, sql: &dyn Sql) -> (String, Vec<Value<'_>>) {
        let mut text = String::from("id >= ?1 AND id < ?2");
        let mut values = vec![Value::Int(self.from_us << TIE_BITS), Value::Int(self.to_us << TIE_BITS)];
        let mut of_shape = Vec::new();
        for (column, number) in &self.columns {
            values.push(Value::Int(*number));
            let condition = format!("{column} = ?{}", values.len());
            if *column == "user_id" {
                text += &format!(" AND {condition}");
            } else {
                of_shape.push(condition);
            }
        }
        if self.errors_only {
            of_shape.push(FAILED.into());
        }
        if !of_shape.is_empty() {
            text += &format!(" AND shape_id IN (SELECT id FROM shape WHERE {})", of_shape.join(" AND "));
        }
        for held in self.end_user.iter().chain(&self.label) {
            values.push(Value::Blob(held.as_bytes()));
            text += &format!(" AND {}", sql.rest_holds(values.len()));
        }
        (text, values)
    }

    /// Whether rows are to be looked at that the database passes.
    fn is_told_by_rest(&self) -> bool {
        self.end_user.is_some() || self.label.is_some()
    }

    fn keeps(&self, rest: &Rest<'_>) -> bool {
        let end_user = self.end_user.as_deref();
        let has_label = |label: &String| rest.labels.is_some_and(|labels| labels.split(',').any(|one| one == label));
        end_user.is_none_or(|end_user| rest.end_user == Some(end_user)) && self.label.as_ref().is_none_or(has_label)
    }

    /// Whether a table with only these columns of names can answer.
    fn within(&self, columns: &[&str]) -> bool {
        self.end_user.is_none()
            && self.label.is_none()
            && self.columns.iter().all(|(column, _)| columns.contains(column))
    }
}

/// A kind of sums: its tables, finest first, with the length of their slots.
struct Family {
    columns: &'static [&'static str],
    tables: &'static [(&'static str, i64)],
}

const SPEND: Family =
    Family { columns: &["user_id", "model_id"], tables: &[("spend_hour", HOUR_US), ("spend_day", DAY_US)] };
const TRAFFIC: Family = Family {
    columns: &["model_id", "provider_id", "upstream_id", "status", "error_id"],
    tables: &[("traffic_minute", MINUTE_US), ("traffic_hour", HOUR_US)],
};

/// A part of a period and what answers for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    /// The table and the length of its slots; `None` = the rows themselves.
    table: Option<(&'static str, i64)>,
    from_us: i64,
    to_us: i64,
}

/// Cuts a period so that each part is answered by the coarsest table that is exact for it.
fn pieces(tables: &[(&'static str, i64)], from_us: i64, to_us: i64, out: &mut Vec<Piece>) {
    if from_us >= to_us {
        return;
    }
    let Some((&(table, unit), finer)) = tables.split_last() else {
        out.push(Piece { table: None, from_us, to_us });
        return;
    };
    let inner_from = from_us.div_euclid(unit) * unit + if from_us.rem_euclid(unit) == 0 { 0 } else { unit };
    let inner_to = to_us.div_euclid(unit) * unit;
    if inner_from >= inner_to {
        return pieces(finer, from_us, to_us, out);
    }
    pieces(finer, from_us, inner_from, out);
    out.push(Piece { table: Some((table, unit)), from_us: inner_from, to_us: inner_to });
    pieces(finer, inner_to, to_us, out);
}

/// Asks a database questions. Everything blocks.
pub(crate) struct Questions<'s> {
    pub(crate) sql: &'s mut dyn Sql,
    /// Now, microseconds since 1970: nothing is expected to lie much later.
    pub(crate) now_us: i64,
}

impl Questions<'_> {
    pub(crate) fn page(&mut self, filter: &Filter, before: Option<i64>, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.clamp(1, PAGE_MAX);
        let mut page = Page::default();
        // One more than asked for shows whether there is a next page.
        self.each_row(filter, before, Some(limit + 1), &mut |row| {
            page.rows.push(row);
            Ok(page.rows.len() <= limit)
        })?;
        if page.rows.len() > limit {
            page.rows.truncate(limit);
            page.next = page.rows.last().map(|row| row.cursor);
        }
        Ok(page)
    }

    /// Every row that matches, newest first, until `each` says no.
    pub(crate) fn each_row(
        &mut self,
        filter: &Filter,
        before: Option<i64>,
        limit: Option<usize>,
        each: &mut dyn FnMut(Row) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let Some(mut bound) = Bound::new(self.sql, filter)? else { return Ok(()) };
        let edge = |order| format!("SELECT id FROM request ORDER BY id {order} LIMIT 1");
        let (Some(first), Some(last)) = (self.sql.number(&edge("ASC"), &[])?, self.sql.number(&edge("DESC"), &[])?)
        else {
            return Ok(());
        };
        bound.from_us = bound.from_us.max(first >> TIE_BITS);
        bound.to_us = bound.to_us.min((last >> TIE_BITS) + 1);
        let before = before.unwrap_or(i64::MAX);
        if before < i64::MAX {
            bound.to_us = bound.to_us.min((before >> TIE_BITS) + 1);
        }
        let mut names = Names::default();
        let mut left = limit.unwrap_or(usize::MAX);
        // Hour by hour, so that hours in which a name does not occur cost one lookup and not a walk over their rows.
        let mut to_us = bound.to_us;
        while to_us > bound.from_us && left > 0 {
            let hour = (to_us - 1).div_euclid(HOUR_US);
            let from_us = bound.from_us.max(hour * HOUR_US);
            if self.may_occur(&bound, hour)? {
                let part = Bound { from_us, to_us, ..bound.clone() };
                if !self.each_row_of(&part, before, &mut left, &mut names, each)? {
                    return Ok(());
                }
            }
            to_us = from_us;
        }
        Ok(())
    }

    fn may_occur(&mut self, bound: &Bound, hour: i64) -> Result<bool, StoreError> {
        for family in [&SPEND, &TRAFFIC] {
            let known: Vec<_> = bound.columns.iter().filter(|(column, _)| family.columns.contains(column)).collect();
            if known.is_empty() {
                continue;
            }
            let table = if std::ptr::eq(family, &SPEND) { "spend_hour" } else { "traffic_hour" };
            let mut values = vec![Value::Int(hour)];
            let mut text = format!("SELECT 1 FROM {table} WHERE slot = ?1");
            for (column, number) in known {
                values.push(Value::Int(*number));
                text += &format!(" AND {column} = ?{}", values.len());
            }
            if self.sql.number(&(text + " LIMIT 1"), &values)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn each_row_of(
        &mut self,
        bound: &Bound,
        before: i64,
        left: &mut usize,
        names: &mut Names,
        each: &mut dyn FnMut(Row) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        let mut before = before.min(bound.to_us << TIE_BITS);
        let mut more = true;
        while more {
            let wanted = if bound.is_told_by_rest() { PART } else { PART.min(*left) };
            let raw = self.part(bound, before, wanted)?;
            more = raw.len() == wanted;
            for row in raw {
                before = row.id;
                let rest = row.rest()?;
                if !bound.keeps(&rest) {
                    continue;
                }
                let row = row.finish(&rest, self.sql, names)?;
                *left -= 1;
                if !each(row)? || *left == 0 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The next rows before a key, latest first.
    fn part(&mut self, bound: &Bound, before: i64, wanted: usize) -> Result<Vec<RawRow>, StoreError> {
        let (condition, mut values) = bound.rows(self.sql);
        values[1] = Value::Int(before);
        let text = format!("SELECT {RAW} FROM request WHERE {condition} ORDER BY id DESC LIMIT {wanted}");
        let mut raw = Vec::new();
        self.sql.query(&text, &values, &mut |cells| {
            raw.push(RawRow::read(cells)?);
            Ok(true)
        })?;
        Ok(raw)
    }

    /// A request by our name for it.
    pub(crate) fn find(&mut self, id: RequestId) -> Result<Option<Row>, StoreError> {
        let (process, counter) = id.parts();
        let process = process_text(process);
        let values = [Value::Int(Kind::Process as i64), Value::Text(&process)];
        let Some(process) = self.sql.number("SELECT id FROM name WHERE kind = ?1 AND text = ?2", &values)? else {
            return Ok(None);
        };
        let key = [Value::Int(process), Value::Int(counter.cast_signed())];
        let mut slots = Vec::new();
        let text = "SELECT slot FROM span WHERE process_id = ?1 AND low <= ?2 AND high >= ?2";
        self.sql.query(text, &key, &mut |row| {
            slots.extend(row.int(0)?);
            Ok(true)
        })?;
        let beginning = Rest::beginning(counter);
        let text = format!(
            "SELECT {RAW} FROM request WHERE id >= ?3 AND id < ?4 AND substr(rest, 1, {}) = ?2 \
             AND shape_id IN (SELECT id FROM shape WHERE process_id = ?1)",
            beginning.len()
        );
        for slot in slots {
            let (from, to) = (slot * MINUTE_US, (slot + 1) * MINUTE_US);
            let values = [key[0], Value::Blob(&beginning), Value::Int(from << TIE_BITS), Value::Int(to << TIE_BITS)];
            let mut found = None;
            self.sql.query(&text, &values, &mut |cells| {
                found = Some(RawRow::read(cells)?);
                Ok(false)
            })?;
            if let Some(row) = found {
                return row.finish(&row.rest()?, self.sql, &mut Names::default()).map(Some);
            }
        }
        Ok(None)
    }

    /// Sums of what matches: by slot, by group, by both or all together. In the order of slots, then of cost, dearest first.
    pub(crate) fn totals(
        &mut self,
        filter: &Filter,
        group: Option<&Group>,
        step: Option<Step>,
    ) -> Result<Vec<Total>, StoreError> {
        let Some(bound) = Bound::new(self.sql, filter)? else { return Ok(Vec::new()) };
        // Of the tables of sums; end users and labels are in rows alone.
        let column = match group {
            None => None,
            Some(Group::User) => Some("user_id"),
            Some(Group::Model) => Some("model_id"),
            Some(Group::Provider) => Some("provider_id"),
            Some(Group::UpstreamModel) => Some("upstream_id"),
            Some(Group::Status) => Some("status"),
            Some(Group::ErrorClass) => Some("error_id"),
            Some(Group::EndUser) => Some("end_user"),
            Some(Group::Label(_)) => Some("labels"),
        };
        let mut sums = FxHashMap::<(i64, Key), Figures>::default();
        let mut names = Names::default();
        for piece in self.plan(&bound, column, step)? {
            let part = Bound { from_us: piece.from_us, to_us: piece.to_us, ..bound.clone() };
            match piece.table {
                Some(table) => self.sum_piece(&part, table, column, step, &mut sums)?,
                None => self.sum_rows(&part, group, step, &mut names, &mut sums)?,
            }
        }
        let mut totals = FxHashMap::<(i64, Option<String>), Figures>::default();
        for ((slot, key), figures) in sums {
            let key = match (group, key) {
                (Some(Group::Status), Key::Number(status)) => Some(status.to_string()),
                (_, Key::Text(text)) => Some(text),
                (Some(_), Key::Number(id)) => names.get(self.sql, id)?,
                (_, Key::None) | (None, Key::Number(_)) => None,
            };
            totals.entry((slot, key)).or_default().add(&figures);
        }
        let mut totals: Vec<Total> = totals
            .into_iter()
            .map(|((slot, key), figures)| Total { slot_us: step.map(|step| slot * step.micros()), key, figures })
            .collect();
        totals.sort_by(|one, other| {
            let order =
                |total: &Total| (total.slot_us, std::cmp::Reverse((total.figures.cost_nanos, total.figures.requests)));
            order(one).cmp(&order(other)).then_with(|| one.key.cmp(&other.key))
        });
        Ok(totals)
    }

    /// Which tables answer which part of the period.
    fn plan(&mut self, bound: &Bound, column: Option<&str>, step: Option<Step>) -> Result<Vec<Piece>, StoreError> {
        let answers = |family: &Family| {
            bound.within(family.columns)
                && column.is_none_or(|column| family.columns.contains(&column))
                && (!bound.errors_only || family.columns.contains(&"error_id"))
        };
        // The few groups of traffic first; minutes only where they are still kept.
        let family = [&TRAFFIC, &SPEND].into_iter().find(|family| answers(family));
        let oldest_minute = self.now_us - MINUTES_KEPT_SECONDS * 1_000_000 + HOUR_US;
        let unit_max = step.map_or(i64::MAX, Step::micros);
        let has_minutes = bound.from_us >= oldest_minute;
        let tables: Vec<(&'static str, i64)> = family
            .map_or(&[][..], |family| family.tables)
            .iter()
            .copied()
            .filter(|(_, unit)| *unit <= unit_max && (*unit > MINUTE_US || has_minutes))
            .collect();
        // What has not happened yet belongs to the slot of now, so that "until now" needs no walk over the last hour.
        let last = self.sql.number("SELECT id FROM request ORDER BY id DESC LIMIT 1", &[])?.unwrap_or(0) >> TIE_BITS;
        let to_us = if bound.to_us > last { (last.div_euclid(DAY_US) + 1) * DAY_US } else { bound.to_us };
        let mut parts = Vec::new();
        pieces(&tables, bound.from_us, to_us, &mut parts);
        Ok(parts)
    }

    fn sum_piece(
        &mut self,
        bound: &Bound,
        (table, unit): (&str, i64),
        column: Option<&str>,
        step: Option<Step>,
        sums: &mut FxHashMap<(i64, Key), Figures>,
    ) -> Result<(), StoreError> {
        let mut condition = String::from("slot >= ?1 AND slot < ?2");
        let mut values = vec![Value::Int(bound.from_us / unit), Value::Int(bound.to_us / unit)];
        for (column, number) in &bound.columns {
            values.push(Value::Int(*number));
            condition += &format!(" AND {column} = ?{}", values.len());
        }
        if bound.errors_only {
            condition += &format!(" AND {FAILED}");
        }
        let slot = step.map_or_else(|| "0".to_owned(), |step| format!("slot / {}", step.micros() / unit));
        let columns = SUMS.map(|of| format!("CAST(COALESCE(SUM({of}), 0) AS BIGINT)")).join(", ");
        let groups: Vec<&str> = step.map(|_| slot.as_str()).into_iter().chain(column).collect();
        let grouping = if groups.is_empty() { String::new() } else { format!(" GROUP BY {}", groups.join(", ")) };
        let key = column.unwrap_or("0");
        let text = format!("SELECT {slot}, {key}, {columns} FROM {table} WHERE {condition}{grouping}");
        self.sql.query(&text, &values, &mut |row| {
            let mut figures = [0; SUMS.len()];
            for (number, sum) in figures.iter_mut().enumerate() {
                *sum = row.int(number + 2)?.unwrap_or_default();
            }
            if figures[0] > 0 {
                let key = if column.is_some() { row.int(1)?.map_or(Key::None, Key::Number) } else { Key::None };
                let slot = row.int(0)?.unwrap_or_default();
                sums.entry((slot, key)).or_default().add(&Figures::from_sums(figures));
            }
            Ok(true)
        })
    }

    /// What no table of sums knows, row by row.
    fn sum_rows(
        &mut self,
        bound: &Bound,
        group: Option<&Group>,
        step: Option<Step>,
        names: &mut Names,
        sums: &mut FxHashMap<(i64, Key), Figures>,
    ) -> Result<(), StoreError> {
        let mut before = bound.to_us << TIE_BITS;
        let mut more = true;
        while more {
            let raw = self.part(bound, before, PART)?;
            more = raw.len() == PART;
            for row in raw {
                before = row.id;
                let rest = row.rest()?;
                if !bound.keeps(&rest) {
                    continue;
                }
                let shape = names.shape(self.sql, row.shape)?;
                let text = |text: Option<&str>| text.map_or(Key::None, |text| Key::Text(text.to_owned()));
                let key = match group {
                    None => Key::None,
                    Some(Group::User) => Key::Number(row.user),
                    Some(Group::Model) => Key::Number(shape.model),
                    Some(Group::Provider) => Key::Number(shape.provider),
                    Some(Group::UpstreamModel) => Key::Number(shape.upstream),
                    Some(Group::Status) => Key::Number(shape.status),
                    Some(Group::ErrorClass) => Key::Number(shape.error),
                    Some(Group::EndUser) => text(rest.end_user),
                    Some(Group::Label(wanted)) => text(label_value(rest.labels.unwrap_or_default(), wanted)),
                };
                let slot = step.map_or(0, |step| (row.id >> TIE_BITS) / step.micros());
                sums.entry((slot, key)).or_default().add(&figures(&shape, &rest.numbers));
            }
        }
        Ok(())
    }

    /// Latencies by model, provider or upstream model. The period is widened to whole minutes, beyond the last two days to hours.
    pub(crate) fn latencies(&mut self, filter: &Filter, group: Option<&Group>) -> Result<Vec<Latencies>, StoreError> {
        let Some(bound) = Bound::new(self.sql, filter)? else { return Ok(Vec::new()) };
        let columns = ["model_id", "provider_id", "upstream_id"];
        let column = match group {
            None => "0",
            Some(Group::Model) => columns[0],
            Some(Group::Provider) => columns[1],
            Some(Group::UpstreamModel) => columns[2],
            Some(_) => return Err(StoreError::Away("latencies are kept by model, provider and upstream model".into())),
        };
        if !bound.within(&columns) || bound.errors_only {
            return Err(StoreError::Away("latencies are kept by model, provider and upstream model".into()));
        }
        let oldest_minute = self.now_us - MINUTES_KEPT_SECONDS * 1_000_000 + HOUR_US;
        let (table, unit) =
            if bound.from_us >= oldest_minute { ("latency_minute", MINUTE_US) } else { ("latency_hour", HOUR_US) };
        let mut values =
            vec![Value::Int(bound.from_us.div_euclid(unit)), Value::Int((bound.to_us - 1).div_euclid(unit))];
        let mut text = format!("SELECT {column}, ttft, duration FROM {table} WHERE slot >= ?1 AND slot <= ?2");
        for (column, number) in &bound.columns {
            values.push(Value::Int(*number));
            text += &format!(" AND {column} = ?{}", values.len());
        }
        let mut groups = FxHashMap::<i64, Latencies>::default();
        self.sql.query(&text, &values, &mut |row| {
            let group = groups.entry(row.int(0)?.unwrap_or_default()).or_default();
            group.ttft.merge_bytes(row.blob(1)?.unwrap_or_default());
            group.duration.merge_bytes(row.blob(2)?.unwrap_or_default());
            Ok(true)
        })?;
        let mut names = Names::default();
        let mut found = Vec::new();
        for (id, mut latencies) in groups {
            latencies.key = names.get(self.sql, id)?;
            found.push(latencies);
        }
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    None,
    Number(i64),
    Text(String),
}

fn label_value<'l>(labels: &'l str, wanted: &str) -> Option<&'l str> {
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == wanted).map(|(_, value)| value).next()
}

/// Rows in memory at once.
const PART: usize = 2000;

/// What [`RawRow::read`] reads.
const RAW: &str = "id, user_id, shape_id, rest";

/// A row of `request`.
struct RawRow {
    id: i64,
    user: i64,
    shape: i64,
    rest: Vec<u8>,
}

impl RawRow {
    fn read(cells: &dyn Cells) -> Result<Self, StoreError> {
        let number = |column| cells.int(column).map(Option::unwrap_or_default);
        let rest = cells.blob(3)?.unwrap_or_default().to_vec();
        Ok(Self { id: number(0)?, user: number(1)?, shape: number(2)?, rest })
    }

    fn rest(&self) -> Result<Rest<'_>, StoreError> {
        Rest::decode(&self.rest).ok_or_else(|| StoreError::Away(format!("row {} cannot be read", self.id)))
    }

    fn finish(&self, rest: &Rest<'_>, sql: &mut dyn Sql, names: &mut Names) -> Result<Row, StoreError> {
        let Shape { process, model, provider, upstream, error, status, flags } = names.shape(sql, self.shape)?;
        let process = names.get(sql, process)?.unwrap_or_default();
        let process = u64::from_str_radix(&process, 16).unwrap_or_default();
        let (stream, estimated, priced) = read_flags(flags as u8);
        let status = u16::try_from(status).unwrap_or_default();
        let provider = names.get(sql, provider)?;
        let upstream_model = names.get(sql, upstream)?;
        let of = |name: &Option<String>| name.clone().unwrap_or_default();
        let attempts = decode_attempts(rest.attempts, &of(&provider), &of(&upstream_model), status);
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let [input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens] = rest.numbers.tokens;
        let mut usage = Usage {
            input_tokens,
            cached_tokens,
            cache_write_tokens,
            output_tokens,
            reasoning_tokens,
            estimated,
            ..Usage::default()
        };
        decode_more(rest.more, &mut usage);
        Ok(Row {
            cursor: self.id,
            time_us: self.id >> TIE_BITS,
            request_id: RequestId::new(process, rest.numbers.counter),
            client_request_id: owned(rest.client_request_id),
            user: names.get(sql, self.user)?,
            end_user: owned(rest.end_user),
            labels: owned(rest.labels),
            model: names.get(sql, model)?,
            provider,
            upstream_model,
            status,
            stream,
            ttft_us: rest.numbers.ttft_us,
            duration_us: rest.numbers.duration_us,
            usage,
            cost: rest.numbers.cost.map(|cost| NanoUsd::from_nanos(signed(cost))),
            priced,
            error_class: names.get(sql, error)?,
            attempts,
        })
    }
}
