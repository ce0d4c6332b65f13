//! A request as the connection hands it over to the gateway.

use std::cell::RefCell;
use std::net::IpAddr;
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
    /// The connection came through a Unix socket.
    pub is_local: bool,
}

/// The address of a client, as items of the environ.
pub struct RemoteAddress {
    /// REMOTE_ADDR.
    pub address: Py<PyString>,
    /// REMOTE_PORT; `None` on Unix sockets.
    pub port: Option<Py<PyString>>,
    /// The items that the PROXY protocol adds to the environ.
    pub proxy: Option<Py<PyDict>>,
}

impl RemoteAddress {
    /// The client of a connection, as REMOTE_ADDR and REMOTE_PORT.
    pub fn new(py: Python<'_>, peer: Peer, last: &LastAddress) -> RemoteAddress {
        match peer {
            Peer::Inet(address, port) => RemoteAddress {
                address: last.text(py, address),
                port: Some(PyString::new(py, &port.to_string()).unbind()),
                proxy: None,
            },
            Peer::Unix => RemoteAddress { address: PyString::new(py, "").unbind(), port: None, proxy: None },
        }
    }
}

/// The text of the address that a connection came from last. Behind a proxy all connections share it.
#[derive(Default)]
pub struct LastAddress(RefCell<Option<(IpAddr, Py<PyString>)>>);

impl LastAddress {
    fn text(&self, py: Python<'_>, address: IpAddr) -> Py<PyString> {
        if let Some((last, text)) = &*self.0.borrow()
            && *last == address
        {
            return text.clone_ref(py);
        }
        let text = PyString::new(py, &address.to_string()).unbind();
        // A string is destroyed without running Python code.
        self.0.replace(Some((address, text.clone_ref(py))));
        text
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
