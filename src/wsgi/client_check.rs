//! `environ["rmeinheld.client_disconnected"]`, as Waitress has `waitress.client_disconnected`.

use std::os::fd::AsFd;

use pyo3::prelude::*;

use super::StartResponse;
use crate::net::{PeerEnd, peer_end};

/// `environ["rmeinheld.client_disconnected"]`: calling it returns whether the client has disconnected.
///
/// True means that the client has closed or reset its connection, or has ended its side of it. A client that ends only
/// its side may still wait for the answer, but few do. May be called from any coroutine or thread.
#[pyclass(frozen, module = "rmeinheld")]
pub struct ClientCheck {
    /// The response to its request, which knows the client also when the request has ended.
    response: Py<StartResponse>,
}

impl ClientCheck {
    /// For the client that gets `response`.
    pub fn new(response: &Bound<'_, StartResponse>) -> ClientCheck {
        ClientCheck { response: response.clone().unbind() }
    }
}

#[pymethods]
impl ClientCheck {
    fn __call__(&self) -> bool {
        let client = self.response.get().answer().client();
        client.is_none_or(|stream| peer_end(stream.as_fd()) != PeerEnd::None)
    }
}
