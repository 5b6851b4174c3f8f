//! Noticing that the configuration file has changed.
//!
//! Asked once a second, which also sees what file notifications miss: network file systems,
//! renames over the file, and the swapped symbolic links of Kubernetes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A file that was just changed is read when it has not changed for so long: editors write in
/// several steps.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// `None` while the file is not there or empty, as between the steps of some editors: taken
    /// for a configuration, an empty file would remove every service.
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let stamp = Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        };
        (stamp.bytes > 0).then_some(stamp)
    }
}

/// Watches one file.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    last: Option<Stamp>,
}

impl Watched {
    /// What the file is now counts as known; to be called before reading it, so that a change
    /// meanwhile is noticed.
    pub fn new(path: PathBuf) -> Self {
        let last = Stamp::of(&path);
        Self { path, last }
    }

    /// The file, to be read: as it is now it counts as known.
    pub fn see(&mut self) -> &Path {
        self.last = Stamp::of(&self.path).or(self.last);
        &self.path
    }

    /// What the file is now; in a thread of its own, for its file system may hang.
    async fn look(&self) -> Option<Stamp> {
        let path = self.path.clone();
        let look = tokio::task::spawn_blocking(move || Stamp::of(&path));
        look.await.ok().flatten()
    }

    /// Resolves when the file has changed and settled. Cancel-safe: a change that was noticed
    /// but not reported is noticed again.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let mut now = self.look().await;
            if now.is_none() || now == self.last {
                continue;
            }
            loop {
                tokio::time::sleep(SETTLED_AFTER).await;
                let later = self.look().await;
                if later == now {
                    break;
                }
                now = later;
            }
            if now.is_some() && now != self.last {
                self.last = now;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a change is reported soon.
    async fn is_changed(watched: &mut Watched) -> bool {
        tokio::time::timeout(Duration::from_secs(3), watched.changed())
            .await
            .is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("livegate.toml");
        std::fs::write(&path, "a").unwrap();
        let mut watched = Watched::new(path.clone());
        assert!(!is_changed(&mut watched).await);
        std::fs::write(&path, "ab").unwrap();
        assert!(is_changed(&mut watched).await);
        assert!(!is_changed(&mut watched).await);
        let new = directory.path().join("new");
        std::fs::write(&new, "cd").unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert!(is_changed(&mut watched).await);
        assert!(!is_changed(&mut watched).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_away_or_empty_is_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("livegate.toml");
        std::fs::write(&path, "a").unwrap();
        let mut watched = Watched::new(path.clone());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_changed(&mut watched).await);
        std::fs::write(&path, "").unwrap();
        assert!(!is_changed(&mut watched).await);
        std::fs::write(&path, "abc").unwrap();
        assert!(is_changed(&mut watched).await);
    }
}
