//! The endpoints of a service by seat: a number that an endpoint keeps for as long as it is known.
//!
//! Tables hold seats instead of endpoints, so that making one touches no endpoint. Copies share their
//! pages until one of them changes.

use std::sync::Arc;

use crate::endpoint::{Endpoint, EndpointKey};

/// One endpoint that may be chosen.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Effective weight. Those of weight 0 are never in a table.
    pub(crate) weight: u64,
}

/// What a table is made from: one endpoint and its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) seat: u32,
    /// Seats are used again, keys are not.
    pub(crate) key: EndpointKey,
    /// Effective weight, never 0.
    pub(crate) weight: u64,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    pages: Arc<Vec<Arc<Page>>>,
}

type Page = [Option<Slot>; PAGE];

/// A change copies one page and the list of pages.
const PAGE: usize = 64;

impl Slots {
    /// Who sits there.
    pub(crate) fn get(&self, seat: u32) -> Option<&Slot> {
        let seat = seat as usize;
        self.pages.get(seat / PAGE)?[seat % PAGE].as_ref()
    }

    pub(crate) fn set(&mut self, seat: u32, slot: Option<Slot>) {
        let seat = seat as usize;
        let pages = Arc::make_mut(&mut self.pages);
        while pages.len() <= seat / PAGE {
            pages.push(Arc::new([const { None }; PAGE]));
        }
        Arc::make_mut(&mut pages[seat / PAGE])[seat % PAGE] = slot;
    }
}
