use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::snapshot::{Incarnation, Instance, InstanceId, InstanceState};

fn store() -> (tempfile::TempDir, SavedSnapshots) {
    let directory = tempfile::tempdir().unwrap();
    let store = SavedSnapshots::new(directory.path().join("snapshots"));
    (directory, store)
}

fn files(store: &SavedSnapshots) -> BTreeSet<String> {
    let entries = fs::read_dir(&store.directory).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

fn live(count: u16) -> Arc<Snapshot> {
    let address = |number| SocketAddr::from(([10, 0, 0, 1], 1000 + number));
    let instances = (0..count).map(|number| Instance::listed(address(number), 50));
    Arc::new(Snapshot::live(1, instances))
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn instance() -> impl Strategy<Value = Instance> {
    let state = prop::sample::select(vec![
        InstanceState::Up,
        InstanceState::Draining,
        InstanceState::Down,
    ]);
    let metadata = prop::collection::btree_map(any::<String>(), any::<String>(), 0..4);
    let numbers = (any::<u32>(), any::<i64>(), any::<i64>());
    let zone = prop::option::of(any::<String>());
    let address = (any::<std::net::IpAddr>(), any::<u16>());
    (any::<String>(), address, numbers, zone, metadata, state).prop_map(
        |(id, address, (weight, czxid, ctime_ms), zone, metadata, state)| Instance {
            id: InstanceId::new(id),
            address: address.into(),
            weight,
            zone: zone.map(Arc::from),
            metadata: Arc::new(metadata),
            state,
            incarnation: Incarnation { czxid, ctime_ms },
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_saved_is_loaded(
        instances in prop::collection::vec(instance(), 0..8),
        service in any::<String>(),
        millis in 0u64..10_000_000_000_000,
    ) {
        let (_directory, store) = store();
        let since = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let snapshot = Snapshot::live(9, instances);
        store.save(&service, &snapshot, since).unwrap();
        let expected = Snapshot { revision: 0, status: Status::Stale { since }, ..snapshot };
        prop_assert_eq!(store.load(&service), Some(expected.clone()));
        prop_assert_eq!(store.load_all(), [(service.clone(), expected)].into());
        store.remove(&service).unwrap();
        store.remove(&service).unwrap();
        prop_assert_eq!(store.load(&service), None);
    }

    #[test]
    fn file_names_are_safe_and_differ(one in "\\PC{0,300}", other in "\\PC{0,300}") {
        let name = file::name(&one);
        prop_assert!(name.len() < 255 && !name.starts_with('.'));
        prop_assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/\\:*?\"<>|".contains(&byte)));
        prop_assert_eq!(name == file::name(&other), one == other);
    }

    #[test]
    fn no_bytes_are_fatal(bytes in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..400) {
        let (_directory, store) = store();
        store.save("/a", &live(2), at(1)).unwrap();
        let path = store.path("/a");
        let mut mangled = fs::read(&path).unwrap();
        mangled.truncate(cut);
        mangled.extend(bytes);
        fs::write(&path, mangled).unwrap();
        if store.load("/a").is_none() {
            prop_assert!(!path.exists());
            prop_assert!(path.with_extension("bad").exists());
        }
    }
}

#[test]
fn one_file_for_each_service_and_nothing_else() {
    let (_directory, store) = store();
    assert!(store.load_all().is_empty());
    assert_eq!(store.load("/services/orders"), None);
    store.save("/services/orders", &live(2), at(1)).unwrap();
    store.save("/services/orders", &live(3), at(2)).unwrap();
    store.save("../../etc/passwd", &live(1), at(3)).unwrap();
    assert_eq!(
        files(&store),
        ["%2E.%2F..%2Fetc%2Fpasswd.json", "%2Fservices%2Forders.json"]
            .map(str::to_owned)
            .into()
    );
    let loaded = store.load("/services/orders").unwrap();
    assert_eq!(loaded.instances, live(3).instances);
    assert_eq!(loaded.status, Status::Stale { since: at(2) });
    assert_eq!((loaded.revision, loaded.attachment), (0, 0));
    assert_eq!(store.load_all().len(), 2);
}

#[test]
fn bad_files_are_put_aside() {
    let (_directory, store) = store();
    store.save("/good", &live(1), at(1)).unwrap();
    let text = fs::read_to_string(store.path("/good")).unwrap();
    let newer = text.replace("\"version\":1", "\"version\":2");
    for (service, text) in [("/newer", &*newer), ("/empty", ""), ("/cut", &text[..40])] {
        fs::write(store.path(service), text).unwrap();
    }
    // What a crash while writing leaves is ignored, and replaced by the next write.
    fs::write(store.path("/good").with_extension("tmp"), "{").unwrap();
    assert_eq!(store.load_all().into_keys().collect::<Vec<_>>(), ["/good"]);
    let bad: Vec<String> = files(&store)
        .into_iter()
        .filter(|name| name.ends_with(".bad"))
        .collect();
    assert_eq!(bad, ["%2Fcut.bad", "%2Fempty.bad", "%2Fnewer.bad"]);
    assert_eq!(store.load("/newer"), None);
    store.save("/good", &live(2), at(1)).unwrap();
    assert_eq!(store.load("/good").unwrap().instances.len(), 2);
    // A file that was copied under another name is not taken for that service.
    fs::copy(store.path("/good"), store.path("/copy")).unwrap();
    assert_eq!(store.load("/copy"), None);
}

#[test]
fn writing_is_paced() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut schedule = Schedule::default();
    let first = live(10);
    schedule.see(&first, at(0));
    assert_eq!(schedule.due(&first), Some(at(0)));
    schedule.wrote(&first, true, at(0));
    schedule.see(&first, at(1));
    assert_eq!(schedule.due(&first), Some(at(0) + REFRESH));
    // At most one write a second.
    let second = live(11);
    schedule.see(&second, at(100));
    assert_eq!(schedule.due(&second), Some(at(1000)));
    schedule.wrote(&second, true, at(1000));
    // A list that shrank by more than half waits, and counts from when it shrank.
    let short = live(2);
    schedule.see(&short, at(2000));
    schedule.see(&short, at(30_000));
    assert_eq!(schedule.due(&short), Some(at(2000) + SHRINK_AFTER));
    // Back in time: nothing is lost.
    schedule.see(&second, at(40_000));
    assert_eq!(schedule.due(&second), Some(at(1000) + REFRESH));
    // What is stale is not written.
    let stale = |count| {
        Arc::new(Snapshot {
            status: Status::Stale {
                since: SystemTime::now(),
            },
            ..Snapshot::clone(&live(count))
        })
    };
    schedule.see(&stale(1), at(50_000));
    assert_eq!(schedule.due(&stale(1)), None);
    // After failures the pauses grow, to a minute.
    for (failures, pause) in [(1, 2), (2, 4), (3, 8)] {
        schedule.see(&first, at(60_000));
        schedule.wrote(&first, false, at(60_000));
        assert_eq!(schedule.failures, failures);
        assert_eq!(schedule.due(&first), Some(at(60_000 + pause * 1000)));
    }
    // An empty list does not replace what a former process saved, unless it stays empty.
    let mut schedule = Schedule::default();
    let empty = live(0);
    schedule.see(&empty, at(0));
    assert_eq!(schedule.due(&empty), Some(at(0) + SHRINK_AFTER));
    // Nor does a short one replace a longer one that was loaded.
    let mut schedule = Schedule::default();
    schedule.see(&stale(10), at(0));
    assert_eq!(schedule.due(&stale(10)), None);
    schedule.see(&live(4), at(1000));
    assert_eq!(schedule.due(&live(4)), Some(at(1000) + SHRINK_AFTER));
    schedule.see(&live(10), at(2000));
    assert_eq!(schedule.due(&live(10)), Some(at(0) + REFRESH));
}

#[test]
fn long_lists_are_written_less_often() {
    let start = Instant::now();
    let pause_after = |count| {
        let mut schedule = Schedule::default();
        schedule.wrote(&live(count), true, start);
        schedule.see(&live(count + 1), start);
        schedule.due(&live(count + 1)).unwrap() - start
    };
    assert_eq!(pause_after(2000), DEBOUNCE);
    assert_eq!(pause_after(10_000), Duration::from_secs(5));
    assert_eq!(pause_after(60_000), PAUSE_LONGEST);
}

#[tokio::test]
async fn live_snapshots_are_kept() {
    let (_directory, store) = store();
    let (sender, receiver) = watch::channel(Arc::new(Snapshot::pending()));
    let keeper = store.keep("/a", receiver);
    let saved = async |count: usize| {
        let deadline = Instant::now() + Duration::from_secs(60);
        while store
            .load("/a")
            .is_none_or(|saved| saved.instances.len() != count)
        {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    sender.send_replace(live(2));
    saved(2).await;
    for count in 3..9 {
        sender.send_replace(live(count));
    }
    saved(8).await;
    drop(keeper);
    let ended = tokio::time::timeout(Duration::from_secs(60), sender.closed());
    ended.await.unwrap();
}
