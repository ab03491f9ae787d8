//! What every store must do: on SQLite, and on PostgreSQL when `BERRY_TEST_POSTGRES` names a server.

use berry_core::id::RequestId;
use berry_core::money::NanoUsd;
use berry_core::usage::Usage;
use berry_ledger::{Filter, Group, Ledger, Record, Step};

use crate::support::{DAY_US, HOUR_US, MINUTE_US, Place, START_US, bare_record, first_rows, full_record, record};

fn add(ledger: &Ledger, records: impl IntoIterator<Item = Record<'static>>) {
    for record in records {
        ledger.append(&record);
    }
}

fn keys(ledger: &Ledger, filter: &Filter, group: &Group) -> Vec<(Option<String>, i64)> {
    let totals = ledger.totals(filter, Some(group), None).unwrap();
    totals.into_iter().map(|total| (total.key, total.figures.requests)).collect()
}

#[test]
fn a_row_says_everything_that_was_recorded() {
    let place = Place::of_environment();
    let ledger = place.open();
    let written = full_record(5);
    ledger.append(&written);
    let row = ledger.request(written.request_id).unwrap().unwrap();
    assert_eq!((row.time_us, row.request_id), (written.time_us, written.request_id));
    assert_eq!((row.status, row.stream, row.priced), (200, true, true));
    assert_eq!((row.usage, row.cost), (written.usage, written.cost));
    let texts = [&row.client_request_id, &row.user, &row.end_user, &row.labels, &row.error_class];
    assert_eq!(
        texts.map(|text| text.as_deref()),
        [Some("job-7"), Some("team_a"), Some("é-user"), Some("team=a,job=7"), Some("stream_incomplete")]
    );
    let names = [&row.model, &row.provider, &row.upstream_model].map(|text| text.as_deref());
    assert_eq!(names, [Some("fast"), Some("openai"), Some("gpt-4o")]);
    assert_eq!((row.ttft_us, row.duration_us), (Some(9_200), 20_000));
    let told: Vec<_> =
        row.attempts.iter().map(|a| (&*a.provider, &*a.model, &*a.reason, &*a.outcome, a.status)).collect();
    assert_eq!(
        told,
        [("azure", "gpt-4o", "strategy", "rate_limited", 429), ("openai", "gpt-4o", "retry", "success", 200)]
    );
    assert_eq!(
        row.attempts.iter().map(|a| (a.started_us, a.ttft_us)).collect::<Vec<_>>(),
        [(150, None), (30_000, Some(9_000))]
    );
}

#[test]
fn what_is_unknown_stays_unknown() {
    let place = Place::of_environment();
    let ledger = place.open();
    let bare = Record { priced: false, ..bare_record(1) };
    ledger.append(&bare);
    let row = ledger.request(bare.request_id).unwrap().unwrap();
    assert_eq!((row.user, row.model, row.provider, row.upstream_model), (None, None, None, None));
    assert_eq!((row.usage, row.cost, row.priced, row.ttft_us), (Usage::default(), None, false, None));
    assert!(row.attempts.is_empty());
    assert_eq!(keys(&ledger, &Filter::default(), &Group::User), [(None, 1)]);
    assert_eq!(ledger.request(RequestId::new(42, 2)).unwrap(), None);
    assert_eq!(ledger.request(RequestId::new(43, 1)).unwrap(), None);
}

#[test]
fn requests_of_one_moment_are_all_kept() {
    let place = Place::of_environment();
    let ledger = place.open();
    // The same microsecond, and counters that differ only beyond what a key keeps of them.
    let moment = |counter: u32| Record {
        time_us: START_US,
        request_id: RequestId::new(42, u64::from(counter) << 20),
        ..record(0)
    };
    add(&ledger, (0..50).map(moment));
    assert_eq!(ledger.requests(&Filter::default(), None, 100).unwrap().rows.len(), 50);
    for counter in 0..50u32 {
        let id = RequestId::new(42, u64::from(counter) << 20);
        assert_eq!(ledger.request(id).unwrap().map(|row| row.request_id), Some(id));
    }
    // And again, as if replayed.
    add(&ledger, (0..50).map(moment));
    assert_eq!(ledger.requests(&Filter::default(), None, 100).unwrap().rows.len(), 50);
}

