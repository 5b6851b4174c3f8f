//! Reading a request head: one way to read it, or an error.

use super::field::{self, Field};
use super::head::{self, FIELDS_ON_STACK, FieldSlots, HeadError};
use super::{Framing, host};

/// Bounds on a request head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Request line and header fields together, in bytes.
    pub bytes_max: usize,
    /// Number of header fields.
    pub fields_max: usize,
}

/// The four forms of a request target (RFC 9112 section 3.2); authority-form belongs
/// to CONNECT, which a reverse proxy does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetForm<'b> {
    /// `/path?query`, also what absolute-form is turned into.
    Origin(&'b [u8]),
    /// An absolute URI without a path: `/`, and this query with its `?`.
    EmptyPath(&'b [u8]),
    /// `*`, with OPTIONS only.
    Asterisk,
}

/// A request head that was read without doubt; it borrows the bytes it was read from.
#[derive(Debug)]
pub struct RequestHead<'h, 'b> {
    /// The method, case-sensitive.
    pub method: &'b str,
    /// What is asked for.
    pub target: TargetForm<'b>,
    /// Minor version: 0 or 1.
    pub minor: u8,
    /// The authority: that of an absolute-form target, else the `Host` field; `None`
    /// only in HTTP/1.0.
    pub host: Option<&'b [u8]>,
    /// All fields in their order.
    pub fields: &'h [httparse::Header<'b>],
    /// The meaning of each of `fields`.
    pub meanings: &'h [Field],
    /// How the body is framed.
    pub framing: Framing,
    /// The client wants the connection kept after the response.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// A WebSocket handshake: GET, 1.1, no body, `Connection: upgrade`.
    pub upgrades: bool,
    /// True when `Connection` names fields that must be removed.
    pub names_hop_fields: bool,
    /// Bytes of the head, with its empty line.
    pub length: usize,
}

impl RequestHead<'_, '_> {
    /// The value of the first field with this name, in any case.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// True when `Connection` names this field, which is then not passed on.
    pub fn is_named_by_connection(&self, name: &str) -> bool {
        self.names_hop_fields && named_by_connection(self.fields, self.meanings, name)
    }
}

/// True when a `Connection` field of this head lists `name`.
pub fn named_by_connection(
    fields: &[httparse::Header<'_>],
    meanings: &[Field],
    name: &str,
) -> bool {
    fields
        .iter()
        .zip(meanings)
        .filter(|(_, meaning)| **meaning == Field::Connection)
        .any(|(header, _)| {
            field::members(header.value).any(|member| member.eq_ignore_ascii_case(name.as_bytes()))
        })
}

/// Memory that a head is read into.
pub struct Slots<'b> {
    fields: FieldSlots<'b>,
    more_fields: Vec<httparse::Header<'b>>,
    meanings: [Field; FIELDS_ON_STACK],
    more_meanings: Vec<Field>,
}

impl Slots<'_> {
    /// Fresh memory; costs nothing until it is used.
    #[inline]
    pub fn new() -> Self {
        Self {
            fields: head::field_slots(),
            more_fields: Vec::new(),
            meanings: [Field::Other; FIELDS_ON_STACK],
            more_meanings: Vec::new(),
        }
    }
}

impl Default for Slots<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads the request head at the start of `bytes` (without leading empty lines, see
/// [`head::leading_empty_lines`]).
///
/// `Ok(None)` means that the bytes are a good beginning and more are needed.
///
/// # Errors
///
/// [`HeadError`] when the bytes can never become a good head.
pub fn parse<'h, 'b>(
    bytes: &'b [u8],
    slots: &'h mut Slots<'b>,
    limits: HeadLimits,
) -> Result<Option<RequestHead<'h, 'b>>, HeadError> {
    // One byte more than the limit is enough to see that it is passed.
    let bytes = &bytes[..bytes.len().min(limits.bytes_max + 1)];
    let mut request = httparse::Request::new(&mut []);
    let parsed = if limits.fields_max <= FIELDS_ON_STACK {
        request.parse_with_uninit_headers(bytes, &mut slots.fields[..limits.fields_max])
    } else {
        slots
            .more_fields
            .resize(limits.fields_max, httparse::EMPTY_HEADER);
        request = httparse::Request::new(&mut slots.more_fields);
        request.parse(bytes)
    };
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= limits.bytes_max => length,
        Ok(_) => return partial(bytes, limits).map(|()| None),
        Err(error) => return Err(HeadError::from_tokeniser(error)),
    };
    head::check_line_ends(&bytes[..length])?;

    let fields: &'h [httparse::Header<'b>] = request.headers;
    let meanings = if fields.len() <= FIELDS_ON_STACK {
        &mut slots.meanings[..fields.len()]
    } else {
        slots.more_meanings.resize(fields.len(), Field::Other);
        &mut slots.more_meanings[..]
    };
    for (meaning, header) in meanings.iter_mut().zip(fields) {
        *meaning = field::classify(header.name.as_bytes());
    }
    let method = request.method.expect("a complete head has a method");
    let target = request.path.expect("a complete head has a target");
    let minor = request.version.expect("a complete head has a version");
    interpret(method, target.as_bytes(), minor, fields, meanings, length).map(Some)
}

