//! Kitex and Hertz: `/<service>/<ip:port>` with `{"Weight":10,"Tags":{...}}`.

use super::address::{Address, without_sequence};
use super::{Description, LayoutError, Object, json};

pub(super) fn read(name: &str, data: &[u8]) -> Result<Description, LayoutError> {
    read_object(name, &json::object(data)?)
}

pub(super) fn read_object(name: &str, object: &Object) -> Result<Description, LayoutError> {
    let address = Address::parse(without_sequence(name))?;
    let metadata = json::metadata_field(object, "Tags");
    let mut description = Description::at(address).with_metadata(metadata);
    // Kitex takes a weight of 0 for none.
    if let Some(weight @ 1..) = json::weight_field(object, "Weight")? {
        description.weight = Some(weight);
    }
    Ok(description)
}