#[test]
fn pages_follow_each_other_without_gap_or_overlap() {
    let place = Place::of_environment();
    let ledger = place.open();
    // Over six hours, so that pages and hours do not end together.
    add(&ledger, (0..100).map(|n| Record { time_us: START_US + n as i64 * 4 * MINUTE_US, ..record(n) }));
    let mut seen = Vec::new();
    let mut next = None;
    loop {
        let page = ledger.requests(&Filter::default(), next, 7).unwrap();
        seen.extend(page.rows.iter().map(|row| row.request_id.parts().1));
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..100).rev().collect::<Vec<u64>>());
}

#[test]
fn every_filter_keeps_what_it_names() {
    let place = Place::of_environment();
    let ledger = place.open();
    add(&ledger, (0..4).map(record));
    let odd = Record {
        user: Some("team_b"),
        model: Some("slow"),
        provider: Some("azure"),
        upstream_model: Some("gpt-5"),
        status: 503,
        error_class: Some("upstream_error"),
        end_user: Some("anna"),
        labels: Some("job=7,team=b"),
        ..record(9)
    };
    ledger.append(&odd);
    let text = |text: &str| Some(text.to_owned());
    let filters = [
        Filter { user: text("team_b"), ..Filter::default() },
        Filter { model: text("slow"), ..Filter::default() },
        Filter { provider: text("azure"), ..Filter::default() },
        Filter { upstream_model: text("gpt-5"), ..Filter::default() },
        Filter { status: Some(503), ..Filter::default() },
        Filter { error_class: text("upstream_error"), ..Filter::default() },
        Filter { end_user: text("anna"), ..Filter::default() },
        Filter { label: Some(("job".into(), "7".into())), ..Filter::default() },
        Filter { errors_only: true, ..Filter::default() },
        Filter { from_us: Some(odd.time_us), ..Filter::default() },
        Filter { user: text("team_b"), provider: text("azure"), ..Filter::default() },
        Filter { user: text("team_b"), errors_only: true, ..Filter::default() },
    ];
    for filter in &filters {
        let rows = ledger.requests(filter, None, 10).unwrap().rows;
        assert_eq!(rows.iter().map(|row| row.request_id).collect::<Vec<_>>(), [odd.request_id], "{filter:?}");
        for group in [Group::User, Group::Provider, Group::EndUser] {
            let sums = keys(&ledger, filter, &group);
            assert_eq!(sums.iter().map(|(_, requests)| requests).sum::<i64>(), 1, "{filter:?} by {group:?}");
        }
    }
    for filter in [
        Filter { user: text("nobody"), ..Filter::default() },
        Filter { model: text("\0"), end_user: text("\0"), ..Filter::default() },
        Filter { label: Some(("job".into(), "77".into())), ..Filter::default() },
        Filter { to_us: Some(START_US), ..Filter::default() },
    ] {
        assert!(ledger.requests(&filter, None, 10).unwrap().rows.is_empty(), "{filter:?}");
        assert!(ledger.totals(&filter, None, None).unwrap().is_empty(), "{filter:?}");
    }
}

