//! A client of the gateway's admin API, for the commands that read and operate a running gateway.
//!
//! Plain HTTP: the admin side listens on loopback, or behind something that adds TLS.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::{Token, TokenError};
use crate::health::probe::in_words;

/// Whom to ask, and how to show what it says.
#[derive(Debug, Args)]
pub(super) struct AdminArguments {
    /// The admin address of the gateway.
    #[arg(
        long,
        value_name = "URL",
        env = "LIVEGATE_ADMIN",
        default_value = "http://127.0.0.1:9901"
    )]
    pub(super) admin: AdminUrl,
    /// The file whose first line is the gateway's admin token.
    #[arg(long, value_name = "FILE", env = "LIVEGATE_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Print the JSON of the admin API, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdminUrl {
    host: String,
    port: u16,
}

impl FromStr for AdminUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example = "write it like http://127.0.0.1:9901";
        let text = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("{error}; {example}"))?;
        if uri.scheme_str() != Some("http") {
            return Err(format!("only http:// is spoken here; {example}"));
        }
        let port = uri.port_u16();
        let host = uri.host().unwrap_or_default();
        let (Some(port), false) = (port, host.is_empty()) else {
            return Err(format!("host and port are needed; {example}"));
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("no path belongs there; {example}"));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl std::fmt::Display for AdminUrl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "http://{}:{}", self.host, self.port)
    }
}

/// Why the gateway did not do what it was asked for.
#[derive(Debug, Error)]
pub(super) enum AdminError {
    /// Nobody listens there, or it cannot be found.
    #[error(
        "no gateway answers at {url} ({}): start it with 'livegate run', or name its admin address with --admin",
        in_words(cause)
    )]
    Unreachable {
        /// Where.
        url: AdminUrl,
        /// Why.
        cause: io::Error,
    },
    /// It is connected, but says nothing, or not all of it.
    #[error("the gateway at {url} has not answered within {} s: try again, or look at its log", ANSWER_TIMEOUT.as_secs())]
    Silent {
        /// Where.
        url: AdminUrl,
    },
    /// The connection broke.
    #[error(
        "the connection to the gateway at {url} broke ({cause}): try again, or look at its log"
    )]
    Broken {
        /// Where.
        url: AdminUrl,
        /// How.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not one of a gateway.
    #[error(
        "what answers at {url} is no livegate admin API (status {status}): name the gateway's admin address with --admin"
    )]
    Foreign {
        /// Where.
        url: AdminUrl,
        /// Its status.
        status: StatusCode,
    },
    /// It wants a token, and got none.
    #[error(
        "the gateway at {url} wants a token: name the file that has it with --token-file (the gateway's own is admin.token_file)"
    )]
    TokenNeeded {
        /// Where.
        url: AdminUrl,
    },
    /// It wants another token.
    #[error(
        "the gateway at {url} does not accept the token in {file}: name another file with --token-file (the gateway's own is admin.token_file)"
    )]
    TokenWrong {
        /// Where.
        url: AdminUrl,
        /// Whence the token came.
        file: String,
    },
    /// It says why not.
    #[error("{detail}")]
    Refused {
        /// 4xx or 5xx.
        status: StatusCode,
        /// Its own words.
        detail: String,
    },
}

impl AdminError {
    /// Whether it may work in a moment: the gateway restarts.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } | Self::Broken { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Foreign { .. } | Self::TokenNeeded { .. } | Self::TokenWrong { .. } => false,
        }
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For a whole answer; an explanation of ten thousand instances is tens of megabytes.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// Asks one gateway.
#[derive(Debug)]
pub(super) struct AdminClient {
    url: AdminUrl,
    /// The value of `Authorization`, and the file that the token is from.
    token: Option<(HeaderValue, String)>,
}

/// What the gateway said, word for word and as a value.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) json: Value,
}

/// An answer that goes on.
pub(super) struct Stream {
    body: Incoming,
    /// Drives the connection, and ends with this.
    _connection: JoinSet<()>,
}

impl Stream {
    /// The next bytes; `None` when the stream has ended or broken.
    pub(super) async fn chunk(&mut self) -> Option<Bytes> {
        loop {
            let frame = self.body.frame().await?.ok()?;
            if let Ok(bytes) = frame.into_data() {
                return Some(bytes);
            }
        }
    }
}

