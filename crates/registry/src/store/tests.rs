//! The store against crashes, damaged files, and disks that are full or fail.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::files::{Listing, segment_path, snapshot_path};
use super::frame::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::*;

/// Why a record was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Refused {
    /// Also while the disk fails: [`Store::trouble`] tells.
    #[error("the disk of the registry has no room")]
    Full,
    #[error("the record is longer than the registry's log takes")]
    TooLong,
}

impl Store {
    fn append(&mut self, class: Class, record: &[u8]) -> Result<Position, Refused> {
        if self.has_room(class, record.len()) {
            Ok(self.queue(record))
        } else if record.len() > self.options.record_bytes_max {
            Err(Refused::TooLong)
        } else {
            Err(Refused::Full)
        }
    }

    fn appended(&self) -> Position {
        Position(self.appended)
    }
}

/// No wait of these tests takes long on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells the child of the kill test where to write.
const CHILD_DIRECTORY: &str = "LIVEGATE_STORE_TEST_DIRECTORY";

/// What the record at a position is: tests need not remember what they appended.
fn record(sequence: u64) -> Vec<u8> {
    let length = if sequence % 50 == 49 {
        20_000
    } else {
        sequence * 37 % 120
    };
    (0..length)
        .map(|at| u8::try_from((sequence * 31 + at * 7) % 251).unwrap())
        .collect()
}

/// The state: how many records were applied. Checks each one that is replayed.
#[derive(Debug, Default)]
struct Model {
    last: u64,
    pieces: u64,
}

impl Model {
    fn replay(&mut self, recovered: Recovered<'_>) -> Result<(), String> {
        match recovered {
            Recovered::Piece(piece) => {
                self.pieces += 1;
                self.last = u64::from_le_bytes(piece[..8].try_into().unwrap());
            }
            Recovered::Record(Position(sequence), bytes) => {
                if bytes != record(sequence) {
                    return Err(format!("record {sequence} has other contents"));
                }
                if sequence > self.last + 1 {
                    return Err(format!("record {sequence} follows {}", self.last));
                }
                self.last = self.last.max(sequence);
            }
        }
        Ok(())
    }
}

/// For tests that open hundreds of stores: in memory, if there is such a file system.
fn fast_directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// Small steps: files stay small.
fn options(directory: &Path) -> StoreOptions {
    StoreOptions {
        reserve_step_bytes: 64 * 1024,
        reserved_bytes: 16 * 1024,
        backlog_bytes_max: 64 * 1024,
        snapshot_retry: Duration::ZERO,
        ..StoreOptions::new(directory)
    }
}

fn open(options: &StoreOptions) -> Result<(Store, Model), StoreError> {
    let deadline = Instant::now() + PATIENCE;
    let (store, model) = loop {
        let mut model = Model::default();
        match Store::open(options.clone(), |recovered| model.replay(recovered)) {
            // Another test is starting a process, which has our lock until it has closed what it inherited.
            Err(StoreError::Locked(_)) if Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(1))
            }
            opened => break (opened?, model),
        }
    };
    assert_eq!(store.appended(), Position(model.last));
    Ok((store, model))
}

fn append(store: &mut Store, class: Class) -> Result<Position, Refused> {
    let sequence = store.appended().0 + 1;
    let position = store.append(class, &record(sequence))?;
    assert_eq!(position, Position(sequence));
    Ok(position)
}

/// Appends a batch and waits until it is durable.
fn append_durably(store: &mut Store, count: u64) {
    for _ in 0..count {
        append(store, Class::Regular).unwrap();
    }
    store.flush();
    wait_durable(store);
}

fn wait_durable(store: &Store) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut seen = store.durable();
        while seen < store.appended() {
            seen = tokio::time::timeout(PATIENCE, store.durability().changed(seen))
                .await
                .expect("the log makes progress");
        }
    });
}

