//! What a connection needs that speaks another protocol than HTTP from now on.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::StartResponse;
use crate::http::response::{ResponseBody, ResponsePlan};
use crate::net::Stream;

impl StartResponse {
    /// Has the connection speak another protocol from now on. `head` is the answer that says so: not sent here, but known
    /// to the access log. Returns the stream.
    ///
    /// # Errors
    /// RuntimeError when the request has ended, has been answered otherwise, or the connection speaks another already.
    pub fn upgrade(&self, head: Vec<u8>) -> PyResult<Arc<Stream>> {
        let mut answer = self.answer();
        let stream = answer.stream.clone().ok_or_else(|| PyRuntimeError::new_err("the request has ended"))?;
        if answer.is_upgraded {
            return Err(PyRuntimeError::new_err("the connection has been taken over already"));
        }
        if answer.plan.is_some() || answer.sending {
            return Err(PyRuntimeError::new_err("the request has been answered with an HTTP response already"));
        }
        let plan = ResponsePlan { body: ResponseBody::None, send_content_length: None, keep_alive: false };
        (answer.plan, answer.status, answer.head) = (Some(plan), 101, head);
        (answer.started, answer.is_upgraded) = (true, true);
        Ok(stream)
    }

    /// Whether the connection speaks another protocol.
    pub fn is_upgraded(&self) -> bool {
        self.answer().is_upgraded
    }

    /// The connection, until the request has ended.
    pub fn stream(&self) -> Option<Arc<Stream>> {
        self.answer().stream.clone()
    }

    /// Whether the server stops: this is the connection's last request.
    pub fn is_last(&self) -> bool {
        self.last_requests.load(Ordering::Relaxed)
    }
}
