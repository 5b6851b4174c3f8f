//! Port numbers that stay ours for a whole test.
//!
//! A gateway listens with `SO_REUSEPORT`, so two tests that drew the same number would not fail to
//! bind: they would get each other's connections. And a port that the kernel hands out may go to an
//! outgoing connection while the process that should listen on it restarts. So numbers come from below
//! the ephemeral range (32768 on Linux), and a locked file says that one is taken.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use super::turn;

const FIRST: u16 = 11_000;
const LAST: u16 = 32_000;

/// A port on 127.0.0.1 that nobody listens on (until the test makes somebody do so).
pub(crate) struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    pub(crate) fn claim() -> Port {
        for _ in 0..1_000 {
            let number = fastrand::u16(FIRST..LAST);
            let path = turn::directory().join(format!("port-{number}"));
            let claim = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(path)
                .unwrap();
            if claim.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
            {
                return Port {
                    number,
                    _claim: claim,
                };
            }
        }
        panic!("no free port between {FIRST} and {LAST}");
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}