/// What can already be said about a head that is not whole.
fn partial(bytes: &[u8], limits: HeadLimits) -> Result<(), HeadError> {
    head::check_line_ends(bytes)?;
    if bytes.len() < limits.bytes_max {
        return Ok(());
    }
    let has_request_line = memchr::memchr(b'\n', bytes).is_some();
    Err(if has_request_line {
        HeadError::TooLarge
    } else {
        HeadError::TargetTooLong
    })
}

fn interpret<'h, 'b>(
    method: &'b str,
    target: &'b [u8],
    minor: u8,
    fields: &'h [httparse::Header<'b>],
    meanings: &'h [Field],
    length: usize,
) -> Result<RequestHead<'h, 'b>, HeadError> {
    use HeadError::Malformed;

    let mut host_field = None;
    let mut body_length = None;
    let mut chunked = false;
    let mut connection = Connection::default();
    let mut expects_continue = false;
    let mut offers_websocket = false;
    for (header, meaning) in fields.iter().zip(meanings) {
        match meaning {
            Field::Host => {
                if host_field.replace(header.value).is_some() {
                    return Err(Malformed("more than one Host"));
                }
                if !host::is_valid(header.value) {
                    return Err(Malformed("invalid Host"));
                }
            }
            Field::ContentLength => {
                let value = field::content_length(header.value)
                    .ok_or(Malformed("invalid Content-Length"))?;
                if body_length.replace(value).is_some() {
                    return Err(Malformed("more than one Content-Length"));
                }
            }
            Field::TransferEncoding => {
                if chunked {
                    return Err(Malformed("more than one Transfer-Encoding"));
                }
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(unknown_coding(header.value));
                }
                chunked = true;
            }
            Field::Lookalike => {
                return Err(Malformed("field name that passes for a framing field"));
            }
            Field::Connection => connection.read(header.value),
            Field::Expect => expects_continue |= header.value.eq_ignore_ascii_case(b"100-continue"),
            Field::Upgrade => {
                offers_websocket |= field::members(header.value)
                    .any(|member| member.eq_ignore_ascii_case(b"websocket"));
            }
            Field::Other
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
    let framing = match (body_length, chunked) {
        (Some(_), true) => return Err(Malformed("both Content-Length and Transfer-Encoding")),
        (None, true) if minor == 0 => return Err(Malformed("Transfer-Encoding in HTTP/1.0")),
        (None, true) => Framing::Chunked,
        (Some(0), false) => Framing::None,
        (Some(length), false) => Framing::Length(length),
        // RFC 1945 section 7.2.2: without a length the end of such a body is unknown.
        (None, false) if minor == 0 && matches!(method, "POST" | "PUT" | "PATCH") => {
            return Err(HeadError::LengthRequired);
        }
        (None, false) => Framing::None,
    };
    if method == "TRACE" && framing != Framing::None {
        return Err(Malformed("TRACE with a body"));
    }
    if host_field.is_none() && minor == 1 {
        return Err(Malformed("no Host"));
    }
    let (target, authority) = read_target(method, target)?;
    Ok(RequestHead {
        method,
        target,
        minor,
        host: authority.or(host_field),
        fields,
        meanings,
        framing,
        keep_alive: if minor == 1 {
            !connection.close
        } else {
            connection.keep_alive && !connection.close
        },
        // An HTTP/1.0 client knows no interim responses (RFC 9110 section 10.1.1).
        expects_continue: expects_continue && minor == 1 && framing != Framing::None,
        upgrades: offers_websocket
            && connection.upgrade
            && minor == 1
            && method == "GET"
            && framing == Framing::None,
        names_hop_fields: connection.names_others,
        length,
    })
}

/// `chunked` that is listed twice, last but not only, or misspelt is ambiguous; another
/// coding is merely unknown.
fn unknown_coding(value: &[u8]) -> HeadError {
    let is_chunked = |member: &[u8]| member.eq_ignore_ascii_case(b"chunked");
    let is_token = |member: &[u8]| {
        member
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
    };
    let codings = || field::members(value);
    if codings().any(is_chunked) || codings().next().is_none() || !codings().all(is_token) {
        HeadError::Malformed("ambiguous Transfer-Encoding")
    } else {
        HeadError::UnknownCoding
    }
}

fn read_target<'b>(
    method: &str,
    target: &'b [u8],
) -> Result<(TargetForm<'b>, Option<&'b [u8]>), HeadError> {
    use HeadError::Malformed;

    if method == "CONNECT" {
        return Err(Malformed("CONNECT is for forward proxies"));
    }
    match target {
        [b'/', ..] => Ok((TargetForm::Origin(target), None)),
        b"*" if method == "OPTIONS" => Ok((TargetForm::Asterisk, None)),
        _ => {
            let scheme = b"http://";
            if target.len() < scheme.len() || !target[..scheme.len()].eq_ignore_ascii_case(scheme) {
                return Err(Malformed(
                    "request target is neither a path nor an http URI",
                ));
            }
            let rest = &target[scheme.len()..];
            let end = rest
                .iter()
                .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
                .unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            if !host::is_valid(authority) {
                return Err(Malformed("invalid authority in the request target"));
            }
            let form = match path {
                [] if method == "OPTIONS" => TargetForm::Asterisk,
                [] => TargetForm::Origin(b"/"),
                [b'?', ..] => TargetForm::EmptyPath(path),
                _ => TargetForm::Origin(path),
            };
            Ok((form, Some(authority)))
        }
    }
}