#[track_caller]
fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Gives all pieces but does not end the snapshot.
fn write_snapshot(store: &mut Store, pieces: u64) -> SnapshotWriter {
    let mut writer = store.begin_snapshot().expect("none is running");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    for _ in 0..pieces {
        let mut piece = store.appended().0.to_le_bytes().to_vec();
        piece.resize(1000, 7);
        while writer.try_write(&piece) == Err(Busy) {
            runtime.block_on(async {
                tokio::time::timeout(PATIENCE, writer.ready())
                    .await
                    .unwrap()
            });
        }
    }
    writer
}

/// True if it was completed.
fn take_snapshot(store: &mut Store) -> bool {
    let (completed, failed) = store.snapshots();
    let writer = write_snapshot(store, 3);
    store.finish_snapshot(writer);
    wait_for("the snapshot ends", || !store.progress.lock().running);
    let (completed_now, failed_now) = store.snapshots();
    assert_eq!(completed_now + failed_now, completed + failed + 1);
    completed_now > completed
}

fn listing(directory: &Path) -> (Vec<u64>, Vec<u64>) {
    let listing = Listing::read(directory).unwrap();
    (
        listing.segments.into_iter().collect(),
        listing.snapshots.into_iter().collect(),
    )
}

fn last_segment(directory: &Path) -> PathBuf {
    segment_path(directory, *listing(directory).0.last().unwrap())
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = fast_directory();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

/// Where each record ends in a segment that begins with record `first`.
fn frame_ends(first: u64, last: u64) -> Vec<u64> {
    let mut end = SEGMENT_HEADER_BYTES;
    let mut ends = Vec::new();
    for sequence in first..=last {
        end += FRAME_HEADER_BYTES + record(sequence).len();
        ends.push(u64::try_from(end).unwrap());
    }
    ends
}

/// A closed store whose only segment holds batches of these sizes.
fn with_batches(sizes: &[u64]) -> tempfile::TempDir {
    let directory = fast_directory();
    let (mut store, _) = open(&options(directory.path())).unwrap();
    for size in sizes {
        append_durably(&mut store, *size);
    }
    drop(store);
    directory
}

#[test]
fn a_new_directory_is_created_and_used_again() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("a/b");
    let (store, _) = open(&options(&directory)).unwrap();
    drop(store);
    let (mut store, model) = open(&options(&directory)).unwrap();
    assert_eq!(model.last, 0);
    append_durably(&mut store, 200);
    drop(store);
    let (_store, model) = open(&options(&directory)).unwrap();
    assert_eq!(model.last, 200);
}

#[test]
fn what_was_not_waited_for_is_written_when_the_store_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&options(directory.path())).unwrap();
    for _ in 0..300 {
        append(&mut store, Class::Regular).unwrap();
    }
    drop(store);
    assert_eq!(open(&options(directory.path())).unwrap().1.last, 300);
}

#[test]
fn a_directory_in_use_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let (store, _) = open(&options(directory.path())).unwrap();
    let error = Store::open(options(directory.path()), |_| Ok(()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&directory.path().display().to_string())
            && error.contains("another process"),
        "{error}"
    );
    drop(store);
    open(&options(directory.path())).unwrap();
}

#[test]
fn records_of_megabytes_and_of_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let large = vec![0xa5; 5 * 1024 * 1024];
    let mut store = Store::open(options(directory.path()), |_| Ok(())).unwrap();
    for record in [&large[..], b"", &large[1..]] {
        store.append(Class::Regular, record).unwrap();
    }
    let too_long = vec![0; 8 * 1024 * 1024 + 1];
    assert_eq!(
        store.append(Class::Reserved, &too_long),
        Err(Refused::TooLong)
    );
    store.flush();
    assert!(store.is_backlogged() || store.durable() == store.appended());
    wait_durable(&store);
    assert!(!store.is_backlogged());
    drop(store);
    let mut lengths = Vec::new();
    let replayed = Store::open(options(directory.path()), |recovered| {
        if let Recovered::Record(_, bytes) = recovered {
            assert!(bytes.iter().all(|byte| *byte == 0xa5));
            lengths.push(bytes.len());
        }
        Ok(())
    });
    drop(replayed.unwrap());
    assert_eq!(lengths, [large.len(), 0, large.len() - 1]);
}

