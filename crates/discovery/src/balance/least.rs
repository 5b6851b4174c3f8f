//! The power of two choices: of two endpoints drawn by weight, take the less loaded one
//! (Mitzenmacher 2001). Nearly as good as looking at all, without the herd that "the least loaded
//! of all" attracts.
//!
//! Weights count twice, where they belong: in the draw, so that an idle service is used in
//! proportion to them, and in the load, so that a busy one has requests in flight in proportion.

use crate::balance::slots::Slot;
use crate::balance::weights::Weights;

/// How the load of an endpoint is measured.
#[derive(Debug)]
pub(crate) struct Load {
    measure: Measure,
    weight_mean: f64,
}

#[derive(Debug)]
enum Measure {
    Requests,
    Latency,
}

/// The cost of an endpoint that has requests in flight but never answered one: worse than any
/// latency (Finagle's penalty), so that a new endpoint gets one request at a time until it proves
/// itself.
const PENALTY: f64 = 1e15;

impl Load {
    /// Requests in flight per weight.
    pub(crate) fn requests(weights: &Weights) -> Self {
        Self {
            measure: Measure::Requests,
            weight_mean: mean(weights),
        }
    }

    /// Latency times requests in flight per weight.
    pub(crate) fn latency(weights: &Weights) -> Self {
        Self {
            measure: Measure::Latency,
            weight_mean: mean(weights),
        }
    }

    /// Whether `a` is strictly less loaded than `b`.
    pub(crate) fn is_less(&self, a: &Slot, b: &Slot, stamp: u64) -> bool {
        self.of(a, stamp) < self.of(b, stamp)
    }

    fn of(&self, slot: &Slot, stamp: u64) -> f64 {
        let in_flight =
            f64::from(slot.endpoint.in_flight()) * self.weight_mean / slot.weight as f64;
        match self.measure {
            Measure::Requests => in_flight,
            Measure::Latency => {
                let latency = slot.endpoint.peak_latency(stamp);
                if latency == 0.0 && in_flight > 0.0 {
                    PENALTY + in_flight
                } else {
                    latency * (in_flight + 1.0)
                }
            }
        }
    }
}

fn mean(weights: &Weights) -> f64 {
    weights.total() / weights.len().max(1) as f64
}
