//! From the bytes of a request to what will be done about it. No waiting here: the head
//! is read, routed and written anew in one go, and nothing borrowed outlives it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::cluster::Cluster;
use crate::config::HashOn;
use crate::control::Gateway;
use crate::http::field::{self, Field};
use crate::http::request::{self, HeadLimits, RequestHead, TargetForm};
use crate::http::{Framing, head, host};
use crate::proxy::error::ProxyError;
use crate::route::{Action, Route, RouteRequest};
use crate::target::{self, Scratch, Target};

/// Names the gateway in `Via` (RFC 9110 section 7.6.3).
const VIA: &[u8] = b"livegate";

/// What the connection must know of a request whatever becomes of it.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Minor version of the client's HTTP/1.
    pub minor: u8,
    /// The client wants to keep the connection.
    pub keep_alive: bool,
    /// The answer has no body.
    pub is_head: bool,
    /// How the request's body is framed.
    pub framing: Framing,
    /// The request may be executed twice.
    pub is_idempotent: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// A WebSocket handshake.
    pub upgrades: bool,
}

/// What is to be done.
pub enum Plan {
    /// Send the head in `out` to an instance of this cluster.
    Forward {
        /// Where to.
        cluster: Arc<Cluster>,
        /// What keyed balancers hash.
        key: Option<u64>,
    },
    /// Answer with this status.
    Status(u16),
    /// Answer with this status and `Location`.
    Redirect(u16),
    /// Answer with this error.
    Refuse(ProxyError),
}

/// A request that was understood.
pub struct Prepared {
    /// What the connection must know.
    pub facts: Facts,
    /// The route taken.
    pub route: Option<Arc<Route>>,
    /// What is to be done.
    pub plan: Plan,
    /// Bytes of the head, empty lines before it included.
    pub head_length: usize,
}

/// Where a request came from.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// Address of the client.
    pub ip: IpAddr,
    /// The same as text.
    pub ip_text: &'a [u8],
    /// The gateway's own address, as `Host` for HTTP/1.0 requests without one.
    pub local_host: &'a dyn Fn() -> String,
}

/// What the access log keeps of a request head.
pub trait Note {
    /// Called once for every request that was understood.
    fn note(&mut self, method: &str, target: &[u8], request_id: &[u8]);
}

