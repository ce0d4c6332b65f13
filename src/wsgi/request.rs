//! A request as the connection hands it over to the gateway.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::client_check::ClientCheck;
use crate::http::error::RequestError;
use crate::http::head::Head;
use crate::net::{Peer, Stream};

/// A request as it comes off the connection.
pub struct Request<'a> {
    /// The parsed head.
    pub head: &'a Head,
    /// The bytes of the head.
    pub bytes: &'a [u8],
    /// The bytes received behind the head.
    pub rest: Vec<u8>,
    /// The client's connection.
    pub stream: Arc<Stream>,
    /// The client's address.
    pub remote: &'a RemoteAddress,
    /// The listener's dictionary: see `Gateway::template`.
    pub template: &'a Py<PyDict>,
    /// The `rmeinheld.client_disconnected` of the connection.
    pub disconnected: &'a Py<ClientCheck>,
    /// The server would use the connection again after this request.
    pub keep_alive: bool,
    /// The peer is trusted to speak for other clients.
    pub is_trusted: bool,
}

/// The address of a client, as items of the environ.
pub struct RemoteAddress {
    /// REMOTE_ADDR.
    pub address: Py<PyString>,
    /// REMOTE_PORT; `None` on Unix sockets.
    pub port: Option<Py<PyString>>,
    /// The items that the PROXY protocol adds to the environ.
    pub proxy: Option<Py<PyDict>>,
    /// The connection came through a Unix socket.
    pub is_local: bool,
}

impl RemoteAddress {
    /// The client of a connection, as REMOTE_ADDR and REMOTE_PORT.
    ///
    /// # Errors
    /// MemoryError.
    pub fn new(py: Python<'_>, peer: Peer) -> PyResult<RemoteAddress> {
        let text = |text: String| PyString::new(py, &text).unbind();
        Ok(match peer {
            Peer::Inet(address, port) => RemoteAddress {
                address: text(address.to_string()),
                port: Some(text(port.to_string())),
                proxy: None,
                is_local: false,
            },
            Peer::Unix => RemoteAddress { address: text(String::new()), port: None, proxy: None, is_local: true },
        })
    }
}

/// The reason why a request cannot be made ready.
#[derive(Debug)]
pub enum Unprepared {
    /// The peer's fault.
    Request(RequestError),
    /// An exception, such as MemoryError.
    Python(PyErr),
}

impl From<RequestError> for Unprepared {
    fn from(error: RequestError) -> Self {
        Unprepared::Request(error)
    }
}

impl From<PyErr> for Unprepared {
    fn from(error: PyErr) -> Self {
        Unprepared::Python(error)
    }
}
