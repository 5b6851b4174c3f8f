//! One probe: connect, perhaps ask, and say what was found.

use std::net::SocketAddr;
use std::time::Duration;

use livegate_discovery::probe::{Evidence, is_local_shortage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Whether it accepts a connection.
    Connect,
    /// `GET` of this target.
    Get(String),
    /// `OPTIONS *`: whether it says anything at all. Asks for no resource, changes nothing, and
    /// every HTTP server answers it, if only with an error (RFC 9110, section 9.3.7).
    Speak,
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It accepts connections; that is all that was asked.
    Connected,
    /// It answered with this status.
    Answered(u16),
    /// It said something that is no HTTP response, or closed the connection before it had said
    /// enough; the text tells.
    Garbled(&'static str),
    /// It accepted the connection and said nothing, or not enough, in time.
    Silent,
    /// It did not accept a connection in time.
    TimedOut,
    /// It refused the connection, or there is no way to its host; the text is the system's.
    Unreachable(String),
    /// This host has run out of something, so nothing is known about the endpoint.
    Prevented(String),
}

impl Finding {
    /// What it shows about who listens there.
    pub fn evidence(&self) -> Evidence {
        match self {
            Self::Connected | Self::Silent => Evidence::Connected { is_awake: false },
            Self::Answered(_) | Self::Garbled(_) => Evidence::Connected { is_awake: true },
            Self::TimedOut => Evidence::TimedOut,
            Self::Unreachable(error) => Evidence::Unreachable(error.clone()),
            Self::Prevented(error) => Evidence::Prevented(error.clone()),
        }
    }
}

/// Bytes of a response that are read at most.
const RESPONSE_BYTES_MAX: usize = 16 * 1024;
/// How long the rest of a response is read after its status, so that the instance can close first
/// and sees no reset.
const LINGER: Duration = Duration::from_millis(50);

/// "connection refused" rather than "Connection refused (os error 111)".
pub(crate) fn in_words(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(chars).collect()
}

/// Asks the question; takes no longer than `patience` (and the lingering).
pub async fn ask(address: SocketAddr, question: &Question, patience: Duration) -> Finding {
    let deadline = Instant::now() + patience;
    let mut stream = match timeout_at(deadline, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if is_local_shortage(&error) => {
            return Finding::Prevented(in_words(&error));
        }
        Ok(Err(error)) => return Finding::Unreachable(in_words(&error)),
        Err(_) => return Finding::TimedOut,
    };
    let request = match question {
        Question::Connect => return Finding::Connected,
        Question::Get(target) => request("GET", target, address),
        Question::Speak => request("OPTIONS", "*", address),
    };
    let answer = async {
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(|_| "it closed the connection")?;
        read_status(&mut stream).await
    };
    match timeout_at(deadline, answer).await {
        Ok(Ok(status)) => {
            drop(timeout(LINGER, read_rest(&mut stream)).await);
            Finding::Answered(status)
        }
        Ok(Err(text)) => Finding::Garbled(text),
        Err(_) => Finding::Silent,
    }
}

fn request(method: &str, target: &str, address: SocketAddr) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: livegate-health\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    )
}

async fn read_status(stream: &mut TcpStream) -> Result<u16, &'static str> {
    let mut bytes = Vec::with_capacity(512);
    loop {
        match status(&bytes) {
            Parsed::Status(status) => return Ok(status),
            Parsed::Garbage => return Err("its answer is no HTTP response"),
            Parsed::Partial if bytes.len() >= RESPONSE_BYTES_MAX => {
                return Err("its answer has no status within 16 KiB");
            }
            Parsed::Partial => {}
        }
        let room = RESPONSE_BYTES_MAX - bytes.len();
        match (&mut *stream).take(room as u64).read_buf(&mut bytes).await {
            Ok(0) => return Err("it closed the connection without an answer"),
            Ok(_) => {}
            Err(_) => return Err("it reset the connection without an answer"),
        }
    }
}

async fn read_rest(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    // Whatever comes, or does not come, the status is known.
    drop(
        stream
            .take(RESPONSE_BYTES_MAX as u64)
            .read_to_end(&mut rest)
            .await,
    );
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    Status(u16),
    Partial,
    Garbage,
}

/// The status of the first response that is not interim.
fn status(mut bytes: &[u8]) -> Parsed {
    loop {
        let Some(line_end) = memchr::memchr(b'\n', bytes) else {
            let beginning = &bytes[..bytes.len().min(5)];
            return if b"HTTP/".starts_with(beginning) {
                Parsed::Partial
            } else {
                Parsed::Garbage
            };
        };
        match status_of_line(&bytes[..line_end]) {
            None => return Parsed::Garbage,
            // 101 is an answer: the connection is not HTTP any more.
            Some(101) => return Parsed::Status(101),
            Some(100..=199) => {}
            Some(status) => return Parsed::Status(status),
        }
        match memchr::memmem::find(bytes, b"\r\n\r\n") {
            Some(head_end) => bytes = &bytes[head_end + 4..],
            None => return Parsed::Partial,
        }
    }
}

