//! A load of writes, and the account of what became of each.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use livegate_zk::client::{Client, Error, Op, Outcome};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Writers of each client.
const WRITERS: usize = 8;
/// Between two writes of a writer: the load is steady, and leaves the servers time for elections.
const PAUSE: Duration = Duration::from_millis(3);

/// A write that nobody makes twice.
#[derive(Debug)]
enum Write {
    /// Creates this node.
    Create(String),
    /// Creates a node with this name and a number.
    Sequential(String),
    /// Creates this node and another one with `-too` appended.
    Multi(String),
    /// Deletes this node, which is known to be there.
    Delete(String),
    /// Replaces the data of this node.
    Set(String),
}

/// What became of the writes: `None` stands for success.
pub(crate) struct Ledger {
    root: String,
    entries: Vec<(Write, Option<Error>)>,
}

/// Writers at work.
pub(crate) struct Load {
    root: String,
    stop: watch::Sender<bool>,
    writers: JoinSet<Vec<(Write, Option<Error>)>>,
}

impl Load {
    /// Lets all clients write below a node that must not exist.
    pub(crate) async fn start(root: &str, clients: &[Client]) -> Self {
        create(&clients[0], root).await.unwrap();
        let (stop, stopped) = watch::channel(false);
        let mut writers = JoinSet::new();
        for (number, client) in clients.iter().enumerate() {
            for writer in 0..WRITERS {
                let own = format!("{root}/{number}-{writer}");
                create(client, &own).await.unwrap();
                writers.spawn(write(client.clone(), own, stopped.clone()));
            }
        }
        Self {
            root: root.to_owned(),
            stop,
            writers,
        }
    }

    /// Ends the load when every write under way has an outcome.
    pub(crate) async fn finish(self) -> Ledger {
        self.stop.send_replace(true);
        let entries = self.writers.join_all().await.into_iter().flatten();
        Ledger {
            root: self.root,
            entries: entries.collect(),
        }
    }
}

async fn create(client: &Client, path: &str) -> Result<String, Error> {
    client
        .create(path, b"", CreateMode::Persistent, Acl::OPEN)
        .await
}

async fn write(
    client: Client,
    own: String,
    stop: watch::Receiver<bool>,
) -> Vec<(Write, Option<Error>)> {
    let mut entries = Vec::new();
    let mut deletable = Vec::new();
    let mut number = 0;
    while !*stop.borrow() {
        number += 1;
        let path = format!("{own}-{number:06}");
        let (write, result) = match number % 5 {
            0 => {
                let result = create(&client, &path).await.map(drop);
                if result.is_ok() {
                    deletable.push(path.clone());
                }
                (Write::Create(path), result)
            }
            1 => {
                let path = format!("{path}-");
                let mode = CreateMode::PersistentSequential;
                let created = client.create(&path, b"", mode, Acl::OPEN).await;
                (Write::Sequential(path), created.map(drop))
            }
            2 => {
                let too = format!("{path}-too");
                let ops = [path.as_str(), &too].map(|path| Op::Create {
                    path,
                    data: b"",
                    mode: CreateMode::Persistent,
                    acl: Acl::OPEN,
                });
                let result = client.multi(&ops).await.map(drop);
                (Write::Multi(path), result)
            }
            3 if !deletable.is_empty() => {
                let path = deletable.remove(0);
                let result = client.delete(&path, None).await;
                (Write::Delete(path), result)
            }
            _ => {
                let result = client.set(&own, path.as_bytes(), None).await.map(drop);
                (Write::Set(own.clone()), result)
            }
        };
        entries.push((write, result.err()));
        tokio::time::sleep(PAUSE).await;
    }
    entries
}

impl Ledger {
    /// Compares the account with what is there: a write that was acknowledged is done, one that was not
    /// applied is not, one with an unknown outcome is done whole or not at all, and none is done twice.
    /// Returns how many were of unknown outcome.
    pub(crate) async fn check(&self, judge: &Client) -> usize {
        judge.sync("/").await.unwrap();
        let there: BTreeSet<String> = judge
            .children(&self.root)
            .await
            .unwrap()
            .into_iter()
            .map(|name| format!("{}/{name}", self.root))
            .collect();
        let deleted: HashSet<&str> = self
            .entries
            .iter()
            .filter_map(|(write, _)| match write {
                Write::Delete(path) => Some(path.as_str()),
                Write::Create(_) | Write::Sequential(_) | Write::Multi(_) | Write::Set(_) => None,
            })
            .collect();
        let mut counts = BTreeMap::new();
        let mut sets: BTreeMap<&str, (i32, i32)> = BTreeMap::new();
        let mut expected = 0;
        for entry in &self.entries {
            let (write, error) = entry;
            // Nothing else can go wrong with such writes: a refusal would mean that one was made twice.
            match error {
                None
                | Some(Error::ConnectionLoss | Error::DeadlineExceeded | Error::NotSent(_)) => {}
                Some(_) => panic!("{entry:?}"),
            }
            let outcome = match error.as_ref().map(Error::outcome) {
                None | Some(Outcome::Applied) => Outcome::Applied,
                Some(outcome) => outcome,
            };
            *counts.entry(format!("{outcome:?}")).or_insert(0) += 1;
            let done = match write {
                Write::Create(path) if deleted.contains(path.as_str()) => continue,
                Write::Create(path) => usize::from(there.contains(path)),
                Write::Sequential(path) => there
                    .range(path.clone()..)
                    .take_while(|name| name.starts_with(path))
                    .count(),
                Write::Multi(path) => {
                    let both =
                        [path.clone(), format!("{path}-too")].map(|path| there.contains(&path));
                    assert_eq!(both[0], both[1], "half of {entry:?}");
                    expected += usize::from(both[1]);
                    usize::from(both[0])
                }
                Write::Delete(path) => {
                    expected += usize::from(there.contains(path));
                    usize::from(!there.contains(path))
                }
                Write::Set(path) => {
                    let (least, most) = sets.entry(path).or_default();
                    *least += i32::from(outcome == Outcome::Applied);
                    *most += i32::from(outcome != Outcome::NotApplied);
                    continue;
                }
            };
            if !matches!(write, Write::Delete(_)) {
                expected += done;
            }
            match outcome {
                Outcome::Applied => assert_eq!(done, 1, "{entry:?}"),
                Outcome::NotApplied => assert_eq!(done, 0, "{entry:?}"),
                Outcome::Unknown => assert!(done <= 1, "{entry:?} {done} times"),
            }
        }
        for (path, (least, most)) in &sets {
            let version = judge.exists(path).await.unwrap().unwrap().version;
            let range = *least..=*most;
            assert!(range.contains(&version), "{path}: {version} of {range:?}");
        }
        // The writers' own nodes are all that is there besides.
        assert_eq!(there.len(), expected + sets.len());
        println!("{}: {counts:?}", self.root);
        counts.get("Unknown").copied().unwrap_or(0)
    }
}
