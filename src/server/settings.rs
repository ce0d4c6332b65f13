//! The settings as Rust values. Python has validated them; see `rmeinheld.settings` for names and defaults.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::crew::sticky::StickyMode;
use crate::http::chunked::ChunkLimits;
use crate::http::leniency::Leniency;
use crate::http::limits::HeadLimits;
use crate::http::proxy_protocol::Versions;
use crate::net::Networks;
use crate::websocket::extension::Compression;
use crate::websocket::origins::Origins;
use crate::wsgi::{
    BodyLimits, FieldPolicy, GatewaySettings, IdPolicy, SpoolSettings, TrustedFields, Underscores, WebSocketSettings,
};

/// The attributes of the settings object.
#[derive(FromPyObject)]
pub struct Settings {
    keep_alive: f64,
    /// Requests that one connection may carry; 0 for no limit.
    pub keep_alive_requests: u32,
    /// Requests that may be in progress at once.
    pub worker_connections: usize,
    /// Connections that may be open at once; `None` for what the limit of open files leaves.
    pub max_connections: Option<usize>,
    graceful_timeout: f64,
    drain_delay: f64,
    limit_request_line: usize,
    limit_request_fields: usize,
    limit_request_field_size: usize,
    limit_request_head: usize,
    limit_request_body: u64,
    limit_request_chunk_line: usize,
    limit_request_trailer: usize,
    limit_request_trailer_fields: usize,
    chunked_requests: bool,
    client_header_timeout: f64,
    client_body_timeout: f64,
    client_body_min_rate: u32,
    send_timeout: f64,
    /// Bytes a second that a slow client must take in the long run; 0 for no such rule.
    pub min_send_rate: u32,
    request_timeout: f64,
    cancel_on_disconnect: bool,
    turn_budget: f64,
    hold_answers: u32,
    block_warning: f64,
    /// Bytes of each coroutine's C stack.
    pub stack_size: usize,
    sendfile: bool,
    request_buffering: bool,
    client_body_buffer_size: usize,
    client_body_temp_path: Option<String>,
    casefold_http_method: bool,
    permit_obsolete_folding: bool,
    /// Methods that only Gunicorn's rule forbids are accepted.
    pub permit_unconventional_http_method: bool,
    permit_unconventional_http_version: bool,
    /// CONNECT reaches the application.
    pub permit_connect: bool,
    strip_header_spaces: bool,
    header_map: String,
    forwarder_headers: Vec<String>,
    /// The peers that may speak for other clients.
    #[pyo3(attribute("forwarded_allow_ips"), from_py_with = networks)]
    pub forwarded_peers: Networks,
    secure_scheme_headers: Vec<(String, String)>,
    trusted_proxy_headers: Vec<String>,
    proxy_protocol: String,
    /// The peers that may use the PROXY protocol.
    #[pyo3(attribute("proxy_allow_ips"), from_py_with = networks)]
    pub proxy_peers: Networks,
    websocket_max_message_size: usize,
    websocket_max_queue_size: usize,
    websocket_ping_interval: f64,
    websocket_ping_timeout: f64,
    websocket_close_timeout: f64,
    websocket_origins: Option<Vec<String>>,
    websocket_compression: String,
    /// Other processes serve the same application.
    pub multiprocess: bool,
    /// The access log's path, "-" for standard output, `None` for off.
    pub access_logfile: Option<String>,
    /// The access log's format, in Gunicorn's atoms.
    pub access_log_format: String,
    /// Meinheld's access logger: an object with `access(environ)`.
    pub access_logger: Option<Py<PyAny>>,
    error_logger: Option<Py<PyAny>>,
    wsgi_errors: Option<Py<PyAny>>,
    clear_untrusted_proxy_headers: bool,
    request_id: String,
    slow_request: f64,
    /// The sessions that stay with one worker.
    #[pyo3(from_py_with = sticky_mode)]
    pub sticky: Option<StickyMode>,
    /// The key that signs their cookies; `None` for that of the service.
    pub sticky_key: Option<String>,
}

impl Settings {
    /// How long a connection may rest between requests; `None` where connections are not kept.
    pub fn keep_alive(&self) -> Option<Duration> {
        seconds(self.keep_alive)
    }

    /// How long requests in progress may take once the server stops.
    pub fn graceful_timeout(&self) -> Duration {
        seconds(self.graceful_timeout).unwrap_or_default()
    }

    /// How long the server goes on as before once SIGTERM has arrived.
    pub fn drain_delay(&self) -> Duration {
        seconds(self.drain_delay).unwrap_or_default()
    }

    /// How long a client may take for a whole head.
    pub fn client_header_timeout(&self) -> Option<Duration> {
        seconds(self.client_header_timeout)
    }

    /// How long a client may take nothing of a response.
    pub fn send_timeout(&self) -> Option<Duration> {
        seconds(self.send_timeout)
    }

    /// How long a request may take by default.
    pub fn request_timeout(&self) -> Option<Duration> {
        seconds(self.request_timeout)
    }

    /// How long a turn may last; zero for no limit.
    pub fn turn_budget(&self) -> Duration {
        seconds(self.turn_budget).unwrap_or_default()
    }

