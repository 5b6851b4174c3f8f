//! The task that makes the registry be as its owner wishes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use livegate_zk::client::{Client, ConnectionState, Error, Outcome, SessionState, Watch};
use livegate_zk::proto::error_code::ErrorCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::address::InstanceAddress;
use super::backoff::Backoff;
use super::claim::{Claim, Wanted, claim, is_closed, is_ours, release};
use super::content::{Form, Registered, render, render_draining};
use super::{Departure, LostCause, Presence, RegistrarState, Wish};
use crate::acl;
use crate::drain::{InstancePath, Outgoing};

/// How long an operation may take: when there is no registry, this is how often it is said.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the removal of the node may take, and so may the beginning of a drain.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the removal may take when the registry is away to begin with.
const AWAY_PATIENCE: Duration = Duration::from_secs(1);

/// How long a newer registrar's node must be gone before an older one registers again: the newer one may
/// only have lost its session.
const SUPERSEDED_PATIENCE: Duration = Duration::from_secs(5);

/// Which node to keep.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: Arc<str>,
    pub(super) service: String,
    pub(super) address: InstanceAddress,
    pub(super) form: Form,
}

#[derive(Debug)]
pub(super) struct Keeper {
    client: Client,
    node: Node,
    check_interval: Duration,
    wishes: watch::Receiver<Wish>,
    state: watch::Sender<RegistrarState>,
    sessions: watch::Receiver<SessionState>,
    backoff: Backoff,
    /// The transaction that created the node when it was ours last.
    czxid: Option<i64>,
    /// When that was.
    since: SystemTime,
    /// The revision of the description that is in that node.
    written: u64,
}

/// Why to look again.
enum Cause {
    Changed,
    Check,
    /// The session as it was looked at is over, or there is another one.
    Session,
}

impl Keeper {
    pub(super) fn new(
        client: &Client,
        node: Node,
        check_interval: Duration,
        wishes: watch::Receiver<Wish>,
        state: watch::Sender<RegistrarState>,
    ) -> Self {
        let client = client.with_operation_timeout(OPERATION_TIMEOUT);
        Self {
            sessions: client.states(),
            client,
            node,
            check_interval,
            wishes,
            state,
            backoff: Backoff::new(fastrand::Rng::new()),
            czxid: None,
            since: SystemTime::now(),
            written: 0,
        }
    }

    /// Runs until the instance is gone for good, or its owner is.
    pub(super) async fn run(mut self) {
        while self.wishes.has_changed().is_ok() {
            let wish = self.wishes.borrow_and_update().clone();
            match wish.presence {
                Presence::Offered => self.keep(&wish).await,
                Presence::Withdrawn => {
                    let mut wishes = self.wishes.clone();
                    tokio::select! {
                        biased;
                        _ = wishes.changed() => {}
                        () = self.withdraw() => {}
                    }
                }
                Presence::Draining { until } => {
                    let departure = self.drain(until, &wish).await;
                    return self.publish(RegistrarState::Gone(departure));
                }
                Presence::Gone => {
                    let removed = self.depart().await;
                    return self.publish(RegistrarState::Gone(Departure {
                        removed,
                        ..Departure::default()
                    }));
                }
            }
            if self.client.state().connection == ConnectionState::Closed {
                return self.publish(RegistrarState::Gone(Departure::default()));
            }
        }
    }

    fn publish(&self, state: RegistrarState) {
        self.state.send_if_modified(|before| {
            let is_new = *before != state;
            if is_new {
                match &state {
                    RegistrarState::Registered { path, .. } => {
                        tracing::info!("registered as {path}")
                    }
                    RegistrarState::Lost { cause } => {
                        tracing::warn!("{} is lost: {cause}", self.node.path);
                    }
                    RegistrarState::Withdrawn => tracing::info!("withdrew {}", self.node.path),
                    RegistrarState::Draining => tracing::info!("draining {}", self.node.path),
                    RegistrarState::Registering | RegistrarState::Gone(_) => {}
                }
                *before = state;
            }
            is_new
        });
    }

    /// Keeps the node until the wish changes or the client is closed.
    async fn keep(&mut self, wish: &Wish) {
        let mut wishes = self.wishes.clone();
        tokio::select! {
            biased;
            // Whatever is under way is looked at again by what comes next.
            _ = wishes.changed() => {}
            () = self.keep_on(wish) => {}
        }
    }

