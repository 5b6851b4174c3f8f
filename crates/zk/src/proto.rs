//! The records of ZooKeeper's client protocol, for both sides of a connection.
//!
//! Names, fields and their order follow `zookeeper.jute`; numbers follow `ZooDefs.java` and
//! `KeeperException.java`. Records say what the bytes are, not whether they make sense: a path is any
//! string and flags are any number here, because a server has to answer nonsense with the right error.

pub mod acl;
pub mod create_mode;
pub mod error_code;
pub mod multi;
pub mod op_code;
pub mod reply;
pub mod request;
pub mod session;
pub mod stat;
pub mod watch;

/// Declares a record whose encoding is its fields in order.
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident<$life:lifetime> {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name<$life> { $($(#[$field_meta])* pub $field: $type,)* }

        impl<$life> $crate::jute::Decode<$life> for $name<$life> {
            fn decode(
                input: &mut $crate::jute::Decoder<$life>,
            ) -> Result<Self, $crate::jute::DecodeError> {
                $(let $field = input.read()?;)*
                Ok(Self { $($field,)* })
            }
        }

        impl $crate::jute::Encode for $name<'_> {
            fn encode(&self, output: &mut $crate::jute::Encoder) {
                $(output.write(&self.$field);)*
            }
        }

        #[cfg(test)]
        impl<$life> $crate::sample::Sample for $name<$life> where $($type: $crate::sample::Sample,)* {
            fn sample(source: &mut fastrand::Rng) -> Self {
                $(let $field = $crate::sample::Sample::sample(source);)*
                Self { $($field,)* }
            }
        }
    };
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl $crate::jute::Decode<'_> for $name {
            fn decode(
                input: &mut $crate::jute::Decoder<'_>,
            ) -> Result<Self, $crate::jute::DecodeError> {
                $(let $field = input.read()?;)*
                Ok(Self { $($field,)* })
            }
        }

        impl $crate::jute::Encode for $name {
            fn encode(&self, output: &mut $crate::jute::Encoder) {
                $(output.write(&self.$field);)*
            }
        }

        #[cfg(test)]
        impl $crate::sample::Sample for $name {
            fn sample(source: &mut fastrand::Rng) -> Self {
                $(let $field = $crate::sample::Sample::sample(source);)*
                Self { $($field,)* }
            }
        }
    };
}
pub(crate) use record;
