//! Health checks: asking instances whether they are well, instead of waiting for requests to find
//! out.
//!
//! - A [`probe`] is one question, on a connection of its own, with a deadline.
//! - [`check`] asks every endpoint regularly, as `health_check` says, and counts answers against
//!   `fall` and `rise`.
//! - [`trial`] asks those that are in doubt at once and often, until the doubt is gone.
//!
//! Both schedules are plain state that is told the time; the cluster's task runs the probes, each
//! in a task of its own, so that a slow one delays no other.

pub mod check;
pub mod probe;
pub mod trial;
