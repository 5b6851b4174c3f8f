//! Where the demo happens: a directory and ports of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Above it the system takes ports for outgoing connections (Linux's default range begins there); a port
/// from there may be gone when an instance that was killed wants it back.
const PORT_MAX: u16 = 32_767;

/// A temporary directory, removed when dropped.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn create() -> anyhow::Result<Self> {
        let name = format!("livegate-demo-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // What a process of that number left behind when it was killed.
        drop(std::fs::remove_dir_all(&path));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}: set TMPDIR", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The gateway's configuration.
    pub(super) fn config(&self) -> PathBuf {
        self.0.join("livegate.toml")
    }

    /// What the gateway logs.
    pub(super) fn log(&self) -> PathBuf {
        self.0.join("gateway.log")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// The first free one of this port, the same with 10 000 added, and those after that. `None` when all
/// are taken.
pub(super) fn free_port(wanted: u16) -> Option<SocketAddr> {
    let others = wanted.saturating_add(10_000)..=PORT_MAX;
    std::iter::once(wanted)
        .chain(others)
        .map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .find(|address| is_free(*address))
}

pub(super) fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_passed_over() {
        // Other tests may take and give back ports meanwhile, but not this one.
        let held = (20_000..PORT_MAX)
            .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
            .unwrap();
        let taken = held.local_addr().unwrap();
        assert!(!is_free(taken));
        let found = free_port(taken.port());
        assert!(found.is_none_or(|found| found.port() > taken.port() && found.port() <= PORT_MAX));
        assert_eq!(
            free_port(u16::MAX).map(|found| found.port()),
            Some(u16::MAX)
        );
    }

    #[test]
    fn the_directory_is_the_owners_and_goes() {
        use std::os::unix::fs::PermissionsExt;
        let directory = Directory::create().unwrap();
        let path = directory.path().to_owned();
        std::fs::write(directory.log(), "text").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(directory);
        assert!(!path.exists());
    }
}
