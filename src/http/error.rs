//! The faults of a peer: one error type for everything that a request can do wrong.
//!
//! Each variant knows the status code that answers it (RFC 9110 15) and prints one line for the log. The line names
//! the broken rule and never repeats bytes of the peer, so it needs no escaping.
//!
//! After any of these errors the connection must be closed. The end of the request is no longer certain, and the bytes
//! that follow must not be taken for a request (RFC 9112 6.3, 11.2).
//!
//! Faults of the application are [`ResponseError`](super::response::ResponseError).

use std::fmt;

/// A fault of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// 400: the text names the rule.
    BadRequest(&'static str),
    /// 403: the text names the forbidden thing.
    Forbidden(&'static str),
    /// 408: the request did not arrive in time.
    Timeout,
    /// 411: a body without a Content-Length, where the server demands one.
    LengthRequired,
    /// 413: the body is larger than the server takes.
    BodyTooLarge,
    /// 414: the request line is longer than the server takes.
    UriTooLong,
    /// 417: an `Expect` other than `100-continue`.
    ExpectationFailed,
    /// 426: the text names the protocol that the client should ask for.
    UpgradeRequired(&'static str),
    /// 431: the text names the limit.
    FieldsTooLarge(&'static str),
    /// 501: the text names the missing feature.
    NotImplemented(&'static str),
    /// 505: a major version of HTTP other than 1.
    VersionNotSupported,
}

impl RequestError {
    /// The status code of the answer (RFC 9110 15.5, 15.6; RFC 6585 5 for 431).
    pub fn status(&self) -> u16 {
        match self {
            Self::BadRequest(_) => 400,
            Self::Forbidden(_) => 403,
            Self::Timeout => 408,
            Self::LengthRequired => 411,
            Self::BodyTooLarge => 413,
            Self::UriTooLong => 414,
            Self::ExpectationFailed => 417,
            Self::UpgradeRequired(_) => 426,
            Self::FieldsTooLarge(_) => 431,
            Self::NotImplemented(_) => 501,
            Self::VersionNotSupported => 505,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::BadRequest(rule) | Self::Forbidden(rule) | Self::UpgradeRequired(rule) => rule,
            Self::FieldsTooLarge(limit) => limit,
            Self::NotImplemented(lack) => lack,
            Self::Timeout => "the request did not arrive in time",
            Self::LengthRequired => "a chunked body, and chunked_requests is off",
            Self::BodyTooLarge => "the request body is over the limit",
            Self::UriTooLong => "the request line is over the limit",
            Self::ExpectationFailed => "an expectation other than 100-continue",
            Self::VersionNotSupported => "a major version of HTTP other than 1",
        })
    }
}

impl std::error::Error for RequestError {}

/// The outcome of a check of the peer's bytes.
pub type Checked = Result<(), RequestError>;

/// Returns the error unless the condition is met.
pub fn require(is_met: bool, error: RequestError) -> Checked {
    if is_met { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_status_and_one_line_for_the_log() {
        let table = [
            (RequestError::BadRequest("rule"), 400, "rule"),
            (RequestError::Forbidden("rule"), 403, "rule"),
            (RequestError::UpgradeRequired("rule"), 426, "rule"),
            (RequestError::LengthRequired, 411, "a chunked body, and chunked_requests is off"),
            (RequestError::Timeout, 408, "the request did not arrive in time"),
            (RequestError::BodyTooLarge, 413, "the request body is over the limit"),
            (RequestError::UriTooLong, 414, "the request line is over the limit"),
            (RequestError::ExpectationFailed, 417, "an expectation other than 100-continue"),
            (RequestError::FieldsTooLarge("limit"), 431, "limit"),
            (RequestError::NotImplemented("lack"), 501, "lack"),
            (RequestError::VersionNotSupported, 505, "a major version of HTTP other than 1"),
        ];
        for (error, status, line) in table {
            assert_eq!((error.status(), error.to_string().as_str()), (status, line));
        }
    }
}