#[test]
fn a_log_cut_anywhere_is_a_prefix() {
    let original = with_batches(&[1, 3, 1, 2]);
    let ends = frame_ends(1, 7);
    let bytes = fs::metadata(last_segment(original.path())).unwrap().len();
    assert_eq!(bytes, *ends.last().unwrap());
    for cut in 0..=bytes {
        let directory = copy(original.path());
        let file = OpenOptions::new()
            .write(true)
            .open(last_segment(directory.path()))
            .unwrap();
        file.set_len(cut).unwrap();
        // What a file system may leave after the end.
        file.set_len(cut + cut % 3 * 5000).unwrap();
        let whole = u64::try_from(ends.iter().filter(|end| **end <= cut).count()).unwrap();
        let opened = open(&options(directory.path()));
        if cut < 32 && cut % 3 > 0 {
            // A header that was durable, and is not there any more.
            assert!(
                matches!(opened, Err(StoreError::Damaged { offset: 0, .. })),
                "cut at {cut}: {opened:?}"
            );
            continue;
        }
        let (mut store, model) = opened.unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        // Zeros at the end of a record are in the file after all.
        assert!(
            (whole..=whole + 1).contains(&model.last),
            "cut at {cut}: {} of {whole}",
            model.last
        );
        append_durably(&mut store, 2);
        drop(store);
        assert_eq!(
            open(&options(directory.path())).unwrap().1.last,
            model.last + 2,
            "cut at {cut}"
        );
    }
}

#[test]
fn a_flipped_bit_loses_no_acknowledged_batch_silently() {
    let original = with_batches(&[2, 3, 1, 3]);
    let ends = frame_ends(1, 9);
    for offset in 0..*ends.last().unwrap() {
        let directory = copy(original.path());
        flip(&last_segment(directory.path()), offset);
        let hit = u64::try_from(ends.iter().filter(|end| **end <= offset).count()).unwrap() + 1;
        let opened = open(&options(directory.path()));
        if hit >= 7 {
            // Of the last batch nobody can tell whether its fdatasync had returned.
            assert_eq!(opened.unwrap().1.last, hit - 1, "flip at {offset}");
        } else {
            let error = opened.unwrap_err();
            let damaged = matches!(error, StoreError::Damaged { from, .. } if from == hit.min(9));
            assert!(damaged, "flip at {offset} in record {hit}: {error:?}");
            assert!(error.to_string().contains("Restore"), "{error}");
        }
    }
}

#[test]
fn garbage_after_the_end_is_cut_off() {
    let directory = with_batches(&[4]);
    let path = last_segment(directory.path());
    // A client has stored what looks like a later batch of this log, but does not know its salt.
    let mut forged = vec![0xff; 100];
    super::frame::append_frame(&mut forged, 9, b"forged");
    let end = forged.len();
    super::frame::seal(&mut forged[100..end], 1);
    forged.extend_from_slice(&[0; 10_000]);
    OpenOptions::new()
        .append(true)
        .open(&path)
        .unwrap()
        .write_all(&forged)
        .unwrap();
    let (mut store, model) = open(&options(directory.path())).unwrap();
    assert_eq!(model.last, 4);
    append_durably(&mut store, 1);
    drop(store);
    assert_eq!(open(&options(directory.path())).unwrap().1.last, 5);
}

#[test]
fn damage_to_an_earlier_segment_is_an_error() {
    let directory = with_batches(&[2, 2]);
    let (mut store, _) = open(&options(directory.path())).unwrap();
    append_durably(&mut store, 2);
    drop(store);
    let (segments, _) = listing(directory.path());
    assert_eq!(
        segments,
        [1, 3],
        "the last batch of the first run was written again"
    );
    flip(&segment_path(directory.path(), 1), 40);
    assert!(matches!(
        open(&options(directory.path())),
        Err(StoreError::Damaged { from: 1, .. })
    ));
    fs::remove_file(segment_path(directory.path(), 1)).unwrap();
    assert!(matches!(
        open(&options(directory.path())),
        Err(StoreError::LogMissing { from: 1, to: 2, .. })
    ));
}

