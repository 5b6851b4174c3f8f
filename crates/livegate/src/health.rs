//! Health checks: asking instances whether they are well, instead of waiting for requests to find
//! out.
//!
//! - A [`probe`] is one question, on a connection of its own, with a deadline.
//! - [`check`] is what `health_check` makes of that: what to ask every endpoint regularly, and what its answers
//!   mean.
//!
//! When to ask whom is known to [`Probes`](livegate_discovery::probe::Probes); the cluster's task runs the
//! probes, each in a task of its own, so that a slow one delays no other.

pub mod check;
pub mod probe;
