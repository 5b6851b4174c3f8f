//! Multi and multi-read: several operations in one request, and their results.
//!
//! On the wire each operation and each result follows a header that says what it is, and a header that
//! says "done" ends the sequence (`MultiOperationRecord.java`, `MultiResponse.java`).

use std::fmt;

use super::op_code::OpCode;
use super::record;
use super::reply::{ChildrenReply, CreateReply, DataReply, PathReply};
use super::request::{Create, CreateTtl, PathVersion, PathWatch, SetData};
use super::stat::Stat;
use crate::jute::{Decode, DecodeError, Decoder, Encode, Encoder, List, ListIter};

record! {
    /// What stands before every part of a multi, and after the last.
    pub struct MultiHeader {
        /// Number of an operation; -1 for a failed part and at the end.
        pub kind: i32,
        /// Whether this is the end.
        pub done: bool,
        /// -1 in requests and at the end; in results 0 or the number of an error.
        pub error: i32,
    }
}

const END: MultiHeader = MultiHeader {
    kind: -1,
    done: true,
    error: -1,
};

/// The operations of a multi.
pub type MultiRequest<'a> = Sequence<'a, WriteOp<'a>>;
/// The operations of a multi-read.
pub type MultiReadRequest<'a> = Sequence<'a, ReadOp<'a>>;
/// The results of either.
pub type MultiReply<'a> = Sequence<'a, OpResult<'a>>;

/// Parts of a multi up to its end. Like a [`List`] it borrows what it was decoded from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sequence<'a, T: Decode<'a> + Clone + PartialEq> {
    parts: List<'a, T>,
}

impl<'a, T: Decode<'a> + Clone + PartialEq> Sequence<'a, T> {
    /// A sequence of these parts.
    #[must_use]
    pub const fn new(parts: &'a [T]) -> Self {
        Self {
            parts: List::new(parts),
        }
    }

    /// The parts in order.
    #[must_use]
    pub fn iter(&self) -> ListIter<'a, T> {
        self.parts.iter()
    }

    /// Number of parts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there are no parts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

impl<'a, T: Decode<'a> + Clone + PartialEq> IntoIterator for &Sequence<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T: Decode<'a> + Clone + PartialEq> Decode<'a> for Sequence<'a, T> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let start = input.remaining();
        let mut count = 0;
        loop {
            let mut ahead = input.clone();
            if ahead.read::<MultiHeader>()?.done {
                let used = start.len() - input.remaining().len();
                *input = ahead;
                return Ok(Self {
                    parts: List::from_encoded(count, &start[..used]),
                });
            }
            input.read::<T>()?;
            count += 1;
        }
    }
}

impl<'a, T: Decode<'a> + Encode + Clone + PartialEq> Encode for Sequence<'a, T> {
    fn encode(&self, output: &mut Encoder) {
        self.parts.encode_items(output);
        output.write(&END);
    }
}

impl<'a, T: Decode<'a> + Clone + PartialEq + fmt::Debug> fmt::Debug for Sequence<'a, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.fmt(formatter)
    }
}

macro_rules! operations {
    ($(#[$meta:meta])* pub enum $enum:ident { $($(#[$variant_meta:meta])* $name:ident($body:ty),)* } else $others:pat) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $enum<'a> { $($(#[$variant_meta])* $name($body),)* }

        impl $enum<'_> {
            /// The operation.
            #[must_use]
            pub const fn op_code(&self) -> OpCode {
                match self { $(Self::$name(_) => OpCode::$name,)* }
            }
        }

        impl<'a> Decode<'a> for $enum<'a> {
            fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
                let header: MultiHeader = input.read()?;
                match OpCode::from_code(header.kind) {
                    $(Some(OpCode::$name) => Ok(Self::$name(input.read()?)),)*
                    Some($others) => Err(DecodeError::MultiMixed),
                    _ => Err(DecodeError::MultiType(header.kind)),
                }
            }
        }

        impl Encode for $enum<'_> {
            fn encode(&self, output: &mut Encoder) {
                output.write(&MultiHeader { kind: self.op_code().code(), done: false, error: -1 });
                match self { $(Self::$name(body) => output.write(body),)* }
            }
        }

        #[cfg(test)]
        impl crate::sample::Sample for $enum<'_> {
            fn sample(source: &mut fastrand::Rng) -> Self {
                source
                    .choice([$((|source| Self::$name(crate::sample::Sample::sample(source))) as fn(&mut fastrand::Rng) -> Self,)*])
                    .expect("there are variants")(source)
            }
        }
    };
}