#[test]
fn snapshots_replace_the_log_and_old_files_go() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        snapshot_after_bytes: 30_000,
        ..options(directory.path())
    };
    let (mut store, _) = open(&options).unwrap();
    for round in 1..=4 {
        assert!(!store.wants_snapshot());
        append_durably(&mut store, 100);
        assert!(store.wants_snapshot());
        assert!(take_snapshot(&mut store));
        assert!(!store.wants_snapshot());
        let (segments, snapshots) = listing(directory.path());
        let expected: Vec<u64> = [round - 1, round]
            .iter()
            .map(|round| round * 100)
            .filter(|last| *last > 0)
            .collect();
        assert_eq!(snapshots, expected);
        assert!(
            segments
                .iter()
                .filter(|first| **first <= expected[0])
                .count()
                <= 1,
            "{segments:?} {snapshots:?}"
        );
    }
    append_durably(&mut store, 10);
    drop(store);
    let (store, model) = open(&options).unwrap();
    assert_eq!((model.last, model.pieces), (410, 3));
    assert!(!store.wants_snapshot());
}

#[test]
fn a_damaged_snapshot_is_stood_in_for_by_the_older_one() {
    let original = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&options(original.path())).unwrap();
    for _ in 0..3 {
        append_durably(&mut store, 20);
        assert!(take_snapshot(&mut store));
    }
    append_durably(&mut store, 5);
    drop(store);
    let newest = |directory: &Path| snapshot_path(directory, 60);
    let bytes = fs::metadata(newest(original.path())).unwrap().len();
    for step in (0..bytes).step_by(23) {
        let directory = copy(original.path());
        flip(&newest(directory.path()), step);
        let (mut store, model) = open(&options(directory.path())).unwrap();
        assert_eq!((model.last, model.pieces), (65, 3), "flip at {step}");
        append_durably(&mut store, 1);
        // The damaged one does not count among the two that are kept.
        assert!(take_snapshot(&mut store));
        assert_eq!(listing(directory.path()).1, [40, 66]);
    }
    for cut in (0..bytes).step_by(31) {
        let directory = copy(original.path());
        OpenOptions::new()
            .write(true)
            .open(newest(directory.path()))
            .unwrap()
            .set_len(cut)
            .unwrap();
        assert_eq!(
            open(&options(directory.path())).unwrap().1.last,
            65,
            "cut at {cut}"
        );
    }
    // Both damaged: the log does not reach back to the beginning.
    flip(&newest(original.path()), 100);
    flip(&snapshot_path(original.path(), 40), 100);
    assert!(matches!(
        open(&options(original.path())),
        Err(StoreError::LogMissing { from: 1, .. })
    ));
}

#[test]
fn a_snapshot_needs_the_log_whose_effects_it_contains() {
    let directory = tempfile::tempdir().unwrap();
    let (mut store, _) = open(&options(directory.path())).unwrap();
    append_durably(&mut store, 20);
    let writer = write_snapshot(&mut store, 2);
    append_durably(&mut store, 20);
    store.finish_snapshot(writer);
    wait_for("the snapshot ends", || !store.progress.lock().running);
    drop(store);
    let copied = copy(directory.path());
    assert_eq!(open(&options(copied.path())).unwrap().1.last, 40);
    OpenOptions::new()
        .write(true)
        .open(last_segment(directory.path()))
        .unwrap()
        .set_len(40)
        .unwrap();
    let lost = open(&options(directory.path())).unwrap_err();
    assert!(
        matches!(
            lost,
            StoreError::LogMissing {
                from: 21,
                to: 40,
                ..
            }
        ),
        "{lost:?}"
    );
}

