//! `environ["rmeinheld.client_disconnected"]`, as Waitress has `waitress.client_disconnected`.

use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use pyo3::prelude::*;

use crate::net::{PeerEnd, Stream, peer_end};

/// Tells whether the client of a connection is still there. One to a connection.
#[pyclass(frozen, module = "rmeinheld")]
pub struct ClientDisconnected {
    /// The connection ends when it wants to, whoever keeps an environ.
    stream: Weak<Stream>,
}

impl ClientDisconnected {
    /// For the client of `stream`.
    pub fn new(stream: &Arc<Stream>) -> ClientDisconnected {
        ClientDisconnected { stream: Arc::downgrade(stream) }
    }
}

#[pymethods]
impl ClientDisconnected {
    /// `client_disconnected()`: whether the client has closed or reset its connection, or ended what it sends. From any
    /// coroutine or thread. A client that closes only its own side, as few do, still waits for the answer.
    fn __call__(&self) -> bool {
        self.stream.upgrade().is_none_or(|stream| peer_end(stream.as_fd()) != PeerEnd::None)
    }
}
