//! Responses that end before their application is done: with the server, or with the client.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use pyo3::exceptions::{PyBaseException, PyGeneratorExit};
use pyo3::prelude::*;

use super::StartResponse;
use super::answer::AtStop;
use crate::event_loop::{WorkId, deadlines, interrupts, streams};
use crate::interp::{self, EndReason, RequestTimeout, failure_error};
use crate::net::{Failure, PeerEnd, peer_end};

impl StartResponse {
    /// Notes that the application has asked whether the server stops, and got `stops` as the answer. One that knows of
    /// the stop needs no exception any more.
    pub fn note_asked(&self, stops: bool) {
        let mut answer = self.answer();
        if stops {
            answer.at_stop = AtStop::IsInformed;
        } else if answer.at_stop == AtStop::GoesOn {
            answer.at_stop = AtStop::Ends;
        }
    }

    /// Does the response end now, because the server stops?
    pub fn is_to_end(&self) -> bool {
        self.is_last() && self.answer().at_stop == AtStop::Ends
    }

    /// Raises GeneratorExit at the next wait of the request, which `work` runs, if its response ends with the server.
    ///
    /// # Errors
    /// MemoryError.
    pub fn end_stream(&self, py: Python<'_>, work: WorkId) -> PyResult<()> {
        let ending = {
            let mut answer = self.answer();
            // An item that is being sent goes out whole. The sender calls this again afterwards.
            if answer.at_stop != AtStop::Ends || answer.exchange.is_upgraded() || answer.is_sending {
                return Ok(());
            }
            let rare = answer.rare();
            if rare.ending.is_some() {
                return Ok(());
            }
            rare.ending.insert(PyGeneratorExit::new_err("the server stops").into_value(py)).clone_ref(py)
        };
        interp::throw_at(py, work, ending).map(drop)
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

    /// Takes the exception back until it is raised: it must not cut the server's own work short, which follows now.
    pub fn hold_end(&self, py: Python<'_>) {
        if self.is_last()
            && let Some(ending) = self.ending(py)
        {
            interp::take_back(ending.bind(py));
        }
    }

    /// Is `error` the exception that [`Self::end_stream`] has raised?
    pub fn was_ended_by(&self, py: Python<'_>, error: &PyErr) -> bool {
        self.ending(py).is_some_and(|ending| ending.bind(py).is(error.value(py)))
    }

    /// The exception that was thrown into the request to end it.
    fn ending(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        self.answer().rare.as_ref()?.ending.as_ref().map(|ending| ending.clone_ref(py))
    }

    /// Refuses to go on with the response of a request that is being ended by force, whose exception was caught, or
    /// whose time is up. On a busy machine the application may return before the watchdog has looked.
    ///
    /// # Errors
    /// RequestTimeout.
    #[inline]
    pub fn check_time(&self, py: Python<'_>) -> PyResult<()> {
        if interp::any_endings() || deadlines::own_has_passed() { self.check_own_time(py) } else { Ok(()) }
    }

    #[cold]
    fn check_own_time(&self, py: Python<'_>) -> PyResult<()> {
        let Some(work) = interrupts::current_work() else { return Ok(()) };
        if deadlines::own_has_passed() {
            interp::end_work(py, work.number, EndReason::Deadline);
        }
        match interp::end_reason_of(py, work.number) {
            Some(reason) if reason != EndReason::Disconnected => {
                let _ = self.answer().exchange.end_time();
                Err(RequestTimeout::error(py, reason.message()))
            }
            _ => Ok(()),
        }
    }

    /// Has `work`, the request, end with its client. Returns whether the client is gone already.
    pub fn end_with_client(&self, work: WorkId) -> bool {
        let Some(stream) = self.stream() else { return false };
        streams::set_ends_with_peer(stream.source(), Some(work));
        // The event may have come ahead of the request.
        streams::is_peer_closed(stream.source()) && peer_end(stream.as_fd()) == PeerEnd::Both
    }

    /// Notes that the client has reset or hung up the connection. Returns whether that ends the request.
    pub fn client_hung_up(&self) -> bool {
        let mut answer = self.answer();
        if answer.exchange.is_upgraded() {
            return false;
        }
        // Legal at any time once the head has been read.
        let _ = answer.exchange.lose_client();
        true
    }

    /// Checks the client instead of sending an empty item: an application with nothing to send would otherwise never
    /// notice the end of its client. A client that has closed its own side alone may still read. It counts as gone once
    /// nothing was sent for `send_timeout`.
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
                self.settings.send_timeout.is_some_and(|timeout| since.elapsed() >= timeout)
            }
        };
        if !is_gone {
            return Ok(());
        }
        self.lose_client();
        Err(failure_error(Failure::Gone(io::Error::from(io::ErrorKind::ConnectionReset))))
    }
}
