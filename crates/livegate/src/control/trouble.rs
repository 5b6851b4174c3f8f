//! What the registry refuses, told as events that say what to do.
//!
//! A gateway that is not let in, or may not read, serves what it knows and tries on; without these events it
//! would look as if the registry were away, or empty.

use std::collections::BTreeSet;
use std::sync::Arc;

use livegate_discovery::{Services, Snapshot, Status};
use livegate_zk::client::{Client, ConnectionState, DisconnectCause};
use livegate_zk::proto::error_code::ErrorCode;
use tokio::sync::watch;

use crate::access::Trouble;
use crate::events::Events;

/// Different causes told of while there is no connection; an ensemble has some for each server.
const CAUSES_MAX: usize = 16;

/// Tells why there is no connection: each cause once, until there is one.
pub(super) async fn tell_of_attempts(client: Client, is_tls: bool, events: Events) {
    let mut states = client.states();
    let mut told = BTreeSet::new();
    let mut was_connected = false;
    loop {
        let connection = states.borrow_and_update().connection.clone();
        match connection {
            ConnectionState::Connected { .. } => {
                told.clear();
                was_connected = true;
            }
            ConnectionState::Disconnected {
                cause: Some(cause), ..
            } => {
                // The loss itself is told of as that, unless more is to be said.
                let advice = advice(&cause, is_tls);
                let is_loss = std::mem::replace(&mut was_connected, false) && advice.is_none();
                let cause = cause.to_string();
                // Its number tells people nothing more.
                let cause = cause.split(" (os error").next().unwrap_or_default();
                let text = match advice {
                    Some(advice) => format!("{cause}: {advice}"),
                    None => cause.to_owned(),
                };
                if !is_loss && told.len() < CAUSES_MAX && told.insert(text.clone()) {
                    tracing::warn!("no connection to the registry: {text}");
                    events.push(None, None, "registry_unreachable", text);
                }
            }
            ConnectionState::Disconnected { cause: None, .. } => {}
            ConnectionState::Closed => return,
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn advice(cause: &DisconnectCause, is_tls: bool) -> Option<&'static str> {
    Some(match Trouble::of(cause, is_tls)? {
        Trouble::Login => "write another USER:PASSWORD into registry.auth_file and restart",
        Trouble::Certificates => {
            "check registry.tls_ca, tls_server_name, and tls_cert with tls_key, and restart"
        }
        Trouble::NoTls => {
            "there seems to be no TLS: leave registry.tls_ca out, or name the port that has it"
        }
        Trouble::OnlyTls => "if that is a port with TLS, set registry.tls_ca",
    })
}

/// Tells of a fault of the root once, until there is another one or none.
pub(super) async fn tell_of_root(
    root: String,
    mut services: watch::Receiver<Arc<Services>>,
    events: Events,
) {
    let mut last = None;
    loop {
        let fault = services.borrow_and_update().fault.clone();
        if let Some(fault) = fault.as_ref().filter(|_| fault != last) {
            refused(
                &events,
                None,
                &format!("the services below {root} cannot be listed"),
                fault,
            );
        }
        last = fault;
        if services.changed().await.is_err() {
            return;
        }
    }
}

/// What keeps a service from being read, in a snapshot whose list cannot be relied on for that; by the names
/// of nodes.
pub(super) fn tell_of_service(
    name: &Arc<str>,
    before: &Snapshot,
    after: &Snapshot,
    events: &Events,
) {
    match after.status {
        Status::Pending | Status::Stale { .. } => {}
        // Single nodes that cannot be read are shown, and hide nothing.
        Status::Live | Status::Absent => return,
    }
    for (node, fault) in after.skipped.iter() {
        if before.skipped.get(node) != Some(fault) {
            refused(events, Some(name), &format!("{node} cannot be read"), fault);
        }
    }
}

/// Records a refusal.
pub(super) fn refused(events: &Events, service: Option<&Arc<str>>, what: &str, why: &str) {
    let advice = if why.contains(&ErrorCode::NoAuth.to_string()) {
        ": registry.auth_file must hold a USER:PASSWORD that may"
    } else {
        ""
    };
    let cause = format!("{what}: {why}{advice}");
    tracing::warn!("{cause}");
    events.push(service.cloned(), None, "registry_refused", cause);
}