/// `HTTP/1.1 200 OK`, the version and the reason being anything.
fn status_of_line(line: &[u8]) -> Option<u16> {
    let line = line.strip_prefix(b"HTTP/")?;
    let space = memchr::memchr(b' ', line)?;
    let (digits, rest) = line[space + 1..].split_at_checked(3)?;
    if !matches!(rest.first(), None | Some(b' ' | b'\r')) {
        return None;
    }
    let value = |status: u16, digit: &u8| {
        let digit = char::from(*digit).to_digit(10)?;
        Some(status * 10 + u16::try_from(digit).ok()?)
    };
    let status = digits.iter().try_fold(0, value)?;
    (100..=999).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn statuses() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Parsed::Status(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Parsed::Status(503));
        assert_eq!(status(b"HTTP/1.1 204 \n"), Parsed::Status(204));
        assert_eq!(
            status(b"HTTP/1.1 101 Switching Protocols\r\n"),
            Parsed::Status(101)
        );
        assert_eq!(
            status(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 X\r\n"),
            Parsed::Status(404)
        );
        assert_eq!(
            status(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n"),
            Parsed::Partial
        );
        assert_eq!(status(b""), Parsed::Partial);
        assert_eq!(status(b"HTT"), Parsed::Partial);
        assert_eq!(status(b"HTTP/1.1 200 OK"), Parsed::Partial);
        for garbage in [
            "SSH-2.0",
            "HTTP/1.1\r\n",
            "HTTP/1.1 20\r\n",
            "HTTP/1.1 2000\r\n",
            "HTTP/1.1 2x0\r\n",
            "\n",
        ] {
            assert_eq!(status(garbage.as_bytes()), Parsed::Garbage, "{garbage:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            status(&bytes);
        }

        /// What is read in pieces is read as one.
        #[test]
        fn pieces_say_nothing_else(cut in 0usize..60) {
            let whole = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 418 Teapot\r\n";
            let part = status(&whole[..cut]);
            prop_assert!(part == Parsed::Partial || part == status(whole));
        }
    }

    /// An instance that answers every connection with `answer` and keeps the requests.
    async fn instance(answer: &'static [u8]) -> (SocketAddr, JoinSet<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let mut length = 0;
            while !request[..length].ends_with(b"\r\n\r\n") {
                match stream.read(&mut request[length..]).await.unwrap() {
                    0 => break,
                    read => length += read,
                }
            }
            request.truncate(length);
            stream.write_all(answer).await.unwrap();
            request
        });
        (address, tasks)
    }

    const PATIENCE: Duration = Duration::from_secs(5);
    const AWAKE: Evidence = Evidence::Connected { is_awake: true };

    #[tokio::test]
    async fn a_get_is_answered() {
        let (address, mut tasks) =
            instance(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        let question = Question::Get("/healthz".to_owned());
        assert_eq!(
            ask(address, &question, PATIENCE).await,
            Finding::Answered(200)
        );
        let request = String::from_utf8(tasks.join_next().await.unwrap().unwrap()).unwrap();
        let expected = format!(
            "GET /healthz HTTP/1.1\r\nHost: {address}\r\nUser-Agent: livegate-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(request, expected);
    }

    #[tokio::test]
    async fn any_answer_to_options_is_a_sign_of_life() {
        let (address, mut tasks) = instance(b"HTTP/1.0 501 Not Implemented\r\n\r\n").await;
        let finding = ask(address, &Question::Speak, PATIENCE).await;
        assert!(finding.evidence() == AWAKE, "{finding:?}");
        let request = String::from_utf8(tasks.join_next().await.unwrap().unwrap()).unwrap();
        assert!(request.starts_with("OPTIONS * HTTP/1.1\r\n"));
    }

    #[tokio::test]
    async fn what_is_no_http_is_garbled() {
        for answer in [&b"220 smtp.example.com ESMTP\r\n"[..], b"", b"HTTP/1.1 2"] {
            let (address, _tasks) = instance(answer).await;
            let finding = ask(address, &Question::Get("/".to_owned()), PATIENCE).await;
            assert!(
                matches!(finding, Finding::Garbled(_)) && finding.evidence() == AWAKE,
                "{finding:?}"
            );
        }
    }

    #[tokio::test]
    async fn endless_interim_responses_end() {
        static ENDLESS: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| b"HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            drop(stream.write_all(&ENDLESS).await);
        });
        let finding = ask(address, &Question::Get("/".to_owned()), PATIENCE).await;
        assert_eq!(
            finding,
            Finding::Garbled("its answer has no status within 16 KiB")
        );
    }

    #[tokio::test]
    async fn a_frozen_process_connects_and_is_silent() {
        // The kernel accepts for it, up to the backlog.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let short = Duration::from_millis(50);
        assert_eq!(
            ask(address, &Question::Connect, PATIENCE).await,
            Finding::Connected
        );
        assert_eq!(ask(address, &Question::Speak, short).await, Finding::Silent);
        drop(listener);
        let finding = ask(address, &Question::Connect, PATIENCE).await;
        assert!(matches!(finding, Finding::Unreachable(_)), "{finding:?}");
    }
}
