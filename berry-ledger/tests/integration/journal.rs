//! What is in the journal reaches the database, once; what cannot is counted.

use std::path::{Path, PathBuf};

use berry_ledger::{Appended, Condition, Filter, Ledger, Options};

use crate::support::{Place, append, full_record, record, segments};

fn count(ledger: &Ledger) -> i64 {
    ledger.totals(&Filter::default(), None, None).unwrap().iter().map(|total| total.figures.requests).sum()
}

#[test]
fn what_a_dead_process_left_in_the_journal_is_brought_in() {
    let place = Place::new();
    let mut left = Vec::new();
    {
        let ledger = Ledger::open(place.options_without_database()).unwrap();
        for counter in 0..10 {
            assert_eq!(ledger.append(&record(counter)), Appended::Written);
        }
        assert!(ledger.flush().is_err());
        let status = ledger.status();
        assert_eq!((status.condition, status.lag_rows, status.dropped), (Condition::Behind, 10, 0));
        left.extend(segments(&place.journal()));
    }
    assert_eq!(left.len(), 1);
    let ledger = place.open();
    assert_eq!(count(&ledger), 10);
    assert_eq!(ledger.requests(&Filter::default(), None, 100).unwrap().rows.len(), 10);
}

#[test]
fn a_journal_cut_at_any_byte_loses_only_the_record_that_was_cut() {
    let place = Place::new();
    let (ends, segment) = place.leave(3);
    let whole = std::fs::read(&segment).unwrap();
    assert_eq!(whole.len(), ends[2]);
    for cut in 0..=whole.len() {
        let place = Place::new();
        std::fs::create_dir_all(place.journal()).unwrap();
        std::fs::write(place.journal().join(segment.file_name().unwrap()), &whole[..cut]).unwrap();
        let ledger = place.open();
        let expected = ends.iter().filter(|end| **end <= cut).count() as i64;
        assert_eq!(count(&ledger), expected, "cut at {cut}");
        // What is appended after the cut is not in its way.
        ledger.append(&record(100));
        assert_eq!(count(&ledger), expected + 1, "cut at {cut}");
    }
}

/// A segment as an earlier version leaves it that is killed: as long as its map.
#[test]
fn a_segment_that_was_still_mapped_is_read_to_its_last_frame_wherever_it_is_cut_off() {
    let place = Place::new();
    let (ends, segment) = place.leave(3);
    let mut left = std::fs::read(&segment).unwrap();
    left.resize(4096, 0);
    let written = left.clone();
    for cut in (ends[1] - 5..=ends[2]).rev() {
        left[cut..].fill(0);
        let place = Place::new();
        std::fs::create_dir_all(place.journal()).unwrap();
        std::fs::write(place.journal().join(segment.file_name().unwrap()), &left).unwrap();
        let ledger = place.open();
        let whole = ends.iter().filter(|end| left[..**end] == written[..**end]).count() as i64;
        assert_eq!(count(&ledger), whole, "cut at {cut}");
        assert!(ledger.status().lost_bytes < 200, "cut at {cut}: zeros are no loss");
        ledger.append(&record(100));
        assert_eq!(count(&ledger), whole + 1, "cut at {cut}");
    }
}

/// The tails of a journal, with what they hold. None where there is no such memory.
fn tails(journal: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path());
    let tails = paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("tail"));
    tails.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn what_threads_had_in_their_tails_when_the_process_died_is_brought_in() {
    let place = Place::new();
    let ledger = Ledger::open(place.options_without_database()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let ledger = &ledger;
            scope.spawn(move || append(ledger, thread * 10..thread * 10 + 10));
        }
    });
    let left = tails(&place.journal());
    drop(ledger);
    assert_eq!(tails(&place.journal()), []);
    let [segment] = &segments(&place.journal())[..] else { panic!("one segment") };
    // As if nothing had been moved yet: two deaths, one of them while tails are brought in.
    let place = Place::new();
    std::fs::create_dir_all(place.journal()).unwrap();
    for (path, bytes) in &left {
        std::fs::write(place.journal().join(path.file_name().unwrap()), bytes).unwrap();
    }
    if left.is_empty() {
        std::fs::copy(segment, place.journal().join(segment.file_name().unwrap())).unwrap();
    }
    let ledger = place.open();
    assert_eq!((count(&ledger), ledger.status().lost_bytes, ledger.status().duplicates), (40, 0, 0));
    append(&ledger, 100..105);
    assert_eq!((count(&ledger), ledger.status().duplicates), (45, 0));
}

