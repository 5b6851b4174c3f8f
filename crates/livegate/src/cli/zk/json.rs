//! Nodes as JSON. The names are a contract with scripts.

use std::time::{Duration, SystemTime};

use livegate_zk::proto::stat::Stat;
use serde::Serialize;

/// The fields of 'stat'.
#[derive(Debug, Serialize)]
pub(super) struct StatFields {
    version: i32,
    cversion: i32,
    aversion: i32,
    num_children: i32,
    data_length: i32,
    ephemeral_owner: String,
    ctime: String,
    mtime: String,
    czxid: String,
    mzxid: String,
    pzxid: String,
}

impl StatFields {
    pub(super) fn new(stat: &Stat) -> Self {
        // With 64 bits they do not fit into the numbers of JavaScript or jq.
        let hexadecimal = |number: i64| format!("{number:#x}");
        Self {
            version: stat.version,
            cversion: stat.cversion,
            aversion: stat.aversion,
            num_children: stat.num_children,
            data_length: stat.data_length,
            ephemeral_owner: hexadecimal(stat.ephemeral_owner),
            ctime: time(stat.ctime),
            mtime: time(stat.mtime),
            czxid: hexadecimal(stat.czxid),
            mzxid: hexadecimal(stat.mzxid),
            pzxid: hexadecimal(stat.pzxid),
        }
    }
}

/// The same for a person, in the same order.
pub(super) fn stat_lines(stat: &Stat) -> [String; 11] {
    let fields = StatFields::new(stat);
    [
        ("version", fields.version.to_string()),
        ("cversion", fields.cversion.to_string()),
        ("aversion", fields.aversion.to_string()),
        ("num_children", fields.num_children.to_string()),
        ("data_length", fields.data_length.to_string()),
        ("ephemeral_owner", fields.ephemeral_owner),
        ("ctime", fields.ctime),
        ("mtime", fields.mtime),
        ("czxid", fields.czxid),
        ("mzxid", fields.mzxid),
        ("pzxid", fields.pzxid),
    ]
    .map(|(name, value)| format!("{name:<17}{value}"))
}

/// A server's time of day as RFC 3339; times before 1970 and after 9999 as what is nearest.
fn time(millis: i64) -> String {
    /// 9999-12-31T23:59:59.999Z.
    const LATEST: u64 = 253_402_300_799_999;
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or(0).min(LATEST));
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since).to_string()
}

/// Data as text if it is UTF-8, otherwise in base64.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum DataField<'a> {
    Text { data: &'a str },
    Bytes { data_base64: String },
}

impl<'a> DataField<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        match std::str::from_utf8(data) {
            Ok(data) => Self::Text { data },
            Err(_) => Self::Bytes {
                data_base64: base64(data),
            },
        }
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| chunk.get(index).copied().unwrap_or(0);
        let word = u32::from_be_bytes([0, byte(0), byte(1), byte(2)]);
        for position in 0..4 {
            let index = word >> (18 - 6 * position) & 63;
            text.push(if position > chunk.len() {
                '='
            } else {
                char::from(ALPHABET[index as usize])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
    }

    #[test]
    fn data_is_text_where_it_can_be() {
        let json = |data| serde_json::to_string(&DataField::new(data)).unwrap();
        assert_eq!(json("é\n".as_bytes()), "{\"data\":\"é\\n\"}");
        assert_eq!(json(b"\xff"), "{\"data_base64\":\"/w==\"}");
    }

    #[test]
    fn any_time_of_a_server_can_be_shown() {
        assert_eq!(time(1_795_338_721_825), "2026-11-22T09:12:01.825Z");
        assert_eq!(time(-1), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(i64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
