//! How a response ends before the application has said all: with the server, or with its client.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use pyo3::exceptions::{PyBaseException, PyGeneratorExit};
use pyo3::prelude::*;

use super::StartResponse;
use super::answer::AtStop;
use crate::event_loop::{WorkId, interrupts, streams};
use crate::interp::{self, failure_error};
use crate::net::{Failure, PeerEnd, peer_end};

impl StartResponse {
    /// The application has asked whether the server stops. Who is told that it does needs no exception any more.
    pub fn note_asked(&self, stops: bool) {
        let mut answer = self.answer();
        if stops {
            answer.at_stop = AtStop::IsInformed;
        } else if answer.at_stop == AtStop::GoesOn {
            answer.at_stop = AtStop::Ends;
        }
    }

    /// Whether nothing more is to be asked of the application: the server stops, and this response ends with it.
    pub fn is_to_end(&self) -> bool {
        self.is_last() && self.answer().at_stop == AtStop::Ends
    }

    /// Has GeneratorExit raised at the next wait of the request, which `work` runs, if it ends with the server.
    ///
    /// # Errors
    /// MemoryError.
    pub fn end_stream(&self, py: Python<'_>, work: WorkId) -> PyResult<()> {
        let ending = {
            let mut answer = self.answer();
            // What is being sent is sent whole. Whoever sends looks again afterwards.
            if answer.at_stop != AtStop::Ends || answer.exchange.is_upgraded() || answer.is_sending {
                return Ok(());
            }
            let rare = answer.rare();
            if rare.ending.is_some() {
                return Ok(());
            }
            rare.ending.insert(PyGeneratorExit::new_err("the server stops").into_value(py)).clone_ref(py)
        };
        interp::throw_at(py, work, ending)
    }

    /// As [`Self::end_stream`], for the caller's own request, if the server stops already.
    ///
    /// # Errors
    /// MemoryError.
    pub fn end_own_stream(&self, py: Python<'_>) -> PyResult<()> {
        match interrupts::current_work() {
            Some(work) if self.is_last() => self.end_stream(py, work),
            _ => Ok(()),
        }
    }

    /// Takes the exception back if it has not been raised yet: what follows is the server's own work, which is not to be
    /// cut short by it.
    pub fn hold_end(&self, py: Python<'_>) {
        if self.is_last()
            && let Some(ending) = self.ending(py)
        {
            interp::take_back(ending.bind(py));
        }
    }

    /// Whether `error` is what [`Self::end_stream`] has raised.
    pub fn was_ended_by(&self, py: Python<'_>, error: &PyErr) -> bool {
        self.ending(py).is_some_and(|ending| ending.bind(py).is(error.value(py)))
    }

    /// The exception that was thrown into the request to end it.
    fn ending(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        self.answer().rare.as_ref()?.ending.as_ref().map(|ending| ending.clone_ref(py))
    }

    /// Looks at the client in place of sending, since there is nothing to send: an application that has nothing to say
    /// would never hear of its end. The end of what the client sends alone may be a half-closed connection, whose client
    /// still reads: that counts when nothing was sent for `send_timeout`.
    ///
    /// # Errors
    /// ConnectionError when the client is gone.
    pub(super) fn send_nothing(&self) -> PyResult<()> {
        let stream = self.answer().stream.as_ref().map(Arc::clone);
        // The poller knows without a system call that nothing has happened.
        let Some(stream) = stream.filter(|stream| streams::is_peer_closed(stream.source())) else { return Ok(()) };
        let is_gone = match peer_end(stream.as_fd()) {
            PeerEnd::None => false,
            PeerEnd::Both => true,
            PeerEnd::Sending => {
                let since = *self.answer().rare().half_closed_since.get_or_insert_with(Instant::now);
                self.terms.send_timeout.is_some_and(|timeout| since.elapsed() >= timeout)
            }
        };
        if !is_gone {
            return Ok(());
        }
        self.lose_client();
        Err(failure_error(Failure::Gone(io::Error::from(io::ErrorKind::ConnectionReset))))
    }
}
