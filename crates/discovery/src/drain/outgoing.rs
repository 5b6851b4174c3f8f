//! The instance's side: one drain, from opening it to cleaning up after it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use livegate_zk::client::{Client, Error, Watch};
use livegate_zk::path;
use livegate_zk::proto::create_mode::CreateMode;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::{DRAINS, GATEWAYS, InstancePath, czxid_in};
use crate::acl;

/// How long to wait when no gateway is announced: readers of other kinds see the state, or do not, and
/// there is nobody to tell.
const NO_GATEWAY_GRACE: Duration = Duration::from_secs(1);

/// How long an announcement must be missing before its gateway is gone: a gateway whose session has
/// ended announces itself again at once.
const MISSING_GRACE: Duration = Duration::from_secs(1);

/// How often to look without being woken.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait before looking again after a failure.
const FAILURE_WAIT: Duration = Duration::from_millis(200);

#[derive(Debug)]
pub(crate) struct Outgoing {
    client: Client,
    czxid: i64,
    container: String,
    /// Gateways that are waited for, and since when their announcement is missing. `None` before the
    /// drain is open.
    waiting: Option<BTreeMap<String, Option<Instant>>>,
    acknowledged: BTreeSet<String>,
}

/// What was seen in one look.
struct Seen {
    acknowledgements: Watch,
    /// `None` while there is no parent for announcements.
    announcements: Option<Watch>,
}

impl Outgoing {
    pub(crate) fn new(client: Client, instance: &InstancePath, czxid: i64) -> Self {
        Self {
            client,
            czxid,
            container: path::join(DRAINS, &instance.to_name()),
            waiting: None,
            acknowledged: BTreeSet::new(),
        }
    }

    /// Opens the drain and finds out which gateways to wait for. It can be called again when it failed.
    pub(crate) async fn open(&mut self) -> Result<(), Error> {
        self.make_container().await?;
        if self.waiting.is_none() {
            let gateways = match self.client.children(GATEWAYS).await {
                Ok(gateways) => gateways,
                Err(error) if error.is_no_node() => Vec::new(),
                Err(error) => return Err(error),
            };
            self.waiting = Some(gateways.into_iter().map(|id| (id, None)).collect());
        }
        Ok(())
    }

    async fn make_container(&self) -> Result<(), Error> {
        let data = self.czxid.to_string();
        loop {
            let created = self
                .client
                .create(
                    &self.container,
                    data.as_bytes(),
                    CreateMode::Container,
                    acl::exchanged(&self.client),
                )
                .await;
            match created {
                Ok(_) => return Ok(()),
                Err(error) if error.is_no_node() => {
                    self.client
                        .ensure(DRAINS, CreateMode::Container, acl::added_to(&self.client))
                        .await?;
                }
                Err(error) if error.is_node_exists() => {
                    // Of an earlier incarnation, or ours by a create whose reply got lost.
                    match self
                        .client
                        .set(&self.container, data.as_bytes(), None)
                        .await
                    {
                        Ok(_) => return Ok(()),
                        Err(error) if error.is_no_node() => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until all gateways have let go, or until then. Cancel-safe.
    pub(crate) async fn wait(&mut self, until: Instant) {
        if self.waiting.as_ref().is_none_or(BTreeMap::is_empty) {
            return sleep_until(until.min(Instant::now() + NO_GATEWAY_GRACE)).await;
        }
        // Past the deadline, whoever has not acknowledged stays in `waiting`.
        drop(timeout_at(until, self.wait_for_all()).await);
    }

    async fn wait_for_all(&mut self) {
        loop {
            let seen = self.look().await;
            if self.waiting.as_ref().is_none_or(BTreeMap::is_empty) {
                return;
            }
            match seen {
                Ok(Seen {
                    mut acknowledgements,
                    announcements,
                }) => {
                    let announcements = async {
                        match announcements {
                            Some(mut watch) => drop(watch.fired().await),
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        _ = acknowledgements.fired() => {}
                        () = announcements => {}
                        () = sleep(LOOK_INTERVAL) => {}
                    }
                }
                Err(error) => {
                    tracing::debug!("cannot read the acknowledgements: {error}");
                    sleep(FAILURE_WAIT).await;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<Seen, Error> {
        let (children, acknowledgements) = loop {
            match self.client.children_and_watch(&self.container).await {
                Ok((children, _, watch)) => break (children, watch),
                // Emptied by a gateway that ended, and removed by the server.
                Err(error) if error.is_no_node() => self.make_container().await?,
                Err(error) => return Err(error),
            }
        };
        let waiting = self.waiting.get_or_insert_default();
        for id in children
            .into_iter()
            .filter(|id| waiting.contains_key(id))
            .collect::<Vec<_>>()
        {
            match self.client.get(&path::join(&self.container, &id)).await {
                Ok((data, _)) if czxid_in(&data) == Some(self.czxid) => {
                    waiting.remove(&id);
                    self.acknowledged.insert(id);
                }
                // Of an earlier incarnation, or gone again.
                Ok(_) => {}
                Err(error) if error.is_no_node() => {}
                Err(error) => return Err(error),
            }
        }
        let (announced, announcements) = match self.client.children_and_watch(GATEWAYS).await {
            Ok((announced, _, watch)) => (announced, Some(watch)),
            Err(error) if error.is_no_node() => (Vec::new(), None),
            Err(error) => return Err(error),
        };
        let announced: BTreeSet<String> = announced.into_iter().collect();
        let now = Instant::now();
        waiting.retain(|id, missing_since| {
            if announced.contains(id) {
                *missing_since = None;
                return true;
            }
            now - *missing_since.get_or_insert(now) < MISSING_GRACE
        });
        Ok(Seen {
            acknowledgements,
            announcements,
        })
    }

    /// Deletes the acknowledgements and the drain.
    pub(crate) async fn clean_up(&self) {
        // The next incarnation may have opened its own by now.
        match self.client.get(&self.container).await {
            Ok((data, _)) if czxid_in(&data) == Some(self.czxid) => {}
            Ok(_) | Err(_) => return,
        }
        // A gateway may acknowledge in the middle of it; what is left then, gateways clean up.
        for _ in 0..3 {
            let Ok((children, _)) = self.client.children2(&self.container).await else {
                return;
            };
            for child in children {
                drop(
                    self.client
                        .delete(&path::join(&self.container, &child), None)
                        .await,
                );
            }
            if self.client.delete(&self.container, None).await.is_ok() {
                return;
            }
        }
    }

    /// Who has let go, and who has not.
    pub(crate) fn result(&self) -> (Vec<String>, Vec<String>) {
        let silent = self.waiting.iter().flat_map(BTreeMap::keys).cloned();
        (
            self.acknowledged.iter().cloned().collect(),
            silent.collect(),
        )
    }
}
