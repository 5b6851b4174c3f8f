//! Reading a response head: what a service says ambiguously is an error.

use super::Framing;
use super::field::{self, Field};
use super::head::{self, FIELDS_ON_STACK, FieldSlots, HeadError};
use super::request::Connection;

/// Largest response head that is read: twice what common servers send at most
/// (Node.js 16 KiB, Tomcat 8 KiB, nginx buffers 8 pages).
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A response head that was read without doubt; it borrows the bytes it was read from.
#[derive(Debug)]
pub struct ResponseHead<'h, 'b> {
    /// 100 to 999.
    pub status: u16,
    /// The reason phrase, perhaps empty.
    pub reason: &'b str,
    /// All fields in their order.
    pub fields: &'h [httparse::Header<'b>],
    /// The meaning of each of `fields`.
    pub meanings: &'h [Field],
    /// How the body is framed.
    pub framing: Framing,
    /// The length that the head names, also where no body follows (HEAD, 304).
    pub content_length: Option<u64>,
    /// The connection can carry another exchange after this one.
    pub keep_alive: bool,
    /// `Connection: upgrade` and `Upgrade: websocket`.
    pub upgrades: bool,
    /// True when `Connection` names fields that must be removed.
    pub names_hop_fields: bool,
    /// Bytes of the head, with its empty line.
    pub length: usize,
}

/// Memory that a head is read into.
pub struct Slots<'b> {
    fields: FieldSlots<'b>,
    meanings: [Field; FIELDS_ON_STACK],
}

impl Slots<'_> {
    /// Fresh memory; costs nothing until it is used.
    #[inline]
    pub fn new() -> Self {
        Self {
            fields: head::field_slots(),
            meanings: [Field::Other; FIELDS_ON_STACK],
        }
    }
}

impl Default for Slots<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads the response head at the start of `bytes`, which answers a HEAD request when
/// `to_head` is true.
///
/// `Ok(None)` means that the bytes are a good beginning and more are needed.
///
/// # Errors
///
/// [`HeadError`] when the bytes can never become a good head.
pub fn parse<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut Slots<'b>,
    to_head: bool,
) -> Result<Option<ResponseHead<'h, 'b>>, HeadError> {
    let bytes = &bytes[..bytes.len().min(HEAD_BYTES_MAX + 1)];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        bytes,
        &mut slots.fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(_) if bytes.len() > HEAD_BYTES_MAX => return Err(HeadError::TooLarge),
        Ok(_) => return head::check_line_ends(bytes).map(|()| None),
        Err(error) => return Err(HeadError::from_tokeniser(error)),
    };
    if bytes.starts_with(b"\r") || bytes.starts_with(b"\n") {
        return Err(HeadError::Malformed("empty line before the status line"));
    }
    head::check_line_ends(&bytes[..length])?;

    let fields: &'h [httparse::Header<'b>] = response.headers;
    let meanings = &mut slots.meanings[..fields.len()];
    for (meaning, header) in meanings.iter_mut().zip(fields) {
        *meaning = field::classify(header.name.as_bytes());
    }
    let status = response.code.expect("a complete head has a status");
    let minor = response.version.expect("a complete head has a version");
    let reason = response.reason.unwrap_or_default();
    let mut head = interpret(status, minor, fields, meanings, to_head)?;
    head.reason = reason;
    head.length = length;
    Ok(Some(head))
}

