//! The gateway's side: which instances want to leave, and telling them that they may.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use livegate_zk::client::{Client, ConnectionState, Error, Watch};
use livegate_zk::path::{self, PathError};
use livegate_zk::proto::create_mode::CreateMode;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::watch::AddWatchMode;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::task::TaskTracker;

use super::ledger::Ledger;
use super::{DRAINS, DrainRequest, GATEWAYS, InstancePath};
use crate::acl;
use crate::registrar::backoff::Backoff;
use crate::registrar::claim::{Claim, Wanted, claim, is_closed, is_ours};

/// How often to look whether the announcement is still there, besides watching it.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How often to look for drains that nobody will finish, unless told. Up to twice as long, at random.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// What a gateway says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Announcement {
    /// The program's version.
    pub version: String,
    /// The name of its machine.
    pub host: String,
    /// Its process.
    pub pid: u32,
}

impl Announcement {
    /// Of this process, with the version of its program.
    #[must_use]
    pub fn of_this_process(version: &str) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
        Self {
            version: version.to_owned(),
            host: host.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned()),
            pid: std::process::id(),
        }
    }
}

/// A gateway's view of the drains in the registry, and its announcement there.
///
/// From [`start`](Self::start) on, instances that drain wait for this gateway to
/// [acknowledge](Self::acknowledge), so whoever starts a board must acknowledge *every* drain that it
/// publishes:
///
/// - of an instance that it does not use, or whose incarnation has another czxid than the drain: at once;
/// - of any other: stop sending it new requests, and acknowledge when the last one that is in flight there
///   has ended. That holds also when the instance has vanished from the list meanwhile.
///
/// [`acknowledge_when`](Self::acknowledge_when) does so.
///
/// Drains stay published while the registry cannot be reached. When the board is dropped it takes its
/// announcement back in the background; [`end`](Self::end) waits for that. If the client is closed or the
/// process ends before, instances wait for the announcement until the session is over.
#[derive(Debug)]
pub struct DrainBoard {
    drains: watch::Receiver<Arc<BTreeMap<InstancePath, DrainRequest>>>,
    announced: watch::Receiver<bool>,
    faults: watch::Receiver<Option<Arc<str>>>,
    /// The task ends when it is dropped.
    wanted: watch::Sender<BTreeMap<InstancePath, i64>>,
    tasks: TaskTracker,
}

/// How often it is looked whether an instance that wants to leave has been let go of.
const LOOK: Duration = Duration::from_millis(20);

