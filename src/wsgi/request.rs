//! A request as the connection hands it to the application's side.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::client_disconnected::ClientDisconnected;
use crate::http::error::RequestError;
use crate::http::head::Head;
use crate::net::{Peer, Stream};

/// A request as it comes off the connection.
pub struct Request<'a> {
    /// The parsed head.
    pub head: &'a Head,
    /// What it was parsed from.
    pub bytes: &'a [u8],
    /// What was received after the head.
    pub rest: Vec<u8>,
    /// Where the answer goes.
    pub stream: Arc<Stream>,
    /// Who asks.
    pub remote: &'a RemoteAddress,
    /// The listener's dictionary: see `Gateway::template`.
    pub template: &'a Py<PyDict>,
    /// Tells whether the client is still there.
    pub disconnected: &'a Py<ClientDisconnected>,
    /// The connection may be used again after this request, if client and application agree.
    pub keep_alive: bool,
    /// What the client's peer says of its clients is believed.
    pub is_trusted: bool,
}

/// The two strings that name a TCP client.
pub struct RemoteAddress {
    /// REMOTE_ADDR.
    pub address: Py<PyString>,
    /// REMOTE_PORT; none on Unix sockets.
    pub port: Option<Py<PyString>>,
    /// What the PROXY protocol adds to the environ.
    pub proxy: Option<Py<PyDict>>,
    /// The connection came through a Unix socket, whoever is behind it.
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

/// Why a request cannot be made ready.
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
