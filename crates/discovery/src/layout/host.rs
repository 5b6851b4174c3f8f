//! JSON with `host` and `port`: nerve, elements of lists, what people write themselves, and `ShenYu`'s, which
//! says a little more.

use serde_json::Value;

use super::{Description, LayoutError, Object, json};
use crate::snapshot::InstanceState;

pub(super) fn read(name: &str, object: &Object) -> Result<Description, LayoutError> {
    read_unnamed(object).map(|description| description.named(name))
}

/// Named by its address.
pub(super) fn read_unnamed(object: &Object) -> Result<Description, LayoutError> {
    let address = json::host_and_port(object)?;
    let mut metadata = json::metadata_field(object, "metadata");
    metadata.extend(json::metadata_field(object, "labels"));
    for key in ["zone", "state"] {
        if let Some(Value::String(text)) = json::field(object, key) {
            metadata
                .entry(key.to_owned())
                .or_insert_with(|| text.clone());
        }
    }
    let mut description = Description::at(address).with_metadata(json::bounded(metadata));
    if let Some(weight) = json::weight_field(object, "weight")? {
        description.weight = Some(weight);
    }
    let is_disabled = json::field(object, "enabled") == Some(&Value::Bool(false));
    if is_disabled || json::field(object, "status").is_some_and(is_out) {
        description.state = InstanceState::Down;
    }
    Ok(description)
}

/// A status is a word or a boolean. Of numbers 1 is out, as in lists that were taken from `ShenYu`; what others
/// mean nobody knows.
fn is_out(status: &Value) -> bool {
    match status {
        Value::Bool(up) => !up,
        Value::Number(number) => number.as_u64() == Some(1),
        Value::String(text) => {
            let is_in = [
                "", "0", "up", "true", "alive", "healthy", "online", "passing",
            ];
            !is_in.iter().any(|word| text.eq_ignore_ascii_case(word))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}
