//! Setting and removing watches.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::command::Command;
use super::error::{Error, NotSent};
use super::multi::server_path;
use super::send::encoded;
use super::watch_table::{Intent, Target};
use super::watcher::{Queue, Registration, Watch, WatchEvent, Watcher};
use super::{Client, deadline_after};
use crate::proto::op_code::OpCode;
use crate::proto::watch::{AddWatch, AddWatchMode, WatchKind};

/// # Persistent watches
impl Client {
    /// Watches a node, which need not exist, until the watcher is dropped.
    ///
    /// Servers before 3.9 keep one mode for each path and connection; the client makes up for that, so
    /// any number of watches of all kinds can be on one path.
    ///
    /// # Errors
    /// `NoAuth` from servers that check it. Servers before 3.6 say `Unimplemented` and close the
    /// connection.
    ///
    /// # Cancel safety
    /// Cancelling has no effect but that the watcher is lost.
    pub async fn watch(&self, path: &str, mode: AddWatchMode) -> Result<Watcher, Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let registration = self.registration(&path);
        let queue = Arc::new(Queue::new(mode, self.shared.watch_queue_max));
        let intent = Intent {
            path: Arc::clone(&registration.path),
            id: registration.id,
            target: Target::Stream(Arc::clone(&queue)),
        };
        let watcher = Watcher::new(queue, registration);
        let body = AddWatch {
            path: &path,
            mode: mode.code(),
        };
        self.send(encoded(OpCode::AddWatch, &body), Some(intent))
            .await?;
        Ok(watcher)
    }

    /// Removes all watches of a kind that this client has on a node; those who hold them are told that
    /// they have ended. To remove a single one, drop it.
    ///
    /// # Errors
    /// `NoWatcher` if there are none.
    ///
    /// # Cancel safety
    /// The watches may be removed.
    pub async fn remove_watches(&self, path: &str, kind: WatchKind) -> Result<(), Error> {
        let path = server_path(&self.shared.chroot, path)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::RemoveWatches {
            path: (&*path).into(),
            selection: kind,
            reply,
        };
        let done = async {
            self.shared
                .commands
                .send(command)
                .await
                .map_err(|_| NotSent::Closed)?;
            answer.await.map_err(|_| NotSent::Closed)
        };
        match timeout_at(deadline_after(self.operation_timeout), done).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(closed)) => Err(Error::NotSent(closed)),
            Err(_) => Err(Error::NotSent(NotSent::Deadline)),
        }
    }

    fn registration(&self, server_path: &str) -> Registration {
        let id = self.shared.watches_made.fetch_add(1, Ordering::Relaxed);
        Registration::new(server_path.into(), id, Arc::clone(&self.shared.released))
    }

    pub(crate) fn one_shot(&self, path: &str) -> Result<(Watch, Intent), Error> {
        let registration = self.registration(&server_path(&self.shared.chroot, path)?);
        let (sender, receiver) = oneshot::channel::<WatchEvent>();
        let intent = Intent {
            path: Arc::clone(&registration.path),
            id: registration.id,
            target: Target::OneShot(sender),
        };
        Ok((Watch::new(receiver, registration), intent))
    }
}
