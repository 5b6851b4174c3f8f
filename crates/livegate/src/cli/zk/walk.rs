//! A walk over a node and everything below it, from top to bottom.
//!
//! Lists of children are read ahead, so that a walk is not as long as there are nodes times the way to
//! the server; how many is bounded, and so is what is held: the lists on the way from the root to the
//! present node, and those read ahead. Nodes that vanish meanwhile are left out.

use std::collections::{HashMap, VecDeque};

use livegate_zk::client::{Client, Error};
use livegate_zk::path;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::stat::Stat;
use tokio::task::JoinSet;

/// Reads under way and answers that wait, over the whole walk; a level may always have one.
const AHEAD_MAX: usize = 64;

/// Reads ahead on one level, so that one level does not take all.
const AHEAD_ON_LEVEL_MAX: usize = 32;

/// What a step of the walk leads to.
#[derive(Debug)]
pub(super) enum Step {
    /// A node; what is below it follows.
    Enter(Node),
    /// All below this node was seen.
    Leave(String),
}

/// A node on the walk.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) path: String,
    /// Names in order.
    pub(super) children: Vec<String>,
    /// `None` when it may not be read; then nothing is known about what is below it.
    pub(super) stat: Option<Stat>,
    /// 0 for the node where the walk began.
    pub(super) depth: usize,
    /// Whether it is the last of its siblings.
    pub(super) last: bool,
}

/// The children of a node, and its state.
type Read = Result<(Vec<String>, Stat), Error>;

/// A walk under way.
pub(super) struct Walk {
    client: Client,
    reads: JoinSet<(String, Read)>,
    answers: HashMap<String, Read>,
    /// From the top to the present node.
    levels: Vec<Level>,
}

/// The siblings that are still to come.
struct Level {
    /// Whose children they are; `None` above the first node.
    parent: Option<String>,
    names: std::vec::IntoIter<String>,
    /// Being read, in order.
    ahead: VecDeque<String>,
    /// The next one that is there; to know it tells whether the one before is the last.
    next: Option<(String, Vec<String>, Option<Stat>)>,
    begun: bool,
}

impl Walk {
    /// A walk that begins at this node.
    pub(super) fn new(client: Client, path: &str) -> Self {
        let mut walk = Self {
            client,
            reads: JoinSet::new(),
            answers: HashMap::new(),
            levels: Vec::new(),
        };
        walk.request(path.to_owned());
        walk.levels.push(Level {
            parent: None,
            names: Vec::new().into_iter(),
            ahead: VecDeque::from([path.to_owned()]),
            next: None,
            begun: false,
        });
        walk
    }

    /// The next step; `None` at the end. A walk whose first node is missing ends at once.
    ///
    /// # Errors
    /// With the path that could not be read.
    pub(super) async fn next(&mut self) -> Result<Option<Step>, (String, Error)> {
        let Some(mut level) = self.levels.pop() else {
            return Ok(None);
        };
        if !std::mem::replace(&mut level.begun, true) {
            level.next = self.next_that_is_there(&mut level).await?;
        }
        let Some((path, children, stat)) = level.next.take() else {
            return Ok(level.parent.map(Step::Leave));
        };
        level.next = self.next_that_is_there(&mut level).await?;
        let node = Node {
            depth: self.levels.len(),
            last: level.next.is_none(),
            path,
            children,
            stat,
        };
        self.levels.push(level);
        self.levels.push(Level {
            parent: Some(node.path.clone()),
            names: node.children.clone().into_iter(),
            ahead: VecDeque::new(),
            next: None,
            begun: false,
        });
        Ok(Some(Step::Enter(node)))
    }

    async fn next_that_is_there(
        &mut self,
        level: &mut Level,
    ) -> Result<Option<(String, Vec<String>, Option<Stat>)>, (String, Error)> {
        loop {
            self.read_ahead(level);
            let Some(path) = level.ahead.pop_front() else {
                return Ok(None);
            };
            match self.answer(&path).await {
                Ok((mut children, stat)) => {
                    children.sort_unstable();
                    return Ok(Some((path, children, Some(stat))));
                }
                Err(Error::Server(ErrorCode::NoAuth)) => return Ok(Some((path, Vec::new(), None))),
                Err(error) if error.is_no_node() => {}
                Err(error) => return Err((path, error)),
            }
        }
    }

    fn read_ahead(&mut self, level: &mut Level) {
        while level.ahead.len() < AHEAD_ON_LEVEL_MAX
            && (level.ahead.is_empty() || self.reads.len() + self.answers.len() < AHEAD_MAX)
            && let (Some(parent), Some(name)) = (&level.parent, level.names.next())
        {
            let path = path::join(parent, &name);
            self.request(path.clone());
            level.ahead.push_back(path);
        }
    }

    fn request(&mut self, path: String) {
        let client = self.client.clone();
        self.reads.spawn(async move {
            let read = client.children2(&path).await;
            (path, read)
        });
    }

    async fn answer(&mut self, wanted: &str) -> Read {
        loop {
            if let Some(read) = self.answers.remove(wanted) {
                return read;
            }
            match self.reads.join_next().await {
                Some(Ok((path, read))) => {
                    self.answers.insert(path, read);
                }
                // Only where a read has panicked, or the runtime ends.
                Some(Err(_)) | None => return Err(Error::UnexpectedReply),
            }
        }
    }
}
