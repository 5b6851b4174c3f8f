//! The header fields that a gateway must know by name.

/// What a header field means to the gateway; all that are not listed are passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Passed on as it came.
    Other,
    /// `Host`.
    Host,
    /// `Connection`.
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Upgrade`.
    Upgrade,
    /// `Expect`.
    Expect,
    /// Fields that concern one connection and are never passed on (RFC 9110 section
    /// 7.6.1 and the older list of RFC 2616 section 13.5.1).
    HopByHop,
    /// `Via`.
    Via,
    /// `X-Forwarded-For`.
    ForwardedFor,
    /// `X-Forwarded-Proto`.
    ForwardedProto,
    /// `X-Forwarded-Host`.
    ForwardedHost,
    /// Other fields in which a client could claim to be somebody else: `Forwarded`,
    /// `X-Real-IP` and any other `X-Forwarded-*`.
    ForwardedOther,
    /// `X-Request-Id`.
    RequestId,
    /// `Date`.
    Date,
    /// A name that differs from a framing or routing field only by underscores, which
    /// servers of the CGI tradition read as the same name.
    Lookalike,
}

/// Finds the meaning of a field name, in any case.
pub fn classify(name: &[u8]) -> Field {
    let Some(first) = name.first() else {
        return Field::Other;
    };
    let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
    // Most names are settled by their length and first letter.
    match (name.len(), first.to_ascii_lowercase()) {
        (2, b't') if is("te") => Field::HopByHop,
        (3, b'v') if is("via") => Field::Via,
        (4, b'h') if is("host") => Field::Host,
        (4, b'd') if is("date") => Field::Date,
        (6, b'e') if is("expect") => Field::Expect,
        (7, b'u') if is("upgrade") => Field::Upgrade,
        (9, b'f') if is("forwarded") => Field::ForwardedOther,
        (9, b'x') if is("x-real-ip") => Field::ForwardedOther,
        (10, b'c') if is("connection") => Field::Connection,
        (10, b'k') if is("keep-alive") => Field::HopByHop,
        (12, b'x') if is("x-request-id") => Field::RequestId,
        (14, b'c') if is("content-length") => Field::ContentLength,
        (14, b'h') if is("http2-settings") => Field::HopByHop,
        (15, b'x') if is("x-forwarded-for") => Field::ForwardedFor,
        (16, b'p') if is("proxy-connection") => Field::HopByHop,
        (16, b'x') if is("x-forwarded-host") => Field::ForwardedHost,
        (17, b't') if is("transfer-encoding") => Field::TransferEncoding,
        (17, b'x') if is("x-forwarded-proto") => Field::ForwardedProto,
        (18, b'p') if is("proxy-authenticate") => Field::HopByHop,
        (19, b'p') if is("proxy-authorization") => Field::HopByHop,
        (13.., b'x') if is_named(b"x-forwarded-", name) => Field::ForwardedOther,
        (14, b'c') if is_named(b"content-length", name) => Field::Lookalike,
        (16, b'p') if is_named(b"proxy-connection", name) => Field::Lookalike,
        (17, b't') if is_named(b"transfer-encoding", name) => Field::Lookalike,
        _ => Field::Other,
    }
}

/// True when `name` begins with `known`, in any case and with underscores for dashes.
fn is_named(known: &[u8], name: &[u8]) -> bool {
    known
        .iter()
        .zip(name)
        .all(|(&k, &n)| k == n.to_ascii_lowercase() || (k == b'-' && n == b'_'))
}

/// The comma-separated members of a field value, trimmed; empty ones are skipped
/// (RFC 9110 section 5.6.1.2).
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(trim)
        .filter(|member| !member.is_empty())
}

/// Strips optional whitespace (space, tab) from both ends.
pub fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Reads a `Content-Length`: decimal digits only, at most 2^63-1.
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    let mut length = 0u64;
    for &byte in value {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        length = length * 10 + u64::from(digit);
    }
    (i64::try_from(length).is_ok()).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        assert_eq!(classify(b"CONTENT-length"), Field::ContentLength);
        assert_eq!(classify(b"X-Forwarded-Port"), Field::ForwardedOther);
        assert_eq!(classify(b"x_forwarded_for"), Field::ForwardedOther);
        assert_eq!(classify(b"X-Forwarded"), Field::Other);
        assert_eq!(classify(b"Content_Length"), Field::Lookalike);
        assert_eq!(classify(b"transfer_encoding"), Field::Lookalike);
        assert_eq!(classify(b"content-lengthy"), Field::Other);
        assert_eq!(classify(b""), Field::Other);
    }

    #[test]
    fn lengths_are_plain_decimal_numbers() {
        assert_eq!(content_length(b"0"), Some(0));
        assert_eq!(content_length(b"0005"), Some(5));
        assert_eq!(
            content_length(b"9223372036854775807"),
            Some(i64::MAX as u64)
        );
        for bad in [
            "",
            "+5",
            "-5",
            "5 ",
            "0x5",
            "5,5",
            "9223372036854775808",
            "18446744073709551621",
        ] {
            assert_eq!(content_length(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn list_members_are_trimmed_and_never_empty() {
        assert_eq!(
            members(b" a, ,\tb ,").collect::<Vec<_>>(),
            [&b"a"[..], b"b"]
        );
    }
}
