//! The reverse proxy: requests in, one attempt after another, responses out.
//!
//! [`connection`] serves a client; [`prepare`] turns bytes into a plan; [`forward`] tries
//! instances; [`exchange`] is one attempt. One task drives all of it for one connection.

pub mod answer;
pub mod body;
pub mod connection;
pub mod downstream;
pub mod error;
pub mod exchange;
pub mod forward;
pub mod io;
pub mod outgoing;
pub mod prepare;
pub mod splice;
pub mod tunnel;
pub mod upstream;
