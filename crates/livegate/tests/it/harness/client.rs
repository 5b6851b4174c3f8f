//! A client that sends exactly the bytes it is told to, and reads answers strictly.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::wait::PATIENCE;
use super::wire::{Body, Framing, Head, Wire, WireError, latin1};

/// A final response, with the interim ones that came before it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) framing: Option<Framing>,
    /// Status and head of each 1xx that came first.
    pub(crate) interim: Vec<(u16, Head)>,
    /// False: the end of the body never came (`why` says how it ended).
    pub(crate) complete: bool,
    pub(crate) why: Option<WireError>,
}

impl Response {
    pub(crate) fn text(&self) -> String {
        latin1(&self.body)
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    pub(crate) fn closes(&self) -> bool {
        self.head.lists("connection", "close")
    }
}

/// One client connection.
pub(crate) struct Client {
    wire: Wire,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).expect("the gateway accepts connections")
    }

    /// The same where the gateway may be down.
    #[allow(dead_code, reason = "the chaos suite, which shares this, uses it")]
    pub(crate) fn try_connect(address: SocketAddr) -> Option<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
        Some(Client {
            wire: Wire::new(stream),
        })
    }

    /// A client whose receive window is small from the start, so that what it does not read stays
    /// with the gateway and not in its own kernel buffer.
    pub(crate) fn connect_small_window(address: SocketAddr) -> Client {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket
            .connect_timeout(&address.into(), PATIENCE)
            .expect("the gateway accepts connections");
        Client {
            wire: Wire::new(socket.into()),
        }
    }

    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire
            .send(bytes.as_ref())
            .expect("the gateway takes what the client sends");
    }

    /// Sends although the gateway may have closed already.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.wire.send(bytes.as_ref()).is_ok()
    }

    /// The next complete final response to a request with this method.
    #[track_caller]
    pub(crate) fn response(&mut self, method: &str) -> Response {
        let response = self
            .read(method)
            .unwrap_or_else(|error| panic!("no response to {method}: {error}"));
        assert!(
            response.complete,
            "incomplete response: {:?} {:?}",
            response.head, response.why
        );
        response
    }

    /// The next final response: its head, and as much of its body as comes.
    pub(crate) fn read(&mut self, method: &str) -> Result<Response, WireError> {
        self.read_within(method, PATIENCE)
    }

    pub(crate) fn read_within(
        &mut self,
        method: &str,
        patience: Duration,
    ) -> Result<Response, WireError> {
        self.wire.patience(patience);
        let mut response = Response::default();
        loop {
            (response.status, response.head) = self.status_and_head()?;
            if response.status == 101 || response.status >= 200 {
                break;
            }
            assert!(
                response.head.framing() == Ok(None),
                "interim response with framing fields: {:?}",
                response.head
            );
            response.interim.push((response.status, response.head));
        }
        // RFC 9112 6.3: no body after HEAD, 1xx, 204 and 304, whatever the fields say.
        let framing = match (method, response.status, response.head.framing()?) {
            ("HEAD", _, _) | (_, 101 | 304, _) => Framing::None,
            (_, 204, None) => Framing::None,
            (_, 204, Some(_)) => {
                return Err(WireError::Malformed("204 with framing fields".to_owned()));
            }
            (_, _, Some(framing)) => framing,
            (_, _, None) => Framing::UntilClose,
        };
        response.framing = Some(framing);
        let mut body = Body::default();
        let end = self.wire.body(framing, &mut body);
        (response.body, response.trailers, response.complete) =
            (body.bytes, body.trailers, body.complete);
        match end {
            Err(WireError::Malformed(what)) => Err(WireError::Malformed(what)),
            end => {
                response.why = end.err();
                Ok(response)
            }
        }
    }

    /// Status line and fields of the next response, final or not.
    pub(crate) fn status_and_head(&mut self) -> Result<(u16, Head), WireError> {
        let head = self.wire.head()?;
        let bad = || WireError::Malformed(format!("status line {:?}", head.start));
        let rest = head.start.strip_prefix("HTTP/1.1 ").ok_or_else(bad)?;
        let (code, _) = rest.split_once(' ').ok_or_else(bad)?;
        let status: u16 = code.parse().map_err(|_| bad())?;
        if code.len() != 3 || !(100..600).contains(&status) {
            return Err(bad());
        }
        Ok((status, head))
    }

    /// One request, one response.
    #[track_caller]
    pub(crate) fn get(&mut self, target: &str) -> Response {
        self.send(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        self.response("GET")
    }

    /// Waits for the end of the connection; panics when anything but the end comes.
    #[track_caller]
    pub(crate) fn expect_closed(&mut self) {
        self.wire.patience(PATIENCE);
        match self.wire.rest() {
            Ok((bytes, _)) => assert!(
                bytes.is_empty(),
                "unexpected bytes before the end: {:?}",
                latin1(&bytes)
            ),
            Err(error) => panic!("the gateway did not close the connection: {error}"),
        }
    }

    /// Is the connection still open, with nothing more in it than we have read? Proven by a request.
    #[track_caller]
    pub(crate) fn expect_usable(&mut self) {
        let response = self.get("/still-usable");
        assert_eq!(
            response.text(),
            "GET /still-usable\n",
            "a foreign or shifted answer"
        );
    }

    pub(crate) fn reset(self) {
        self.wire.reset();
    }
}

/// The host that tests ask for when it does not matter.
pub(crate) const HOST: &str = "shop.test";
