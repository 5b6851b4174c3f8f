//! Curator's service discovery and what is built on it: Spring Cloud ZooKeeper, Dubbo 3 by application,
//! and what our own registrar writes.
//!
//! They share the outer JSON (`ServiceInstance`): `address`, `port`, `sslPort`, `enabled`, `payload`.
//! Spring, Dubbo and we have a map `metadata` in the payload; others put there what they like.

use std::collections::BTreeMap;

use serde_json::Value;

use super::address::Address;
use super::{Description, LayoutError, Object, json};
use crate::snapshot::InstanceState;

pub(super) fn read(name: &str, object: &Object) -> Result<Description, LayoutError> {
    let host = json::text(object, "address")?;
    let metadata = metadata(object);
    let port = match json::port(object, "port")? {
        Some(port) => port,
        None => match dubbo_port(&metadata) {
            Some(port) => port,
            None if json::field(object, "sslPort").is_some() => return Err(LayoutError::OnlyTls),
            None => return Err(LayoutError::Missing("port")),
        },
    };
    let address = Address::new(host.trim(), port)?;
    let mut description = Description::at(address).named(name).with_metadata(metadata);
    let status = description.metadata.get("instance_status");
    let is_out = status.is_some_and(|status| !status.eq_ignore_ascii_case("UP"));
    let is_disabled = json::field(object, "enabled") == Some(&Value::Bool(false));
    if is_out || is_disabled {
        description.state = InstanceState::Down;
    }
    Ok(description)
}

fn metadata(object: &Object) -> BTreeMap<String, String> {
    match json::field(object, "payload") {
        Some(Value::Object(payload)) => match json::field(payload, "metadata") {
            Some(Value::Object(metadata)) => json::metadata(metadata),
            Some(_) | None => {
                let mut metadata = json::metadata(payload);
                metadata.remove("@class");
                metadata
            }
        },
        Some(Value::String(payload)) => json::bounded([("payload".to_owned(), payload.clone())]),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_)) | None => {
            BTreeMap::new()
        }
    }
}

/// The first port that Dubbo 3 names in `dubbo.endpoints`, which is JSON in a string.
fn dubbo_port(metadata: &BTreeMap<String, String>) -> Option<u16> {
    let endpoints = json::value(metadata.get("dubbo.endpoints")?.as_bytes()).ok()?;
    let first = endpoints.as_array()?.first()?.as_object()?;
    json::port(first, "port").ok()?
}
