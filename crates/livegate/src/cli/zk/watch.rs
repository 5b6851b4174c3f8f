//! `watch`: prints each change of a node, or of all below it, as it happens.
//!
//! The watch is set before the first look, and every notification is followed by another look that is
//! compared with what was last seen. So the last state is never missed, whatever happens to connection
//! and session: after those everything is looked at anew.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use livegate_zk::client::{Client, ConnectionState, Error, Notification, WatchEvent};
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::stat::Stat;
use livegate_zk::proto::watch::{AddWatchMode, EventKind};
use tokio::time::sleep;

use super::attend::Attendant;
use super::change::{Change, Memory, Now};
use super::failure::{Act, failure};
use super::look::{Interest, look, look_if_allowed, survey};
use super::report::Report;
use crate::cli::output::Output;
use crate::cli::signals::Interrupt;

/// Before another look when one failed although there is a connection.
const RETRY: Duration = Duration::from_secs(1);

/// What to watch, and how to tell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) children: bool,
    pub(super) data: bool,
    pub(super) recursive: bool,
    pub(super) json: bool,
}

impl Wanted {
    fn interest(self) -> Interest {
        let all = !self.children && !self.data;
        Interest {
            data: self.data || all,
            children: (self.children || all) && !self.recursive,
        }
    }
}

/// A watch under way.
struct Watching<'a> {
    client: &'a Client,
    path: &'a str,
    wanted: Wanted,
    attendant: Attendant<'a>,
    report: Report<'a>,
    memory: Memory,
    /// A look has failed: what is remembered may not be what is there.
    stale: bool,
}

/// The process is asked to end, which is no failure.
struct Interrupted;

/// What came of waiting.
type Attended<T> = anyhow::Result<Result<T, Interrupted>>;

/// Watches until it is interrupted.
pub(super) async fn watch(
    client: &Client,
    output: &mut Output,
    path: &str,
    wanted: Wanted,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let json = wanted.json;
    let mut watching = Watching {
        client,
        path,
        wanted,
        attendant: Attendant::new(client, interrupt),
        report: Report { output, json },
        memory: Memory::default(),
        stale: false,
    };
    // The only ends are an interruption and a failure.
    match watching.run().await? {
        Interrupted => Ok(()),
    }
}

impl Watching<'_> {
    async fn run(&mut self) -> anyhow::Result<Interrupted> {
        let mode = if self.wanted.recursive {
            AddWatchMode::PersistentRecursive
        } else {
            AddWatchMode::Persistent
        };
        let mut watcher = match self.client.watch(self.path, mode).await {
            Ok(watcher) => watcher,
            Err(Error::Server(ErrorCode::Unimplemented)) => {
                bail!(
                    "the server cannot watch {}: it is older than ZooKeeper 3.6",
                    self.path
                )
            }
            Err(error) => return Err(failure(self.client, Act::Read, self.path, &error)),
        };
        if let Err(interrupted) = self.look_at_all(|_, _| Ok(())).await? {
            return Ok(interrupted);
        }
        self.say_what_is_there();
        loop {
            let retry = self.stale
                && matches!(
                    self.client.state().connection,
                    ConnectionState::Connected { .. }
                );
            let next = async {
                tokio::select! {
                    notification = watcher.next() => notification.map(Some),
                    () = sleep(RETRY), if retry => Some(None),
                }
            };
            let Some(next) = self.attend(next).await? else {
                return Ok(Interrupted);
            };
            let Some(notification) = next else {
                bail!("the watch of {} has ended", self.path);
            };
            let looked = match notification {
                Some(Notification::Event(event)) => self.look_at(&event).await?,
                Some(Notification::Gap(_)) | None => {
                    self.look_at_all(|report, (path, change)| report.change(path, change))
                        .await?
                }
            };
            if let Err(interrupted) = looked {
                return Ok(interrupted);
            }
        }
    }

    async fn attend<T>(&mut self, future: impl Future<Output = T>) -> anyhow::Result<Option<T>> {
        let report = &mut self.report;
        self.attendant
            .wait(future, |news| report.session(news))
            .await
    }

    /// For a person who wonders whether it works; programs read standard output.
    fn say_what_is_there(&self) {
        let path = self.path;
        let what = match self.memory.len() {
            0 => format!("watching {path}, which does not exist yet"),
            count if self.wanted.recursive => format!("watching {path}, {count} nodes"),
            _ => format!("watching {path}"),
        };
        // Nobody can be told that standard error is closed.
        drop(std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("{what}\n").as_bytes(),
        ));
    }

    /// Looks at the node of an event and prints what is different.
    async fn look_at(&mut self, event: &WatchEvent) -> Attended<()> {
        let was_known = self.memory.knows(&event.path);
        let Some(now) = self.look(&event.path).await? else {
            return Ok(Err(Interrupted));
        };
        let Some(now) = now else {
            return Ok(Ok(()));
        };
        let mut changes = self.memory.learn(&event.path, now);
        let gone_again =
            event.kind == EventKind::Created && !was_known && !self.memory.knows(&event.path);
        if gone_again {
            changes = vec![Change::Created(None), Change::Deleted];
        }
        for change in &changes {
            self.report.change(&event.path, change)?;
        }
        Ok(Ok(()))
    }

    /// Looks at everything that is watched, as after a gap, and passes on what is different.
    async fn look_at_all(
        &mut self,
        mut tell: impl FnMut(&mut Report<'_>, (&str, &Change)) -> anyhow::Result<()>,
    ) -> Attended<()> {
        self.stale = false;
        let paths = if self.wanted.recursive {
            let survey = survey(self.client.clone(), self.path.to_owned());
            let Some(present) = self.attend(survey).await? else {
                return Ok(Err(Interrupted));
            };
            let Some(present) = self.usable(self.path, present)? else {
                return Ok(Ok(()));
            };
            for path in self.memory.others(&present) {
                for change in self.memory.learn(&path, None) {
                    tell(&mut self.report, (&path, &change))?;
                }
            }
            self.outdated(present)
        } else {
            vec![self.path.to_owned()]
        };
        for path in paths {
            let Some(now) = self.look(&path).await? else {
                return Ok(Err(Interrupted));
            };
            let Some(now) = now else {
                // There will be another look at all.
                return Ok(Ok(()));
            };
            for change in self.memory.learn(&path, now) {
                tell(&mut self.report, (&path, &change))?;
            }
        }
        Ok(Ok(()))
    }

    fn outdated(&self, present: BTreeMap<String, Stat>) -> Vec<String> {
        present
            .into_iter()
            .filter(|(path, stat)| !self.memory.is_up_to_date(path, stat))
            .map(|(path, _)| path)
            .collect()
    }

    /// Reads a node. The outer `None` is an interruption, the inner one a look that failed and will be
    /// repeated.
    async fn look(&mut self, path: &str) -> anyhow::Result<Option<Option<Option<Now>>>> {
        let interest = self.wanted.interest();
        let (client, owned) = (self.client.clone(), path.to_owned());
        let looked = if self.wanted.recursive {
            self.attend(look_if_allowed(client, owned, interest))
                .await?
        } else {
            self.attend(look(client, owned, interest)).await?
        };
        looked.map(|now| self.usable(path, now)).transpose()
    }

    /// What was read; `None` when it has to be read again.
    fn usable<T>(&mut self, path: &str, read: Result<T, Error>) -> anyhow::Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(Error::Server(ErrorCode::NoAuth)) => {
                let refused = Error::Server(ErrorCode::NoAuth);
                Err(failure(self.client, Act::Read, path, &refused))
            }
            Err(_) => {
                self.stale = true;
                Ok(None)
            }
        }
    }
}