impl DrainBoard {
    /// Announces a gateway under this id, which no other may have, and watches for drains. Both go on
    /// through lost connections and sessions.
    ///
    /// # Errors
    /// When the id cannot be the name of a node.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn start(client: Client, id: &str, announcement: &Announcement) -> Result<Self, PathError> {
        Self::start_with(client, id, announcement, SWEEP_INTERVAL)
    }

    /// The same, with another time between two looks for drains that nobody will finish. One that looks
    /// so twice is taken back: its instance was killed, say, while it drained. The default is 30 s.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    ///
    /// # Panics
    /// As [`start`](Self::start).
    pub fn start_with(
        client: Client,
        id: &str,
        announcement: &Announcement,
        sweep_interval: Duration,
    ) -> Result<Self, PathError> {
        let announcement_path = path::join(GATEWAYS, id);
        path::validate(&announcement_path)?;
        if let Some(position) = id.find('/') {
            return Err(PathError::Character {
                character: '/',
                position: position + GATEWAYS.len() + 1,
            });
        }
        let content = serde_json::to_vec(announcement).expect("text and numbers are always JSON");
        let (drains_sender, drains) = watch::channel(Arc::default());
        let (announced_sender, announced) = watch::channel(false);
        let (faults_sender, faults) = watch::channel(None);
        let (wanted, wanted_receiver) = watch::channel(BTreeMap::new());
        let task = Task {
            client,
            id: id.to_owned(),
            path: announcement_path,
            content,
            czxid: None,
            wanted: wanted_receiver,
            made: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            ledger: Ledger::new(),
            drains: drains_sender,
            announced: announced_sender,
            faults: faults_sender,
            sweep: Sweep {
                interval: sweep_interval.max(Duration::from_millis(10)),
                next: None,
                suspects: BTreeMap::new(),
            },
        };
        let tasks = TaskTracker::new();
        tasks.spawn(task.run());
        tasks.close();
        Ok(Self {
            drains,
            announced,
            faults,
            wanted,
            tasks,
        })
    }

    /// Takes the announcement back, so that no instance waits for this one any longer.
    ///
    /// # Cancel safety
    ///
    /// It ends all the same, but unobserved.
    pub async fn end(self) {
        drop(self.wanted);
        self.tasks.wait().await;
    }

    /// Acknowledges every drain as soon as `lets_go` says so: no request of ours is on its way to the instance,
    /// nor will be. It is asked when a drain comes, and every 20 ms for as long as there are others. Never ends.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    pub async fn acknowledge_when(
        &self,
        mut lets_go: impl FnMut(&InstancePath, DrainRequest) -> bool,
    ) -> Infallible {
        let mut drains = self.drains();
        let mut acknowledged: BTreeSet<(InstancePath, i64)> = BTreeSet::new();
        loop {
            let open = Arc::clone(&drains.borrow_and_update());
            acknowledged.retain(|(path, czxid)| {
                open.get(path)
                    .is_some_and(|request| request.czxid == *czxid)
            });
            let mut is_waiting = false;
            for (path, request) in open.iter() {
                let key = (path.clone(), request.czxid);
                if acknowledged.contains(&key) {
                    continue;
                }
                if lets_go(path, *request) {
                    self.acknowledge(path, request.czxid);
                    acknowledged.insert(key);
                } else {
                    is_waiting = true;
                }
            }
            tokio::select! {
                // None comes any more when the client is closed.
                Ok(()) = drains.changed() => {}
                () = sleep(LOOK), if is_waiting => {}
                else => std::future::pending().await,
            }
        }
    }

    /// The drains that are open, whole and from now on.
    #[must_use]
    pub fn drains(&self) -> watch::Receiver<Arc<BTreeMap<InstancePath, DrainRequest>>> {
        self.drains.clone()
    }

    /// Whether instances that begin to drain wait for this gateway.
    #[must_use]
    pub fn announced(&self) -> watch::Receiver<bool> {
        self.announced.clone()
    }

    /// Why the registry refuses what a board has to do there, for as long as it does.
    #[must_use]
    pub fn faults(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.faults.clone()
    }

    /// Tells an instance that this gateway has let go of it. It is written in the background, once, and
    /// again in a new session for as long as the drain is open. Without effect when there is no such
    /// drain.
    pub fn acknowledge(&self, path: &InstancePath, czxid: i64) {
        let open = self.drains.borrow().clone();
        let is_open = |path: &InstancePath, czxid: i64| {
            open.get(path).is_some_and(|request| request.czxid == czxid)
        };
        if !is_open(path, czxid) {
            return;
        }
        self.wanted.send_if_modified(|wanted| {
            wanted.retain(|path, czxid| is_open(path, *czxid));
            wanted.insert(path.clone(), czxid) != Some(czxid)
        });
    }
}

#[derive(Debug)]
struct Task {
    client: Client,
    id: String,
    /// Of the announcement.
    path: String,
    content: Vec<u8>,
    /// The transaction that created the announcement when it was ours last.
    czxid: Option<i64>,
    wanted: watch::Receiver<BTreeMap<InstancePath, i64>>,
    /// Acknowledgements that have been written in this session, by the name of the drain.
    made: BTreeMap<String, i64>,
    /// Drains that nobody will finish, for which nothing is written any more.
    abandoned: BTreeMap<String, i64>,
    ledger: Ledger,
    drains: watch::Sender<Arc<BTreeMap<InstancePath, DrainRequest>>>,
    announced: watch::Sender<bool>,
    faults: watch::Sender<Option<Arc<str>>>,
    sweep: Sweep,
}

