//! Open files: tests with thousands of connections need more than the usual soft limit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit (which the gateway inherits) as far as it goes, and says how far that is.
pub(crate) fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )
    .unwrap();
    limit.maximum.unwrap_or(1 << 20)
}
