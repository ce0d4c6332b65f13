//! The header of the PROXY protocol at the beginning of a connection.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{Connection, Opening, Proxied};
use crate::http::error::RequestError;
use crate::http::proxy_protocol::{self, Addresses, Preface};
use crate::net::Peer;
use crate::server::shared::Shared;
use crate::wsgi::Unprepared;

const FORBIDDEN_PROXY: RequestError =
    RequestError::Forbidden("a PROXY header from an address that is not in proxy_allow_ips");

impl Connection {
    /// Takes a header of the PROXY protocol off the buffer. False while it is incomplete.
    pub(super) fn take_preface(
        &mut self,
        py: Python<'_>,
        shared: &Shared,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Unprepared> {
        let Some(versions) = shared.proxy_versions() else { return Ok(true) };
        let (length, addresses) = match proxy_protocol::parse(buffer, versions)? {
            Preface::Partial => return Ok(false),
            Preface::Absent => {
                self.opening = Opening::Over;
                return Ok(true);
            }
            Preface::Header { length, addresses } => (length, addresses),
        };
        if self.opening == Opening::Forbidden {
            return Err(FORBIDDEN_PROXY.into());
        }
        self.opening = Opening::Over;
        buffer.drain(..length);
        if let Some(addresses) = addresses {
            self.take_name(py, shared, addresses)?;
        }
        // Without a byte of HTTP the parser has nothing to do yet.
        Ok(!buffer.is_empty())
    }

    /// Takes the ends that a PROXY header has named. They name the peer from now on, which may be any client of a
    /// trusted proxy.
    pub(super) fn take_name(&mut self, py: Python<'_>, shared: &Shared, addresses: Addresses) -> PyResult<()> {
        let peer = source(&addresses);
        self.is_trusted = shared.gateway().trusts(peer);
        self.address = shared.last_address().text(py, peer);
        self.proxied = Some(Box::new(Proxied { items: proxy_items(py, &addresses)?, addresses }));
        Ok(())
    }
}

/// The client that a PROXY header has named.
pub(super) fn source(addresses: &Addresses) -> Peer {
    let (address, port) = addresses.source;
    Peer::Inet(address, port)
}

fn proxy_items(py: Python<'_>, addresses: &Addresses) -> PyResult<Py<PyDict>> {
    let (address, port) = addresses.destination;
    let items = PyDict::new(py);
    items.set_item("PROXY_PROTOCOL", if addresses.source.0.is_ipv4() { "TCP4" } else { "TCP6" })?;
    items.set_item("PROXY_ADDR", address.to_string())?;
    items.set_item("PROXY_PORT", port.to_string())?;
    Ok(items.unbind())
}
