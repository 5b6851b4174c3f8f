//! The gateway: listeners, routes, proxy, health checks, admin and command line.
//!
//! Data flows one way (see ARCHITECTURE.md): configuration and snapshots become a
//! [`control::Gateway`], which the workers read on every request.

pub mod access;
pub mod access_log;
pub mod admin;
pub mod buffer;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod control;
pub mod events;
pub mod health;
pub mod http;
pub mod metrics;
pub mod proxy;
pub mod route;
pub mod target;
pub mod worker;
