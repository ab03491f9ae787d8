//! `GET /admin/usage` and `GET /v1/usage`: what the ledger has recorded, request by request or summed up.

mod asked;
mod table;

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use berry_core::config::snapshot::User;
use berry_core::end_user::{self, HASH_PREFIX};
use berry_core::error::ErrorKind;
use berry_core::money::NanoUsd;
use berry_ledger::{Figures, Filter, Group, Ledger, QueryError, Row, Step};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use http::request::Parts;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use self::asked::{Asked, Format, wrong};
use self::table::Csv;
use super::{AppState, Principal, refusal};
use crate::app::App;
use crate::error::ApiError;

/// How far back sums go where nothing else is asked for, and how far back users may look, days.
const DAYS: i64 = 31;
const DAY_US: i64 = 86_400_000_000;
/// Most groups of an answer; the dearest of each slot of time come first.
const GROUPS_MAX: usize = 10_000;
/// Size of the pieces of an export, bytes, and how many are made before the client has taken the first.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_AHEAD: usize = 2;

/// `GET /admin/usage`.
pub(super) async fn all(State(app): AppState, parts: Parts) -> Response {
    match Asked::read(parts.uri.query(), SystemTime::now()) {
        Ok(asked) => answer(app, &parts, asked, None).await,
        Err(error) => refusal(&parts, &error),
    }
}

/// `GET /v1/usage`: the rows of the user who asks, of the last month at most.
pub(super) async fn own(
    State(app): AppState,
    Extension(Principal(user)): Extension<Principal>,
    parts: Parts,
) -> Response {
    match Asked::read(parts.uri.query(), SystemTime::now()) {
        Ok(asked) => answer(app, &parts, asked, Some(user)).await,
        Err(error) => refusal(&parts, &error),
    }
}

async fn answer(app: Arc<App>, parts: &Parts, asked: Asked, of: Option<Arc<User>>) -> Response {
    let hashes = app.runtime().snapshot.ledger.hash_end_users;
    let question = match Question::new(asked, of.as_deref(), hashes, SystemTime::now()) {
        Ok(question) => question,
        Err(error) => return refusal(parts, &error),
    };
    if app.ledger.ledger().is_none() {
        let error = "There is no ledger: it is switched off, or could not be opened; /health says which.";
        return refusal(parts, &ApiError::new(ErrorKind::LedgerUnavailable, error));
    }
    // A question blocks, and looks into the file.
    match tokio::task::spawn_blocking(move || question.answer(&app)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let error = format!("The ledger cannot answer now: {error}");
            refusal(parts, &ApiError::new(ErrorKind::LedgerUnavailable, error))
        }
        Err(_) => refusal(parts, &ApiError::new(ErrorKind::Internal, "The question could not be answered.")),
    }
}

/// What sums are made by.
enum By {
    Nothing,
    Group(Group),
    Step(Step),
}

impl By {
    fn read(name: &str) -> Result<Self, ApiError> {
        Ok(match name {
            "all" => Self::Nothing,
            "user" => Self::Group(Group::User),
            "model" => Self::Group(Group::Model),
            "provider" => Self::Group(Group::Provider),
            "upstream_model" => Self::Group(Group::UpstreamModel),
            "status" => Self::Group(Group::Status),
            "error_class" => Self::Group(Group::ErrorClass),
            "end_user" => Self::Group(Group::EndUser),
            "minute" => Self::Step(Step::Minute),
            "hour" => Self::Step(Step::Hour),
            "day" => Self::Step(Step::Day),
            _ => match name.strip_prefix("label:") {
                Some(key) if !key.is_empty() => Self::Group(Group::Label(key.to_owned())),
                _ => {
                    let names = "`all`, or of `user`, `model`, `provider`, `upstream_model`, `status`, `error_class`, \
                                 `end_user`, `label:KEY`, and one of `minute`, `hour`, `day`";
                    return Err(wrong("group_by", names));
                }
            },
        })
    }
}

/// A question that can be asked.
struct Question {
    filter: Filter,
    /// What sums are made by; none for rows.
    groups: Vec<(String, Group)>,
    step: Option<Step>,
    sums: bool,
    before: Option<i64>,
    asked: Asked,
}

