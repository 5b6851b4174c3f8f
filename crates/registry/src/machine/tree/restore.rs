//! Putting a tree together from the pieces of a snapshot.

use livegate_zk::path;

use super::{NodeId, Owner, ROOT, Tree, node_bytes};
use crate::machine::image::{self, ImageError, NodeImage};

/// A tree that is being put together from the pieces of a snapshot, in any order.
#[derive(Debug)]
pub(crate) struct TreeBuilder {
    tree: Tree,
}

impl TreeBuilder {
    pub(crate) fn new() -> Self {
        Self {
            tree: Tree::empty(),
        }
    }

    /// Takes in the nodes of one piece.
    pub(crate) fn add(&mut self, piece: &[u8]) -> Result<(), ImageError> {
        let tree = &mut self.tree;
        for image in image::read(piece) {
            let NodeImage { mut node, acl } = image?;
            if tree.find(&node.path).is_some() {
                return Err(ImageError::Twice(node.path));
            }
            node.acl = tree.acls.intern(&acl);
            tree.bytes += node_bytes(&node);
            let id = NodeId::try_from(tree.slots.len()).map_err(|_| ImageError::TooMany)?;
            match node.owner {
                Owner::None => {}
                Owner::Session(session) => {
                    tree.ephemerals.entry(session).or_default().insert(id);
                }
                Owner::Container | Owner::Ttl(_) => {
                    tree.transient.insert(id);
                }
            }
            tree.slots.push(Some(node));
            tree.index_insert(id);
        }
        Ok(())
    }

    /// The tree, when every node but the root has its parent.
    pub(crate) fn finish(self) -> Result<Tree, ImageError> {
        let mut tree = self.tree;
        let root = tree.find("/").ok_or(ImageError::NoRoot)?;
        // The root is the first node of every tree, but pieces come in any order.
        if root != ROOT {
            tree.slots.swap(ROOT as usize, root as usize);
            tree.rebuild_index();
        }
        for id in 1..NodeId::try_from(tree.slots.len()).map_err(|_| ImageError::TooMany)? {
            let path = tree.node(id).path.clone();
            let parent = path::parent(&path)
                .and_then(|parent| tree.find(parent))
                .ok_or_else(|| ImageError::Orphan(path.clone()))?;
            tree.slots[id as usize]
                .as_mut()
                .expect("all slots are taken")
                .parent = parent;
            tree.link(id);
            if let Some(prefix) = tree.quotas.limits_created(&path) {
                tree.quotas.insert(prefix);
            }
        }
        Ok(tree)
    }
}

impl Tree {
    /// Makes everything anew that names nodes by their numbers.
    fn rebuild_index(&mut self) {
        self.index.clear();
        self.ephemerals.clear();
        self.transient.clear();
        for id in 0..NodeId::try_from(self.slots.len()).expect("checked by the builder") {
            match self.node(id).owner {
                Owner::None => {}
                Owner::Session(session) => {
                    self.ephemerals.entry(session).or_default().insert(id);
                }
                Owner::Container | Owner::Ttl(_) => {
                    self.transient.insert(id);
                }
            }
            self.index_insert(id);
        }
    }
}
