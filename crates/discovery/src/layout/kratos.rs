//! Kratos: JSON with `endpoints`, a list of URLs.

use serde_json::Value;

use super::address::Address;
use super::{Description, LayoutError, Object, excerpt, json};

/// Takes the first `http://` endpoint; without one the first of all.
pub(super) fn read(name: &str, object: &Object) -> Result<Description, LayoutError> {
    let endpoints = json::field(object, "endpoints").ok_or(LayoutError::Missing("endpoints"))?;
    let Value::Array(endpoints) = endpoints else {
        return Err(json::nonsense("endpoints", endpoints));
    };
    let endpoints = || endpoints.iter().filter_map(Value::as_str);
    let chosen = endpoints()
        .find(|endpoint| endpoint.starts_with("http://"))
        .or_else(|| endpoints().next())
        .ok_or(LayoutError::Missing("endpoints"))?;
    let nonsense = || LayoutError::Field {
        field: "endpoints",
        value: excerpt(chosen),
    };
    let (_, rest) = chosen.split_once("://").ok_or_else(nonsense)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let address = Address::parse(authority)?;
    let mut metadata = json::metadata_field(object, "metadata");
    if let Some(Value::String(version)) = json::field(object, "version") {
        metadata
            .entry("version".to_owned())
            .or_insert_with(|| version.clone());
    }
    let metadata = json::bounded(metadata);
    Ok(Description::at(address).named(name).with_metadata(metadata))
}
