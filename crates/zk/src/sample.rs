//! Random records for tests. What they borrow is leaked, which a test may do.

use std::borrow::Cow;
use std::time::Duration;

use crate::jute::{Decode, List};
use crate::proto::acl::{Acl, Permissions};
use crate::proto::create_mode::CreateMode;
use crate::proto::multi::{OpResult, Sequence};
use crate::proto::reply::Reply;
use crate::proto::session::{ConnectReply, ConnectRequest};

/// A value that can be made at random.
pub(crate) trait Sample: Sized {
    /// One value.
    fn sample(source: &mut fastrand::Rng) -> Self;
}

impl Sample for () {
    fn sample(_: &mut fastrand::Rng) -> Self {}
}

impl Sample for bool {
    fn sample(source: &mut fastrand::Rng) -> Self {
        source.bool()
    }
}

impl Sample for i32 {
    fn sample(source: &mut fastrand::Rng) -> Self {
        if source.bool() {
            source.i32(-2..3)
        } else {
            source.i32(..)
        }
    }
}

impl Sample for i64 {
    fn sample(source: &mut fastrand::Rng) -> Self {
        if source.bool() {
            source.i64(-2..3)
        } else {
            source.i64(..)
        }
    }
}

impl Sample for &str {
    fn sample(source: &mut fastrand::Rng) -> Self {
        let length = source.usize(..12);
        let text: String = (0..length)
            .map(|_| if source.bool() { source.char(..) } else { '/' })
            .collect();
        Box::leak(text.into_boxed_str())
    }
}

impl Sample for &[u8] {
    fn sample(source: &mut fastrand::Rng) -> Self {
        let length = source.usize(..40);
        let bytes: Vec<u8> = (0..length).map(|_| source.u8(..)).collect();
        Box::leak(bytes.into_boxed_slice())
    }
}

impl<T: Sample> Sample for Option<T> {
    fn sample(source: &mut fastrand::Rng) -> Self {
        source.bool().then(|| T::sample(source))
    }
}

impl<T: Sample> Sample for List<'_, T> {
    fn sample(source: &mut fastrand::Rng) -> Self {
        List::new(leaked_items(source))
    }
}

impl<'a, T: Sample + Decode<'a> + Clone + PartialEq> Sample for Sequence<'a, T> {
    fn sample(source: &mut fastrand::Rng) -> Self {
        Sequence::new(leaked_items(source))
    }
}

fn leaked_items<'a, T: Sample>(source: &mut fastrand::Rng) -> &'a [T] {
    let length = source.usize(..5);
    let items: Vec<T> = (0..length).map(|_| T::sample(source)).collect();
    items.leak()
}

impl Sample for Acl<'_> {
    fn sample(source: &mut fastrand::Rng) -> Self {
        Acl {
            permissions: Permissions(Sample::sample(source)),
            scheme: Cow::Borrowed(Sample::sample(source)),
            id: Cow::Borrowed(Sample::sample(source)),
        }
    }
}

impl Sample for CreateMode {
    fn sample(source: &mut fastrand::Rng) -> Self {
        let ttl = Duration::from_millis(source.u64(1..1 << 40));
        let modes = [
            Self::Persistent,
            Self::Ephemeral,
            Self::PersistentSequential,
            Self::EphemeralSequential,
            Self::Container,
            Self::PersistentTtl(ttl),
            Self::SequentialTtl(ttl),
        ];
        modes[source.usize(..modes.len())]
    }
}

impl Sample for ConnectRequest<'_> {
    fn sample(source: &mut fastrand::Rng) -> Self {
        Self {
            protocol_version: Sample::sample(source),
            last_zxid_seen: Sample::sample(source),
            timeout_ms: Sample::sample(source),
            session_id: Sample::sample(source),
            password: Sample::sample(source),
            read_only: Sample::sample(source),
        }
    }
}

impl Sample for ConnectReply<'_> {
    fn sample(source: &mut fastrand::Rng) -> Self {
        Self {
            protocol_version: Sample::sample(source),
            timeout_ms: Sample::sample(source),
            session_id: Sample::sample(source),
            password: Sample::sample(source),
            read_only: Sample::sample(source),
        }
    }
}

impl Sample for OpResult<'_> {
    fn sample(source: &mut fastrand::Rng) -> Self {
        match source.u8(..8) {
            0 => Self::Create(Sample::sample(source)),
            1 => Self::Delete,
            2 => Self::SetData(Sample::sample(source)),
            3 => Self::Check,
            4 => Self::Create2(Sample::sample(source)),
            5 => Self::GetData(Sample::sample(source)),
            6 => Self::GetChildren(Sample::sample(source)),
            _ => Self::Error(Sample::sample(source)),
        }
    }
}

impl Sample for Reply<'_> {
    fn sample(source: &mut fastrand::Rng) -> Self {
        match source.u8(..14) {
            0 => Self::Empty,
            1 => Self::Path(Sample::sample(source)),
            2 => Self::Create(Sample::sample(source)),
            3 => Self::Stat(Sample::sample(source)),
            4 => Self::Data(Sample::sample(source)),
            5 => Self::Acl(Sample::sample(source)),
            6 => Self::Children(Sample::sample(source)),
            7 => Self::Children2(Sample::sample(source)),
            8 => Self::Multi(Sample::sample(source)),
            9 => Self::Sasl(Sample::sample(source)),
            10 => Self::Ephemerals(Sample::sample(source)),
            11 => Self::ChildrenNumber(Sample::sample(source)),
            12 => Self::Error(Sample::sample(source)),
            _ => Self::WhoAmI(Sample::sample(source)),
        }
    }
}