#[test]
fn sums_are_grouped_by_everything_that_is_recorded() {
    let place = Place::of_environment();
    let ledger = place.open();
    add(&ledger, (0..3).map(record));
    let other = Record {
        user: Some("team_b"),
        status: 400,
        error_class: Some("invalid_request"),
        end_user: Some("anna"),
        labels: Some("job=7"),
        cost: Some(NanoUsd::from_nanos(9_000)),
        ..record(9)
    };
    ledger.append(&other);
    let some = |text: &str| Some(text.to_owned());
    // The dearest first.
    for (group, expected) in [
        (Group::User, [(some("team_b"), 1), (some("team_a"), 3)]),
        (Group::Status, [(some("400"), 1), (some("200"), 3)]),
        (Group::ErrorClass, [(some("invalid_request"), 1), (None, 3)]),
        (Group::EndUser, [(some("anna"), 1), (None, 3)]),
        (Group::Label("job".into()), [(some("7"), 1), (None, 3)]),
    ] {
        assert_eq!(keys(&ledger, &Filter::default(), &group), expected, "{group:?}");
    }
    for group in [Group::Model, Group::Provider, Group::UpstreamModel] {
        assert_eq!(
            keys(&ledger, &Filter::default(), &group).iter().map(|(_, n)| *n).collect::<Vec<_>>(),
            [4],
            "{group:?}"
        );
    }
    let whole = ledger.totals(&Filter::default(), None, None).unwrap();
    let figures = whole[0].figures;
    assert_eq!((figures.requests, figures.errors, figures.cost_nanos), (4, 1, 12_000));
    assert_eq!((figures.input_tokens, figures.output_tokens), (400, 80));
    assert_eq!((figures.ttft_count, figures.ttft_us, figures.duration_us), (4, 36_800, 80_000));
}

#[test]
fn sums_of_any_period_are_those_of_its_rows() {
    let place = Place::of_environment();
    let ledger = place.open();
    // Every seven minutes over three days.
    let times: Vec<i64> = (0..600).map(|n| START_US + n * 7 * MINUTE_US + n * 131).collect();
    add(&ledger, times.iter().zip(0..).map(|(time, n)| Record { time_us: *time, ..record(n) }));
    let edges =
        [0, 1, 35 * MINUTE_US, HOUR_US, 5 * HOUR_US + 17, DAY_US, DAY_US + 90 * MINUTE_US, 2 * DAY_US, 4 * DAY_US];
    for (at, from) in edges.iter().enumerate() {
        for to in &edges[at + 1..] {
            let (from, to) = (START_US + from, START_US + to);
            let filter = Filter { from_us: Some(from), to_us: Some(to), ..Filter::default() };
            let expected = times.iter().filter(|time| (from..to).contains(*time)).count() as i64;
            for group in [Group::User, Group::Provider, Group::EndUser] {
                let sum: i64 = keys(&ledger, &filter, &group).iter().map(|(_, n)| n).sum();
                assert_eq!(sum, expected, "{from} to {to} by {group:?}");
                for step in [Step::Minute, Step::Hour, Step::Day] {
                    let series = ledger.totals(&filter, Some(&group), Some(step)).unwrap();
                    assert_eq!(series.iter().map(|total| total.figures.requests).sum::<i64>(), expected, "{step:?}");
                    assert!(series.is_sorted_by_key(|total| total.slot_us));
                    assert!(series.iter().all(|total| total.slot_us.unwrap() % step.micros() == 0));
                }
            }
        }
    }
}

#[test]
fn what_users_spent_since_a_moment_is_exact() {
    let place = Place::of_environment();
    let ledger = place.open();
    for n in 0..100 {
        let user = if n % 4 == 0 { "team_b" } else { "team_a" };
        ledger.append(&Record { time_us: START_US + n as i64 * HOUR_US / 2, user: Some(user), ..record(n) });
    }
    let since = START_US + 25 * HOUR_US - MINUTE_US;
    let spent = ledger.spent_since(since).unwrap();
    // Requests 50 to 99: 52, 56 .. 96 of them are of team_b.
    let expected =
        [("team_a".to_owned(), NanoUsd::from_nanos(38_000)), ("team_b".to_owned(), NanoUsd::from_nanos(12_000))];
    assert_eq!(spent, expected);
}

