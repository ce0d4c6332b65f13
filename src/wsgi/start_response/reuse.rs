//! The Python objects of a response. Later requests use them again, unless the application has kept one.

use std::cell::RefCell;
use std::sync::Arc;

use pyo3::prelude::*;

use super::super::ClientCheck;
use super::answer::HEAD_BYTES;
use super::{EarlyHints, ResponseSettings, StartResponse, Terms, Write};
use crate::http::exchange::Exchange;
use crate::interp::reference_count;
use crate::net::Stream;

/// Sets of objects that wait for a request.
const KEPT: usize = 16;

/// References to a `StartResponse` whose request has ended: by the set itself, its `write`, its early hints and its
/// check of the client.
const OWN_REFERENCES: isize = 4;

/// The objects of one response.
pub struct ResponseObjects<'py> {
    /// `start_response`.
    pub response: Bound<'py, StartResponse>,
    /// `wsgi.early_hints`.
    pub early_hints: Bound<'py, EarlyHints>,
    /// `rmeinheld.client_disconnected`.
    pub client_check: Bound<'py, ClientCheck>,
}

/// The objects of responses that have ended. Lives on the loop thread. No Python code runs while it is borrowed.
pub struct ResponsePool {
    settings: Arc<ResponseSettings>,
    free: RefCell<Vec<FreeObjects>>,
}

/// Objects that nothing else refers to.
struct FreeObjects {
    response: Py<StartResponse>,
    early_hints: Py<EarlyHints>,
    client_check: Py<ClientCheck>,
    /// Empty, for the head.
    buffer: Vec<u8>,
}

impl ResponsePool {
    /// Makes objects for responses with these settings.
    pub fn new(settings: ResponseSettings) -> ResponsePool {
        ResponsePool { settings: Arc::new(settings), free: RefCell::default() }
    }

    /// The objects of the response to one request on `stream`.
    ///
    /// # Errors
    /// MemoryError.
    pub fn begin<'py>(
        &self,
        py: Python<'py>,
        terms: Terms,
        stream: Arc<Stream>,
        exchange: Exchange,
    ) -> PyResult<ResponseObjects<'py>> {
        let free = self.free.borrow_mut().pop();
        let mut head = Vec::new();
        let objects = match free {
            Some(FreeObjects { response, early_hints, client_check, buffer }) => {
                head = buffer;
                ResponseObjects {
                    response: response.into_bound(py),
                    early_hints: early_hints.into_bound(py),
                    client_check: client_check.into_bound(py),
                }
            }
            None => {
                let response = Bound::new(py, StartResponse::new(Arc::clone(&self.settings)))?;
                let write = Py::new(py, Write::new(&response))?;
                response.get().set_write(Some(write));
                ResponseObjects {
                    early_hints: Bound::new(py, EarlyHints::new(&response))?,
                    client_check: Bound::new(py, ClientCheck::new(&response))?,
                    response,
                }
            }
        };
        objects.response.get().begin(terms, stream, exchange, head);
        Ok(objects)
    }

    /// Takes back the objects of a response whose request has ended, and the `buffer` of its head. Objects that the
    /// application has kept are left to it: they are of no use any more.
    pub fn end(&self, objects: ResponseObjects<'_>, mut buffer: Vec<u8>) {
        let ResponseObjects { response, early_hints, client_check } = objects;
        let is_free = reference_count(&response) == OWN_REFERENCES
            && reference_count(&early_hints) == 1
            && reference_count(&client_check) == 1
            && response.get().is_write_free(response.py());
        let mut free = self.free.borrow_mut();
        if is_free && free.len() < KEPT {
            buffer.clear();
            buffer.shrink_to(HEAD_BYTES);
            free.push(FreeObjects {
                response: response.unbind(),
                early_hints: early_hints.unbind(),
                client_check: client_check.unbind(),
                buffer,
            });
            return;
        }
        drop(free);
        // The two refer to each other.
        response.get().set_write(None);
    }
}

impl Drop for ResponsePool {
    fn drop(&mut self) {
        for FreeObjects { response, .. } in self.free.get_mut().drain(..) {
            response.get().set_write(None);
        }
    }
}
