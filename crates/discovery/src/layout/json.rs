//! Fields of JSON that others wrote: numbers that may be strings, and metadata that may be anything.

use std::collections::BTreeMap;

use serde_json::Value;

use super::address::Address;
use super::{
    DATA_BYTES_MAX, LayoutError, METADATA_ENTRIES_MAX, METADATA_KEY_BYTES_MAX,
    METADATA_VALUE_BYTES_MAX, Object, WEIGHT_MAX, excerpt,
};

/// The data as an object.
pub(super) fn object(data: &[u8]) -> Result<Object, LayoutError> {
    if data.len() > DATA_BYTES_MAX {
        return Err(LayoutError::DataTooLong {
            length: data.len(),
            limit: DATA_BYTES_MAX,
        });
    }
    match value(data)? {
        Value::Object(object) => Ok(object),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(LayoutError::NotA("object"))
        }
    }
}

/// The data as JSON. Nesting is limited by the parser, to 128.
pub(super) fn value(data: &[u8]) -> Result<Value, LayoutError> {
    serde_json::from_slice(data).map_err(|error| LayoutError::Json(error.to_string()))
}

/// A field that is there and not null.
pub(super) fn field<'a>(object: &'a Object, name: &str) -> Option<&'a Value> {
    object.get(name).filter(|value| !value.is_null())
}

/// A text that is there.
pub(super) fn text<'a>(object: &'a Object, name: &'static str) -> Result<&'a str, LayoutError> {
    let value = field(object, name).ok_or(LayoutError::Missing(name))?;
    value.as_str().ok_or_else(|| nonsense(name, value))
}

/// A port, as a number or as text; `None` when there is none.
pub(super) fn port(object: &Object, name: &'static str) -> Result<Option<u16>, LayoutError> {
    let Some(value) = field(object, name) else {
        return Ok(None);
    };
    let port = match value {
        Value::Number(number) => number
            .as_u64()
            .and_then(|number| u16::try_from(number).ok()),
        Value::String(text) => text.trim().parse().ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match port {
        Some(port @ 1..) => Ok(Some(port)),
        Some(0) | None => Err(nonsense(name, value)),
    }
}

/// An address in fields `host` and `port`.
pub(super) fn host_and_port(object: &Object) -> Result<Address, LayoutError> {
    let host = text(object, "host")?;
    let port = port(object, "port")?.ok_or(LayoutError::Missing("port"))?;
    Ok(Address::new(host.trim(), port)?)
}

/// A weight, as a number or as text; `None` when there is none.
pub(super) fn weight_field(
    object: &Object,
    name: &'static str,
) -> Result<Option<u32>, LayoutError> {
    let Some(value) = field(object, name) else {
        return Ok(None);
    };
    match scalar(value).and_then(|text| weight(&text)) {
        Some(weight) => Ok(Some(weight)),
        None => Err(nonsense(name, value)),
    }
}

/// A weight from text: not negative, rounded to a whole number (but not to 0), at most [`WEIGHT_MAX`].
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0 to 65535 before"
)]
pub(super) fn weight(text: &str) -> Option<u32> {
    let number: f64 = text.trim().parse().ok()?;
    if !number.is_finite() || number < 0.0 {
        return None;
    }
    let floor = if number > 0.0 { 1.0 } else { 0.0 };
    Some(number.round().clamp(floor, f64::from(WEIGHT_MAX)) as u32)
}

/// Texts, numbers and booleans as text.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Metadata from an object, within the limits; what is neither text nor number nor boolean is left out.
pub(super) fn metadata(object: &Object) -> BTreeMap<String, String> {
    let entries = object
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), scalar(value)?)));
    bounded(entries)
}

/// As many entries as are kept.
pub(super) fn bounded(
    entries: impl IntoIterator<Item = (String, String)>,
) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for (key, value) in entries {
        if key.len() <= METADATA_KEY_BYTES_MAX && value.len() <= METADATA_VALUE_BYTES_MAX {
            kept.insert(key, value);
            if kept.len() > METADATA_ENTRIES_MAX {
                kept.pop_last();
            }
        }
    }
    kept
}

/// Metadata in a field that is an object, if it is.
pub(super) fn metadata_field(object: &Object, name: &str) -> BTreeMap<String, String> {
    match field(object, name) {
        Some(Value::Object(object)) => metadata(object),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_))
        | Some(Value::Array(_))
        | None => BTreeMap::new(),
    }
}

pub(super) fn nonsense(field: &'static str, value: &Value) -> LayoutError {
    let value = match value {
        Value::String(text) => excerpt(text),
        Value::Array(_) => "[...]".to_owned(),
        Value::Object(_) => "{...}".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) => excerpt(&value.to_string()),
    };
    LayoutError::Field { field, value }
}
