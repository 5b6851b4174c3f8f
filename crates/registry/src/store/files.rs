//! The files of a store: their names, making them durable, purging them.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

/// Snapshots that are kept: if the newest turns out to be damaged there is another.
const SNAPSHOTS_KEPT: usize = 2;

const SEGMENT_PREFIX: &str = "log.";
const SNAPSHOT_PREFIX: &str = "snapshot.";
const UNFINISHED_SUFFIX: &str = ".tmp";

/// What a directory holds. Other people's files are not looked at.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The first sequence of each log segment.
    pub(super) segments: BTreeSet<u64>,
    /// The last sequence that each snapshot contains.
    pub(super) snapshots: BTreeSet<u64>,
    unfinished: Vec<PathBuf>,
}

impl Listing {
    pub(super) fn read(directory: &Path) -> io::Result<Listing> {
        let mut listing = Listing::default();
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(finished) = name.strip_suffix(UNFINISHED_SUFFIX) {
                if number(finished, SEGMENT_PREFIX)
                    .or_else(|| number(finished, SNAPSHOT_PREFIX))
                    .is_some()
                {
                    listing.unfinished.push(entry.path());
                }
            } else if let Some(first) = number(name, SEGMENT_PREFIX) {
                listing.segments.insert(first);
            } else if let Some(last) = number(name, SNAPSHOT_PREFIX) {
                listing.snapshots.insert(last);
            }
        }
        Ok(listing)
    }

    /// Removes what was being written when the process ended: none of it was ever relied on.
    pub(super) fn remove_unfinished(&mut self) -> io::Result<()> {
        self.unfinished
            .drain(..)
            .try_for_each(|path| remove_if_there(&path))
    }
}

/// The number that follows the prefix in names written by us, `None` for all other names.
fn number(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    let own = digits.len() == 16
        && digits
            .bytes()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if own {
        u64::from_str_radix(digits, 16).ok()
    } else {
        None
    }
}

pub(super) fn segment_path(directory: &Path, first: u64) -> PathBuf {
    directory.join(format!("{SEGMENT_PREFIX}{first:016x}"))
}

pub(super) fn snapshot_path(directory: &Path, last: u64) -> PathBuf {
    directory.join(format!("{SNAPSHOT_PREFIX}{last:016x}"))
}

/// Where a file is written before it gets its name.
pub(super) fn unfinished_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED_SUFFIX);
    PathBuf::from(name)
}

/// A new file, never one that existed: after a failed fsync the old one's pages cannot be trusted.
pub(super) fn create_unfinished(path: &Path) -> io::Result<File> {
    let path = unfinished_path(path);
    remove_if_there(&path)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
}

/// Gives a file that has been synced its name, durably.
pub(super) fn publish(directory: &Path, path: &Path) -> io::Result<()> {
    fs::rename(unfinished_path(path), path)?;
    sync_directory(directory)
}

/// Makes renames, creations and removals in the directory durable.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Creates the directory and its missing parents, durably.
pub(super) fn create_directory(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = directory
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .collect();
    fs::create_dir_all(directory)?;
    for path in missing {
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        sync_directory(parent)?;
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the snapshots and segments that no recovery needs: all but the newest two good snapshots, and the log
/// before the older of these. `damaged` names the snapshots that are known to be bad.
///
/// The oldest go first, so that a purge that is interrupted leaves a log without a gap.
pub(super) fn purge(directory: &Path, damaged: &BTreeSet<u64>) -> io::Result<()> {
    let listing = Listing::read(directory)?;
    let kept: Vec<u64> = listing
        .snapshots
        .iter()
        .rev()
        .filter(|last| !damaged.contains(last))
        .take(SNAPSHOTS_KEPT)
        .copied()
        .collect();
    let Some(newest) = kept.first() else {
        return Ok(());
    };
    for last in listing
        .snapshots
        .iter()
        .filter(|last| !kept.contains(last) && *last < newest)
    {
        remove_if_there(&snapshot_path(directory, *last))?;
    }
    // With one snapshot the log is kept from its beginning: it stands in for the older snapshot.
    let Some(oldest) = kept.get(SNAPSHOTS_KEPT - 1) else {
        return Ok(());
    };
    for (first, next) in listing.segments.iter().zip(listing.segments.iter().skip(1)) {
        if *next <= oldest.saturating_add(1) {
            remove_if_there(&segment_path(directory, *first))?;
        }
    }
    sync_directory(directory)
}