impl AdminClient {
    pub(super) fn new(arguments: &AdminArguments) -> anyhow::Result<Self> {
        let file = arguments.token_file.as_ref();
        // An empty variable is no file.
        let file = file.filter(|file| !file.as_os_str().is_empty());
        let token = file.map(|file| -> anyhow::Result<(HeaderValue, String)> {
            let shown = file.display().to_string();
            let token = Token::read(file).map_err(|error| match error {
                TokenError::Unreadable { path, source } => {
                    anyhow::anyhow!("cannot read --token-file {path}: {source}")
                }
                TokenError::Empty { path } => {
                    anyhow::anyhow!("the first line of --token-file {path} is empty")
                }
            })?;
            let value = token.authorization();
            let mut value = HeaderValue::from_bytes(&value)
                .with_context(|| format!("the first line of --token-file {shown} is no token"))?;
            value.set_sensitive(true);
            Ok((value, shown))
        });
        Ok(Self {
            url: arguments.admin.clone(),
            token: token.transpose()?,
        })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Answer, AdminError> {
        self.ask(Method::GET, path).await
    }

    pub(super) async fn post(&self, path: &str) -> Result<Answer, AdminError> {
        self.ask(Method::POST, path).await
    }

    /// Opens a stream of events after this one.
    pub(super) async fn stream(&self, path: &str, last_id: &str) -> Result<Stream, AdminError> {
        let opened = timeout(ANSWER_TIMEOUT, async {
            let (response, connection) = self.send(Method::GET, path, Some(last_id)).await?;
            if response.status().is_success() {
                return Ok(Stream {
                    body: response.into_body(),
                    _connection: connection,
                });
            }
            Err(match self.read(response).await {
                Err(error) => error,
                Ok(_) => AdminError::Foreign {
                    url: self.url.clone(),
                    status: StatusCode::OK,
                },
            })
        });
        opened.await.map_err(|_| self.silent())?
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Answer, AdminError> {
        let answered = timeout(ANSWER_TIMEOUT, async {
            let (response, _connection) = self.send(method, path, None).await?;
            self.read(response).await
        });
        answered.await.map_err(|_| self.silent())?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        last_id: Option<&str>,
    ) -> Result<(Response<Incoming>, JoinSet<()>), AdminError> {
        let unreachable = |cause| AdminError::Unreachable {
            url: self.url.clone(),
            cause,
        };
        let host = self.url.host.trim_start_matches('[').trim_end_matches(']');
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect((host, self.url.port))).await;
        let stream = stream
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "connect timed out")))
            .map_err(unreachable)?;
        let broken = |error: hyper::Error| self.broken(error);
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let mut connection = JoinSet::new();
        // Whatever ends it is told to whoever waits for the response.
        connection.spawn(async move { drop(driver.await) });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{}:{}", self.url.host, self.url.port));
        if let Some((token, _)) = &self.token {
            request = request.header(AUTHORIZATION, token);
        }
        if let Some(last_id) = last_id {
            request = request.header("last-event-id", last_id);
        }
        let request = request
            .body(Empty::<Bytes>::new())
            .expect("paths are percent-encoded");
        let response = sender.send_request(request).await.map_err(broken)?;
        Ok((response, connection))
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, AdminError> {
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            let url = self.url.clone();
            return Err(match &self.token {
                None => AdminError::TokenNeeded { url },
                Some((_, file)) => AdminError::TokenWrong {
                    url,
                    file: file.clone(),
                },
            });
        }
        let foreign = || AdminError::Foreign {
            url: self.url.clone(),
            status,
        };
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let body = body.collect().await.map_err(|error| self.broken(error))?;
        let text = String::from_utf8(body.to_bytes().into()).map_err(|_| foreign())?;
        let json: Value = serde_json::from_str(&text).map_err(|_| foreign())?;
        if status.is_success() {
            return Ok(Answer { text, json });
        }
        match (json["error"].as_str(), json["detail"].as_str()) {
            (Some(_), Some(detail)) => Err(AdminError::Refused {
                status,
                detail: detail.to_owned(),
            }),
            (None, _) | (_, None) => Err(foreign()),
        }
    }

    fn silent(&self) -> AdminError {
        AdminError::Silent {
            url: self.url.clone(),
        }
    }

    fn broken(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AdminError {
        AdminError::Broken {
            url: self.url.clone(),
            cause: cause.into(),
        }
    }
}

/// One segment of a path, or a value of a query, percent-encoded (RFC 3986).
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// Runs a command to its end. A reader that closed its pipe has seen enough.
pub(super) fn run(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let result = runtime.block_on(command);
    // A lookup of a name cannot be cancelled; nobody waits for it.
    runtime.shutdown_background();
    match result {
        Err(error) if is_closed_pipe(&error) => Ok(()),
        result => result,
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown() {
        let shown = |text: &str| text.parse::<AdminUrl>().map(|url| url.to_string());
        for (text, expected) in [
            ("http://127.0.0.1:9901", "http://127.0.0.1:9901"),
            ("http://gw.example:80/", "http://gw.example:80"),
            ("localhost:9901", "http://localhost:9901"),
            ("[::1]:9901", "http://[::1]:9901"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected));
        }
        for (text, why) in [
            ("https://127.0.0.1:9901", "only http://"),
            ("http://127.0.0.1", "host and port"),
            ("127.0.0.1", "host and port"),
            ("http://127.0.0.1:9901/api", "no path"),
            ("http://127.0.0.1:99999", "write it like"),
            ("", "write it like"),
            ("a b", "write it like"),
        ] {
            let error = shown(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encoded("10.0.0.1:80"), "10.0.0.1%3A80");
        assert_eq!(encoded("a/b c?é"), "a%2Fb%20c%3F%C3%A9");
    }

    #[test]
    fn errors_are_in_words() {
        let error = io::Error::from_raw_os_error(111);
        assert_eq!(in_words(&error), "connection refused");
        assert_eq!(
            in_words(&io::Error::other("connect timed out")),
            "connect timed out"
        );
    }
}
