//! Server sets (Finagle, Aurora): members, and vectors that give members weights.
//!
//! A vector's weight is relative: members without one have 1.0, and several that match multiply
//! (Finagle's `serverset2`). 1.0 is whatever weight an instance without one gets.

use std::collections::HashMap;

use serde_json::Value;

use super::address::Address;
use super::{Content, Description, LayoutError, json};
use crate::snapshot::InstanceState;

const MEMBER: &str = "member_";
const VECTOR: &str = "vector_";

/// Weights for members of a server set.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector(HashMap<Selector, f64>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Selector {
    /// By host, and perhaps port.
    Inet(String),
    /// By name.
    Member(String),
    /// By shard.
    Shard(String),
}

impl Vector {
    /// What the weight of this instance is multiplied by.
    #[must_use]
    pub fn factor(&self, instance: &Description) -> f64 {
        let name = instance.id.as_str();
        let address = instance.address.to_string();
        let host = address.rsplit_once(':').map_or("", |(host, _)| host);
        let member = |name: &str| Selector::Member(name.to_owned());
        let selectors = [
            Some(member(name)),
            name.strip_prefix(MEMBER).map(member),
            Some(Selector::Inet(host.to_owned())),
            instance.metadata.get("shard").cloned().map(Selector::Shard),
            Some(Selector::Inet(address)),
        ];
        let weights = selectors
            .iter()
            .flatten()
            .filter_map(|selector| self.0.get(selector));
        weights.product()
    }
}

impl Selector {
    fn parse(text: &str) -> Option<Self> {
        let (kind, what) = text.split_once('=')?;
        match kind {
            "inet" => Some(Self::Inet(what.to_owned())),
            "member" => Some(Self::Member(what.to_owned())),
            "shard" => Some(Self::Shard(what.to_owned())),
            _ => None,
        }
    }
}

/// Whether the name is that of a member or a vector.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(MEMBER) || name.starts_with(VECTOR)
}

pub(super) fn read(name: &str, data: &[u8]) -> Result<Content, LayoutError> {
    let object = json::object(data)?;
    if name.starts_with(VECTOR) {
        let descriptors = match json::field(&object, "vector") {
            Some(Value::Array(descriptors)) => descriptors,
            Some(other) => return Err(json::nonsense("vector", other)),
            None => return Err(LayoutError::Missing("vector")),
        };
        let mut weights = HashMap::new();
        for (selector, weight) in descriptors.iter().filter_map(descriptor) {
            *weights.entry(selector).or_insert(1.0) *= weight;
        }
        return Ok(Content::Vector(Vector(weights)));
    }
    let endpoint = match json::field(&object, "serviceEndpoint") {
        Some(Value::Object(endpoint)) => endpoint,
        Some(other) => return Err(json::nonsense("serviceEndpoint", other)),
        None => return Err(LayoutError::Missing("serviceEndpoint")),
    };
    let address: Address = json::host_and_port(endpoint)?;
    let mut metadata = json::metadata_field(&object, "metadata");
    if let Some(shard) = json::field(&object, "shard").and_then(Value::as_i64) {
        metadata.insert("shard".to_owned(), shard.to_string());
    }
    let mut description = Description::at(address)
        .named(name)
        .with_metadata(json::bounded(metadata));
    let status = json::field(&object, "status");
    if status.is_some_and(|status| status.as_str() != Some("ALIVE")) {
        description.state = InstanceState::Down;
    }
    Ok(Content::Instance(description))
}

/// Those that make no sense are left out, as Finagle does.
fn descriptor(value: &Value) -> Option<(Selector, f64)> {
    let selector = Selector::parse(value.get("select")?.as_str()?)?;
    let weight = value.get("weight")?.as_f64()?;
    (weight.is_finite() && weight >= 0.0).then_some((selector, weight))
}
