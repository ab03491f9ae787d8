//! A process that dies at any moment leaves exactly one row for each request that was in the journal.

use berry_ledger::{Filter, Group, Ledger};

use crate::support::{Place, append, record};

/// Copies a database with its log and the journal as they are, as a `kill -9` leaves them.
fn copy_of(place: &Place) -> Place {
    let copy = Place::new();
    std::fs::create_dir_all(copy.journal()).unwrap();
    for (from, to) in [(place.folder.path(), copy.folder.path()), (&place.journal(), &copy.journal())] {
        for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    copy
}

fn check(ledger: &Ledger, expected: usize) {
    let rows = ledger.requests(&Filter::default(), None, 1000).unwrap().rows;
    let mut ids: Vec<String> = rows.iter().map(|row| row.request_id.to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((rows.len(), ids.len()), (expected, expected));
    for group in [Group::User, Group::Provider] {
        let sums = ledger.totals(&Filter::default(), Some(&group), None).unwrap();
        assert_eq!(sums.iter().map(|total| total.figures.requests).sum::<i64>(), expected as i64, "{group:?}");
        assert_eq!(sums.iter().map(|total| total.figures.cost_nanos).sum::<i64>(), 1000 * expected as i64, "{group:?}");
    }
}

#[test]
fn rows_and_sums_are_exact_after_each_of_many_deaths() {
    let mut place = Place::new();
    let mut counter = 0;
    for life in 0..12 {
        let ledger = place.open();
        for round in 0..3 {
            for _ in 0..7 {
                ledger.append(&record(counter));
                counter += 1;
            }
            // Sometimes in the database, sometimes not; what is copied below is a moment in between.
            if (life + round) % 3 == 0 {
                ledger.flush().unwrap();
            }
        }
        let after_death = copy_of(&place);
        drop(ledger);
        place = after_death;
    }
    check(&place.open(), counter as usize);
}

#[test]
fn a_record_that_is_twice_in_the_journal_is_one_row_and_counts_once() {
    let place = Place::new();
    let ledger = place.open();
    for _ in 0..3 {
        append(&ledger, 0..5);
    }
    check(&ledger, 5);
    ledger.append(&record(3));
    check(&ledger, 5);
    assert_eq!(ledger.status().duplicates, 11);
    drop(ledger);
    check(&place.open(), 5);
}

#[test]
fn an_older_database_gets_what_the_journal_still_has() {
    let place = Place::new();
    let ledger = place.open();
    append(&ledger, 0..5);
    ledger.flush().unwrap();
    drop(ledger);
    let old = copy_of(&place);
    let ledger = place.open();
    append(&ledger, 5..9);
    ledger.flush().unwrap();
    let with_journal = copy_of(&place);
    drop(ledger);
    std::fs::copy(old.database(), with_journal.database()).unwrap();
    let _ = std::fs::remove_file(with_journal.folder.path().join("ledger.db-wal"));
    let _ = std::fs::remove_file(with_journal.folder.path().join("ledger.db-shm"));
    check(&with_journal.open(), 9);
}

#[test]
fn a_damaged_database_is_set_aside_and_a_new_one_begun() {
    let place = Place::new();
    std::fs::write(place.database(), vec![b'x'; 10_000]).unwrap();
    let ledger = place.open();
    ledger.append(&record(1));
    check(&ledger, 1);
    let reason = ledger.status().reason.unwrap();
    assert!(reason.contains("damaged"), "{reason}");
    let kept = std::fs::read_dir(place.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let kept = kept.filter(|path| path.to_str().unwrap().contains(".damaged-")).count();
    assert_eq!(kept, 1);
}