/// The process was killed while it moved its tail to the segment, or just before it began the tail anew.
#[test]
fn a_tail_that_was_being_moved_is_brought_into_its_segment_whatever_that_has() {
    let place = Place::new();
    let ledger = Ledger::open(place.options_without_database()).unwrap();
    append(&ledger, 0..3);
    let left = tails(&place.journal());
    drop(ledger);
    // Where there is no such memory, everything is in the segment.
    let Some((path, tail)) = left.iter().find(|(_, tail)| tail[24..32] != [0; 8]) else { return };
    let mut tail = tail.clone();
    let (number, start) = (1u64, 8u64);
    tail[8..16].copy_from_slice(&number.to_le_bytes());
    tail[16..24].copy_from_slice(&start.to_le_bytes());
    let [segment] = &segments(&place.journal())[..] else { panic!("one segment") };
    let whole = std::fs::read(segment).unwrap();
    // The second name is that of an earlier version, which had one tail for all.
    for name in [path.file_name().unwrap(), "tail".as_ref()] {
        for known in (8..whole.len()).step_by(37).chain([whole.len()]) {
            let place = Place::new();
            std::fs::create_dir_all(place.journal()).unwrap();
            std::fs::write(place.journal().join(segment.file_name().unwrap()), &whole[..known]).unwrap();
            std::fs::write(place.journal().join(name), &tail).unwrap();
            let ledger = place.open();
            assert_eq!((count(&ledger), ledger.status().lost_bytes), (3, 0), "{known} bytes were in the segment");
            append(&ledger, 3..5);
            assert_eq!((count(&ledger), ledger.status().duplicates), (5, 0), "{known} bytes were in the segment");
        }
    }
}

#[test]
fn more_than_tails_hold_is_all_there() {
    let place = Place::new();
    let mut options = place.options();
    options.segment_bytes = 200_000;
    let ledger = Ledger::open(options).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let ledger = &ledger;
            scope.spawn(move || append(ledger, thread * 1000..thread * 1000 + 1000));
        }
    });
    assert_eq!(count(&ledger), 3000);
    let status = ledger.status();
    assert_eq!((status.duplicates, status.lost_bytes, status.dropped), (0, 0, 0));
    drop(ledger);
    assert_eq!(count(&place.open()), 3000);
}

#[test]
fn a_journal_that_was_closed_is_no_longer_than_its_frames() {
    let place = Place::new();
    let ledger = place.open();
    append(&ledger, 0..1);
    ledger.close();
    let length = || segments(&place.journal()).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    assert_eq!(length(), ledger.status().journal_bytes);
    // What comes later waits for the next process.
    append(&ledger, 1..2);
    assert_eq!(length(), ledger.status().journal_bytes);
    drop(ledger);
    assert_eq!(count(&place.open()), 2);
}

#[test]
fn a_flipped_bit_ends_a_segment_and_is_counted() {
    let place = Place::new();
    let (_, segment) = place.leave(3);
    let whole = std::fs::read(&segment).unwrap();
    let second = 8 + (whole.len() - 8) / 3 + 20;
    let mut damaged = whole.clone();
    damaged[second] ^= 1;
    std::fs::write(&segment, &damaged).unwrap();
    let ledger = place.open();
    assert_eq!(count(&ledger), 1);
    assert_eq!(ledger.status().lost_bytes, (whole.len() as u64 - 8) / 3 * 2);
}

#[test]
fn a_full_journal_drops_and_counts_and_takes_rows_again_when_it_is_not() {
    // More than a thread's tail holds, twice: what is in it when the segments are full, and what was moved there last.
    const TAILS: u64 = 2 * (32 << 10);
    let place = Place::new();
    let mut options = place.options();
    let missing = place.folder.path().join("missing");
    options.store = berry_ledger::Store::Sqlite(missing.join("ledger.db"));
    (options.journal_max_bytes, options.segment_bytes) = (4000, 1000);
    let ledger = Ledger::open(options).unwrap();
    let taken = (0..2000).filter(|counter| ledger.append(&record(*counter)) == Appended::Written).count();
    let status = ledger.status();
    assert_eq!(taken as u64 + status.dropped, 2000);
    assert!(taken > 10 && status.dropped > 10, "{status:?}");
    assert!(status.journal_bytes <= 4000 + TAILS, "{status:?}");
    assert_eq!(status.condition, Condition::Losing);
    // The database comes back: what waited is brought in, its segments are deleted and there is room again.
    std::fs::create_dir(missing).unwrap();
    ledger.flush().unwrap();
    assert_eq!(count(&ledger), taken as i64);
    assert_eq!(ledger.append(&record(10_000)), Appended::Written);
    assert_eq!(ledger.status().condition, Condition::Ok);
}

