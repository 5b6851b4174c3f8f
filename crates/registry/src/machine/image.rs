//! Nodes as bytes of a snapshot.
//!
//! A piece of a snapshot is any number of nodes one after the other, in any order, in jute. This is a
//! format of our own: no other program reads it.

use std::borrow::Cow;

use livegate_zk::jute::{Decode, DecodeError, Decoder, Encoder, List};
use livegate_zk::proto::acl::Acl;

use super::acl::AclId;
use super::tree::{Node, Owner};

/// Why pieces do not make a tree.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("a node cannot be decoded: {0}")]
    Decode(#[from] DecodeError),
    #[error("a node has an owner of kind {0}")]
    OwnerKind(i32),
    #[error("{0} is there twice")]
    Twice(Box<str>),
    #[error("the parent of {0} is missing")]
    Orphan(Box<str>),
    #[error("the root is missing")]
    NoRoot,
    #[error("there are more nodes than 2^32")]
    TooMany,
}

/// A node without its relatives, and its list, which is not interned yet.
pub(crate) struct NodeImage {
    pub(crate) node: Node,
    pub(crate) acl: Vec<Acl<'static>>,
}

/// Appends one node.
pub(crate) fn append(output: &mut Vec<u8>, node: &Node, acl: &[Acl<'_>]) {
    let mut encoder = Encoder::new(std::mem::take(output));
    encoder.write(&&*node.path);
    encoder.write(&node.data.as_deref());
    for number in [
        node.czxid,
        node.mzxid,
        node.pzxid,
        node.ctime,
        node.mtime,
        node.changed,
    ] {
        encoder.write(&number);
    }
    for number in [node.version, node.creations, node.aversion] {
        encoder.write(&number);
    }
    write_owner(&mut encoder, node.owner);
    write_acl(&mut encoder, acl);
    *output = encoder.into_bytes();
}

/// The nodes of a piece.
pub(crate) fn read(piece: &[u8]) -> impl Iterator<Item = Result<NodeImage, ImageError>> {
    let mut input = Decoder::new(piece);
    std::iter::from_fn(move || {
        if input.remaining().is_empty() {
            return None;
        }
        let node = read_node(&mut input);
        if node.is_err() {
            input = Decoder::new(&[]);
        }
        Some(node)
    })
}

fn read_node(input: &mut Decoder<'_>) -> Result<NodeImage, ImageError> {
    let path: &str = input.read()?;
    let data: Option<&[u8]> = input.read()?;
    let (path, data) = (path.into(), data.map(Box::from));
    let [czxid, mzxid, pzxid, ctime, mtime, changed] = numbers(input)?;
    let [version, creations, aversion] = numbers(input)?;
    let owner = read_owner(input)?;
    let acl = read_acl(input)?
        .iter()
        .cloned()
        .map(Acl::into_owned)
        .collect();
    let mut node = Node::new(path, AclId::OPEN, 0);
    (node.data, node.owner) = (data, owner);
    (node.czxid, node.mzxid, node.pzxid) = (czxid, mzxid, pzxid);
    (node.ctime, node.mtime, node.changed) = (ctime, mtime, changed);
    (node.version, node.creations, node.aversion) = (version, creations, aversion);
    Ok(NodeImage { node, acl })
}

fn numbers<'a, T: Decode<'a> + Default + Copy, const N: usize>(
    input: &mut Decoder<'a>,
) -> Result<[T; N], DecodeError> {
    let mut numbers = [T::default(); N];
    for number in &mut numbers {
        *number = input.read()?;
    }
    Ok(numbers)
}

pub(crate) fn write_owner(output: &mut Encoder, owner: Owner) {
    let (kind, value) = match owner {
        Owner::None => (0, 0),
        Owner::Session(session) => (1, session),
        Owner::Container => (2, 0),
        Owner::Ttl(ttl) => (3, ttl),
    };
    output.write(&kind);
    output.write(&value);
}

pub(crate) fn read_owner(input: &mut Decoder<'_>) -> Result<Owner, ImageError> {
    let (kind, value): (i32, i64) = (input.read()?, input.read()?);
    match kind {
        0 => Ok(Owner::None),
        1 => Ok(Owner::Session(value)),
        2 => Ok(Owner::Container),
        3 => Ok(Owner::Ttl(value)),
        kind => Err(ImageError::OwnerKind(kind)),
    }
}

/// The list that nearly every node has takes a byte.
pub(crate) fn write_acl(output: &mut Encoder, acl: &[Acl<'_>]) {
    let is_open = acl == Acl::OPEN;
    output.write(&is_open);
    if !is_open {
        output.write(&List::new(acl));
    }
}

pub(crate) fn read_acl<'a>(input: &mut Decoder<'a>) -> Result<Cow<'a, [Acl<'a>]>, DecodeError> {
    if input.read::<bool>()? {
        return Ok(Acl::OPEN.into());
    }
    let list: List<'a, Acl<'a>> = input.read()?;
    Ok(list.iter().collect::<Vec<_>>().into())
}
