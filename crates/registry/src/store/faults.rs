//! Disks that fail, for tests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

/// Each number counts the calls that are still to fail.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults {
    pub(super) reserves: Arc<AtomicU32>,
    pub(super) writes: Arc<AtomicU32>,
    pub(super) syncs: Arc<AtomicU32>,
}

impl Faults {
    pub(super) fn reserve(&self) -> io::Result<()> {
        fail(&self.reserves, Errno::NOSPC)
    }

    pub(super) fn write(&self) -> io::Result<()> {
        fail(&self.writes, Errno::IO)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        fail(&self.syncs, Errno::IO)
    }
}

fn fail(left: &AtomicU32, error: Errno) -> io::Result<()> {
    match left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
        left.checked_sub(1)
    }) {
        Ok(_) => Err(error.into()),
        Err(_) => Ok(()),
    }
}