    /// How long a complete answer may be held for other requests; zero for not at all.
    pub fn hold_answers(&self) -> Duration {
        Duration::from_micros(self.hold_answers.into())
    }

    /// How long a request may take without a line in the log.
    pub fn slow_request(&self) -> Option<Duration> {
        seconds(self.slow_request)
    }

    /// How long a turn may last until the watchdog reports it; `None` for no report.
    pub fn block_warning(&self) -> Option<Duration> {
        seconds(self.block_warning)
    }

    /// The limits of a request head.
    pub fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            request_line_bytes: self.limit_request_line,
            field_count: self.limit_request_fields,
            field_bytes: self.limit_request_field_size,
            head_bytes: self.limit_request_head,
        }
    }

    /// The repairs of a request head; `None` without any.
    pub fn leniency(&self) -> Option<Leniency> {
        let leniency = Leniency {
            // A refused method of small letters must be seen as it was sent.
            capital_methods: self.casefold_http_method && self.permit_unconventional_http_method,
            any_version: self.permit_unconventional_http_version,
            folded_lines: self.permit_obsolete_folding,
            spaced_names: self.strip_header_spaces,
        };
        (leniency != Leniency::default()).then_some(leniency)
    }

    /// The versions of the PROXY protocol that a connection may begin with.
    pub fn proxy_versions(&self) -> Option<Versions> {
        let versions = Versions {
            v1: matches!(self.proxy_protocol.as_str(), "v1" | "auto"),
            v2: matches!(self.proxy_protocol.as_str(), "v2" | "auto"),
        };
        (versions.v1 || versions.v2).then_some(versions)
    }

    /// The policy for request fields, and the trusted proxies.
    pub fn field_policy(&self) -> FieldPolicy {
        let listens_to = |name: &str| self.trusted_proxy_headers.iter().any(|header| header == name);
        FieldPolicy {
            underscores: match self.header_map.as_str() {
                "dangerous" => Underscores::Map,
                "refuse" => Underscores::Refuse,
                _ => Underscores::Drop,
            },
            trusted: self.forwarded_peers.clone(),
            clears_untrusted: self.clear_untrusted_proxy_headers,
            fields: TrustedFields {
                x_forwarded_for: listens_to("x-forwarded-for"),
                x_forwarded_host: listens_to("x-forwarded-host"),
                x_forwarded_port: listens_to("x-forwarded-port"),
                forwarded: listens_to("forwarded"),
            },
            secure_schemes: self.secure_scheme_headers.clone(),
            forwarder_names: self.forwarder_headers.clone(),
        }
    }

    /// The settings of the application's side.
    pub fn gateway(&self, py: Python<'_>) -> GatewaySettings {
        GatewaySettings {
            multiprocess: self.multiprocess,
            fields: self.field_policy(),
            body: BodyLimits {
                bytes: self.limit_request_body,
                accepts_chunked: self.chunked_requests,
                chunks: ChunkLimits {
                    line_bytes: self.limit_request_chunk_line,
                    trailer_bytes: self.limit_request_trailer,
                    trailer_count: self.limit_request_trailer_fields,
                },
                timeout: seconds(self.client_body_timeout),
                bytes_per_second: self.client_body_min_rate,
            },
            spool: self.request_buffering.then(|| SpoolSettings {
                memory_bytes: self.client_body_buffer_size,
                directory: self.client_body_temp_path.clone(),
            }),
            send_timeout: self.send_timeout(),
            min_send_rate: self.min_send_rate,
            cancel_on_disconnect: self.cancel_on_disconnect,
            websocket: WebSocketSettings {
                message_bytes: self.websocket_max_message_size,
                queue_bytes: self.websocket_max_queue_size,
                ping_interval: seconds(self.websocket_ping_interval),
                ping_timeout: seconds(self.websocket_ping_timeout),
                close_timeout: seconds(self.websocket_close_timeout),
                send_timeout: self.send_timeout(),
                min_send_rate: self.min_send_rate,
                origins: self.websocket_origins.as_deref().map(Origins::new),
                compression: Compression::of(&self.websocket_compression).unwrap_or_default(),
            },
            use_sendfile: self.sendfile,
            request_ids: match self.request_id.as_str() {
                "on" => IdPolicy::On,
                "respond" => IdPolicy::Respond,
                _ => IdPolicy::Off,
            },
            errors: self.wsgi_errors.as_ref().map(|errors| errors.clone_ref(py)),
            error_logger: self.error_logger.as_ref().map(|logger| logger.clone_ref(py)),
        }
    }
}

fn networks(texts: &Bound<'_, PyAny>) -> PyResult<Networks> {
    let texts: Vec<String> = texts.extract()?;
    Networks::parse(&texts).ok_or_else(|| PyValueError::new_err(format!("not IP networks: {texts:?}")))
}

fn sticky_mode(text: &Bound<'_, PyAny>) -> PyResult<Option<StickyMode>> {
    let text: Option<String> = text.extract()?;
    text.map(|text| StickyMode::parse(&text)).transpose().map_err(PyValueError::new_err)
}

/// The duration of a setting in seconds; 0 means none.
fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| !duration.is_zero())
}
