//! Balancing as its users see it: through `channel`, snapshots, picks and outcomes, under a
//! simulated clock.

mod concurrency;
mod distribution;
mod ejection;
mod fixture;
mod hashing;
mod holding;
mod membership;
mod model;
mod panic;
mod quarantine;
mod stall;
mod warm_up;