impl Question {
    fn new(asked: Asked, of: Option<&User>, hashes: bool, now: SystemTime) -> Result<Self, ApiError> {
        let sums = !asked.group_by.is_empty();
        let (mut groups, mut step) = (Vec::new(), None);
        for name in &asked.group_by {
            match By::read(name)? {
                By::Nothing => {}
                By::Group(group) => groups.push((name.clone(), group)),
                By::Step(one) if step.is_none() => step = Some(one),
                By::Step(_) => return Err(wrong("group_by", "with one of `minute`, `hour`, `day` only")),
            }
        }
        let before = match &asked.cursor {
            None => None,
            Some(cursor) => Some(cursor.parse().map_err(|_| wrong("cursor", "the `next_cursor` of the page before"))?),
        };
        let month_ago = micros(now) - DAYS * DAY_US;
        let from_us = match (asked.from_us, of) {
            (from, Some(_)) => Some(from.map_or(month_ago, |from| from.max(month_ago))),
            (None, None) if sums => Some(month_ago),
            (from, None) => from,
        };
        let filter = Filter {
            from_us,
            to_us: asked.to_us,
            user: of.map(|user| user.id.to_string()).or_else(|| asked.user.clone()),
            model: asked.model.clone(),
            provider: asked.provider.clone(),
            status: asked.status,
            error_class: asked.error_class.clone(),
            end_user: asked.end_user.as_deref().map(|name| recorded_as(name, hashes)),
            label: asked.label.clone(),
            ..Filter::default()
        };
        Ok(Self { filter, groups, step, sums, before, asked })
    }

    fn answer(self, app: &Arc<App>) -> Result<Response, QueryError> {
        let Some(ledger) = app.ledger.ledger() else { return Ok(Json(json!({})).into_response()) };
        match (self.sums, self.asked.format) {
            (true, format) => {
                let mut groups = Vec::new();
                self.sum(ledger, &self.filter, &mut Vec::new(), &mut groups)?;
                groups.sort_by_key(|group| (group.slot_us, -group.figures.cost_nanos, -group.figures.requests));
                let kept = self.asked.limit.unwrap_or(GROUPS_MAX);
                let complete = groups.len() <= kept;
                groups.truncate(kept);
                Ok(match format {
                    Format::Json => {
                        let groups: Vec<Value> = groups.iter().map(|group| self.told_group(group)).collect();
                        Json(json!({"groups": groups, "complete": complete})).into_response()
                    }
                    Format::Csv | Format::Jsonl => self.listed_groups(&groups),
                })
            }
            (false, Format::Json) => {
                let page = ledger.requests(&self.filter, self.before, self.asked.page())?;
                let rows: Vec<Value> = page.rows.iter().map(Row::to_json).collect();
                let next = page.next.map(|next| next.to_string());
                Ok(Json(json!({"rows": rows, "next_cursor": next})).into_response())
            }
            (false, _) => Ok(self.export(app)),
        }
    }