fn interpret<'h, 'b>(
    status: u16,
    minor: u8,
    fields: &'h [httparse::Header<'b>],
    meanings: &'h [Field],
    to_head: bool,
) -> Result<ResponseHead<'h, 'b>, HeadError> {
    use HeadError::Malformed;

    if !(100..=999).contains(&status) {
        return Err(Malformed("invalid status code"));
    }
    let mut content_length = None;
    let mut chunked = false;
    let mut connection = Connection::default();
    let mut websocket = false;
    for (header, meaning) in fields.iter().zip(meanings) {
        match meaning {
            Field::ContentLength => {
                let value = field::content_length(header.value)
                    .ok_or(Malformed("invalid Content-Length"))?;
                if content_length.replace(value).is_some() {
                    return Err(Malformed("more than one Content-Length"));
                }
            }
            Field::TransferEncoding => {
                if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed("Transfer-Encoding other than chunked"));
                }
                chunked = true;
            }
            Field::Lookalike => {
                return Err(Malformed("field name that passes for a framing field"));
            }
            Field::Connection => connection.read(header.value),
            Field::Upgrade => websocket |= header.value.eq_ignore_ascii_case(b"websocket"),
            Field::Other
            | Field::Host
            | Field::Expect
            | Field::HopByHop
            | Field::Via
            | Field::ForwardedFor
            | Field::ForwardedProto
            | Field::ForwardedHost
            | Field::ForwardedOther
            | Field::RequestId
            | Field::Date => {}
        }
    }
    if chunked && content_length.is_some() {
        return Err(Malformed("both Content-Length and Transfer-Encoding"));
    }
    if chunked && minor == 0 {
        return Err(Malformed("Transfer-Encoding in HTTP/1.0"));
    }
    let bodiless = to_head || status < 200 || status == 204 || status == 304;
    let framing = match (bodiless, chunked, content_length) {
        (true, _, _) | (false, false, Some(0)) => Framing::None,
        (false, true, _) => Framing::Chunked,
        (false, false, Some(length)) => Framing::Length(length),
        (false, false, None) => Framing::Close,
    };
    // A 1xx or 204 that announces a body: whether one follows cannot be known.
    let announces_forbidden_body = (status < 200 || status == 204)
        && (chunked || content_length.is_some_and(|length| length > 0));
    Ok(ResponseHead {
        status,
        reason: "",
        fields,
        meanings,
        framing,
        content_length,
        keep_alive: minor == 1
            && !connection.close
            && framing != Framing::Close
            && !announces_forbidden_body,
        upgrades: websocket && connection.upgrade,
        names_hop_fields: connection.names_others,
        length: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Status, framing and whether the connection is kept.
    fn read(head: &str, to_head: bool) -> Result<Option<(u16, Framing, bool)>, HeadError> {
        let mut slots = Slots::new();
        let head = parse(head.as_bytes(), &mut slots, to_head)?;
        Ok(head.map(|head| (head.status, head.framing, head.keep_alive)))
    }

    #[test]
    fn framing_depends_on_status_and_request() {
        let cases = [
            (
                "200 OK\r\nContent-Length: 5\r\n",
                false,
                (200, Framing::Length(5), true),
            ),
            (
                "200 OK\r\nContent-Length: 5\r\n",
                true,
                (200, Framing::None, true),
            ),
            (
                "200\r\nTransfer-Encoding: chunked\r\n",
                false,
                (200, Framing::Chunked, true),
            ),
            ("200 OK\r\n", false, (200, Framing::Close, false)),
            (
                "304 Not Modified\r\nContent-Length: 5\r\n",
                false,
                (304, Framing::None, true),
            ),
            ("204 No Content\r\n", false, (204, Framing::None, true)),
            (
                "204 No Content\r\nContent-Length: 5\r\n",
                false,
                (204, Framing::None, false),
            ),
            (
                "200 OK\r\nConnection: close\r\nContent-Length: 0\r\n",
                false,
                (200, Framing::None, false),
            ),
        ];
        for (head, to_head, expected) in cases {
            assert_eq!(
                read(&format!("HTTP/1.1 {head}\r\n"), to_head),
                Ok(Some(expected)),
                "{head:?}"
            );
        }
        assert_eq!(
            read("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false),
            Ok(Some((200, Framing::Length(1), false)))
        );
    }

    #[test]
    fn doubtful_responses_are_refused() {
        for bad in [
            "HTTP/1.1 99 Low\r\n\r\n",
            "HTTP/2 200 OK\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\rY: b\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        ] {
            assert!(read(bad, false).is_err(), "{bad:?}: {:?}", read(bad, false));
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(read(&endless, false), Err(HeadError::TooLarge));
    }
}
