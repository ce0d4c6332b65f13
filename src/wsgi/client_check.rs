//! `environ["rmeinheld.client_disconnected"]`, as Waitress has `waitress.client_disconnected`.

use std::os::fd::AsFd;
use std::sync::{Arc, Weak};

use pyo3::prelude::*;

use crate::net::{PeerEnd, Stream, peer_end};

/// `environ["rmeinheld.client_disconnected"]`: calling it returns whether the client has disconnected.
///
/// True means that the client has closed or reset its connection, or has ended its side of it. A client that ends only
/// its side may still wait for the answer, but few do. May be called from any coroutine or thread.
#[pyclass(frozen, module = "rmeinheld")]
pub struct ClientCheck {
    /// Weak, so that a kept environ does not keep the connection.
    stream: Weak<Stream>,
}

impl ClientCheck {
    /// For the client of `stream`.
    pub fn new(stream: &Arc<Stream>) -> ClientCheck {
        ClientCheck { stream: Arc::downgrade(stream) }
    }
}

#[pymethods]
impl ClientCheck {
    fn __call__(&self) -> bool {
        self.stream.upgrade().is_none_or(|stream| peer_end(stream.as_fd()) != PeerEnd::None)
    }
}