#[test]
fn a_snapshot_waits_for_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let (mut store, _) = open(&options).unwrap();
    append_durably(&mut store, 20);
    let writer = write_snapshot(&mut store, 1);
    options.faults.writes.store(u32::MAX, Ordering::Relaxed);
    append(&mut store, Class::Regular).unwrap();
    store.finish_snapshot(writer);
    wait_for("the trouble is seen", || store.trouble().is_some());
    assert!(store.progress.lock().running);
    assert_eq!(listing(directory.path()).1, []);
    options.faults.writes.store(0, Ordering::Relaxed);
    wait_for("the snapshot is complete", || store.snapshots() == (1, 0));
    assert_eq!(listing(directory.path()).1, [20]);
}

#[test]
fn a_snapshot_that_is_given_up_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        snapshot_after_bytes: 1000,
        ..options(directory.path())
    };
    let (mut store, _) = open(&options).unwrap();
    append_durably(&mut store, 60);
    let writer = write_snapshot(&mut store, 2000);
    assert!(store.begin_snapshot().is_none());
    drop(writer);
    wait_for("it ends", || !store.progress.lock().running);
    assert_eq!(store.snapshots(), (0, 1));
    assert!(store.wants_snapshot());
    append_durably(&mut store, 60);
    // The store may be dropped before the writer.
    let writer = write_snapshot(&mut store, 10);
    drop(store);
    drop(writer);
    let names: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name.to_str().unwrap().starts_with("log.")),
        "{names:?}"
    );
    assert_eq!(open(&options).unwrap().1.last, 120);
}

#[test]
fn a_failed_write_or_sync_goes_to_a_fresh_file_unnoticed() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let (mut store, _) = open(&options).unwrap();
    for faults in [&options.faults.syncs, &options.faults.writes] {
        append_durably(&mut store, 10);
        faults.store(1, Ordering::Relaxed);
        append_durably(&mut store, 10);
        assert_eq!(faults.load(Ordering::Relaxed), 0);
    }
    wait_for("the trouble is over", || store.trouble().is_none());
    drop(store);
    assert_eq!(listing(directory.path()).0, [1, 11, 31]);
    assert_eq!(open(&options).unwrap().1.last, 40);
}

#[test]
fn a_disk_that_fails_for_long_delays_but_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let (mut store, _) = open(&options).unwrap();
    append_durably(&mut store, 10);
    options.faults.syncs.store(u32::MAX, Ordering::Relaxed);
    append(&mut store, Class::Regular).unwrap();
    store.flush();
    wait_for("new records are refused", || {
        append(&mut store, Class::Reserved) == Err(Refused::Full)
    });
    assert!(
        store
            .trouble()
            .unwrap()
            .contains(&directory.path().display().to_string())
    );
    assert_eq!(store.durable(), Position(10));
    options.faults.syncs.store(0, Ordering::Relaxed);
    store.flush();
    wait_durable(&store);
    wait_for("records are taken again", || {
        append(&mut store, Class::Regular).is_ok()
    });
    wait_for("the trouble is over", || store.trouble().is_none());
    let last = store.appended().0;
    // Closed while it fails: ends at once, what was durable is there.
    store.flush();
    wait_durable(&store);
    options.faults.writes.store(u32::MAX, Ordering::Relaxed);
    append(&mut store, Class::Regular).unwrap();
    drop(store);
    options.faults.writes.store(0, Ordering::Relaxed);
    assert_eq!(open(&options).unwrap().1.last, last);
}

#[test]
fn a_rotation_that_fails_does_not_hide_what_follows() {
    let directory = tempfile::tempdir().unwrap();
    let options = options(directory.path());
    let (mut store, _) = open(&options).unwrap();
    append_durably(&mut store, 10);
    options.faults.syncs.store(1, Ordering::Relaxed);
    assert!(take_snapshot(&mut store));
    wait_for("the rotation is tried", || {
        options.faults.syncs.load(Ordering::Relaxed) == 0
    });
    append_durably(&mut store, 10);
    options.faults.reserves.store(u32::MAX, Ordering::Relaxed);
    assert!(take_snapshot(&mut store));
    append_durably(&mut store, 10);
    options.faults.reserves.store(0, Ordering::Relaxed);
    drop(store);
    assert_eq!(open(&options).unwrap().1.last, 30);
}

