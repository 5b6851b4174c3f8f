//! Registered nodes: the first line is the name, the rest the data. Whatever they are, reading them ends,
//! within the limits, and gives the same each time.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate_discovery::layout::{
    Address, Content, Description, LIST_INSTANCES_MAX, Layout, METADATA_ENTRIES_MAX,
    METADATA_KEY_BYTES_MAX, METADATA_VALUE_BYTES_MAX, WEIGHT_MAX, read,
};

fuzz_target!(|input: &[u8]| {
    let end = input.iter().position(|byte| *byte == b'\n');
    let (name, data) = input.split_at(end.unwrap_or(input.len()));
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    let data = data.get(1..).unwrap_or_default();
    for layout in Layout::ALL {
        let content = read(layout, name, data);
        assert_eq!(read(layout, name, data), content);
        match content {
            Ok(Content::Instance(description)) => check(&description),
            Ok(Content::List { instances, faults }) => {
                assert!(instances.len() + faults.len() <= LIST_INSTANCES_MAX);
                instances.iter().for_each(check);
            }
            Ok(Content::Vector(vector)) => {
                let member = read(Layout::Address, "10.0.0.3:80", b"");
                if let Ok(Content::Instance(member)) = member {
                    assert!(vector.factor(&member) >= 0.0);
                }
            }
            Err(error) => assert!(error.to_string().len() < 400, "{error}"),
        }
    }
});

fn check(description: &Description) {
    let address = description.address.to_string();
    assert_eq!(Address::parse(&address).as_ref(), Ok(&description.address));
    assert!(description.weight.is_none_or(|weight| weight <= WEIGHT_MAX));
    assert!(description.metadata.len() <= METADATA_ENTRIES_MAX);
    for (key, value) in description.metadata.iter() {
        assert!(key.len() <= METADATA_KEY_BYTES_MAX && value.len() <= METADATA_VALUE_BYTES_MAX);
    }
}
