//! The header of the PROXY protocol at the beginning of a connection.

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::{Connection, Opening};
use crate::http::error::RequestError;
use crate::http::proxy_protocol::{self, Addresses, Preface};
use crate::net::Peer;
use crate::server::shared::Shared;
use crate::wsgi::{LastAddress, RemoteAddress, Unprepared};

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
        let peer = Peer::Inet(addresses.source.0, addresses.source.1);
        self.is_trusted = shared.gateway().trusts(peer);
        self.remote = remote_behind_proxy(py, peer, &addresses, shared.last_address())?;
        self.proxied = Some(Box::new(addresses));
        Ok(())
    }
}

/// The client's address, and Gunicorn's items for the proxy that it has connected to.
fn remote_behind_proxy(
    py: Python<'_>,
    peer: Peer,
    addresses: &Addresses,
    last: &LastAddress,
) -> PyResult<RemoteAddress> {
    let (address, port) = addresses.destination;
    let proxy = PyDict::new(py);
    proxy.set_item("PROXY_PROTOCOL", if addresses.source.0.is_ipv4() { "TCP4" } else { "TCP6" })?;
    proxy.set_item("PROXY_ADDR", address.to_string())?;
    proxy.set_item("PROXY_PORT", port.to_string())?;
    Ok(RemoteAddress { proxy: Some(proxy.unbind()), ..RemoteAddress::new(py, peer, last) })
}
