//! What is to be sent to a client: frames in order, each held back until the transaction that it depends
//! on is on disk.

use std::collections::VecDeque;
use std::time::Instant;

use super::latency::Latency;

/// Frames on their way to a client.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    /// Bytes at the front that have been sent.
    sent: usize,
    /// Where groups of frames end that are held for the same transaction.
    holds: VecDeque<Hold>,
    /// Frames up to here may be sent.
    released: usize,
    /// The newest transaction that a frame here has named.
    newest: i64,
}

#[derive(Debug)]
struct Hold {
    zxid: i64,
    /// Counted from the start of `bytes`.
    end: usize,
    /// When the request came, if this is an answer.
    since: Option<Instant>,
}

/// Capacity that is kept while nothing is to be sent.
const CAPACITY_KEPT: usize = 1024;

impl Outbox {
    /// Adds frames that may be sent when transaction `zxid` is on disk.
    pub(super) fn push(&mut self, zxid: i64, frames: &[u8], since: Option<Instant>) {
        self.bytes.extend_from_slice(frames);
        self.newest = self.newest.max(zxid);
        self.holds.push_back(Hold {
            zxid,
            end: self.bytes.len(),
            since,
        });
    }

    /// The newest transaction that this client has been or will be told of.
    pub(super) fn newest(&self) -> i64 {
        self.newest
    }

    /// Releases what may be sent now; counts answers into `latency`.
    pub(super) fn release(&mut self, durable: i64, latency: &mut [&mut Latency; 2]) {
        while let Some(hold) = self.holds.front().filter(|hold| hold.zxid <= durable) {
            self.released = hold.end;
            if let Some(since) = hold.since {
                let elapsed = since.elapsed();
                latency
                    .iter_mut()
                    .for_each(|latency| latency.record(elapsed));
            }
            self.holds.pop_front();
        }
    }

    /// What may be sent and has not been.
    pub(super) fn ready(&self) -> &[u8] {
        &self.bytes[self.sent..self.released]
    }

    /// The first `count` of the ready bytes have been sent.
    pub(super) fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(CAPACITY_KEPT);
            (self.sent, self.released) = (0, 0);
        } else if self.sent >= 64 * 1024 && self.sent >= self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            for hold in &mut self.holds {
                hold.end -= self.sent;
            }
            self.released -= self.sent;
            self.sent = 0;
        }
    }

    /// Bytes that have not been sent, whether they may or not.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Groups of frames that wait for the disk.
    pub(super) fn held(&self) -> usize {
        self.holds.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(outbox: &mut Outbox, durable: i64) {
        outbox.release(
            durable,
            &mut [&mut Latency::default(), &mut Latency::default()],
        );
    }

    #[test]
    fn frames_wait_for_their_transaction_and_for_those_before() {
        let mut outbox = Outbox::default();
        outbox.push(1, b"a", None);
        outbox.push(5, b"b", None);
        outbox.push(2, b"c", None);
        assert_eq!(outbox.ready(), b"");
        release(&mut outbox, 2);
        assert_eq!(outbox.ready(), b"a");
        outbox.advance(1);
        assert_eq!((outbox.len(), outbox.held(), outbox.newest()), (2, 2, 5));
        release(&mut outbox, 5);
        assert_eq!(outbox.ready(), b"bc");
        outbox.advance(1);
        outbox.push(6, b"d", None);
        assert_eq!(outbox.ready(), b"c");
        release(&mut outbox, 6);
        assert_eq!(outbox.ready(), b"cd");
        outbox.advance(2);
        assert_eq!((outbox.len(), outbox.held()), (0, 0));
    }

    #[test]
    fn what_was_sent_is_let_go_of() {
        let mut outbox = Outbox::default();
        let frame = vec![7; 100_000];
        outbox.push(1, &frame, None);
        outbox.push(2, &frame, None);
        release(&mut outbox, 1);
        outbox.advance(100_000);
        assert!(outbox.ready().is_empty());
        release(&mut outbox, 2);
        assert_eq!(outbox.ready(), frame);
        outbox.advance(100_000);
        assert!(outbox.bytes.capacity() <= CAPACITY_KEPT.max(8));
    }
}