#[test]
fn segments_that_are_in_the_database_are_deleted_and_their_room_is_given_back() {
    let place = Place::new();
    let mut options = place.options();
    options.segment_bytes = 1000;
    let ledger = Ledger::open(options).unwrap();
    for round in 0..10 {
        append(&ledger, round * 10..round * 10 + 10);
        ledger.flush().unwrap();
        assert_eq!(segments(&place.journal()).len(), 1);
    }
    assert_eq!(count(&ledger), 100);
    // A file that is deleted but open keeps its room on the disk.
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        let files = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        let held =
            files.filter(|path| path.starts_with(place.journal()) && path.to_str().unwrap().contains("(deleted)"));
        assert_eq!(held.collect::<Vec<_>>(), Vec::<PathBuf>::new());
    }
}

#[test]
fn two_processes_cannot_use_one_journal() {
    let place = Place::new();
    let ledger = place.open();
    let second = Ledger::open(place.options());
    assert!(second.is_err_and(|error| error.to_string().contains("journal")));
    drop(ledger);
    place.open();
}

#[test]
fn what_was_synced_is_in_segments_whoever_asked() {
    let place = Place::new();
    let ledger = Ledger::open(Options { segment_bytes: 500, ..place.options_without_database() }).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let ledger = &ledger;
            scope.spawn(move || {
                for counter in thread * 10..thread * 10 + 10 {
                    append(ledger, counter..counter + 1);
                    ledger.sync().unwrap();
                }
            });
        }
    });
    let after_power_cut = Place::new();
    std::fs::create_dir_all(after_power_cut.journal()).unwrap();
    for segment in segments(&place.journal()) {
        std::fs::copy(&segment, after_power_cut.journal().join(segment.file_name().unwrap())).unwrap();
    }
    assert_eq!(count(&after_power_cut.open()), 40);
}

#[test]
fn a_postgres_that_is_away_loses_nothing() {
    let place = Place::new();
    let mut options = place.options();
    // Nothing listens on port 1.
    let address = "host=127.0.0.1 port=1 user=berry password=canary";
    options.store = berry_ledger::Store::Postgres(berry_core::secret::Secret::new(address.to_owned()));
    let ledger = Ledger::open(options).unwrap();
    append(&ledger, 0..5);
    let error = ledger.flush().unwrap_err().to_string();
    assert!(!error.contains("canary"), "{error}");
    assert_eq!((ledger.status().condition, ledger.status().lag_rows), (Condition::Behind, 5));
    drop(ledger);
    assert_eq!(count(&place.open()), 5);
}

#[test]
fn a_record_in_the_first_form_is_the_same_row() {
    // What the first version wrote of the full record.
    const SEGMENT: &str = "42455252594a310a94000000685c5665010788d37dbd984706002a05c801a09c01f147e907066a6f622d37077465616d5f6108c3a92d757365720d7465616d3d612c6a6f623d370566617374076f70656e6169076770742d346f1273747265616d5f696e636f6d706c657465653d0133150700030701084d2c06960100b8940106617a7572650d726174655f6c696d69746564ad031bb0ea01a946b89401067265747279";
    let byte = |at: usize| u8::from_str_radix(&SEGMENT[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..SEGMENT.len()).step_by(2).map(byte).collect();
    let (place, new) = (Place::new(), Place::new());
    std::fs::create_dir(place.journal()).unwrap();
    std::fs::write(place.journal().join("0000000000000001.journal"), bytes).unwrap();
    let (ledger, expected) = (place.open(), new.open());
    expected.append(&full_record(5));
    let rows = |ledger: &Ledger| ledger.requests(&Filter::default(), None, 10).unwrap().rows;
    assert_eq!(rows(&ledger), rows(&expected));
    assert_eq!(rows(&ledger).len(), 1);
    assert_eq!(ledger.status().lost_bytes, 0);
}