/// What the members of `Connection` say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connection {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Field names.
    pub names_others: bool,
}

impl Connection {
    /// Adds the members of one `Connection` field.
    pub fn read(&mut self, value: &[u8]) {
        for member in field::members(value) {
            if member.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if member.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if member.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else {
                self.names_others = true;
            }
        }
    }
}

/// True for methods whose effect is the same when they are executed twice (RFC 9110
/// section 9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(
        method,
        "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits {
        bytes_max: 1024,
        fields_max: 8,
    };

    /// What is read of a head: method, framing and whether the connection is kept.
    fn read(head: &str) -> Result<Option<(String, Framing, bool)>, HeadError> {
        let mut slots = Slots::new();
        let head = parse(head.as_bytes(), &mut slots, LIMITS)?;
        Ok(head.map(|head| (head.method.to_owned(), head.framing, head.keep_alive)))
    }

    #[test]
    fn framing_is_read_in_one_way_or_not_at_all() {
        let framing = |fields: &str| {
            read(&format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
                .map(|head| head.expect("whole").1)
        };
        assert_eq!(framing(""), Ok(Framing::None));
        assert_eq!(framing("Content-Length: 0\r\n"), Ok(Framing::None));
        assert_eq!(framing("content-length:\t5 \r\n"), Ok(Framing::Length(5)));
        assert_eq!(
            framing("TRANSFER-ENCODING: Chunked\r\n"),
            Ok(Framing::Chunked)
        );
        assert_eq!(
            framing("Transfer-Encoding: gzip\r\n"),
            Err(HeadError::UnknownCoding)
        );
        for bad in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: \r\n",
            "Transfer-Encoding: \"chunked\"\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer_Encoding: chunked\r\n",
            "Content_Length: 5\r\n",
            "X: y\nTransfer-Encoding: chunked\r\n",
            "X: y\rTransfer-Encoding: chunked\r\n",
            "X: y\r\n Transfer-Encoding: chunked\r\n",
        ] {
            assert!(
                matches!(framing(bad), Err(HeadError::Malformed(_))),
                "{bad:?}: {:?}",
                framing(bad)
            );
        }
    }

    #[test]
    fn heads_that_are_not_http_1() {
        for bad in [
            "GET /\r\n",
            "GET / http/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX\u{1}: y\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX: \u{0}\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
            "GET a.b:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
        ] {
            assert!(
                matches!(read(bad), Err(HeadError::Malformed(_))),
                "{bad:?}: {:?}",
                read(bad)
            );
        }
    }

    #[test]
    fn every_beginning_of_a_good_head_is_good() {
        let head =
            "POST /a?b HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(read(&head[..end]), Ok(None), "{:?}", &head[..end]);
        }
        assert_eq!(
            read(head),
            Ok(Some(("POST".to_owned(), Framing::Length(3), false)))
        );
    }

    #[test]
    fn limits_hold_and_say_which() {
        let long = "x".repeat(LIMITS.bytes_max);
        assert_eq!(read(&format!("GET /{long}")), Err(HeadError::TargetTooLong));
        assert_eq!(
            read(&format!("GET / HTTP/1.1\r\nX: {long}")),
            Err(HeadError::TooLarge)
        );
        let many = "X: y\r\n".repeat(LIMITS.fields_max);
        assert_eq!(
            read(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")),
            Err(HeadError::TooLarge)
        );
        let rest = LIMITS.bytes_max - "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        let exact = format!(
            "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
            "x".repeat(rest)
        );
        assert!(matches!(read(&exact), Ok(Some(_))));
    }

    #[test]
    fn connections_are_kept_as_their_version_says() {
        let kept = |head: &str| read(head).expect("good").expect("whole").2;
        assert!(kept("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!kept(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"
        ));
        assert!(!kept("GET / HTTP/1.0\r\n\r\n"));
        assert!(kept("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    }

    #[test]
    fn absolute_targets_give_the_authority() {
        let mut slots = Slots::new();
        let bytes = b"GET HTTP://b:80?q HTTP/1.1\r\nHost: a\r\n\r\n";
        let head = parse(bytes, &mut slots, LIMITS)
            .expect("good")
            .expect("whole");
        assert_eq!(
            (head.host, head.target),
            (Some(&b"b:80"[..]), TargetForm::EmptyPath(b"?q"))
        );
    }
}
