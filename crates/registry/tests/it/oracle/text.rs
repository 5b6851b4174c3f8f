//! What a server said, in words that are the same for two servers that mean the same.
//!
//! A zxid is told as its distance from the first one, a session as its number in the order in which they
//! were made. A time is not told at all but checked: it is the time at which its transaction was, about
//! now, and each time that a transaction is named it is the same. What has no order is sorted.

use std::collections::HashMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};

use livegate_zk::jute::{Decoder, Encode, Encoder};
use livegate_zk::proto::acl::Acl;
use livegate_zk::proto::error_code::ErrorCode;
use livegate_zk::proto::multi::OpResult;
use livegate_zk::proto::op_code::OpCode;
use livegate_zk::proto::reply::Reply;
use livegate_zk::proto::session::ReplyHeader;
use livegate_zk::proto::stat::Stat;
use livegate_zk::proto::watch::{EventKind, STATE_SYNC_CONNECTED, WatcherEvent};

use super::side::now_ms;
use crate::raw::{Arrival, Greeting};

/// How far a server's clock may be from ours, and how long a step may take.
const CLOCK_SLACK_MS: i64 = 5_000;

#[derive(Default)]
pub(crate) struct Words {
    /// From which zxid on transactions are counted, and what that one is counted as: the registry leaves zxids out
    /// each time it starts.
    epochs: Vec<(i64, i64)>,
    newest_zxid: i64,
    /// Identities of sessions, in the order in which they were made.
    sessions: Vec<i64>,
    /// The time of each transaction of which one is known.
    times: HashMap<i64, i64>,
    /// Newest zxid and time on our clock after each step.
    moments: Vec<(i64, i64)>,
    complaints: Vec<String>,
}

impl Words {
    /// Counts from this zxid on.
    pub(crate) fn start(&mut self, zxid: i64) {
        assert!(zxid > 0, "making a session is a transaction");
        self.epochs = vec![(zxid, 0)];
        self.newest_zxid = zxid;
        self.moment();
    }

    /// The server has started again, and this is its newest zxid now.
    pub(crate) fn start_again(&mut self, zxid: i64, before: i64) {
        let number = self.number(before).unwrap();
        self.epochs.push((zxid, number));
    }

    /// How many transactions there have been up to this one, unless it is older than the first.
    fn number(&self, zxid: i64) -> Option<i64> {
        let mut epochs = self.epochs.iter().rev();
        let (first, number) = epochs.find(|(first, _)| *first <= zxid)?;
        Some(number + zxid - first)
    }

    /// The zxid this many transactions before the newest, but not before the first.
    pub(crate) fn ago(&self, count: i64) -> i64 {
        let wanted = (self.number(self.newest_zxid).unwrap() - count).max(0);
        let mut epochs = self.epochs.iter().rev();
        let (first, number) = epochs.find(|(_, number)| *number <= wanted).unwrap();
        first + wanted - number
    }

    /// The newest zxid that any answer had.
    pub(crate) fn newest(&self) -> i64 {
        self.newest_zxid
    }

    pub(crate) fn session_begins(&mut self, id: i64) {
        if self.sessions.contains(&id) {
            self.complaints
                .push(format!("session {id:#x} was made twice"));
        }
        self.sessions.push(id);
    }

    /// A step is done.
    pub(crate) fn moment(&mut self) {
        self.moments.push((self.newest_zxid, now_ms()));
    }

    pub(crate) fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    pub(crate) fn greeting(&mut self, greeting: &Greeting) -> String {
        match greeting {
            Greeting::Closed => "closed without an answer".to_owned(),
            Greeting::Answer {
                timeout_ms,
                session_id,
                password,
                read_only,
            } => format!(
                "timeout {timeout_ms} {} password of {} bytes{} read-only {read_only:?}",
                self.session(*session_id),
                password.len(),
                if password.iter().all(|&byte| byte == 0) {
                    ", zeros"
                } else {
                    ""
                },
            ),
        }
    }