/// Reads the request at the start of `bytes`, finds its route and, when it is to be
/// forwarded, appends the head for the instance to `out`. `Ok(None)`: more bytes are needed.
///
/// # Errors
///
/// [`ProxyError`] when the request cannot be understood; the connection is of no use then.
pub fn prepare(
    bytes: &[u8],
    gateway: &Gateway,
    origin: Origin<'_>,
    scratch: &mut Scratch,
    out: &mut Buffer,
    note: Option<&mut dyn Note>,
) -> Result<Option<Prepared>, ProxyError> {
    let limits = HeadLimits {
        bytes_max: usize::try_from(gateway.http.header_bytes_max).unwrap_or(usize::MAX),
        fields_max: gateway.http.headers_max,
    };
    let empty_lines = head::leading_empty_lines(bytes);
    let mut slots = request::Slots::new();
    let Some(head) = request::parse(&bytes[empty_lines..], &mut slots, limits)? else {
        return Ok(None);
    };
    let rooted;
    let raw = match head.target {
        TargetForm::Origin(raw) => Some(raw),
        TargetForm::EmptyPath(query) => {
            rooted = [b"/", query].concat();
            Some(&rooted[..])
        }
        TargetForm::Asterisk => None,
    };
    let target = raw
        .map(|raw| target::parse_target(raw, scratch).map_err(ProxyError::BadTarget))
        .transpose()?;
    if let (Framing::Length(length), Some(max)) = (head.framing, gateway.http.body_bytes_max)
        && length > max
    {
        return Err(ProxyError::BodyTooLarge);
    }
    let is_trusted = gateway
        .http
        .trusted_proxies
        .iter()
        .any(|network| network.contains(&origin.ip));
    let mut id = [0; 32];
    let request_id = match head.field("x-request-id") {
        Some(given) if !given.is_empty() && given.len() <= REQUEST_ID_BYTES_MAX => given,
        Some(_) | None => fresh_request_id(&mut id),
    };
    if let Some(note) = note {
        note.note(
            head.method,
            target.map_or(b"*", |target| target.path),
            request_id,
        );
    }

    let facts = Facts {
        minor: head.minor,
        keep_alive: head.keep_alive,
        is_head: head.method == "HEAD",
        framing: head.framing,
        is_idempotent: request::is_idempotent(head.method),
        expects_continue: head.expects_continue,
        upgrades: head.upgrades,
    };
    let route = gateway.routes.find(&RouteRequest {
        host: head.host.map_or(b"", host::without_port),
        path: target.map_or(b"*", |target| target.route_path),
        method: head.method.as_bytes(),
        header: &|name| {
            head.fields
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case(name))
                .map(|field| field.value)
        },
    });
    let plan = match route.map(|route| (&route.action, route)) {
        None => Plan::Refuse(ProxyError::NoRoute),
        Some((Action::Status(status), _)) => Plan::Status(*status),
        Some((Action::Redirect { status, .. }, _)) => Plan::Redirect(*status),
        Some((Action::Service(cluster), route)) => {
            let forwarded = Forwarded {
                head: &head,
                target,
                origin,
                is_trusted,
                request_id,
            };
            forwarded.write(route, cluster, out);
            let key = if cluster.config.balance.is_keyed() {
                key(&cluster.config.hash_on, &head, target, origin.ip)
            } else {
                None
            };
            Plan::Forward {
                cluster: Arc::clone(cluster),
                key,
            }
        }
    };
    Ok(Some(Prepared {
        facts,
        route: route.cloned(),
        plan,
        head_length: empty_lines + head.length,
    }))
}

/// A request id longer than this is replaced: it would be copied into every log line.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// 128 random bits in hexadecimal.
fn fresh_request_id(id: &mut [u8; 32]) -> &[u8] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (digits, byte) in id.chunks_exact_mut(2).zip(fastrand::u128(..).to_le_bytes()) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    id
}

/// A request as it is passed on.
struct Forwarded<'r, 'h, 'b> {
    head: &'r RequestHead<'h, 'b>,
    target: Option<Target<'r>>,
    origin: Origin<'r>,
    is_trusted: bool,
    request_id: &'r [u8],
}

