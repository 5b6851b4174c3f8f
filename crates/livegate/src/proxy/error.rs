//! Why the gateway answers by itself: status, reason and what becomes of the connection,
//! decided in one place.

use crate::http::head::HeadError;
use crate::target::TargetError;
use livegate_discovery::NoEndpoint;

/// A request that the gateway answers instead of a service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The request breaks HTTP.
    #[error("{0}")]
    BadRequest(&'static str),
    /// The target is not one that gateway and service would read alike.
    #[error("{0}")]
    BadTarget(TargetError),
    /// A transfer coding that the gateway does not know.
    #[error("transfer coding other than chunked")]
    UnknownCoding,
    /// The client did not send its head in time.
    #[error("request not received in time")]
    RequestTimeout,
    /// A body without a length.
    #[error("content-length required")]
    LengthRequired,
    /// The body is larger than `body_bytes_max`.
    #[error("request body larger than http.body_bytes_max")]
    BodyTooLarge,
    /// The target alone is larger than `header_bytes_max`.
    #[error("request target longer than http.header_bytes_max")]
    UriTooLong,
    /// The head is larger than `header_bytes_max` or has more fields than `headers_max`.
    #[error("request head larger than http.header_bytes_max or http.headers_max allow")]
    HeadersTooLarge,
    /// No route takes this request.
    #[error("no route for this host, path and method")]
    NoRoute,
    /// Nothing is known of the service yet.
    #[error("the registry has not been read yet")]
    RegistryPending,
    /// The registry has no such service.
    #[error("the registry has no such service")]
    ServiceAbsent,
    /// The service has no instances.
    #[error("the service has no instances")]
    ServiceEmpty,
    /// No instance may be used.
    #[error("no instance of the service is fit")]
    NoFitInstance,
    /// No instance could be connected to.
    #[error("no instance could be connected to")]
    ConnectFailed,
    /// The instance ended the connection before it answered.
    #[error("the instance ended the connection before a whole response head")]
    UpstreamReset,
    /// The instance's answer could not be read without doubt.
    #[error("the instance's response is not valid HTTP: {0}")]
    BadUpstreamResponse(&'static str),
    /// The instance did not answer in time.
    #[error("no response head from the instance in time")]
    UpstreamTimeout,
    /// The gateway is going down.
    #[error("the gateway is shutting down")]
    ShuttingDown,
}

impl ProxyError {
    /// The status code of the answer.
    pub const fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) | Self::BadTarget(_) => 400,
            Self::UnknownCoding => 501,
            Self::RequestTimeout => 408,
            Self::LengthRequired => 411,
            Self::BodyTooLarge => 413,
            Self::UriTooLong => 414,
            Self::HeadersTooLarge => 431,
            Self::NoRoute => 404,
            Self::RegistryPending
            | Self::ServiceAbsent
            | Self::ServiceEmpty
            | Self::NoFitInstance
            | Self::ShuttingDown => 503,
            Self::ConnectFailed | Self::UpstreamReset | Self::BadUpstreamResponse(_) => 502,
            Self::UpstreamTimeout => 504,
        }
    }

    /// The machine-readable reason, as in `x-livegate-reason`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::BadTarget(_) => "bad_request",
            Self::UnknownCoding => "unknown_transfer_coding",
            Self::RequestTimeout => "request_timeout",
            Self::LengthRequired => "length_required",
            Self::BodyTooLarge => "body_too_large",
            Self::UriTooLong => "uri_too_long",
            Self::HeadersTooLarge => "headers_too_large",
            Self::NoRoute => "no_route",
            Self::RegistryPending => "registry_pending",
            Self::ServiceAbsent => "service_absent",
            Self::ServiceEmpty => "service_empty",
            Self::NoFitInstance => "no_fit_instance",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamReset => "upstream_reset",
            Self::BadUpstreamResponse(_) => "bad_upstream_response",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// True when the rest of what the client sends cannot be trusted or is not wanted.
    pub const fn closes_downstream(&self) -> bool {
        matches!(self.status(), 400 | 408 | 411 | 413 | 414 | 431 | 501)
            || matches!(self, Self::ShuttingDown)
    }
}

impl From<HeadError> for ProxyError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Malformed(detail) => Self::BadRequest(detail),
            HeadError::UnknownCoding => Self::UnknownCoding,
            HeadError::TargetTooLong => Self::UriTooLong,
            HeadError::TooLarge => Self::HeadersTooLarge,
            HeadError::LengthRequired => Self::LengthRequired,
        }
    }
}

impl From<NoEndpoint> for ProxyError {
    fn from(error: NoEndpoint) -> Self {
        match error {
            NoEndpoint::Pending => Self::RegistryPending,
            NoEndpoint::Absent => Self::ServiceAbsent,
            NoEndpoint::Empty => Self::ServiceEmpty,
            NoEndpoint::AllUnfit => Self::NoFitInstance,
        }
    }
}

/// The standard reason phrase of a status code (RFC 9110 section 15), empty when there is none.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}
