//! Whether a request has been sent: agreed on by the caller, who may give up, and the task that sends.

use std::sync::atomic::{AtomicU8, Ordering};

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const ABANDONED: u8 = 2;

/// Shared by a caller and the task. Exactly one of them wins when one gives up while the other begins to
/// send, so "never sent" is certain when it is said.
#[derive(Debug, Default)]
pub(crate) struct Ticket {
    state: AtomicU8,
}

impl Ticket {
    /// The task is about to send; false if the caller has given up.
    pub(crate) fn send(&self) -> bool {
        self.exchange(QUEUED, SENT)
    }

    /// The task did not send after all; false if the caller has given up meanwhile.
    pub(crate) fn unsend(&self) -> bool {
        self.exchange(SENT, QUEUED)
    }

    /// The caller gives up; true if the request has been sent or is about to be.
    pub(crate) fn abandon(&self) -> bool {
        self.state.swap(ABANDONED, Ordering::AcqRel) == SENT
    }

    /// Whether the request has been sent or is about to be.
    pub(crate) fn is_sent(&self) -> bool {
        self.state.load(Ordering::Acquire) == SENT
    }

    fn exchange(&self, from: u8, to: u8) -> bool {
        self.state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn giving_up_before_sending_wins() {
        let ticket = Ticket::default();
        assert!(!ticket.abandon());
        assert!(!ticket.send());
    }

    #[test]
    fn giving_up_after_sending_is_too_late() {
        let ticket = Ticket::default();
        assert!(ticket.send());
        assert!(ticket.is_sent());
        assert!(ticket.abandon());
        assert!(!ticket.unsend());
    }

    #[test]
    fn what_was_not_sent_after_all_is_sent_again() {
        let ticket = Ticket::default();
        assert!(ticket.send());
        assert!(ticket.unsend());
        assert!(ticket.send());
    }
}