impl Forwarded<'_, '_, '_> {
    fn write(&self, route: &Route, cluster: &Cluster, out: &mut Buffer) {
        // What comes, and about what is added to it.
        out.grow(self.head.length + 512);
        self.write_request_line(route, cluster, out);
        let head = self.head;
        match head.host {
            Some(host) => out.extend_field(b"Host", host),
            None => out.extend_field(b"Host", (self.origin.local_host)().as_bytes()),
        }
        for (header, meaning) in head.fields.iter().zip(head.meanings) {
            if self.passes(header, *meaning) {
                out.extend_field(header.name.as_bytes(), header.value);
            }
        }
        match head.framing {
            Framing::Length(length) => {
                let mut digits = itoa::Buffer::new();
                out.extend_field(b"Content-Length", digits.format(length).as_bytes());
            }
            Framing::Chunked => out.extend(b"Transfer-Encoding: chunked\r\n"),
            // A length of zero is passed on as it was said.
            Framing::None if head.meanings.contains(&Field::ContentLength) => {
                out.extend(b"Content-Length: 0\r\n")
            }
            Framing::None | Framing::Close => {}
        }
        if head.upgrades {
            out.extend(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
        }
        out.extend(if head.minor == 0 {
            b"Via: 1.0 "
        } else {
            b"Via: 1.1 "
        });
        out.extend(VIA);
        out.extend(b"\r\n");
        self.write_forwarding_fields(out);
        out.extend_field(b"X-Request-Id", self.request_id);
        out.extend(b"\r\n");
    }

    fn write_request_line(&self, route: &Route, cluster: &Cluster, out: &mut Buffer) {
        out.extend(self.head.method.as_bytes());
        out.extend(b" ");
        match self.target {
            None => out.extend(b"*"),
            Some(target) => {
                let path = if route.strip_segments == 0 {
                    target.path
                } else {
                    target::strip_segments(target.path, route.strip_segments)
                };
                if let Some(base) = &cluster.config.upstream_path {
                    out.extend(base.as_bytes());
                }
                out.extend(path);
                if let Some(query) = target.query {
                    out.extend(b"?");
                    out.extend(query);
                }
            }
        }
        out.extend(b" HTTP/1.1\r\n");
    }

    fn passes(&self, header: &httparse::Header<'_>, meaning: Field) -> bool {
        match meaning {
            Field::Other | Field::Date => !self.head.is_named_by_connection(header.name),
            Field::Via => true,
            // What it expects may be unknown to the gateway; the service is the one to say.
            Field::Expect => {
                self.head.expects_continue || !header.value.eq_ignore_ascii_case(b"100-continue")
            }
            Field::ForwardedOther => self.is_trusted,
            Field::Host
            | Field::Connection
            | Field::ContentLength
            | Field::TransferEncoding
            | Field::Upgrade
            | Field::HopByHop
            | Field::ForwardedFor
            | Field::ForwardedProto
            | Field::ForwardedHost
            | Field::RequestId
            | Field::Lookalike => false,
        }
    }

    fn write_forwarding_fields(&self, out: &mut Buffer) {
        let given = |wanted: Field| {
            let fields = self.head.fields.iter().zip(self.head.meanings);
            fields
                .filter(move |(_, meaning)| self.is_trusted && **meaning == wanted)
                .map(|(header, _)| header.value)
                .filter(|value| !value.is_empty())
        };
        out.extend(b"X-Forwarded-For: ");
        for value in given(Field::ForwardedFor) {
            out.extend(value);
            out.extend(b", ");
        }
        out.extend(self.origin.ip_text);
        out.extend(b"\r\n");
        out.extend_field(
            b"X-Forwarded-Proto",
            given(Field::ForwardedProto).next().unwrap_or(b"http"),
        );
        let host = given(Field::ForwardedHost).next().or(self.head.host);
        if let Some(host) = host {
            out.extend_field(b"X-Forwarded-Host", host);
        }
    }
}

/// What a keyed balancer hashes; `None` when the request does not have it.
fn key(
    hash_on: &HashOn,
    head: &RequestHead<'_, '_>,
    target: Option<Target<'_>>,
    ip: IpAddr,
) -> Option<u64> {
    let path = target.map_or(&b"*"[..], |target| target.path);
    let query = target.and_then(|target| target.query);
    let hash = xxhash_rust::xxh3::xxh3_64;
    match hash_on {
        HashOn::Path => Some(hash(path)),
        HashOn::Uri => {
            let seed = query.map_or(0, hash);
            Some(xxhash_rust::xxh3::xxh3_64_with_seed(path, seed))
        }
        HashOn::ClientIp => Some(match ip {
            IpAddr::V4(ip) => hash(&ip.octets()),
            IpAddr::V6(ip) => hash(&ip.octets()),
        }),
        HashOn::Header(name) => head.field(name).map(hash),
        HashOn::Cookie(name) => {
            let cookies = head
                .fields
                .iter()
                .filter(|header| header.name.eq_ignore_ascii_case("cookie"));
            cookies
                .flat_map(|header| header.value.split(|&byte| byte == b';'))
                .find_map(|cookie| {
                    let (cookie_name, value) = split_once(field::trim(cookie), b'=')?;
                    (cookie_name == name.as_bytes()).then(|| hash(value))
                })
        }
        HashOn::Query(name) => query?.split(|&byte| byte == b'&').find_map(|parameter| {
            let (parameter_name, value) = split_once(parameter, b'=')?;
            (parameter_name == name.as_bytes()).then(|| hash(value))
        }),
    }
}

fn split_once(bytes: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(separator, bytes)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}