/// A small file system of its own.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount(bytes: u64) -> Option<Disk> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(directory.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            println!("skipped: mounting is not permitted here");
        }
        mounted.then_some(Disk(directory))
    }

    /// Takes what is left.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("ballast");
        let mut file = File::create(&path).unwrap();
        while file.write_all(&[1; 4096]).is_ok() {}
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let status = Command::new("umount").arg("-l").arg(self.0.path()).status();
        assert!(status.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let Some(disk) = Disk::mount(4 * 1024 * 1024) else {
        return;
    };
    let directory = disk.0.path().join("registry");
    let options = StoreOptions {
        snapshot_after_bytes: 100_000,
        ..options(&directory)
    };
    let (mut store, _) = open(&options).unwrap();
    append_durably(&mut store, 100);
    let ballast = disk.fill();
    let deadline = Instant::now() + PATIENCE;
    while append(&mut store, Class::Regular).is_ok() {
        assert!(Instant::now() < deadline);
        store.flush();
        wait_durable(&store);
    }
    assert_eq!(append(&mut store, Class::Regular), Err(Refused::Full));
    assert!(store.trouble().is_some());
    // Sessions go on, for as long as the reserve lasts.
    let before = store.appended().0;
    while append(&mut store, Class::Reserved).is_ok() {
        store.flush();
        wait_durable(&store);
    }
    assert!(
        store.appended().0 - before >= 20,
        "{} records in the reserve",
        store.appended().0 - before
    );
    // A snapshot has no room either, and does no harm.
    assert!(store.wants_snapshot());
    assert!(!take_snapshot(&mut store));
    let full = store.appended().0;
    drop(store);
    // It starts with the full disk too.
    let refill = disk.0.path().join("ballast-2");
    let mut file = File::create(&refill).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let (mut store, model) = open(&options).unwrap();
    assert_eq!(model.last, full);
    wait_for("it is refused", || {
        append(&mut store, Class::Regular) == Err(Refused::Full)
    });
    assert!(store.trouble().is_some());
    fs::remove_file(ballast).unwrap();
    wait_for("there is room again", || {
        append(&mut store, Class::Regular).is_ok()
    });
    store.flush();
    wait_durable(&store);
    wait_for("the trouble is over", || store.trouble().is_none());
    assert!(take_snapshot(&mut store));
    append_durably(&mut store, 100);
    let last = store.appended().0;
    drop(store);
    assert_eq!(open(&options).unwrap().1.last, last);
}

