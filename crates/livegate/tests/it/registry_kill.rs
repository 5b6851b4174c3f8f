//! `kill -9` of `livegate registry` under load: what was acknowledged is there and is there once, what was
//! not is there as a whole or not at all, zxids do not go back, sessions and their nodes live on.
//!
//! `LIVEGATE_KILL_ROUNDS` sets the number of kills: 5, or 20 where `CI` is set. `LIVEGATE_KILL_SERVER` names
//! another program to be killed, which takes the same `--listen` and `--data-dir`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use livegate_zk::client::{Client, ConnectOptions, Error, Op, Outcome};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::create_mode::CreateMode;
use tokio::task::JoinSet;

use crate::harness::port::Port;
use crate::harness::turn;

const WORKERS: usize = 6;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server, which can be killed.
struct Registry {
    port: Port,
    directory: tempfile::TempDir,
    process: Option<Child>,
}

impl Registry {
    fn start() -> Self {
        let mut registry = Self {
            port: Port::claim(),
            directory: tempfile::tempdir().unwrap(),
            process: None,
        };
        registry.run();
        registry
    }

    fn data(&self) -> std::path::PathBuf {
        self.directory.path().join("data")
    }

    /// Starts the process; whether it serves is for the clients to find out.
    fn run(&mut self) {
        assert!(self.process.is_none());
        let log = self.directory.path().join("log");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let livegate = env!("CARGO_BIN_EXE_livegate").to_owned();
        let program = std::env::var("LIVEGATE_KILL_SERVER").unwrap_or(livegate);
        let process = Command::new(program)
            .arg("registry")
            .arg("--listen")
            .arg(self.port.address().to_string())
            .arg("--data-dir")
            .arg(self.data())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "ended by itself: {}", self.log());
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn log(&self) -> String {
        read_to_string(&self.directory.path().join("log"))
    }

    async fn client(&self) -> Client {
        let connect_string = self.port.address().to_string();
        let options = ConnectOptions {
            session_timeout: Duration::from_secs(40),
            operation_timeout: PATIENCE,
            connect_timeout: Some(Duration::from_secs(5)),
            backoff: (Duration::from_millis(5), Duration::from_millis(50)),
            ..ConnectOptions::new(&connect_string).unwrap()
        };
        let connecting = tokio::time::timeout(PATIENCE, Client::connect(options));
        connecting
            .await
            .unwrap_or_else(|_| panic!("no session: {}", self.log()))
            .unwrap()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().ok();
            process.wait().ok();
        }
    }
}

fn read_to_string(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What a worker knows of what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Acknowledged.
    Done,
    /// The connection was lost on the way: perhaps.
    Perhaps,
}

/// One client and everything it has done.
struct Worker {
    client: Client,
    session: i64,
    root: String,
    /// A number for each thing that is done, in all rounds.
    next: u64,
    /// What was written into sequential nodes, and the name if it is known.
    sequential: BTreeMap<u64, Option<String>>,
    /// Numbers of nodes that were created and deleted, and whether the deletion is known.
    deleted: BTreeMap<u64, Known>,
    /// Numbers of ephemeral nodes.
    ephemeral: BTreeMap<u64, Known>,
    /// Numbers of multis.
    multis: BTreeMap<u64, Known>,
    /// The version of the node that counts, as far as it is known: least and most.
    counter: (i32, i32),
    /// The newest zxid that was seen.
    zxid: i64,
}

impl Worker {
    async fn new(registry: &Registry, number: usize) -> Self {
        let client = registry.client().await;
        let root = format!("/w{number}");
        for path in ["", "/seq", "/deleted", "/multi", "/ephemeral", "/counter"] {
            let path = format!("{root}{path}");
            client
                .create(&path, b"0", CreateMode::Persistent, Acl::OPEN)
                .await
                .unwrap();
        }
        Self {
            session: client.state().session_id,
            client,
            root,
            next: 0,
            sequential: BTreeMap::new(),
            deleted: BTreeMap::new(),
            ephemeral: BTreeMap::new(),
            multis: BTreeMap::new(),
            counter: (0, 0),
            zxid: 0,
        }
    }

