//! Responses: the gateway's own, and the heads of those it passes on.

use crate::buffer::Buffer;
use crate::http::Framing;
use crate::http::field::Field;
use crate::http::request::named_by_connection;
use crate::http::response::ResponseHead;
use crate::proxy::error::{ProxyError, reason_phrase};
use crate::proxy::prepare::Facts;

/// What the client's side demands of any response.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Minor version of the client's HTTP/1.
    pub minor: u8,
    /// No body may follow.
    pub is_head: bool,
    /// The connection is closed after the response.
    pub closes: bool,
    /// The current time as an HTTP date.
    pub date: &'a [u8],
}

/// Writes the gateway's answer to a request that it could not serve.
pub fn write_error(out: &mut Buffer, error: &ProxyError, service: Option<&str>, terms: Terms<'_>) {
    let body = serde_json::json!({
        "error": error.reason(),
        "detail": error.to_string(),
        "service": service,
    })
    .to_string();
    write_status_line(out, error.status(), reason_phrase(error.status()));
    out.extend(b"Content-Type: application/json\r\nx-livegate-reason: ");
    out.extend(error.reason().as_bytes());
    out.extend(b"\r\n");
    if error.status() == 503 {
        out.extend(b"Retry-After: 1\r\n");
    }
    finish_own(out, body.as_bytes(), terms);
}

/// Writes the answer of a route that answers by itself.
pub fn write_status(out: &mut Buffer, status: u16, terms: Terms<'_>) {
    let reason = reason_phrase(status);
    write_status_line(out, status, reason);
    if status == 204 || status == 304 {
        write_common(out, terms);
        out.extend(b"\r\n");
        return;
    }
    out.extend(b"Content-Type: text/plain\r\n");
    let mut digits = itoa::Buffer::new();
    let body = [digits.format(status), " ", reason, "\n"].concat();
    finish_own(out, body.as_bytes(), terms);
}

/// Writes a redirect.
pub fn write_redirect(out: &mut Buffer, status: u16, location: &str, terms: Terms<'_>) {
    write_status_line(out, status, reason_phrase(status));
    out.extend_field(b"Location", location.as_bytes());
    finish_own(out, b"", terms);
}

fn finish_own(out: &mut Buffer, body: &[u8], terms: Terms<'_>) {
    write_length(out, body.len() as u64);
    write_common(out, terms);
    out.extend(b"\r\n");
    if !terms.is_head {
        out.extend(body);
    }
}

fn write_common(out: &mut Buffer, terms: Terms<'_>) {
    out.extend_field(b"Date", terms.date);
    write_connection(out, terms);
}

fn write_connection(out: &mut Buffer, terms: Terms<'_>) {
    if terms.closes {
        out.extend(b"Connection: close\r\n");
    } else if terms.minor == 0 {
        out.extend(b"Connection: keep-alive\r\n");
    }
}

fn write_length(out: &mut Buffer, length: u64) {
    let mut digits = itoa::Buffer::new();
    out.extend_field(b"Content-Length", digits.format(length).as_bytes());
}

fn write_status_line(out: &mut Buffer, status: u16, reason: &str) {
    let mut digits = itoa::Buffer::new();
    out.extend(b"HTTP/1.1 ");
    out.extend(digits.format(status).as_bytes());
    out.extend(b" ");
    out.extend(reason.as_bytes());
    out.extend(b"\r\n");
}

/// Writes the head of a final response that is passed on.
pub fn write_head(out: &mut Buffer, head: &ResponseHead<'_, '_>, terms: Terms<'_>) {
    write_status_line(out, head.status, head.reason);
    write_fields(out, head);
    match head.framing {
        Framing::Length(length) => write_length(out, length),
        Framing::Chunked | Framing::Close if terms.minor == 1 => {
            out.extend(b"Transfer-Encoding: chunked\r\n")
        }
        Framing::Chunked | Framing::Close => {}
        // The length that a body would have had (RFC 9110 section 8.6); never in 204.
        Framing::None => {
            if let Some(length) = head.content_length.filter(|_| head.status != 204) {
                write_length(out, length);
            } else if terms.is_head
                && head.meanings.contains(&Field::TransferEncoding)
                && terms.minor == 1
            {
                out.extend(b"Transfer-Encoding: chunked\r\n");
            }
        }
    }
    if !head.meanings.contains(&Field::Date) {
        out.extend_field(b"Date", terms.date);
    }
    write_connection(out, terms);
    out.extend(b"\r\n");
}

/// Writes an interim response (1xx but not 101) that is passed on.
pub fn write_interim(out: &mut Buffer, head: &ResponseHead<'_, '_>) {
    write_status_line(out, head.status, head.reason);
    write_fields(out, head);
    out.extend(b"\r\n");
}

/// Writes the head that turns the connection into a tunnel.
pub fn write_switching(out: &mut Buffer, head: &ResponseHead<'_, '_>) {
    write_status_line(out, head.status, head.reason);
    write_fields(out, head);
    out.extend(b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
}

fn write_fields(out: &mut Buffer, head: &ResponseHead<'_, '_>) {
    for (header, meaning) in head.fields.iter().zip(head.meanings) {
        let passes = match meaning {
            Field::Connection
            | Field::ContentLength
            | Field::TransferEncoding
            | Field::Upgrade
            | Field::HopByHop
            | Field::Lookalike => false,
            Field::Other
            | Field::Host
            | Field::Expect
            | Field::Via
            | Field::ForwardedFor
            | Field::ForwardedProto
            | Field::ForwardedHost
            | Field::ForwardedOther
            | Field::RequestId
            | Field::Date => {
                !(head.names_hop_fields
                    && named_by_connection(head.fields, head.meanings, header.name))
            }
        };
        if passes {
            out.extend_field(header.name.as_bytes(), header.value);
        }
    }
}

impl Facts {
    /// What an answer to this request must look like.
    pub fn terms<'a>(&self, closes: bool, date: &'a [u8]) -> Terms<'a> {
        Terms {
            minor: self.minor,
            is_head: self.is_head,
            closes,
            date,
        }
    }
}
