//! What Python configured, as Rust values. Python has validated it; see `rmeinheld.settings` for names and defaults.

use std::time::Duration;

use pyo3::prelude::*;

use crate::http::head::Limits;
use crate::wsgi::GatewaySettings;

/// Attributes of the settings object, as they come.
#[derive(FromPyObject)]
pub struct Settings {
    keep_alive: f64,
    /// Requests that may be in progress at once.
    pub worker_connections: usize,
    graceful_timeout: f64,
    limit_request_line: usize,
    limit_request_fields: usize,
    limit_request_field_size: usize,
    limit_request_head: usize,
    limit_request_body: u64,
    client_header_timeout: f64,
    client_body_timeout: f64,
    send_timeout: f64,
    /// Bytes of each coroutine's C stack.
    pub stack_size: usize,
    sendfile: bool,
    multiprocess: bool,
    /// The access log's path, "-" for standard output, none for off.
    pub access_logfile: Option<String>,
    /// Its format, in Gunicorn's atoms.
    pub access_log_format: String,
    /// Meinheld's access logger: an object with `access(environ)`.
    pub access_logger: Option<Py<PyAny>>,
    error_logger: Option<Py<PyAny>>,
}

impl Settings {
    /// How long a connection may rest between requests; none: connections are not kept.
    pub fn keep_alive(&self) -> Option<Duration> {
        seconds(self.keep_alive)
    }

    /// How long requests in progress may take once the server stops.
    pub fn graceful_timeout(&self) -> Duration {
        seconds(self.graceful_timeout).unwrap_or_default()
    }

    /// How long a client may take for a whole head.
    pub fn client_header_timeout(&self) -> Option<Duration> {
        seconds(self.client_header_timeout)
    }

    /// How long a client may take without taking anything.
    pub fn send_timeout(&self) -> Option<Duration> {
        seconds(self.send_timeout)
    }

    /// The bounds of a request head.
    pub fn head_limits(&self) -> Limits {
        Limits {
            request_line_bytes: self.limit_request_line,
            field_count: self.limit_request_fields,
            field_bytes: self.limit_request_field_size,
            head_bytes: self.limit_request_head,
        }
    }

    /// What concerns the application's side.
    pub fn gateway(&self, py: Python<'_>) -> GatewaySettings {
        GatewaySettings {
            multiprocess: self.multiprocess,
            body_limit: self.limit_request_body,
            body_timeout: seconds(self.client_body_timeout),
            send_timeout: self.send_timeout(),
            use_sendfile: self.sendfile,
            error_logger: self.error_logger.as_ref().map(|logger| logger.clone_ref(py)),
        }
    }
}

/// 0 means none.
fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}
