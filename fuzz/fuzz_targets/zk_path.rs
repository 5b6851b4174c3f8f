//! Paths: valid exactly when Java says so, and taken apart they are put together again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use livegate_zk::path::{PathError, join, name, parent, validate, validate_sequential};

const SLASH: u16 = b'/' as u16;
const DOT: u16 = b'.' as u16;

/// The rules of Apache ZooKeeper's `PathUtils.validatePath`, for characters that are UTF-16 units, as Java's are.
fn is_valid_in_java(path: &str) -> bool {
    let units: Vec<u16> = path.encode_utf16().collect();
    let Some((&SLASH, names)) = units.split_first() else {
        return false;
    };
    if names.is_empty() {
        return true;
    }
    // Of the name that is being read.
    let (mut length, mut dots) = (0, 0);
    for &unit in names.iter().chain([&SLASH]) {
        match unit {
            SLASH if length == 0 || length <= 2 && dots == length => return false,
            SLASH => (length, dots) = (0, 0),
            0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff => return false,
            _ => {
                length += 1;
                dots += usize::from(unit == DOT);
            }
        }
    }
    true
}

fuzz_target!(|path: &str| {
    let verdict = validate(path);
    assert_eq!(
        verdict.is_ok(),
        is_valid_in_java(path),
        "{path:?}: {verdict:?}"
    );
    match verdict {
        Ok(()) => match parent(path) {
            Some(above) => {
                assert_eq!(validate(above), Ok(()));
                assert_eq!(join(above, name(path)), path);
            }
            None => assert_eq!(path, "/"),
        },
        Err(PathError::Character {
            character,
            position,
        }) => {
            assert!(path[position..].starts_with(character));
        }
        Err(PathError::EmptyName(position) | PathError::DotName(position)) => {
            assert_eq!(&path[position - 1..position], "/");
        }
        Err(PathError::Empty) => assert!(path.is_empty()),
        Err(PathError::Relative) => assert!(!path.starts_with('/')),
        Err(PathError::TrailingSlash) => assert!(path.ends_with('/')),
    }
    let numbered = format!("{path}1");
    assert_eq!(
        validate_sequential(path).is_ok(),
        is_valid_in_java(&numbered),
        "{numbered:?}"
    );
});