    async fn keep_on(&mut self, wish: &Wish) {
        if matches!(*self.state.borrow(), RegistrarState::Withdrawn) {
            self.publish(RegistrarState::Registering);
        }
        loop {
            let seen = self.sessions.borrow_and_update().clone();
            let now = SystemTime::now();
            match self.claim(wish, now).await {
                Ok(Claim::Ours {
                    stat,
                    created,
                    watch,
                }) => {
                    if created || self.czxid != Some(stat.czxid) {
                        self.since = now;
                    }
                    self.is_registered(stat.czxid, wish);
                    let cause = self.wait(watch, &seen).await;
                    if !self.may_be_lost(&cause, &seen).await {
                        continue;
                    }
                    sleep(self.backoff.after_loss(std::time::Instant::now())).await;
                }
                Ok(Claim::Theirs { watch }) => {
                    let cause = LostCause::Superseded;
                    self.publish(RegistrarState::Lost { cause });
                    match self.wait(watch, &seen).await {
                        Cause::Changed => sleep(SUPERSEDED_PATIENCE).await,
                        Cause::Check | Cause::Session => {}
                    }
                }
                Err(error) if is_closed(&error) => return,
                Err(error) => {
                    let wait = self.backoff.after_failure();
                    self.report(&error);
                    sleep(wait).await;
                }
            }
        }
    }

    async fn claim(&self, wish: &Wish, now: SystemTime) -> Result<Claim, Error> {
        let content = render(self.registration(now), self.node.form, &wish.description);
        let wanted = Wanted {
            path: &self.node.path,
            content: &content,
            parent_acl: acl::ours(&self.client),
            rewrite: false,
            czxid: self.czxid,
        };
        let claimed = claim(&self.client, &wanted).await?;
        if let Claim::Ours {
            stat,
            created: false,
            ..
        } = &claimed
        {
            let is_known = self.czxid == Some(stat.czxid);
            if is_known && self.written == wish.revision {
                return Ok(claimed);
            }
            // A node that we do not know is ours by a create whose reply got lost.
            let since = if is_known { self.since } else { now };
            let content = render(self.registration(since), self.node.form, &wish.description);
            let wanted = Wanted {
                content: &content,
                rewrite: true,
                ..wanted
            };
            return claim(&self.client, &wanted).await;
        }
        Ok(claimed)
    }