    /// What arrived, perhaps in answer to this operation.
    pub(crate) fn arrival(&mut self, arrival: &Arrival, op_code: Option<OpCode>) -> String {
        match arrival {
            Arrival::Closed => "closed".to_owned(),
            Arrival::Silence => "nothing arrives".to_owned(),
            Arrival::Scrap(bytes) => format!("a scrap {bytes:02x?}"),
            Arrival::Event(header, body) => self.event(header, body),
            Arrival::Reply(header, body) => self.reply(header, body, op_code),
        }
    }

    fn event(&mut self, header: &ReplyHeader, body: &[u8]) -> String {
        let mut input = Decoder::new(body);
        let Ok(event) = input.read::<WatcherEvent<'_>>() else {
            return format!("an event that cannot be read: {body:02x?}");
        };
        let zxid = self.zxid(header.zxid);
        let kind = match EventKind::from_code(event.kind) {
            Some(kind) => format!("{kind:?}"),
            None => format!("kind {}", event.kind),
        };
        let mut text = format!("event {kind} {:?} zxid {zxid}", event.path);
        if (event.state, header.error) != (STATE_SYNC_CONNECTED, 0) {
            write!(text, " state {} error {}", event.state, header.error).unwrap();
        }
        push_rest(&mut text, input.remaining());
        text
    }

    fn reply(&mut self, header: &ReplyHeader, body: &[u8], op_code: Option<OpCode>) -> String {
        if header.zxid > 0 {
            if header.zxid < self.newest_zxid {
                self.complaints.push(format!(
                    "the zxid goes back from {:#x} to {:#x}",
                    self.newest_zxid, header.zxid
                ));
            }
            self.newest_zxid = self.newest_zxid.max(header.zxid);
        }
        let mut text = format!("reply to {} zxid {} ", header.xid, self.zxid(header.zxid));
        if let Some(error) = ErrorCode::from_code(header.error) {
            write!(text, "{error:?} ({})", header.error).unwrap();
            push_rest(&mut text, body);
            return text;
        }
        text.push_str("ok");
        let mut input = Decoder::new(body);
        match op_code.map(|op_code| Reply::decode(op_code, &mut input)) {
            Some(Ok(reply)) => {
                write!(text, " ({} bytes) ", body.len()).unwrap();
                text.push_str(&self.body(&reply));
                let used = &body[..body.len() - input.remaining().len()];
                if encoded(&reply) != used {
                    write!(text, " in other bytes than usual: {used:02x?}").unwrap();
                }
                push_rest(&mut text, input.remaining());
            }
            Some(Err(error)) => write!(text, " ({error}) {body:02x?}").unwrap(),
            None => push_rest(&mut text, body),
        }
        text
    }

    fn body(&mut self, reply: &Reply<'_>) -> String {
        match reply {
            Reply::Empty => String::new(),
            Reply::Path(reply) => format!("{:?}", reply.path),
            Reply::Create(reply) => format!("{:?} {}", reply.path, self.stat(&reply.stat)),
            Reply::Stat(stat) => self.stat(stat),
            Reply::Data(reply) => format!("{} {}", data(reply.data), self.stat(&reply.stat)),
            Reply::Acl(reply) => {
                format!("{} {}", acl(reply.acl.iter()), self.stat(&reply.stat))
            }
            Reply::Children(reply) => sorted(reply.children.iter()),
            Reply::Children2(reply) => {
                format!(
                    "{} {}",
                    sorted(reply.children.iter()),
                    self.stat(&reply.stat)
                )
            }
            Reply::Multi(reply) => {
                let parts = reply.iter().map(|part| self.part(&part));
                parts.collect::<Vec<_>>().join("; ")
            }
            Reply::Sasl(reply) => data(reply.token),
            Reply::Ephemerals(paths) => sorted(paths.iter()),
            Reply::ChildrenNumber(number) => number.to_string(),
            Reply::Error(number) => format!("error {number}"),
            Reply::WhoAmI(identities) => {
                let texts: Vec<_> = identities
                    .iter()
                    .map(|identity| format!("{}:{:?}", identity.scheme, identity.user))
                    .collect();
                sorted(texts.iter().map(String::as_str))
            }
        }
    }

    fn part(&mut self, part: &OpResult<'_>) -> String {
        match part {
            OpResult::Create(reply) => format!("create {:?}", reply.path),
            OpResult::Delete => "delete".to_owned(),
            OpResult::SetData(stat) => format!("set {}", self.stat(stat)),
            OpResult::Check => "check".to_owned(),
            OpResult::Create2(reply) => {
                format!("create2 {:?} {}", reply.path, self.stat(&reply.stat))
            }
            OpResult::GetData(reply) => {
                format!("get {} {}", data(reply.data), self.stat(&reply.stat))
            }
            OpResult::GetChildren(reply) => format!("children {}", sorted(reply.children.iter())),
            OpResult::Error(code) => format!("error {code}"),
        }
    }

    fn stat(&mut self, stat: &Stat) -> String {
        self.check_time(stat.czxid, stat.ctime);
        self.check_time(stat.mzxid, stat.mtime);
        format!(
            "[c {} m {} p {} v {} cv {} av {} owner {} len {} children {}]",
            self.zxid(stat.czxid),
            self.zxid(stat.mzxid),
            self.zxid(stat.pzxid),
            stat.version,
            stat.cversion,
            stat.aversion,
            self.session(stat.ephemeral_owner),
            stat.data_length,
            stat.num_children,
        )
    }

    fn check_time(&mut self, zxid: i64, time: i64) {
        if self.number(zxid).is_none() {
            if time != 0 {
                self.complaints
                    .push(format!("zxid {zxid} has the time {time}"));
            }
            return;
        }
        if let Some(&known) = self.times.get(&zxid) {
            if known != time {
                self.complaints.push(format!(
                    "the time of zxid {} was {known} and is {time}",
                    self.zxid(zxid)
                ));
            }
            return;
        }
        self.times.insert(zxid, time);
        // It was made between the last step that had an older zxid and the first that had it or a newer one.
        let at = self.moments.partition_point(|&(newest, _)| newest < zxid);
        let after = self.moments.get(at).map_or_else(now_ms, |moment| moment.1);
        let before = self.moments[at.saturating_sub(1)].1;
        if time < before.min(after) - CLOCK_SLACK_MS || time > after + CLOCK_SLACK_MS {
            self.complaints.push(format!(
                "the time of zxid {} is {time}, but it was made between {before} and {after}",
                self.zxid(zxid)
            ));
        }
    }

    fn zxid(&self, zxid: i64) -> String {
        match self.number(zxid) {
            Some(number) => format!("z+{number}"),
            None => zxid.to_string(),
        }
    }

    pub(crate) fn session(&self, id: i64) -> String {
        match self.sessions.iter().position(|&session| session == id) {
            Some(number) => format!("session {number}"),
            None if id == 0 => "none".to_owned(),
            None => format!("unknown session {id:#x}"),
        }
    }
}