    /// Works until it is told to stop; counts what is acknowledged.
    async fn work(mut self, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> Self {
        while !stop.load(Ordering::Relaxed) {
            let number = self.next;
            self.next += 1;
            let known = match number % 5 {
                0 => self.create_sequential(number).await,
                1 => self.count().await,
                2 => self.create_and_delete(number).await,
                3 => self.create_ephemeral(number).await,
                _ => self.multi(number).await,
            };
            if known == Some(Known::Done) {
                acknowledged.fetch_add(1, Ordering::Relaxed);
            }
        }
        self
    }

    async fn create_sequential(&mut self, number: u64) -> Option<Known> {
        let path = format!("{}/seq/n-", self.root);
        let data = number.to_string();
        let mode = CreateMode::PersistentSequential;
        let result = self
            .client
            .create2(&path, data.as_bytes(), mode, Acl::OPEN)
            .await;
        let known = known(&result)?;
        let name = result.ok().map(|(path, stat)| {
            self.see(stat.czxid);
            path
        });
        self.sequential.insert(number, name);
        Some(known)
    }

    /// Sets the counter to what its version will be.
    async fn count(&mut self) -> Option<Known> {
        let path = format!("{}/counter", self.root);
        if self.counter.0 != self.counter.1 {
            // The last one may have been set.
            let (data, stat) = self.client.get(&path).await.ok()?;
            self.check_counter(&data, stat.version);
            self.counter = (stat.version, stat.version);
        }
        let version = self.counter.0;
        let data = (version + 1).to_string();
        let result = self.client.set(&path, data.as_bytes(), Some(version)).await;
        let known = known(&result)?;
        self.counter = match known {
            Known::Done => (version + 1, version + 1),
            Known::Perhaps => (version, version + 1),
        };
        if let Ok(stat) = result {
            assert_eq!(stat.version, version + 1);
            self.see(stat.mzxid);
        }
        Some(known)
    }

    async fn create_and_delete(&mut self, number: u64) -> Option<Known> {
        let path = format!("{}/deleted/{number}", self.root);
        let created = self
            .client
            .create2(&path, b"", CreateMode::Persistent, Acl::OPEN)
            .await;
        if known(&created)? == Known::Perhaps {
            self.deleted.insert(number, Known::Perhaps);
            return Some(Known::Perhaps);
        }
        let deleted = self.client.delete(&path, Some(0)).await;
        let known = known(&deleted);
        // Not even sent, so it is there; but nobody asks for that to be checked of a node to be deleted.
        self.deleted.insert(number, known.unwrap_or(Known::Perhaps));
        known
    }

    async fn create_ephemeral(&mut self, number: u64) -> Option<Known> {
        let path = format!("{}/ephemeral/{number}", self.root);
        let result = self
            .client
            .create2(&path, b"", CreateMode::Ephemeral, Acl::OPEN)
            .await;
        let known = known(&result)?;
        if let Ok((_, stat)) = result {
            assert_eq!(stat.ephemeral_owner, self.session);
            self.see(stat.czxid);
        }
        self.ephemeral.insert(number, known);
        Some(known)
    }

    /// Two nodes, and a set and a check beside them.
    async fn multi(&mut self, number: u64) -> Option<Known> {
        let parent = format!("{}/multi", self.root);
        let paths = ["a", "b"].map(|kind| format!("{parent}/{kind}{number}"));
        let data = number.to_string();
        let create = |path| Op::Create {
            path,
            data: data.as_bytes(),
            mode: CreateMode::Persistent,
            acl: Acl::OPEN,
        };
        let result = self
            .client
            .multi(&[
                create(&paths[0]),
                Op::Check {
                    path: &self.root,
                    version: Some(0),
                },
                create(&paths[1]),
                Op::Set {
                    path: &parent,
                    data: data.as_bytes(),
                    version: None,
                },
            ])
            .await;
        let known = known(&result)?;
        self.multis.insert(number, known);
        Some(known)
    }

    fn see(&mut self, zxid: i64) {
        assert!(
            zxid > self.zxid,
            "{}: zxid {zxid:#x} after {:#x}",
            self.root,
            self.zxid
        );
        self.zxid = zxid;
    }

    fn check_counter(&self, data: &[u8], version: i32) {
        assert_eq!(
            String::from_utf8_lossy(data),
            version.to_string(),
            "each set raised the version by one"
        );
        assert!(
            (self.counter.0..=self.counter.1).contains(&version),
            "{}: version {version}, known {:?}",
            self.root,
            self.counter
        );
    }

    /// Compares what is there with what must and may be there.
    async fn check(&self, checker: &Client) {
        let state = self.client.state();
        assert_eq!(
            (state.session_id, state.sessions, state.expirations),
            (self.session, 1, 0),
            "the session lives"
        );
        self.check_sequential(checker).await;
        let path = |part: &str| format!("{}/{part}", self.root);
        let (data, stat) = checker.get(&path("counter")).await.unwrap();
        self.check_counter(&data, stat.version);

        let left = numbers(checker, &path("deleted"), "").await;
        for number in &left {
            let known = self.deleted.get(number);
            assert_eq!(
                known,
                Some(&Known::Perhaps),
                "{}: deleted {number}",
                self.root
            );
        }
        let there = numbers(checker, &path("ephemeral"), "").await;
        check_set(&self.ephemeral, &there, &path("ephemeral"));
        if let Some(number) = there.first() {
            let node = path(&format!("ephemeral/{number}"));
            let stat = checker.exists(&node).await.unwrap().unwrap();
            assert_eq!(stat.ephemeral_owner, self.session);
        }
        let first = numbers(checker, &path("multi"), "a").await;
        let second = numbers(checker, &path("multi"), "b").await;
        assert_eq!(first, second, "{}: half a multi", self.root);
        check_set(&self.multis, &first, &path("multi"));
        let (data, _) = checker.get(&path("multi")).await.unwrap();
        let last = first.last().map_or("0".to_owned(), u64::to_string);
        assert_eq!(String::from_utf8_lossy(&data), last, "{}", self.root);
    }

    async fn check_sequential(&self, checker: &Client) {
        let parent = format!("{}/seq", self.root);
        let mut found = BTreeMap::new();
        for name in checker.children(&parent).await.unwrap() {
            let path = format!("{parent}/{name}");
            let (data, _) = checker.get(&path).await.unwrap();
            let number: u64 = String::from_utf8(data).unwrap().parse().unwrap();
            assert!(
                self.sequential.contains_key(&number),
                "{path}: {number} was never asked for"
            );
            let twice = found.insert(number, path);
            assert_eq!(twice, None, "{parent}: {number} is there twice");
        }
        for (number, name) in &self.sequential {
            if let Some(name) = name {
                assert_eq!(found.get(number), Some(name), "{parent}: {number}");
            }
        }
        // Names count up in the order of the requests.
        let names: Vec<_> = found.values().collect();
        assert!(names.is_sorted(), "{parent}: {found:?}");
    }
}

/// The numbers in the names of children that begin with this.
async fn numbers(checker: &Client, path: &str, prefix: &str) -> BTreeSet<u64> {
    let children = checker.children(path).await.unwrap();
    children
        .iter()
        .filter_map(|name| name.strip_prefix(prefix)?.parse().ok())
        .collect()
}

/// All that was acknowledged is there, and nothing that was not asked for.
fn check_set(asked: &BTreeMap<u64, Known>, there: &BTreeSet<u64>, what: &str) {
    for (number, &known) in asked {
        let may_be_missing = known == Known::Perhaps;
        assert!(
            there.contains(number) || may_be_missing,
            "{what}: {number} was acknowledged and is lost"
        );
    }
    for number in there {
        assert!(
            asked.contains_key(number),
            "{what}: {number} was not asked for"
        );
    }
}

/// What an answer says about the request; `None` if it was certainly not done.
fn known<T: std::fmt::Debug>(result: &Result<T, Error>) -> Option<Known> {
    match result {
        Ok(_) => Some(Known::Done),
        Err(error) => {
            assert!(
                !matches!(error, Error::Server(_)),
                "a server that works has no reason to refuse: {error:?}"
            );
            match error.outcome() {
                Outcome::NotApplied => None,
                Outcome::Unknown => Some(Known::Perhaps),
                Outcome::Applied => Some(Known::Done),
            }
        }
    }
}

fn rounds() -> usize {
    let usual = if std::env::var("CI").is_ok_and(|value| value == "true") {
        20
    } else {
        5
    };
    std::env::var("LIVEGATE_KILL_ROUNDS").map_or(usual, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_to_kill_9() {
    let _turn = turn::shared();
    let mut registry = Registry::start();
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        workers.push(Worker::new(&registry, number).await);
    }
    let checker = registry.client().await;
    for round in 0..rounds() {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for worker in workers.drain(..) {
            tasks.spawn(worker.work(stop.clone(), acknowledged.clone()));
        }
        // Somewhere in the middle of things; never before something was acknowledged.
        let enough = fastrand::u64(1..2_000);
        let working = async {
            while acknowledged.load(Ordering::Relaxed) < enough {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, working)
            .await
            .unwrap_or_else(|_| panic!("no progress: {}", registry.log()));
        registry.kill();
        stop.store(true, Ordering::Relaxed);
        registry.run();
        // Sometimes it dies again while it reads its log.
        if fastrand::u32(..3) == 0 {
            tokio::time::sleep(Duration::from_micros(fastrand::u64(..40_000))).await;
            registry.kill();
            registry.run();
        }
        workers = tokio::time::timeout(PATIENCE, tasks.join_all())
            .await
            .unwrap_or_else(|_| panic!("workers hang: {}", registry.log()));
        for worker in &workers {
            worker.check(&checker).await;
        }
        let acknowledged = acknowledged.load(Ordering::Relaxed);
        println!("round {round}: killed after {acknowledged} acknowledged");
    }
    // Sessions end as they should, and take their nodes along.
    for worker in workers {
        worker.client.close().await;
        let left = numbers(&checker, &format!("{}/ephemeral", worker.root), "").await;
        assert_eq!(left, BTreeSet::new(), "{}", worker.root);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zxids_do_not_go_back_when_the_directory_is_wiped() {
    let _turn = turn::shared();
    let mut registry = Registry::start();
    let client = registry.client().await;
    let session = client.state().session_id;
    let mut newest = 0;
    for wiped in 0..3 {
        let path = format!("/n{wiped}");
        let (_, stat) = client
            .create2(&path, b"", CreateMode::Persistent, Acl::OPEN)
            .await
            .unwrap();
        assert!(stat.czxid > newest, "{:#x} after {newest:#x}", stat.czxid);
        newest = stat.czxid;
        registry.kill();
        std::fs::remove_dir_all(registry.data()).unwrap();
        registry.run();
        // The client has seen what this server has not, and is told that its session is over.
        assert_eq!(client.exists(&path).await.unwrap(), None);
        assert_ne!(client.state().session_id, session);
        assert_eq!(client.state().expirations, wiped + 1);
    }
}
