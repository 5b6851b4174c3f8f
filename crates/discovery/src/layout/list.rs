//! A whole list in the data of one node: `[{"host":"10.0.0.1","port":80,"weight":20}, "10.0.0.2:80"]`.

use serde_json::Value;

use super::address::Address;
use super::{Content, Description, LIST_BYTES_MAX, LIST_INSTANCES_MAX, LayoutError, host, json};

/// Bad elements do not hide the others.
pub(super) fn read(data: &[u8]) -> Result<Content, LayoutError> {
    if data.len() > LIST_BYTES_MAX {
        return Err(LayoutError::DataTooLong {
            length: data.len(),
            limit: LIST_BYTES_MAX,
        });
    }
    let Value::Array(elements) = json::value(data)? else {
        return Err(LayoutError::NotA("list"));
    };
    if elements.len() > LIST_INSTANCES_MAX {
        return Err(LayoutError::ListTooLong {
            length: elements.len(),
        });
    }
    let (mut instances, mut faults) = (Vec::new(), Vec::new());
    for (index, element) in elements.iter().enumerate() {
        match read_element(element) {
            Ok(description) => instances.push(description),
            Err(error) => faults.push((index, error)),
        }
    }
    Ok(Content::List { instances, faults })
}

fn read_element(element: &Value) -> Result<Description, LayoutError> {
    match element {
        Value::Object(object) => host::read_unnamed(object),
        Value::String(text) => Ok(Description::at(Address::parse(text.trim())?)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            Err(LayoutError::NotA("object or address"))
        }
    }
}