    /// Sums by all groups: by the last in one question, by those before it in one question for each of their values.
    fn sum(
        &self,
        ledger: &Ledger,
        filter: &Filter,
        keys: &mut Vec<Option<String>>,
        out: &mut Vec<Sum>,
    ) -> Result<(), QueryError> {
        let group = self.groups.get(keys.len()).map(|(_, group)| group);
        if keys.len() + 1 >= self.groups.len() {
            for total in ledger.totals(filter, group, self.step)? {
                let mut keys = keys.clone();
                keys.extend(group.map(|_| total.key));
                out.push(Sum { keys, slot_us: total.slot_us, figures: total.figures });
            }
            return Ok(());
        }
        let Some(group) = group else { return Ok(()) };
        for total in ledger.totals(filter, Some(group), None)? {
            // What has no such thing cannot be asked for by its absence; it stays one sum.
            let Some(key) = total.key else {
                let none = std::iter::repeat_n(None, self.groups.len() - keys.len());
                let keys = keys.iter().cloned().chain(none).collect();
                out.push(Sum { keys, slot_us: None, figures: total.figures });
                continue;
            };
            keys.push(Some(key.clone()));
            self.sum(ledger, &within(filter, group, key), keys, out)?;
            keys.pop();
            if out.len() > GROUPS_MAX {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The columns that tell groups apart, with their values for one.
    fn keys<'g>(&'g self, sum: &'g Sum) -> impl Iterator<Item = (&'g str, Option<String>)> {
        let slot = self.step.map(|_| ("time", sum.slot_us.map(berry_ledger::time_text)));
        slot.into_iter().chain(self.groups.iter().map(|(name, _)| name.as_str()).zip(sum.keys.iter().cloned()))
    }

    fn told_group(&self, sum: &Sum) -> Value {
        let group: Map<String, Value> = self.keys(sum).map(|(name, key)| (name.to_owned(), key.into())).collect();
        let Figures { requests, errors, ttft_count, ttft_us, duration_us, .. } = sum.figures;
        let mean_ms = |us: i64, count: i64| (count > 0).then(|| us as f64 / count as f64 / 1e3);
        json!({
            "group": group,
            "requests": requests,
            "errors": errors,
            "input_tokens": sum.figures.input_tokens,
            "cached_tokens": sum.figures.cached_tokens,
            "cache_write_tokens": sum.figures.cache_write_tokens,
            "output_tokens": sum.figures.output_tokens,
            "reasoning_tokens": sum.figures.reasoning_tokens,
            "cost_usd": NanoUsd::from_nanos(sum.figures.cost_nanos),
            "average_ttft_ms": mean_ms(ttft_us, ttft_count),
            "average_duration_ms": mean_ms(duration_us, requests),
        })
    }

    fn listed_groups(&self, groups: &[Sum]) -> Response {
        let mut out = Vec::new();
        if self.asked.format == Format::Jsonl {
            for group in groups {
                table::json_line(&self.told_group(group), &mut out);
            }
            return listed(self.asked.format, Body::from(out));
        }
        let mut csv = Csv(&mut out);
        let names = self.step.map(|_| "time").into_iter().chain(self.groups.iter().map(|(name, _)| name.as_str()));
        csv.line(names.map(str::to_owned).chain(table::FIGURES.map(str::to_owned)));
        for sum in groups {
            let keys = self.keys(sum).map(|(_, key)| key.unwrap_or_default());
            csv.line(keys.chain(table::figures(&sum.figures)));
        }
        listed(self.asked.format, Body::from(out))
    }

    /// Every row that matches, as the client takes them.
    fn export(self, app: &Arc<App>) -> Response {
        let (form, format) = match self.asked.format {
            Format::Csv => (Format::Csv, berry_ledger::Format::Csv),
            form => (form, berry_ledger::Format::JsonLines),
        };
        let (pieces, taken) = mpsc::channel(PIECES_AHEAD);
        let app = Arc::clone(app);
        let write = move || {
            let mut pipe = BufWriter::with_capacity(PIECE_BYTES, Pipe(pieces.clone()));
            let exported = app.ledger.ledger().map(|ledger| ledger.export(&self.filter, format, &mut pipe));
            if let Some(Err(error)) = exported {
                // The connection breaks off, so that nobody takes a part for the whole. It may be the client who is gone.
                let _ = pieces.blocking_send(Err(error));
            }
        };
        // Ends with its client, or with the last row.
        drop(tokio::task::spawn_blocking(write));
        let pieces = stream::unfold(taken, async |mut taken| taken.recv().await.map(|piece| (piece, taken)));
        listed(form, Body::from_stream(pieces))
    }
}

/// Hands what is written to the body of an answer.
struct Pipe(mpsc::Sender<Result<Bytes, QueryError>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How an end user of this name stands in the ledger.
fn recorded_as(name: &str, hashes: bool) -> String {
    if hashes && !name.starts_with(HASH_PREFIX) { end_user::hashed(name) } else { name.to_owned() }
}

/// A sum with the values of its groups.
struct Sum {
    keys: Vec<Option<String>>,
    slot_us: Option<i64>,
    figures: Figures,
}

/// Those of `filter` of which `group` has this value.
fn within(filter: &Filter, group: &Group, key: String) -> Filter {
    let mut filter = filter.clone();
    match group {
        Group::User => filter.user = Some(key),
        Group::Model => filter.model = Some(key),
        Group::Provider => filter.provider = Some(key),
        Group::UpstreamModel => filter.upstream_model = Some(key),
        // Statuses are told as numbers.
        Group::Status => filter.status = key.parse().ok(),
        Group::ErrorClass => filter.error_class = Some(key),
        Group::EndUser => filter.end_user = Some(key),
        Group::Label(name) => filter.label = Some((name.clone(), key)),
    }
    filter
}

fn listed(format: Format, body: Body) -> Response {
    let (kind, name) = match format {
        Format::Csv => ("text/csv; charset=utf-8", "attachment; filename=\"usage.csv\""),
        Format::Json | Format::Jsonl => ("application/jsonl", "attachment; filename=\"usage.jsonl\""),
    };
    ([(CONTENT_TYPE, kind), (CONTENT_DISPOSITION, name)], body).into_response()
}

fn micros(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros()).unwrap_or(i64::MAX)
}
