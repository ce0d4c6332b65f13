//! TLS by the `ssl` module: Python's `SSLContext` decides everything, and its `SSLObject` works on bytes alone.

use std::io;

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::net::Transport;

/// The TLS of a server's connections.
pub struct Tls {
    context: Py<PyAny>,
    /// A connection may end without the closing alert of TLS.
    suppress_ragged_eofs: bool,
}

impl Tls {
    pub fn new(context: Py<PyAny>, suppress_ragged_eofs: bool) -> Tls {
        Tls { context, suppress_ragged_eofs }
    }

    /// The TLS of one connection.
    ///
    /// # Errors
    /// The exception of `SSLContext.wrap_bio`.
    pub fn transport(&self, py: Python<'_>) -> PyResult<Box<dyn Transport>> {
        let ssl = py.import("ssl")?;
        let (incoming, outgoing) = (ssl.call_method0("MemoryBIO")?, ssl.call_method0("MemoryBIO")?);
        let options = PyDict::new(py);
        options.set_item("server_side", true)?;
        let object = self.context.bind(py).call_method("wrap_bio", (&incoming, &outgoing), Some(&options))?;
        let error = |name| -> PyResult<Py<PyAny>> { Ok(ssl.getattr(name)?.unbind()) };
        Ok(Box::new(Session {
            object: object.unbind(),
            incoming: incoming.unbind(),
            outgoing: outgoing.unbind(),
            wants_more: error("SSLWantReadError")?,
            ended_roughly: self.suppress_ragged_eofs.then(|| error("SSLEOFError")).transpose()?,
        }))
    }
}

struct Session {
    object: Py<PyAny>,
    incoming: Py<PyAny>,
    outgoing: Py<PyAny>,
    wants_more: Py<PyAny>,
    ended_roughly: Option<Py<PyAny>>,
}

impl Transport for Session {
    fn receive(&self, data: &[u8]) -> io::Result<()> {
        attached(|py| {
            let incoming = self.incoming.bind(py);
            if data.is_empty() {
                incoming.call_method0("write_eof")?;
            } else {
                incoming.call_method1("write", (PyBytes::new(py, data),))?;
            }
            Ok(())
        })
    }

    fn read(&self, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
        let room = buffer.capacity() - buffer.len();
        if room == 0 {
            return Ok(Some(0));
        }
        attached(|py| match self.object.bind(py).call_method1("read", (room,)) {
            Ok(data) => {
                let data = data.cast_into::<PyBytes>()?;
                buffer.extend_from_slice(data.as_bytes());
                Ok(Some(data.as_bytes().len()))
            }
            Err(error) if error.is_instance(py, self.wants_more.bind(py)) => Ok(None),
            Err(error) if self.ended_roughly.as_ref().is_some_and(|kind| error.is_instance(py, kind.bind(py))) => {
                Ok(Some(0))
            }
            Err(error) => Err(error),
        })
    }

    fn write(&self, data: &[u8]) -> io::Result<()> {
        attached(|py| {
            let written: usize = self.object.bind(py).call_method1("write", (PyBytes::new(py, data),))?.extract()?;
            if written < data.len() {
                return Err(PyException::new_err("the TLS session took a part only"));
            }
            Ok(())
        })
    }

    fn close(&self) {
        // The call raises until the peer has sent its closing alert, which is not waited for (RFC 8446 6.1).
        let _ = attached(|py| self.object.bind(py).call_method0("unwrap").map(drop));
    }

    fn take_outgoing(&self, queue: &mut Vec<u8>) -> io::Result<()> {
        attached(|py| {
            let outgoing = self.outgoing.bind(py);
            if outgoing.getattr("pending")?.extract::<usize>()? > 0 {
                let data = outgoing.call_method0("read")?.cast_into::<PyBytes>()?;
                queue.extend_from_slice(data.as_bytes());
            }
            Ok(())
        })
    }
}

/// Runs `action` with the interpreter attached, unless it has ended already.
fn attached<R>(action: impl FnOnce(Python<'_>) -> PyResult<R>) -> io::Result<R> {
    let done = Python::try_attach(|py| action(py).map_err(|error| io::Error::other(error.to_string())));
    done.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::NotConnected)))
}
