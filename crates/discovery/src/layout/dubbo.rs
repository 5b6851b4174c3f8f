//! Dubbo 2: `/dubbo/<interface>/providers/<percent-encoded URL>`.
//!
//! The URL says everything: `dubbo://host:port/interface?key=value&...`. Keys that count here are
//! `weight`, `disabled`, `enabled` and `zone`; `timestamp` and `warmup` are in the metadata with the rest.

use std::borrow::Cow;

use super::address::Address;
use super::{Description, LayoutError, json};
use crate::snapshot::InstanceState;

/// The directory below an interface that holds its instances.
pub(super) const PROVIDERS: &str = "providers";

/// The other directories below an interface.
pub(super) const OTHER_DIRECTORIES: [&str; 3] = ["consumers", "configurators", "routers"];

/// The longest URL, in bytes. Those with a thousand methods have some tens of thousands.
const URL_BYTES_MAX: usize = 64 * 1024;

/// Whether a name is an encoded URL, of whatever protocol (`dubbo`, `tri`, `rest`).
pub(super) fn is_url(name: &str) -> bool {
    let Some(colon) = name.find('%') else {
        return false;
    };
    let (scheme, rest) = name.split_at(colon);
    let is_scheme = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
    !scheme.is_empty()
        && scheme.bytes().all(is_scheme)
        && rest
            .get(.."%3A%2F%2F".len())
            .is_some_and(|rest| rest.eq_ignore_ascii_case("%3A%2F%2F"))
}

pub(super) fn read(name: &str) -> Result<Description, LayoutError> {
    if name.len() > URL_BYTES_MAX {
        return Err(LayoutError::Name("a URL of at most 64 KiB"));
    }
    let url = decode(name).ok_or(LayoutError::Name("a percent-encoded URL"))?;
    let not_a_url = LayoutError::Name("the URL of a Dubbo provider");
    let (protocol, rest) = url.split_once("://").ok_or(not_a_url)?;
    let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = before_query.split_once('/').unwrap_or((before_query, ""));
    let address = authority
        .rsplit_once('@')
        .map_or(authority, |(_, address)| address);
    let pairs = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let mut metadata = json::bounded(pairs);
    let is = |key: &str, value: &str| metadata.get(key).is_some_and(|found| found == value);
    let is_down = is("disabled", "true") || is("enabled", "false");
    metadata
        .entry("protocol".to_owned())
        .or_insert_with(|| protocol.to_owned());
    if !metadata.contains_key("interface") && !path.is_empty() {
        metadata.insert("interface".to_owned(), path.to_owned());
    }
    let metadata = json::bounded(metadata);
    let mut description = Description::at(Address::parse(address)?).with_metadata(metadata);
    if is_down {
        description.state = InstanceState::Down;
    }
    Ok(description)
}

/// The text without percent-encoding; `None` if that is broken or hides something that is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            // Java's URLEncoder writes spaces so.
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}
