//! Who had requests since the updater last looked.
//!
//! Of ten thousand endpoints few have anything new to tell. A request that begins sets its endpoint's
//! mark, one bit of a word that 64 endpoints share, and costs a load when it is set already; the
//! updater collects the marks word by word and looks at those endpoints only, for as long as they
//! have requests in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::endpoint::{Endpoint, Mark};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Seats {
    words: Vec<Word>,
    /// By seat; nobody's whose endpoint left.
    endpoints: Vec<Option<Arc<Endpoint>>>,
    free: Vec<u32>,
}

/// 64 seats, one bit for each.
#[derive(Debug, Default)]
struct Word {
    /// Set by requests.
    marks: Arc<AtomicU64>,
    /// Those that had requests in flight when they were last looked at.
    busy: u64,
}

const BITS: usize = u64::BITS as usize;

impl Seats {
    /// A seat for a new endpoint, with its mark. Nobody sits there yet.
    pub(crate) fn reserve(&mut self) -> (u32, Mark) {
        let seat = self.free.pop().unwrap_or_else(|| {
            self.endpoints.push(None);
            u32::try_from(self.endpoints.len() - 1).expect("fewer than 2^32 endpoints")
        });
        let index = seat as usize;
        if self.words.len() <= index / BITS {
            self.words.push(Word::default());
        }
        let marks = Arc::clone(&self.words[index / BITS].marks);
        (seat, Mark::new(marks, 1 << (index % BITS)))
    }

    /// An endpoint takes its seat, and is looked at next time.
    pub(crate) fn sit(&mut self, seat: u32, endpoint: &Arc<Endpoint>) {
        let index = seat as usize;
        self.endpoints[index] = Some(Arc::clone(endpoint));
        self.words[index / BITS].busy |= 1 << (index % BITS);
    }

    /// It is not looked at any longer, but may come back.
    pub(crate) fn stand(&mut self, seat: u32) {
        self.endpoints[seat as usize] = None;
    }

    /// It will not come back. Requests that it still has may set the mark of whoever sits there next,
    /// which is looked at once for nothing.
    pub(crate) fn release(&mut self, seat: u32) {
        self.stand(seat);
        self.free.push(seat);
    }

    /// Looks at all that had requests since the last time.
    pub(crate) fn look(&mut self, mut see: impl FnMut(&Endpoint)) {
        for (word, endpoints) in self.words.iter_mut().zip(self.endpoints.chunks(BITS)) {
            let mut left = word.busy;
            if word.marks.load(SeqCst) != 0 {
                // Before the counters of requests in flight are read: who is counted in later sets
                // its mark again.
                left |= word.marks.swap(0, SeqCst);
            }
            word.busy = 0;
            while left != 0 {
                let bit = left.trailing_zeros() as usize;
                left &= left - 1;
                let Some(Some(endpoint)) = endpoints.get(bit) else {
                    continue;
                };
                // First, for what it does afterwards is seen below or marked.
                if !endpoint.is_idle() {
                    word.busy |= 1 << bit;
                }
                see(endpoint);
            }
        }
    }

    /// Those that have or had requests since the last look.
    pub(crate) fn noticed(&self) -> impl Iterator<Item = &Endpoint> {
        let words = self.words.iter().zip(self.endpoints.chunks(BITS));
        words.flat_map(|(word, endpoints)| {
            let bits = word.busy | word.marks.load(SeqCst);
            // Most words are empty.
            let endpoints = if bits == 0 { &[] } else { endpoints };
            let endpoints = endpoints.iter().enumerate();
            endpoints
                .filter(move |(bit, _)| bits & (1 << bit) != 0)
                .filter_map(|(_, endpoint)| endpoint.as_deref())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::endpoint::{EndpointKey, Signal};
    use crate::policy::Policy;

    struct Room {
        seats: Seats,
        signal: Arc<Signal>,
        now: Instant,
    }

    impl Room {
        fn new() -> Self {
            Self {
                seats: Seats::default(),
                signal: Arc::new(Signal::new(&Policy::default())),
                now: Instant::now(),
            }
        }

        fn sit(&mut self) -> (u32, Arc<Endpoint>) {
            let (seat, mark) = self.seats.reserve();
            let address = ([10, 0, 0, 1], 80).into();
            let endpoint = Endpoint::new("a".into(), address, Arc::clone(&self.signal), mark);
            let endpoint = Arc::new(endpoint);
            self.seats.sit(seat, &endpoint);
            (seat, endpoint)
        }

        fn seen(&mut self) -> Vec<EndpointKey> {
            let mut seen = Vec::new();
            self.seats.look(|endpoint| seen.push(endpoint.key()));
            seen
        }
    }

    #[test]
    fn who_has_requests_is_seen_until_once_after_the_last() {
        let mut room = Room::new();
        let endpoints: Vec<Arc<Endpoint>> = (0..130).map(|_| room.sit().1).collect();
        assert_eq!(room.seen().len(), 130, "all are new");
        assert!(room.seen().is_empty());
        for index in [0, 63, 64, 129] {
            let endpoint = &endpoints[index];
            endpoint.begin(room.now);
            assert_eq!(room.seats.noticed().count(), 1);
            assert_eq!(room.seen(), [endpoint.key()]);
            // Also when it comes while another one waits, and when the first byte is there.
            endpoint.begin(room.now);
            endpoint.end_waiting();
            endpoint.end(true);
            assert_eq!(room.seen(), [endpoint.key()]);
            endpoint.end(false);
            assert_eq!(room.seen(), [endpoint.key()]);
            assert!(room.seen().is_empty());
            // All of it between two looks.
            endpoint.begin(room.now);
            endpoint.end(true);
            assert_eq!(room.seen(), [endpoint.key()]);
            assert!(room.seen().is_empty());
        }
    }

    #[test]
    fn who_stands_is_not_seen_and_a_seat_is_used_again() {
        let mut room = Room::new();
        let (seat, gone) = room.sit();
        gone.begin(room.now);
        room.seats.stand(seat);
        assert!(room.seen().is_empty());
        room.seats.sit(seat, &gone);
        assert_eq!(room.seen(), [gone.key()], "it is back with its requests");
        room.seats.release(seat);
        let (again, next) = room.sit();
        assert_eq!(again, seat);
        assert_eq!(room.seen(), [next.key()]);
        // A request to whoever sat there before.
        gone.end(true);
        gone.begin(room.now);
        assert_eq!(room.seen(), [next.key()]);
        assert!(room.seen().is_empty());
    }
}