operations! {
    /// One write of a multi. A multi without any is answered with no results.
    pub enum WriteOp {
        /// Creates a node, answered with its path.
        Create(Create<'a>),
        /// Deletes a node.
        Delete(PathVersion<'a>),
        /// Replaces a node's data.
        SetData(SetData<'a>),
        /// Checks a node's version.
        Check(PathVersion<'a>),
        /// Creates a node, answered with its path and state.
        Create2(Create<'a>),
        /// Creates a container, answered with its path and state.
        CreateContainer(Create<'a>),
        /// Creates a node with a time to live, answered with its path and state.
        CreateTtl(CreateTtl<'a>),
    } else OpCode::GetData | OpCode::GetChildren
}

operations! {
    /// One read of a multi-read; the watch flag is not honoured by servers.
    pub enum ReadOp {
        /// Reads a node's data and state.
        GetData(PathWatch<'a>),
        /// Lists a node's children.
        GetChildren(PathWatch<'a>),
    } else OpCode::Create
        | OpCode::Delete
        | OpCode::SetData
        | OpCode::Check
        | OpCode::Create2
        | OpCode::CreateContainer
        | OpCode::CreateTtl
}

/// The result of one part.
///
/// When a write fails, so does the whole multi: the parts before it carry error 0, it carries its
/// error, those after it carry
/// [`RuntimeInconsistency`](super::error_code::ErrorCode::RuntimeInconsistency). In a multi-read each part
/// succeeds or fails by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult<'a> {
    /// A node was created.
    Create(PathReply<'a>),
    /// A node was deleted.
    Delete,
    /// Data was set.
    SetData(Stat),
    /// The version was as expected.
    Check,
    /// A node was created by create2, createContainer or createTTL.
    Create2(CreateReply<'a>),
    /// Data was read.
    GetData(DataReply<'a>),
    /// Children were read.
    GetChildren(ChildrenReply<'a>),
    /// The number of an error, or 0 in a multi that failed elsewhere.
    Error(i32),
}

impl OpResult<'_> {
    /// The type in the header before this result.
    #[must_use]
    pub const fn op_code(&self) -> OpCode {
        match self {
            Self::Create(_) => OpCode::Create,
            Self::Delete => OpCode::Delete,
            Self::SetData(_) => OpCode::SetData,
            Self::Check => OpCode::Check,
            Self::Create2(_) => OpCode::Create2,
            Self::GetData(_) => OpCode::GetData,
            Self::GetChildren(_) => OpCode::GetChildren,
            Self::Error(_) => OpCode::Error,
        }
    }
}

impl<'a> Decode<'a> for OpResult<'a> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let header: MultiHeader = input.read()?;
        match OpCode::from_code(header.kind) {
            Some(OpCode::Create) => Ok(Self::Create(input.read()?)),
            Some(OpCode::Delete) => Ok(Self::Delete),
            Some(OpCode::SetData) => Ok(Self::SetData(input.read()?)),
            Some(OpCode::Check) => Ok(Self::Check),
            Some(OpCode::Create2) => Ok(Self::Create2(input.read()?)),
            Some(OpCode::GetData) => Ok(Self::GetData(input.read()?)),
            Some(OpCode::GetChildren) => Ok(Self::GetChildren(input.read()?)),
            Some(OpCode::Error) => Ok(Self::Error(input.read()?)),
            _ => Err(DecodeError::MultiType(header.kind)),
        }
    }
}

impl Encode for OpResult<'_> {
    fn encode(&self, output: &mut Encoder) {
        let error = if let Self::Error(error) = self {
            *error
        } else {
            0
        };
        output.write(&MultiHeader {
            kind: self.op_code().code(),
            done: false,
            error,
        });
        match self {
            Self::Create(body) => output.write(body),
            Self::SetData(stat) => output.write(stat),
            Self::Create2(body) => output.write(body),
            Self::GetData(body) => output.write(body),
            Self::GetChildren(body) => output.write(body),
            Self::Error(error) => output.write(error),
            Self::Delete | Self::Check => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: &impl Encode) -> Vec<u8> {
        let mut output = Encoder::default();
        output.write(value);
        output.into_bytes()
    }

    #[test]
    fn reads_and_writes_do_not_mix() {
        let read = encoded(&MultiReadRequest::new(&[ReadOp::GetData(PathWatch {
            path: "/a",
            watch: false,
        })]));
        assert_eq!(
            Decoder::new(&read).read::<MultiRequest<'_>>(),
            Err(DecodeError::MultiMixed)
        );
        let write = encoded(&MultiRequest::new(&[WriteOp::Check(PathVersion {
            path: "/a",
            version: 0,
        })]));
        assert_eq!(
            Decoder::new(&write).read::<MultiReadRequest<'_>>(),
            Err(DecodeError::MultiMixed)
        );
        let neither = encoded(&MultiHeader {
            kind: 11,
            done: false,
            error: -1,
        });
        assert_eq!(
            Decoder::new(&neither).read::<MultiRequest<'_>>(),
            Err(DecodeError::MultiType(11))
        );
    }

    #[test]
    fn a_sequence_ends_with_its_header() {
        let mut bytes = encoded(&MultiReply::new(&[OpResult::Delete, OpResult::Error(-2)]));
        assert_eq!(
            bytes,
            [
                0, 0, 0, 2, 0, 0, 0, 0, 0, // delete, not done, no error
                0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xff,
                0xfe, // error -2
                0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff, // end
            ]
        );
        bytes.push(7);
        let mut input = Decoder::new(&bytes);
        let reply: MultiReply<'_> = input.read().unwrap();
        assert_eq!(
            reply.iter().collect::<Vec<_>>(),
            [OpResult::Delete, OpResult::Error(-2)]
        );
        assert_eq!(input.remaining(), [7]);
        assert!(
            Decoder::new(&bytes[..bytes.len() - 2])
                .read::<MultiReply<'_>>()
                .is_err()
        );
    }
}