#[test]
fn percentiles_are_within_their_bound() {
    let place = Place::of_environment();
    let ledger = place.open();
    for n in 0..1000 {
        let provider = if n % 2 == 0 { "azure" } else { "openai" };
        ledger.append(&Record { provider: Some(provider), ttft_us: Some(n * 100), duration_us: n * 1000, ..record(n) });
    }
    let whole = ledger.latencies(&Filter::default(), None).unwrap();
    assert_eq!(whole[0].duration.count(), 1000);
    for (percent, truth) in [(50.0, 499_500.0), (95.0, 949_500.0), (99.0, 989_500.0)] {
        let found = whole[0].duration.percentile(percent).unwrap() as f64;
        assert!((found - truth).abs() <= truth * 0.07, "{percent}: {found} for {truth}");
    }
    let split = ledger.latencies(&Filter::default(), Some(&Group::Provider)).unwrap();
    let counts: Vec<_> = split.iter().map(|one| (one.key.as_deref(), one.ttft.count())).collect();
    assert_eq!(counts, [(Some("azure"), 500), (Some("openai"), 500)]);
    let filter = Filter { provider: Some("azure".into()), from_us: Some(START_US), ..Filter::default() };
    assert_eq!(ledger.latencies(&filter, None).unwrap()[0].duration.count(), 500);
}

#[test]
fn retention_deletes_rows_and_keeps_what_was_spent() {
    let place = Place::of_environment();
    let mut options = place.options();
    options.retention_days = Some(2);
    let ledger = Ledger::open(options).unwrap();
    let now = place.now_us.load(std::sync::atomic::Ordering::Relaxed);
    for n in 0..10 {
        ledger.append(&Record { time_us: now - 10 * DAY_US + n as i64 * DAY_US + HOUR_US, ..record(n) });
    }
    ledger.flush().unwrap();
    let rows = ledger.requests(&Filter::default(), None, 100).unwrap().rows;
    assert_eq!(rows.len(), 2);
    assert_eq!(ledger.spent_since(0).unwrap(), [("team_a".to_owned(), NanoUsd::from_nanos(10_000))]);
}

#[test]
fn a_replay_adds_nothing_and_another_instance_finds_everything() {
    let place = Place::of_environment();
    {
        let ledger = place.open();
        add(&ledger, (0..100).map(record));
        add(&ledger, (0..100).map(record));
        ledger.flush().unwrap();
    }
    // The same rows from a journal that the database knows nothing of.
    let mut options = place.options();
    (options.journal, options.process) = (place.folder.path().join("other"), 8);
    let other = Ledger::open(options).unwrap();
    add(&other, (50..150).map(record));
    assert_eq!(keys(&other, &Filter::default(), &Group::User), [(Some("team_a".to_owned()), 150)]);
    assert_eq!(keys(&other, &Filter::default(), &Group::EndUser), [(None, 150)]);
    assert_eq!(other.latencies(&Filter::default(), None).unwrap()[0].duration.count(), 150);
    drop(other);
    assert_eq!(keys(&place.open(), &Filter::default(), &Group::Provider), [(Some("openai".to_owned()), 150)]);
}

#[test]
fn an_erased_end_user_is_in_no_row() {
    let place = Place::of_environment();
    let ledger = place.open();
    add(&ledger, (0..30).map(|n| Record { end_user: Some(if n % 3 == 0 { "anna" } else { "berta" }), ..record(n) }));
    assert_eq!(ledger.erase_end_user("anna").unwrap(), 10);
    let mut found = keys(&ledger, &Filter::default(), &Group::EndUser);
    found.sort();
    assert_eq!(found, [(None, 10), (Some("berta".to_owned()), 20)]);
}

#[test]
fn rows_of_the_first_version_are_those_that_this_one_makes() {
    let (old, new) = (Place::of_environment(), Place::of_environment());
    old.make_first("");
    let (ledger, expected) = (old.open(), new.open());
    add(&expected, first_rows());
    let all = Filter::default();
    let rows = expected.requests(&all, None, 10).unwrap();
    assert_eq!(ledger.requests(&all, None, 10).unwrap(), rows);
    for row in rows.rows {
        assert_eq!(ledger.request(row.request_id).unwrap(), Some(row));
    }
    for group in [Group::User, Group::Status, Group::EndUser] {
        assert_eq!(keys(&ledger, &all, &group), keys(&expected, &all, &group), "{group:?}");
    }
    // A journal may still have them.
    add(&ledger, first_rows());
    assert_eq!(keys(&ledger, &all, &Group::EndUser), keys(&expected, &all, &Group::EndUser));
    assert_eq!((ledger.status().stored, ledger.status().duplicates), (3, 3));
    drop(ledger);
    assert_eq!(old.open().requests(&all, None, 10).unwrap().rows.len(), 3);
}

