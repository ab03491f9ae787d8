//! `GET /admin/budgets`: what budgets are used up, from the accounts that refuse.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use berry_core::config::snapshot::{Budget, User};
use berry_core::error::ErrorKind;
use berry_core::id::UserId;
use berry_core::money::NanoUsd;
use berry_core::quota::{Balance, Holder, PeriodKind};
use http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::super::{AppState, refusal};
use crate::app::{App, Runtime};
use crate::error::ApiError;
use crate::telemetry::format::rfc3339;

/// Holders of one answer, where the question does not say how many.
const HOLDERS_DEFAULT: usize = 1000;

#[derive(Serialize)]
struct Page {
    budgets: Vec<Row>,
    /// What to ask with for the rest; `null` where there is none.
    cursor: Option<String>,
    timestamp: String,
}

/// One amount of one holder.
#[derive(Serialize)]
struct Row {
    user: Option<String>,
    tag: Option<String>,
    period: PeriodKind,
    limit_usd: NanoUsd,
    spent_usd: NanoUsd,
    reserved_usd: NanoUsd,
    starts_at: Option<String>,
    resets_at: Option<String>,
}

/// What is asked for.
#[derive(Default)]
struct Asked {
    user: Option<String>,
    tag: Option<String>,
    limit: Option<usize>,
    cursor: Option<Holder>,
}

impl Asked {
    fn read(query: &str) -> Result<Self, ApiError> {
        let mut asked = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            match name {
                "user" => asked.user = Some(value),
                "tag" => asked.tag = Some(value),
                "cursor" => asked.cursor = Some(holder(&value).ok_or_else(|| invalid("cursor"))?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=HOLDERS_DEFAULT).contains(limit));
                    asked.limit = Some(limit.ok_or_else(|| invalid("limit"))?);
                }
                _ => {}
            }
        }
        Ok(asked)
    }

    fn wants(&self, holder: &Holder) -> bool {
        let named = match holder {
            Holder::User(user) => self.user.as_ref().is_some_and(|name| name == user.as_str()),
            Holder::Tag(tag) => self.tag.as_ref().is_some_and(|name| **name == **tag),
        };
        (named || (self.user.is_none() && self.tag.is_none()))
            && self.cursor.as_ref().is_none_or(|cursor| holder > cursor)
    }
}

fn invalid(param: &'static str) -> ApiError {
    let message = "`limit` is a number from 1 to 1000, `cursor` what the page before said.";
    ApiError::new(ErrorKind::InvalidRequest, message).on(param)
}

/// `user NAME` or `tag NAME`.
fn holder(text: &str) -> Option<Holder> {
    match text.split_once(' ')? {
        ("user", name) => Some(Holder::User(UserId::from(name))),
        ("tag", name) => Some(Holder::Tag(name.into())),
        _ => None,
    }
}

pub(in crate::routes) async fn budgets(State(app): AppState, parts: Parts) -> Response {
    let asked = match Asked::read(parts.uri.query().unwrap_or_default()) {
        Ok(asked) => asked,
        Err(error) => return refusal(&parts, &error),
    };
    let runtime = app.runtime();
    let mut holders = holders(&app, &runtime);
    holders.retain(|(holder, _)| asked.wants(holder));
    holders.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let more = holders.len() > asked.limit.unwrap_or(HOLDERS_DEFAULT);
    holders.truncate(asked.limit.unwrap_or(HOLDERS_DEFAULT));
    let cursor = holders.last().filter(|_| more).map(|(holder, _)| holder.to_string());
    let now = app.clock.now();
    let rows = holders.into_iter().flat_map(|(holder, budget)| {
        let balances = app.budgets.balances(&holder, &budget, &runtime.calendar, now);
        balances.map(|balance| row(&holder, &balance)).into_iter().flatten()
    });
    Json(Page { budgets: rows.collect(), cursor, timestamp: rfc3339(SystemTime::now()) }).into_response()
}

/// Everybody with a budget: users of the configuration, keys issued at run time, tags.
fn holders(app: &App, runtime: &Runtime) -> Vec<(Holder, Budget)> {
    let of_user = |user: &User| {
        let budget = user.limits.as_ref().map(|limits| limits.budget).filter(|budget| !budget.is_unlimited())?;
        Some((Holder::User(user.id.clone()), budget))
    };
    let users = runtime.snapshot.users.iter().filter_map(|user| of_user(&user));
    let keys = app.keys.list();
    let keys = keys.iter().filter_map(|key| of_user(key.user()));
    let tags = runtime.snapshot.tags.iter().filter(|(_, tag)| !tag.budget.is_unlimited());
    let tags = tags.map(|(name, tag)| (Holder::Tag(name.clone()), tag.budget));
    users.chain(keys).chain(tags).collect()
}

fn row(holder: &Holder, balance: &Balance) -> Option<Row> {
    let name = |kind: &str| (holder.kind() == kind).then(|| holder.name().to_owned());
    let text = |second| jiff::Timestamp::from_second(second).ok().map(|time| rfc3339(time.into()));
    Some(Row {
        user: name("user"),
        tag: name("tag"),
        period: balance.kind,
        limit_usd: balance.limit?,
        spent_usd: balance.spent,
        reserved_usd: balance.reserved,
        starts_at: text(balance.period.starts).filter(|_| balance.period.ends.is_some()),
        resets_at: balance.period.ends.and_then(text),
    })
}
