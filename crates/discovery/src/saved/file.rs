//! One snapshot in one file.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize, Serializer};

use crate::courtesy::Turn;
use crate::snapshot::{
    Incarnation, Instance, InstanceId, InstanceState, Instances, Snapshot, Status,
};

/// The format. Another number is not understood.
const VERSION: u32 = 1;

/// The longest file that is read. 100 000 instances with some metadata have about 30 MiB.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The most files that are read of a directory.
const FILES_MAX: usize = 10_000;

/// The longest file name but for its ending; file systems allow 255 bytes.
const NAME_BYTES_MAX: usize = 200;

/// So much is written at once.
const BUFFER_BYTES: usize = 64 << 10;

/// How file names end.
const ENDING: &str = "json";

#[derive(Serialize, Deserialize)]
struct Saved<'a, I> {
    version: u32,
    service: Cow<'a, str>,
    /// Milliseconds since 1970.
    saved_at_ms: u64,
    instances: I,
}

/// Instances on their way into a file, one by one: a list of ten thousand is not there a second time.
struct OneByOne<'a>(&'a Instances);

impl Serialize for OneByOne<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut turn = Turn::begin();
        let instances = self.0.values().enumerate().map(|(index, instance)| {
            if index % 64 == 0 {
                turn.give_way();
            }
            SavedInstance::of(instance)
        });
        serializer.collect_seq(instances)
    }
}

#[derive(Serialize, Deserialize)]
struct SavedInstance<'a> {
    id: Cow<'a, str>,
    address: SocketAddr,
    weight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    zone: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    metadata: Cow<'a, BTreeMap<String, String>>,
    state: SavedState,
    czxid: i64,
    ctime_ms: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SavedState {
    Up,
    Draining,
    Down,
}

/// The file name for a service: letters, digits, `-`, `_` and dots as they are, other bytes as `%2F`.
/// Long ones are cut and end in a hash.
pub(super) fn name(service: &str) -> String {
    let mut name = String::with_capacity(service.len() + 8);
    for byte in service.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if !name.is_empty() => name.push('.'),
            // Writing into a String cannot fail.
            _ => {
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        name.truncate(NAME_BYTES_MAX - 20);
        let hash = xxhash_rust::xxh3::xxh3_64(service.as_bytes());
        let _ = write!(name, "~{hash:016x}");
    }
    name.push('.');
    name.push_str(ENDING);
    name
}

/// The files of a directory.
pub(super) fn list(directory: &Path) -> Vec<PathBuf> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            tracing::warn!(path = %directory.display(), %error, "saved snapshots cannot be listed");
            return Vec::new();
        }
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == ENDING))
        .take(FILES_MAX)
        .collect();
    paths.sort();
    paths
}

/// Replaces the file as a whole.
pub(super) fn save(
    path: &Path,
    service: &str,
    snapshot: &Snapshot,
    saved_at: SystemTime,
) -> io::Result<()> {
    let since_epoch = saved_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let saved = Saved {
        version: VERSION,
        service: service.into(),
        saved_at_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        instances: OneByOne(&snapshot.instances),
    };
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let temporary = path.with_extension("tmp");
    let mut file = BufWriter::with_capacity(BUFFER_BYTES, File::create(&temporary)?);
    serde_json::to_writer(&mut file, &saved)?;
    file.into_inner()?.sync_all()?;
    fs::rename(&temporary, path)?;
    // The new name, too, is to survive a power failure.
    File::open(directory)?.sync_all()
}

/// The service and its snapshot. A file that cannot be understood is put aside.
pub(super) fn load(path: &Path) -> Option<(String, Snapshot)> {
    let cause = match read(path) {
        Ok(loaded) => return Some(loaded),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => error,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a saved snapshot cannot be read");
            return None;
        }
    };
    let aside = path.with_extension("bad");
    match fs::rename(path, &aside) {
        Ok(()) => {
            tracing::warn!(path = %path.display(), aside = %aside.display(), %cause, "a saved snapshot makes no sense and is put aside");
        }
        Err(error) => {
            tracing::warn!(path = %path.display(), %cause, %error, "a saved snapshot makes no sense and cannot be put aside");
        }
    }
    None
}

fn read(path: &Path) -> io::Result<(String, Snapshot)> {
    let invalid = |cause: String| io::Error::new(io::ErrorKind::InvalidData, cause);
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(invalid(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    let saved: Saved<'_, Vec<SavedInstance<'_>>> =
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    if saved.version != VERSION {
        return Err(invalid(format!(
            "version {} instead of {VERSION}",
            saved.version
        )));
    }
    let since = UNIX_EPOCH
        .checked_add(Duration::from_millis(saved.saved_at_ms))
        .ok_or_else(|| invalid("saved at the end of time".to_owned()))?;
    let instances = saved
        .instances
        .into_iter()
        .map(SavedInstance::into_instance);
    let snapshot = Snapshot {
        status: Status::Stale { since },
        ..Snapshot::live(0, instances)
    };
    Ok((saved.service.into_owned(), snapshot))
}

impl<'a> SavedInstance<'a> {
    fn of(instance: &'a Instance) -> Self {
        Self {
            id: instance.id.as_str().into(),
            address: instance.address,
            weight: instance.weight,
            zone: instance.zone.as_deref().map(Cow::from),
            metadata: Cow::Borrowed(&instance.metadata),
            state: match instance.state {
                InstanceState::Up => SavedState::Up,
                InstanceState::Draining => SavedState::Draining,
                InstanceState::Down => SavedState::Down,
            },
            czxid: instance.incarnation.czxid,
            ctime_ms: instance.incarnation.ctime_ms,
        }
    }

    fn into_instance(self) -> Instance {
        Instance {
            id: InstanceId::from(&*self.id),
            address: self.address,
            weight: self.weight,
            zone: self.zone.map(|zone| Arc::from(&*zone)),
            metadata: Arc::new(self.metadata.into_owned()),
            state: match self.state {
                SavedState::Up => InstanceState::Up,
                SavedState::Draining => InstanceState::Draining,
                SavedState::Down => InstanceState::Down,
            },
            incarnation: Incarnation {
                czxid: self.czxid,
                ctime_ms: self.ctime_ms,
            },
        }
    }
}
