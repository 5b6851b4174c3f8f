//! Whose turn it is. Tests run next to each other, in one process or in many; those that measure
//! time, memory or throughput need the machine for themselves.

use std::fs::File;
use std::path::PathBuf;

/// Held for as long as a test runs.
pub(crate) struct Turn(#[expect(dead_code, reason = "closing the file gives the turn away")] File);

/// Takes the machine for this test alone.
pub(crate) fn alone() -> Turn {
    let file = lock_file();
    file.lock().unwrap();
    Turn(file)
}

/// Shares the machine with other tests that do not measure.
pub(crate) fn shared() -> Turn {
    let file = lock_file();
    file.lock_shared().unwrap();
    Turn(file)
}

fn lock_file() -> File {
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(directory().join("turn"))
        .unwrap()
}

/// Where tests of this user leave their lock files.
pub(crate) fn directory() -> PathBuf {
    let directory = std::env::temp_dir().join("livegate-tests");
    std::fs::create_dir_all(&directory).unwrap();
    directory
}
