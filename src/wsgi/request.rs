//! A request as the connection hands it over to the gateway.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

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
    pub remote: RemoteAddress<'a>,
    /// The listener's dictionary: see `Gateway::template`.
    pub template: &'a Py<PyDict>,
    /// The server would use the connection again after this request.
    pub keep_alive: bool,
    /// The peer is trusted to speak for other clients.
    pub is_trusted: bool,
    /// The connection came through a Unix socket.
    pub is_local: bool,
}

/// The address of a client, for the environ.
#[derive(Clone, Copy)]
pub struct RemoteAddress<'a> {
    /// REMOTE_ADDR.
    pub address: &'a Py<PyString>,
    /// REMOTE_PORT; `None` on Unix sockets.
    pub port: Option<u16>,
    /// The items that the PROXY protocol adds to the environ.
    pub proxy: Option<&'a Py<PyDict>>,
}

/// The text of the address that a connection came from last. Behind a proxy all connections share it.
#[derive(Default)]
pub struct LastAddress(RefCell<Option<(IpAddr, Py<PyString>)>>);

impl LastAddress {
    /// The address of a client as text, which is empty on Unix sockets.
    pub fn text(&self, py: Python<'_>, peer: Peer) -> Py<PyString> {
        let Peer::Inet(address, _) = peer else { return PyString::new(py, "").unbind() };
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

/// The number of texts in [`PortTexts`], which have 72 bytes each.
const PORTS_KEPT: usize = 512;

/// The texts of ports that requests came from lately, for REMOTE_PORT. Connections have none, since most are idle.
pub struct PortTexts(RefCell<Box<[PortText; PORTS_KEPT]>>);

/// A port and its text, if there is one.
type PortText = Option<(u16, Py<PyString>)>;

impl Default for PortTexts {
    fn default() -> PortTexts {
        PortTexts(RefCell::new(Box::new([const { None }; PORTS_KEPT])))
    }
}

impl PortTexts {
    /// Calls `action` with the text of a port. No Python code may run meanwhile.
    #[inline]
    pub fn with_text<R>(&self, py: Python<'_>, port: u16, action: impl FnOnce(&Py<PyString>) -> R) -> R {
        let mut kept = self.0.borrow_mut();
        // Linux gives the connections of a client every second number.
        let place = &mut kept[usize::from(port >> 1) % PORTS_KEPT];
        match place {
            Some((same, text)) if *same == port => action(text),
            // A string is destroyed without running Python code.
            place => action(&place.insert((port, PyString::new(py, &port.to_string()).unbind())).1),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interp::testing::with_python;

    #[test]
    fn each_port_has_its_own_text_also_where_two_share_a_place() {
        with_python(|py| {
            let texts = PortTexts::default();
            let text = |port| texts.with_text(py, port, |text| text.clone_ref(py));
            for port in [8000, 8000, 8001, 8000, 8000 + 2 * PORTS_KEPT as u16, 8000, 0, 1, 0, u16::MAX, 32_767] {
                assert_eq!(text(port).bind(py).to_str().unwrap(), port.to_string());
            }
            assert!(text(8000).is(text(8000)));
        });
    }
}