/// A row as the first version writes it. It names its columns, as this statement does.
const FIRST_ROW: &str = "INSERT INTO request (id, process_id, counter, client_request_id, user_id, end_user, labels, model_id, \
    provider_id, upstream_id, error_id, status, flags, ttft_us, duration_us, input, cached, cache_write, output, reasoning, cost, \
    more, attempts) VALUES (1809996000000000000, 1, 77, NULL, 2, NULL, NULL, 3, 4, 5, 0, 200, 4, NULL, 9, NULL, NULL, NULL, NULL, \
    NULL, 7, NULL, NULL)";

#[test]
fn what_an_instance_of_the_first_version_writes_is_moved_or_refused_whole() {
    let place = Place::of_environment();
    place.make_first("");
    // It is writing when the first instance of this version comes.
    let commit = place.begin(FIRST_ROW);
    let ledger = place.open();
    commit();
    let rows = || ledger.requests(&Filter::default(), None, 10).unwrap().rows.len();
    assert_eq!(rows(), 4);
    // From then on it is refused, so that it keeps its rows in its journal.
    let refused = place.execute(FIRST_ROW).unwrap_err();
    assert!(refused.contains("process_id"), "there is no such column: {refused}");
    assert_eq!(rows(), 4);
    add(&ledger, [record(9)]);
    assert_eq!(rows(), 5);
}

#[test]
fn more_rows_of_the_first_version_than_move_at_once_all_move() {
    let place = Place::of_environment();
    place.make_first(
        "INSERT INTO request WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) \
         SELECT (1767657600000000 + i) * 1024, 1, 5000000 + i, NULL, 2, 'anna', NULL, 3, 4, 5, 0, 200, 4, NULL, i, \
         NULL, NULL, NULL, NULL, NULL, 7, NULL, NULL FROM n;",
    );
    let ledger = place.open();
    let anna = Filter { end_user: Some("anna".into()), ..Filter::default() };
    let figures = ledger.totals(&anna, None, None).unwrap()[0].figures;
    assert_eq!((figures.requests, figures.cost_nanos, figures.duration_us), (12_000, 84_000, 6000 * 12_001));
    assert_eq!(keys(&ledger, &Filter::default(), &Group::EndUser).iter().map(|(_, n)| n).sum::<i64>(), 12_003);
}

#[test]
fn what_looks_like_an_end_user_or_a_label_is_none() {
    let place = Place::of_environment();
    let ledger = place.open();
    let label = Record { labels: Some("who=anna,job=77"), ..record(1) };
    add(&ledger, [label, Record { client_request_id: Some("job=7"), end_user: Some("ann"), ..record(2) }]);
    let of = |end_user: Option<&str>, label: Option<(&str, &str)>| {
        let label = label.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let filter = Filter { end_user: end_user.map(str::to_owned), label, ..Filter::default() };
        let sums: i64 = ledger.totals(&filter, None, None).unwrap().iter().map(|total| total.figures.requests).sum();
        (sums, ledger.requests(&filter, None, 10).unwrap().rows.len())
    };
    assert_eq!([of(Some("ann"), None), of(Some("anna"), None)], [(1, 1), (0, 0)]);
    assert_eq!([of(None, Some(("job", "7"))), of(None, Some(("job", "77")))], [(0, 0), (1, 1)]);
    assert_eq!([ledger.erase_end_user("anna").unwrap(), ledger.erase_end_user("ann").unwrap()], [0, 1]);
}