    fn registration(&self, since: SystemTime) -> Registered<'_> {
        let since = since.duration_since(SystemTime::UNIX_EPOCH);
        Registered {
            service: &self.node.service,
            address: &self.node.address,
            since_ms: since.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
        }
    }

    fn is_registered(&mut self, czxid: i64, wish: &Wish) {
        self.czxid = Some(czxid);
        self.written = wish.revision;
        self.backoff.holds(std::time::Instant::now());
        self.publish(RegistrarState::Registered {
            since: self.since,
            path: Arc::clone(&self.node.path),
            czxid,
        });
    }

    /// Waits for something that makes it worth looking again.
    async fn wait(&mut self, mut watch: Watch, seen: &SessionState) -> Cause {
        let other_session = self.sessions.wait_for(|state| {
            state.sessions != seen.sessions
                || state.expirations != seen.expirations
                || state.connection == ConnectionState::Closed
        });
        tokio::select! {
            biased;
            _ = other_session => Cause::Session,
            _ = watch.fired() => Cause::Changed,
            () = sleep(self.check_interval) => Cause::Check,
        }
    }

    /// Finds out whether the registration is lost, and says so.
    async fn may_be_lost(&mut self, cause: &Cause, seen: &SessionState) -> bool {
        match cause {
            Cause::Session => {
                let now = self.sessions.borrow().clone();
                if let Some(cause) = now
                    .expired_because
                    .filter(|_| now.expirations > seen.expirations)
                {
                    let cause = LostCause::SessionExpired(cause);
                    self.publish(RegistrarState::Lost { cause });
                    // The first attempt comes after the jitter, counted from the new session.
                    let wait = self.sessions.wait_for(|state| {
                        state.sessions > state.expirations
                            || state.connection == ConnectionState::Closed
                    });
                    drop(wait.await);
                    return true;
                }
                false
            }
            Cause::Changed | Cause::Check => match self.client.exists(&self.node.path).await {
                Ok(None) => {
                    let cause = LostCause::Deleted;
                    self.publish(RegistrarState::Lost { cause });
                    true
                }
                Ok(Some(_)) => false,
                // Nothing is known. The claim that follows waits for the registry as well.
                Err(_) => false,
            },
        }
    }

    /// Says why it does not work for now.
    fn report(&self, error: &Error) {
        let path = &self.node.path;
        match self.client.state().connection {
            ConnectionState::Disconnected { cause, .. } => {
                let cause = cause.map_or_else(|| "no server answers".to_owned(), |c| c.to_string());
                tracing::warn!("cannot reach the registry to keep {path} ({cause}); trying on");
            }
            _ if *error == Error::Server(ErrorCode::NoAuth) => {
                tracing::warn!(
                    "not allowed to write {path} in the registry: give the user and password that may \
                     (trying on)"
                );
            }
            ConnectionState::Connected { .. } | ConnectionState::Closed => {
                tracing::warn!("cannot write {path} in the registry ({error}); trying on");
            }
        }
    }

    /// Removes the node, and keeps it so until the wish changes or the client is closed.
    async fn withdraw(&mut self) {
        while !self.leave().await {
            if self.client.state().connection == ConnectionState::Closed {
                return;
            }
        }
        self.publish(RegistrarState::Withdrawn);
        std::future::pending().await
    }

    /// Removes the node, if that works within a few seconds. Whether it is gone for certain.
    async fn leave(&mut self) -> bool {
        let patience = match self.client.state().connection {
            ConnectionState::Connected { .. } => PATIENCE,
            ConnectionState::Disconnected { .. } | ConnectionState::Closed => AWAY_PATIENCE,
        };
        let attempts = async {
            loop {
                match release(&self.client, &self.node.path, self.czxid).await {
                    Ok(()) => return true,
                    Err(error) if is_closed(&error) => return false,
                    Err(_) => sleep(self.backoff.after_failure()).await,
                }
            }
        };
        timeout(patience, attempts).await.unwrap_or(false)
    }

    /// Removes the node for good.
    async fn depart(&mut self) -> bool {
        let removed = self.leave().await;
        if !removed {
            let path = &self.node.path;
            tracing::warn!("could not remove {path} in time; it goes with the session");
        }
        removed
    }

    async fn drain(&mut self, until: Instant, wish: &Wish) -> Departure {
        let mut departure = Departure::default();
        if let Some(czxid) = self.czxid
            && !matches!(
                *self.state.borrow(),
                RegistrarState::Withdrawn
                    | RegistrarState::Lost {
                        cause: LostCause::Superseded
                    }
            )
        {
            self.publish(RegistrarState::Draining);
            let mut outgoing = Outgoing::new(
                self.client.clone(),
                &InstancePath::new_valid(Arc::clone(&self.node.path)),
                czxid,
            );
            let mut wishes = self.wishes.clone();
            let hurry = wishes.wait_for(|wish| wish.presence == Presence::Gone);
            tokio::select! {
                _ = hurry => {}
                () = self.wait_for_gateways(&mut outgoing, until, wish) => {}
            }
            departure.removed = self.depart().await;
            (departure.acknowledged, departure.silent) = outgoing.result();
            if !departure.silent.is_empty() {
                tracing::warn!(
                    "{} is removed without the acknowledgement of {}",
                    self.node.path,
                    departure.silent.join(", ")
                );
            }
            // What is left of it does no harm, and gateways clean up, too.
            drop(timeout(PATIENCE.min(Duration::from_secs(1)), outgoing.clean_up()).await);
        } else {
            departure.removed = self.depart().await;
        }
        departure
    }

    async fn wait_for_gateways(&self, outgoing: &mut Outgoing, until: Instant, wish: &Wish) {
        let mut backoff = Backoff::new(fastrand::Rng::new());
        let begin = async {
            loop {
                let begun = async {
                    outgoing.open().await?;
                    self.write_draining(wish).await
                };
                match begun.await {
                    Ok(()) => return,
                    Err(error) => {
                        self.report(&error);
                        sleep(backoff.after_failure()).await;
                    }
                }
            }
        };
        if timeout_at(until.min(Instant::now() + PATIENCE), begin)
            .await
            .is_ok()
        {
            outgoing.wait(until).await;
        }
    }

    /// Says in the node that the instance drains.
    async fn write_draining(&self, wish: &Wish) -> Result<(), Error> {
        let path = &*self.node.path;
        loop {
            let (current, stat) = match self.client.get(path).await {
                Ok(found) => found,
                // It is gone, and gateways still have requests there: they are waited for.
                Err(error) if error.is_no_node() => return Ok(()),
                Err(error) => return Err(error),
            };
            if !is_ours(&self.client, &stat) {
                return Ok(());
            }
            let content = render_draining(
                self.registration(self.since),
                self.node.form,
                &wish.description,
                &current,
            );
            if content == current {
                return Ok(());
            }
            match self.client.set(path, &content, Some(stat.version)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_no_node() => return Ok(()),
                Err(Error::Server(ErrorCode::BadVersion)) => {}
                Err(error) if error.outcome() == Outcome::Unknown => {}
                Err(error) => return Err(error),
            }
        }
    }
}
