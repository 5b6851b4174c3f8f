//! nerve (SmartStack): JSON with `host` and `port` as data, or as base64 in the name.

use super::address::without_sequence;
use super::{DATA_BYTES_MAX, Description, LayoutError, host, json};

/// How names begin that hold everything: `base64_<length>_<base64>_<sequence>`.
const ENCODED: &str = "base64_";

pub(super) fn is_encoded(name: &str) -> bool {
    name.starts_with(ENCODED)
}

pub(super) fn read(name: &str, data: &[u8]) -> Result<Description, LayoutError> {
    let Some(rest) = name.strip_prefix(ENCODED) else {
        return host::read(name, &json::object(data)?);
    };
    let broken = LayoutError::Name("base64_<length>_<base64>");
    let Some((length, encoded)) = rest.split_once('_') else {
        return Err(broken);
    };
    if rest.len() > DATA_BYTES_MAX || length.parse::<u32>().is_err() {
        return Err(broken);
    }
    let decoded = decode(without_sequence(encoded)).ok_or(broken)?;
    // The name is different with each registration, so the address names the instance.
    host::read_unnamed(&json::object(&decoded)?)
}

/// Bytes from base64 with the alphabet for URLs or the usual one, padded or not.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits = 0u32;
        for &character in group {
            let value = match character {
                b'A'..=b'Z' => character - b'A',
                b'a'..=b'z' => character - b'a' + 26,
                b'0'..=b'9' => character - b'0' + 52,
                b'-' | b'+' => 62,
                b'_' | b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let whole = match group.len() {
            4 => 3,
            3 => 2,
            2 => 1,
            _ => return None,
        };
        bits <<= 6 * (4 - group.len());
        decoded.extend_from_slice(&bits.to_be_bytes()[1..=whole]);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_all_lengths() {
        for (text, bytes) in [
            ("", &b""[..]),
            ("Zg==", b"f"),
            ("Zm8", b"fo"),
            ("Zm9v", b"foo"),
            ("Zm9vYg==", b"foob"),
            ("_-__", b"\xff\xef\xff"),
            ("/+//", b"\xff\xef\xff"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(bytes), "{text}");
        }
        assert_eq!(decode("Zm9vY"), None);
        assert_eq!(decode("Zm 9"), None);
    }
}
