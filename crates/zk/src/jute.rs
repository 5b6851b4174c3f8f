//! Jute, the serialisation ZooKeeper uses on the wire.
//!
//! Integers are big-endian; a buffer and a string are an `i32` length (-1: null) and that many bytes;
//! a vector is an `i32` count (-1: null) and that many elements (`BinaryInputArchive.java`).
//!
//! Decoding borrows from the input and allocates nothing: strings and buffers are slices, and a vector
//! is a [`List`] that was checked once and is decoded again each time it is iterated. A claimed length
//! is compared with what is there before anything is done with it, so hostile input costs no more than
//! its own size.

use std::fmt;

/// Why bytes could not be read as the record that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends before the record does.
    #[error("record ends after {available} bytes where {needed} more were expected")]
    Truncated {
        /// Bytes the next field needs.
        needed: usize,
        /// Bytes that were left.
        available: usize,
    },
    /// A length or a count is negative and not the -1 that stands for null.
    #[error("negative length {0}")]
    NegativeLength(i32),
    /// A string that must be there is null.
    #[error("null where a string is required")]
    Null,
    /// A string is not UTF-8. (Java replaces such bytes by U+FFFD, which no path may contain.)
    #[error("string is not UTF-8")]
    Utf8,
    /// A multi request or reply holds an element of a type that cannot be in one.
    #[error("operation type {0} cannot be part of a multi")]
    MultiType(i32),
    /// A multi request mixes reading and writing, or holds the other kind than its opcode says.
    #[error("reads and writes cannot be mixed in one multi")]
    MultiMixed,
}

/// Reads jute values from the front of a slice.
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    input: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// A decoder at the start of `input`.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Self {
        Self { input }
    }

    /// What has not been read yet. Peers of newer versions may append fields, so a rest is not an error.
    #[must_use]
    pub fn remaining(&self) -> &'a [u8] {
        self.input
    }

    /// Reads one value.
    ///
    /// # Errors
    /// When the input is not that value; the decoder is then at an unspecified place.
    pub fn read<T: Decode<'a>>(&mut self) -> Result<T, DecodeError> {
        T::decode(self)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self
            .input
            .split_at_checked(count)
            .ok_or(DecodeError::Truncated {
                needed: count,
                available: self.input.len(),
            })?;
        self.input = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self
            .input
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated {
                needed: N,
                available: self.input.len(),
            })?;
        self.input = rest;
        Ok(*taken)
    }

    /// A length or count; `None` is null.
    fn length(&mut self) -> Result<Option<usize>, DecodeError> {
        match i32::from_be_bytes(self.array()?) {
            -1 => Ok(None),
            length => usize::try_from(length)
                .map(Some)
                .map_err(|_| DecodeError::NegativeLength(length)),
        }
    }
}

/// Appends jute values to a byte vector.
#[derive(Debug, Default)]
pub struct Encoder {
    output: Vec<u8>,
}

impl Encoder {
    /// An encoder that appends to `output`.
    #[must_use]
    pub fn new(output: Vec<u8>) -> Self {
        Self { output }
    }

    /// The bytes written so far, with what was there before.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.output
    }

    /// Appends one value.
    pub fn write<T: Encode + ?Sized>(&mut self, value: &T) {
        value.encode(self);
    }

    fn length(&mut self, length: usize) {
        let length = i32::try_from(length).expect("senders limit a record to far less than 2 GiB");
        self.output.extend_from_slice(&length.to_be_bytes());
    }

    fn null(&mut self) {
        self.output.extend_from_slice(&(-1_i32).to_be_bytes());
    }
}

/// A value that can be read from a [`Decoder`].
pub trait Decode<'a>: Sized {
    /// Reads one value from the front of the input.
    ///
    /// # Errors
    /// When the input is not that value.
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError>;
}

/// A value that can be appended to an [`Encoder`].
///
/// # Panics
/// Encoding panics when a single string, buffer or list is longer than `i32::MAX`, which the format
/// cannot express.
pub trait Encode {
    /// Appends the value.
    fn encode(&self, output: &mut Encoder);
}

impl Decode<'_> for bool {
    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(input.array::<1>()? != [0])
    }
}