/// Room is a promise: with a disk that is filled by others at any moment, what was accepted becomes durable.
#[test]
fn a_disk_filled_at_any_moment_stops_nothing_that_was_accepted() {
    let Some(disk) = Disk::mount(2 * 1024 * 1024) else {
        return;
    };
    let options = options(&disk.0.path().join("registry"));
    for round in 1..=12 {
        let (mut store, _) = open(&options).unwrap();
        for turn in 0.. {
            if turn == round * 3 {
                disk.fill();
            }
            for _ in 0..7 {
                if append(&mut store, Class::Regular).is_err() {
                    break;
                }
            }
            store.flush();
            wait_durable(&store);
            if turn > round * 3 && store.append(Class::Regular, b"").is_err() {
                break;
            }
            assert!(turn < 10_000);
        }
        drop(store);
        fs::remove_dir_all(disk.0.path().join("registry")).unwrap();
        fs::remove_file(disk.0.path().join("ballast")).unwrap();
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8),
    Flush,
    Wait,
    Snapshot,
    Reopen,
    /// Reopened after so many bytes of the last batch were lost.
    Torn(u16),
    /// Reopened after garbage was written at the end.
    Garbage(Vec<u8>),
    FailedSync,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..40u8).prop_map(Step::Append),
        4 => Just(Step::Flush),
        3 => Just(Step::Wait),
        2 => Just(Step::Snapshot),
        1 => Just(Step::Reopen),
        1 => any::<u16>().prop_map(Step::Torn),
        1 => proptest::collection::vec(any::<u8>(), 1..100).prop_map(Step::Garbage),
        1 => Just(Step::FailedSync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_durable_is_lost(steps in proptest::collection::vec(step(), 1..60)) {
        let directory = fast_directory();
        let options = options(directory.path());
        let (mut store, _) = open(&options).unwrap();
        for step in steps {
            match step {
                Step::Append(count) => {
                    for _ in 0..count {
                        // A sync that fails twice in a row refuses for a moment.
                        wait_for("it is taken", || append(&mut store, Class::Regular).is_ok());
                    }
                }
                Step::Flush => store.flush(),
                Step::Wait => {
                    store.flush();
                    wait_durable(&store);
                }
                Step::Snapshot => prop_assert!(take_snapshot(&mut store)),
                Step::FailedSync => options.faults.syncs.store(1, Ordering::Relaxed),
                Step::Reopen | Step::Torn(_) | Step::Garbage(_) => {
                    options.faults.syncs.store(0, Ordering::Relaxed);
                    store.flush();
                    wait_durable(&store);
                    let durable = store.appended().0;
                    let torn = matches!(step, Step::Torn(_));
                    if torn {
                        // One more batch, which nobody waits for.
                        for _ in 0..5 {
                            append(&mut store, Class::Regular).unwrap();
                        }
                    }
                    drop(store);
                    let path = last_segment(directory.path());
                    let file = OpenOptions::new().append(true).open(&path).unwrap();
                    let bytes = file.metadata().unwrap().len();
                    match &step {
                        Step::Torn(lost) => {
                            let batch: usize =
                                (durable + 1..=durable + 5).map(|at| record(at).len() + FRAME_HEADER_BYTES).sum();
                            let lost = u64::from(*lost) % (u64::try_from(batch).unwrap() + 1);
                            file.set_len(bytes - lost).unwrap();
                        }
                        Step::Garbage(garbage) => (&file).write_all(garbage).unwrap(),
                        _ => {}
                    }
                    let (reopened, model) = open(&options).unwrap();
                    let possible = durable..=durable + if torn { 5 } else { 0 };
                    prop_assert!(possible.contains(&model.last), "{} not in {possible:?}", model.last);
                    store = reopened;
                }
            }
        }
    }
}

/// Not a test: the process that `killed_at_any_moment` starts and kills.
#[test]
#[ignore = "started by killed_at_any_moment"]
fn kill_child() {
    let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
        return;
    };
    let options = StoreOptions {
        snapshot_after_bytes: 40_000,
        ..options(Path::new(&directory))
    };
    let (mut store, _) = open(&options).unwrap();
    let mut writer: Option<SnapshotWriter> = None;
    let mut pieces = 0;
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        for _ in 0..1 + store.appended().0 % 9 {
            append(&mut store, Class::Regular).unwrap();
        }
        store.flush();
        if let Some(mut taken) = writer.take() {
            let piece = store.appended().0.to_le_bytes().repeat(500);
            pieces += u32::from(taken.try_write(&piece).is_ok());
            if pieces == 10 {
                store.finish_snapshot(taken);
            } else {
                writer = Some(taken);
            }
        } else if store.wants_snapshot() {
            pieces = 0;
            writer = store.begin_snapshot();
        }
        wait_durable(&store);
        println!("durable {}", store.durable().0);
    }
}

#[test]
fn killed_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    let mut snapshots = 0;
    for round in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "store::tests::kill_child",
                "--ignored",
                "--nocapture",
            ])
            .env(CHILD_DIRECTORY, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let Ok(line) = line else { break };
            let Some(durable) = line.strip_prefix("durable ") else {
                continue;
            };
            acknowledged = durable.parse().unwrap();
            lines += 1;
            if lines == 1 + round * 13 % 120 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(lines > 0, "the child did nothing");
        let (store, model) = open(&options(directory.path())).unwrap();
        assert!(
            model.last >= acknowledged,
            "{} of {acknowledged} records",
            model.last
        );
        snapshots = snapshots.max(model.pieces);
        drop(store);
    }
    assert!(snapshots > 0, "no snapshot was recovered from");
}
