//! Export, backup, restore, erasure.

use berry_ledger::{Filter, Format, Ledger, Record, RestoreError, restore};

use crate::support::{Place, START_US, record};

fn with_end_users(place: &Place) -> Ledger {
    let ledger = place.open();
    for n in 0..40 {
        let end_user = if n % 2 == 0 { "anna@example.com" } else { "=berta, \"b\"" };
        ledger.append(&Record { end_user: Some(end_user), ..record(n) });
    }
    ledger
}

fn rows(ledger: &Ledger) -> Vec<berry_ledger::Row> {
    ledger.requests(&Filter::default(), None, 1000).unwrap().rows
}

/// Whether any file of the place holds these bytes.
fn holds(place: &Place, needle: &[u8]) -> bool {
    let files =
        [place.folder.path(), &place.journal()].map(|folder| std::fs::read_dir(folder).unwrap().collect::<Vec<_>>());
    files
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_file())
        .any(|entry| std::fs::read(entry.path()).unwrap().windows(needle.len()).any(|window| window == needle))
}

#[test]
fn an_export_has_every_row_and_is_what_it_says() {
    let place = Place::new();
    let ledger = with_end_users(&place);
    let mut lines = Vec::new();
    assert_eq!(ledger.export(&Filter::default(), Format::JsonLines, &mut lines).unwrap(), 40);
    let lines: Vec<serde_json::Value> =
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 40);
    assert_eq!(lines[39]["time"], "2026-01-05T00:00:00.000000Z");
    assert_eq!(lines[0]["cost_usd"], "0.000001");
    assert_eq!(lines[0]["attempts"][0]["outcome"], "success");
    assert_eq!((&lines[0]["ttft_ms"], &lines[0]["duration_ms"]), (&serde_json::json!(9.2), &serde_json::json!(20)));
    let mut csv = Vec::new();
    let some = Filter { to_us: Some(START_US + 2000), ..Filter::default() };
    assert_eq!(ledger.export(&some, Format::Csv, &mut csv).unwrap(), 2);
    let csv = String::from_utf8(csv).unwrap();
    assert!(csv.starts_with("time,request_id,"), "{csv}");
    assert!(csv.lines().nth(1).unwrap().contains(",\"'=berta, \"\"b\"\"\","), "{csv}");
}

#[test]
fn a_backup_restores_what_was_there_and_keeps_what_it_replaces() {
    let place = Place::new();
    let ledger = with_end_users(&place);
    let backup = place.folder.path().join("backup.db");
    ledger.backup(&backup).unwrap();
    assert!(ledger.backup(&backup).is_err(), "a backup is never overwritten");
    let in_use = restore(&place.options().store, &place.journal(), &backup, START_US);
    assert!(matches!(in_use, Err(RestoreError::InUse)));
    let before = rows(&ledger);
    drop(ledger);
    let other = Place::new();
    let ledger = other.open();
    ledger.append(&record(999));
    ledger.flush().unwrap();
    drop(ledger);
    let kept = restore(&other.options().store, &other.journal(), &backup, START_US).unwrap();
    assert!(kept.unwrap().exists());
    let ledger = other.open();
    let after = rows(&ledger);
    // What the journal still held of the ledger that was replaced is brought in as well.
    assert_eq!(
        after.iter().filter(|row| row.request_id != record(999).request_id).cloned().collect::<Vec<_>>(),
        before
    );
}

#[test]
fn a_broken_backup_changes_nothing() {
    let place = Place::new();
    let ledger = with_end_users(&place);
    let backup = place.folder.path().join("backup.db");
    ledger.backup(&backup).unwrap();
    let before = rows(&ledger);
    drop(ledger);
    let mut bytes = std::fs::read(&backup).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xa5);
    std::fs::write(&backup, &bytes).unwrap();
    let result = restore(&place.options().store, &place.journal(), &backup, START_US);
    assert!(matches!(result, Err(RestoreError::Unsound { .. })), "{result:?}");
    assert_eq!(rows(&place.open()), before);
}

#[test]
fn an_erased_end_user_is_in_no_file_and_the_rows_stay() {
    let place = Place::new();
    let ledger = with_end_users(&place);
    ledger.flush().unwrap();
    assert!(holds(&place, b"anna@example.com"));
    assert_eq!(ledger.erase_end_user("anna@example.com").unwrap(), 20);
    assert_eq!(ledger.erase_end_user("anna@example.com").unwrap(), 0);
    let rows = rows(&ledger);
    assert_eq!(rows.len(), 40);
    assert_eq!(rows.iter().filter(|row| row.end_user.is_none()).count(), 20);
    drop(ledger);
    assert!(!holds(&place, b"anna@example.com"));
    assert!(holds(&place, b"=berta"));
}

#[test]
fn a_move_of_rows_that_fails_in_between_goes_on_where_it_ended() {
    let place = Place::new();
    place.make_first(
        "INSERT INTO request WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000) \
         SELECT (1767657600000000 + i) * 1024, 1, 5000000 + i, NULL, 2, NULL, NULL, 3, 4, 5, 0, 200, 4, NULL, i, \
         NULL, NULL, NULL, NULL, NULL, 7, NULL, NULL FROM n; \
         CREATE TRIGGER full BEFORE DELETE ON request WHEN OLD.duration_us = 7000 \
         BEGIN SELECT RAISE(ABORT, 'no room'); END;",
    );
    let count = |table: &str| {
        let database = rusqlite::Connection::open(place.database()).unwrap();
        database.query_row(&format!("SELECT COUNT(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let ledger = place.open();
    assert!(ledger.flush().unwrap_err().to_string().contains("no room"));
    drop(ledger);
    assert_eq!((count("request"), count("request_1")), (5000, 7003));
    rusqlite::Connection::open(place.database()).unwrap().execute_batch("DROP TRIGGER full").unwrap();
    let ledger = place.open();
    ledger.flush().unwrap();
    assert_eq!(count("request"), 12_003);
    let newest = ledger.requests(&Filter::default(), None, 1).unwrap().rows;
    assert_eq!(newest[0].duration_us, 12_000);
}