impl Encode for bool {
    fn encode(&self, output: &mut Encoder) {
        output.output.push(u8::from(*self));
    }
}

impl Decode<'_> for i32 {
    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self::from_be_bytes(input.array()?))
    }
}

impl Encode for i32 {
    fn encode(&self, output: &mut Encoder) {
        output.output.extend_from_slice(&self.to_be_bytes());
    }
}

impl Decode<'_> for i64 {
    fn decode(input: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self::from_be_bytes(input.array()?))
    }
}

impl Encode for i64 {
    fn encode(&self, output: &mut Encoder) {
        output.output.extend_from_slice(&self.to_be_bytes());
    }
}

impl<'a> Decode<'a> for Option<&'a [u8]> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        input.length()?.map(|length| input.take(length)).transpose()
    }
}

impl Encode for Option<&[u8]> {
    fn encode(&self, output: &mut Encoder) {
        match self {
            None => output.null(),
            Some(bytes) => {
                output.length(bytes.len());
                output.output.extend_from_slice(bytes);
            }
        }
    }
}

impl<'a> Decode<'a> for Option<&'a str> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let bytes: Option<&[u8]> = input.read()?;
        bytes
            .map(|bytes| std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8))
            .transpose()
    }
}

impl Encode for Option<&str> {
    fn encode(&self, output: &mut Encoder) {
        self.map(str::as_bytes).encode(output);
    }
}

impl<'a> Decode<'a> for &'a str {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        Option::<&str>::decode(input)?.ok_or(DecodeError::Null)
    }
}

impl Encode for &str {
    fn encode(&self, output: &mut Encoder) {
        Some(*self).encode(output);
    }
}

/// A record without fields.
impl Decode<'_> for () {
    fn decode(_: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

/// A record without fields.
impl Encode for () {
    fn encode(&self, _: &mut Encoder) {}
}

/// A jute vector: either elements to be sent, or the bytes they arrived in.
///
/// A list that was decoded has been checked to its end, so iterating cannot fail; it holds no memory of
/// its own. A null vector reads as an empty one.
pub struct List<'a, T> {
    source: Source<'a, T>,
}

enum Source<'a, T> {
    Items(&'a [T]),
    Encoded { count: usize, bytes: &'a [u8] },
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> Clone for Source<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Source<'_, T> {}

impl<'a, T> List<'a, T> {
    /// A list of these elements.
    #[must_use]
    pub const fn new(items: &'a [T]) -> Self {
        Self {
            source: Source::Items(items),
        }
    }

    /// A list of elements that stand in `bytes`, each of which has been decoded once.
    pub(crate) const fn from_encoded(count: usize, bytes: &'a [u8]) -> Self {
        Self {
            source: Source::Encoded { count, bytes },
        }
    }

    /// Number of elements.
    #[must_use]
    pub const fn len(&self) -> usize {
        match self.source {
            Source::Items(items) => items.len(),
            Source::Encoded { count, .. } => count,
        }
    }

    /// Whether there are no elements.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a, T: Decode<'a> + Clone> List<'a, T> {
    /// The elements in order.
    #[must_use]
    pub fn iter(&self) -> ListIter<'a, T> {
        ListIter {
            source: self.source,
        }
    }
}

impl<'a, T: Decode<'a> + Clone> IntoIterator for &List<'a, T> {
    type Item = T;
    type IntoIter = ListIter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Iterator over the elements of a [`List`].
pub struct ListIter<'a, T> {
    source: Source<'a, T>,
}

impl<'a, T: Decode<'a> + Clone> Iterator for ListIter<'a, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match &mut self.source {
            Source::Items(items) => {
                let (first, rest) = items.split_first()?;
                *items = rest;
                Some(first.clone())
            }
            Source::Encoded { count, bytes } => {
                *count = count.checked_sub(1)?;
                let mut input = Decoder::new(bytes);
                let item = input
                    .read()
                    .expect("the list was checked when it was decoded");
                *bytes = input.remaining();
                Some(item)
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = List {
            source: self.source,
        }
        .len();
        (count, Some(count))
    }
}

impl<'a, T: Decode<'a> + Clone> ExactSizeIterator for ListIter<'a, T> {}