fn encoded(value: &impl Encode) -> Vec<u8> {
    let mut encoder = Encoder::default();
    encoder.write(value);
    encoder.into_bytes()
}

fn data(bytes: Option<&[u8]>) -> String {
    match bytes {
        None => "null".to_owned(),
        Some(bytes) if bytes.len() <= 64 => format!("\"{}\"", bytes.escape_ascii()),
        Some(bytes) => {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            format!("{} bytes with hash {:x}", bytes.len(), hasher.finish())
        }
    }
}

/// Entries in order; but neighbours of scheme digest with the same rights are sorted, for they may come
/// from one entry of scheme auth, which the connection's identities replace in no particular order.
fn acl<'a>(entries: impl Iterator<Item = Acl<'a>>) -> String {
    let mut entries: Vec<_> = entries.collect();
    entries
        .chunk_by_mut(|a, b| {
            (&*a.scheme, &*b.scheme) == ("digest", "digest") && a.permissions == b.permissions
        })
        .for_each(|run| run.sort_by(|a, b| a.id.cmp(&b.id)));
    let texts: Vec<_> = entries
        .iter()
        .map(|entry| format!("{}:{:?}:{}", entry.scheme, entry.id, entry.permissions.0))
        .collect();
    texts.join(",")
}

fn sorted<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let mut items: Vec<_> = items.collect();
    items.sort_unstable();
    format!("{items:?}")
}

fn push_rest(text: &mut String, rest: &[u8]) {
    if !rest.is_empty() {
        write!(text, " and {} bytes more: {rest:02x?}", rest.len()).unwrap();
    }
}