/// When to look for drains that nobody will finish, and which looked so the last time.
#[derive(Debug)]
struct Sweep {
    interval: Duration,
    next: Option<Instant>,
    suspects: BTreeMap<String, i64>,
}

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::new(fastrand::Rng::new());
        loop {
            let begun = std::time::Instant::now();
            match self.serve().await {
                Ok(()) => break,
                Err(error) if is_closed(&error) => return,
                Err(error) => {
                    self.report(&error);
                    backoff.holds(begun);
                    let pause = sleep(backoff.after_loss(std::time::Instant::now()));
                    tokio::pin!(pause);
                    let is_dropped = loop {
                        tokio::select! {
                            () = &mut pause => break false,
                            changed = self.wanted.changed() => if changed.is_err() {
                                break true;
                            },
                        }
                    };
                    if is_dropped {
                        break;
                    }
                }
            }
        }
        if *self.announced.borrow() {
            // If that fails, it goes with the session.
            let _ = self.client.delete(&self.path, None).await;
        }
    }

    fn report(&self, error: &Error) {
        let cause = if *error == Error::Server(ErrorCode::NoAuth) {
            format!("not allowed to write below {GATEWAYS} and {DRAINS}")
        } else {
            error.to_string()
        };
        let is_refusal = matches!(error, Error::Server(_) | Error::Multi { .. });
        let is_news = self.faults.send_if_modified(|known| {
            let is_news = is_refusal && known.as_deref() != Some(&*cause);
            if is_news {
                *known = Some(cause.as_str().into());
            }
            is_news
        });
        // What stays as it is, is said once.
        if is_news || !is_refusal {
            tracing::warn!("cannot follow the drains in the registry ({cause}); trying on");
        }
    }

    /// Runs until something fails, or with `Ok` until nobody needs it any more.
    async fn serve(&mut self) -> Result<(), Error> {
        let mut sessions = self.client.states();
        let mut watcher = self
            .client
            .watch(DRAINS, AddWatchMode::PersistentRecursive)
            .await?;
        self.ledger.forget_listing();
        self.made.clear();
        let mut session = None;
        let mut announcement = None;
        loop {
            let state = sessions.borrow_and_update().clone();
            if state.connection == ConnectionState::Closed {
                return Ok(());
            }
            if session.replace((state.sessions, state.expirations))
                != Some((state.sessions, state.expirations))
            {
                announcement = None;
                self.made.clear();
            }
            let announced = match &mut announcement {
                Some(watch) => watch,
                missing => missing.insert(self.announce().await?),
            };
            self.refresh().await?;
            self.acknowledge_all().await?;
            self.faults.send_if_modified(|fault| fault.take().is_some());
            tokio::select! {
                notification = watcher.next() => match notification {
                    Some(notification) => {
                        self.ledger.note(&notification);
                        while let Some(more) = watcher.try_next() {
                            self.ledger.note(&more);
                        }
                    }
                    None => return Ok(()),
                },
                changed = self.wanted.changed() => if changed.is_err() {
                    return Ok(());
                },
                changed = sessions.changed() => if changed.is_err() {
                    return Ok(());
                },
                _ = announced.fired() => announcement = None,
                () = sleep(CHECK_INTERVAL.min(self.sweep.interval)) => {
                    announcement = None;
                    self.sweep().await?;
                }
            }
        }
    }

    /// Makes the announcement be there.
    async fn announce(&mut self) -> Result<Watch, Error> {
        let wanted = Wanted {
            path: &self.path,
            content: &self.content,
            parent_acl: acl::added_to(&self.client),
            rewrite: true,
            czxid: self.czxid,
        };
        match claim(&self.client, &wanted).await? {
            Claim::Ours { stat, watch, .. } => {
                self.czxid = Some(stat.czxid);
                self.announced
                    .send_if_modified(|announced| !std::mem::replace(announced, true));
                Ok(watch)
            }
            Claim::Theirs { watch } => {
                if self.announced.send_replace(false) {
                    tracing::warn!("another gateway has announced itself as {}", self.id);
                }
                Ok(watch)
            }
        }
    }

    /// Reads what is to be read and publishes what is open.
    async fn refresh(&mut self) -> Result<(), Error> {
        if self.ledger.is_unlisted() {
            match self.client.children(DRAINS).await {
                Ok(names) => self.ledger.list(names),
                Err(error) if error.is_no_node() => self.ledger.list(Vec::new()),
                Err(error) => return Err(error),
            }
        }
        while let Some(name) = self.ledger.next_unread() {
            match self.client.get(&path::join(DRAINS, &name)).await {
                Ok((data, _)) => self.ledger.read(&name, &data),
                Err(error) if error.is_no_node() => self.ledger.remove(&name),
                Err(error) => return Err(error),
            }
        }
        let open = self.ledger.drains();
        let is_open = |name: &String, czxid: &mut i64| {
            open.get(name)
                .is_some_and(|(_, request)| request.czxid == *czxid)
        };
        self.made.retain(is_open);
        self.abandoned.retain(is_open);
        let open: BTreeMap<_, _> = open.values().cloned().collect();
        self.drains.send_if_modified(|published| {
            let is_new = **published != open;
            if is_new {
                *published = Arc::new(open);
            }
            is_new
        });
        Ok(())
    }

    /// Writes the acknowledgements that are wanted and not there.
    async fn acknowledge_all(&mut self) -> Result<(), Error> {
        let wanted = self.wanted.borrow_and_update().clone();
        for (path, czxid) in wanted {
            let name = path.to_name();
            let is_open = self
                .ledger
                .drains()
                .get(&name)
                .is_some_and(|(_, request)| request.czxid == czxid);
            let is_done = self.made.get(&name) == Some(&czxid);
            if is_open && !is_done && !self.abandoned.contains_key(&name) {
                self.write_acknowledgement(&name, czxid).await?;
                self.made.insert(name, czxid);
            }
        }
        Ok(())
    }

    /// Like a [claim], but without creating the drain, which may have ended meanwhile.
    async fn write_acknowledgement(&self, name: &str, czxid: i64) -> Result<(), Error> {
        let path = path::join(&path::join(DRAINS, name), &self.id);
        let data = czxid.to_string();
        loop {
            let created = self
                .client
                .create(
                    &path,
                    data.as_bytes(),
                    CreateMode::Ephemeral,
                    acl::ours(&self.client),
                )
                .await;
            match created {
                Ok(_) => return Ok(()),
                Err(error) if error.is_no_node() => return Ok(()),
                Err(error) if error.is_node_exists() => {}
                Err(error) => return Err(error),
            }
            match self.client.get(&path).await {
                Ok((found, stat)) if is_ours(&self.client, &stat) && found == data.as_bytes() => {
                    return Ok(());
                }
                // Of an earlier drain, or an earlier session.
                Ok((_, stat)) => match self.client.delete(&path, Some(stat.version)).await {
                    Ok(()) => {}
                    Err(error) if error.is_no_node() => {}
                    Err(error) => return Err(error),
                },
                Err(error) if error.is_no_node() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes back what it wrote for drains whose instance is gone, or is another incarnation, for longer
    /// than a sweep: their registrar will not. The last gateway that does so removes the drain.
    async fn sweep(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if self.sweep.next.is_some_and(|next| now < next) {
            return Ok(());
        }
        let interval = self.sweep.interval.mul_f64(1.0 + fastrand::f64());
        let is_first = self.sweep.next.replace(now + interval).is_none();
        let mut suspects = BTreeMap::new();
        for (name, (instance, request)) in self.ledger.drains() {
            let stat = self.client.exists(instance.as_str()).await?;
            if stat.is_none_or(|stat| stat.czxid != request.czxid) {
                suspects.insert(name.clone(), request.czxid);
            }
        }
        let confirmed: Vec<(String, i64)> = suspects
            .iter()
            .filter(|(name, czxid)| !is_first && self.sweep.suspects.get(*name) == Some(*czxid))
            .map(|(name, czxid)| (name.clone(), *czxid))
            .collect();
        self.sweep.suspects = suspects;
        for (name, czxid) in confirmed {
            let drain = path::join(DRAINS, &name);
            tracing::info!("{drain} is of an instance that is gone: cleaning up");
            self.abandoned.insert(name, czxid);
            for node in [path::join(&drain, &self.id), drain] {
                match self.client.delete(&node, None).await {
                    // Refused: others have not taken back theirs yet.
                    Ok(()) | Err(Error::Server(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