impl<'a, T: Decode<'a>> Decode<'a> for List<'a, T> {
    fn decode(input: &mut Decoder<'a>) -> Result<Self, DecodeError> {
        let count = input.length()?.unwrap_or(0);
        let start = input.remaining();
        // No element is shorter than a byte: a false count ends here or at the end of the input.
        if count > start.len() {
            return Err(DecodeError::Truncated {
                needed: count,
                available: start.len(),
            });
        }
        for _ in 0..count {
            let before = input.remaining().len();
            input.read::<T>()?;
            debug_assert!(
                input.remaining().len() < before,
                "an element takes at least a byte"
            );
        }
        let used = start.len() - input.remaining().len();
        Ok(Self::from_encoded(count, &start[..used]))
    }
}

impl<T: Encode> List<'_, T> {
    /// Appends the elements without their count.
    pub(crate) fn encode_items(&self, output: &mut Encoder) {
        match self.source {
            Source::Items(items) => items.iter().for_each(|item| output.write(item)),
            Source::Encoded { bytes, .. } => output.output.extend_from_slice(bytes),
        }
    }
}

impl<T: Encode> Encode for List<'_, T> {
    fn encode(&self, output: &mut Encoder) {
        output.length(self.len());
        self.encode_items(output);
    }
}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl<'a, T: Decode<'a> + Clone + PartialEq> PartialEq for List<'a, T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a, T: Decode<'a> + Clone + Eq> Eq for List<'a, T> {}

impl<'a, T: Decode<'a> + Clone + fmt::Debug> fmt::Debug for List<'a, T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
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
    fn primitives_have_javas_bytes() {
        assert_eq!(encoded(&true), [1]);
        assert_eq!(encoded(&0x0102_0304_i32), [1, 2, 3, 4]);
        assert_eq!(
            encoded(&-2_i64),
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]
        );
        assert_eq!(encoded(&None::<&[u8]>), [0xff, 0xff, 0xff, 0xff]);
        assert_eq!(encoded(&"/é"), [0, 0, 0, 3, b'/', 0xc3, 0xa9]);
        assert_eq!(
            encoded(&List::new(&["a", ""])),
            [0, 0, 0, 2, 0, 0, 0, 1, b'a', 0, 0, 0, 0]
        );
    }

    #[test]
    fn any_byte_but_zero_is_true() {
        assert_eq!(Decoder::new(&[2]).read(), Ok(true));
        assert_eq!(Decoder::new(&[0]).read(), Ok(false));
    }

    #[test]
    fn lengths_are_checked_before_use() {
        let huge = [0x7f, 0xff, 0xff, 0xff, 1, 2];
        assert_eq!(
            Decoder::new(&huge).read::<Option<&[u8]>>(),
            Err(DecodeError::Truncated {
                needed: 0x7fff_ffff,
                available: 2
            })
        );
        assert_eq!(
            Decoder::new(&huge).read::<List<'_, &str>>(),
            Err(DecodeError::Truncated {
                needed: 0x7fff_ffff,
                available: 2
            })
        );
        let negative = (-2_i32).to_be_bytes();
        assert_eq!(
            Decoder::new(&negative).read::<Option<&str>>(),
            Err(DecodeError::NegativeLength(-2))
        );
        assert_eq!(
            Decoder::new(&negative).read::<List<'_, i32>>(),
            Err(DecodeError::NegativeLength(-2))
        );
    }

    #[test]
    fn null_is_not_a_string_but_an_empty_list() {
        let null = [0xff; 4];
        assert_eq!(Decoder::new(&null).read::<&str>(), Err(DecodeError::Null));
        assert_eq!(Decoder::new(&null).read::<Option<&str>>(), Ok(None));
        assert_eq!(
            Decoder::new(&null).read::<List<'_, &str>>(),
            Ok(List::default())
        );
    }

    #[test]
    fn a_list_knows_its_end() {
        let bytes = encoded(&(List::new(&["a", "bc"])));
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"rest");
        let mut input = Decoder::new(&longer);
        let list: List<'_, &str> = input.read().unwrap();
        assert_eq!(input.remaining(), b"rest");
        assert_eq!(list.iter().collect::<Vec<_>>(), ["a", "bc"]);
        assert_eq!(list.iter().len(), 2);
        assert_eq!(encoded(&list), bytes);
    }
}
