//! Connections that speak another protocol than HTTP from now on.

use std::sync::Arc;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::super::stop_flag::StopFlag;
use super::StartResponse;
use super::answer::{Answer, ResponseHead};
use crate::event_loop::{deadlines, interrupts};
use crate::http::exchange::ExchangeEvent;
use crate::net::Stream;

impl StartResponse {
    /// Takes the connection over for another protocol. The caller sends `head`, the answer that accepts it; the access
    /// log gets it from here. Returns the stream.
    ///
    /// # Errors
    /// RuntimeError when the request has ended, has been answered otherwise, or the connection was taken over before.
    pub fn upgrade(&self, head: Vec<u8>) -> PyResult<Arc<Stream>> {
        let mut answer = self.answer();
        let stream = answer.stream.clone().ok_or_else(|| PyRuntimeError::new_err("the request has ended"))?;
        if answer.exchange.is_upgraded() {
            return Err(PyRuntimeError::new_err("the connection has been taken over already"));
        }
        if answer.is_sending || answer.exchange.apply(ExchangeEvent::Upgraded).is_err() {
            return Err(PyRuntimeError::new_err("the request has been answered with an HTTP response already"));
        }
        answer.head = ResponseHead::of_upgrade(head);
        if let Some(work) = interrupts::current_work() {
            // A WebSocket lasts as long as it wants, unless the application has set a deadline.
            deadlines::exempt(work.number);
        }
        Ok(stream)
    }

    /// Does the connection speak another protocol?
    pub fn is_upgraded(&self) -> bool {
        self.answer().exchange.is_upgraded()
    }

    /// The connection, until the request has ended.
    pub fn stream(&self) -> Option<Arc<Stream>> {
        self.answer().stream.clone()
    }

    /// Does the server stop?
    pub fn is_last(&self) -> bool {
        self.settings.stop.is_set()
    }

    /// Does the connection end with this request, because the server stops? Requests that have arrived behind it are
    /// answered first.
    pub(super) fn is_last_of_connection(&self, answer: &Answer) -> bool {
        self.is_last() && !(self.settings.stop.keeps_connections() && answer.has_next())
    }

    /// The stop of the server.
    pub fn stop(&self) -> &StopFlag {
        &self.settings.stop
    }
}
