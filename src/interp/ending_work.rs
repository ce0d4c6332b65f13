//! The end of one piece of work by force: a request or a coroutine whose time is up, or that an operator ends.

use pyo3::prelude::*;

use super::exceptions::RequestTimeout;
use super::process_loop;
use super::spawned::throw_at;
use crate::event_loop::{self, LoopMessage, interrupts};

/// The reason why work is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its deadline has passed.
    Deadline,
    /// An operator ends it.
    Asked,
}

impl EndReason {
    fn message(self) -> &'static str {
        match self {
            EndReason::Deadline => "the time of the request is up",
            EndReason::Asked => "an operator has ended the request",
        }
    }
}

/// Ends the piece of work with this number, and no other: raises [`RequestTimeout`] where it waits. From any thread.
/// Returns false if the work has ended before.
pub fn end_work(py: Python<'_>, work: u64, reason: EndReason) -> bool {
    if event_loop::is_loop_thread() {
        return throw(py, work, reason);
    }
    let Some(runtime) = process_loop::running(py) else { return false };
    runtime.send(LoopMessage::Control(Box::new(move || {
        Python::attach(|py| throw(py, work, reason));
    })));
    true
}

/// Raises the exception at the present or next wait of `work`. On the loop thread.
fn throw(py: Python<'_>, work: u64, reason: EndReason) -> bool {
    let Some(work) = interrupts::work_of_number(work) else { return false };
    let thrown = RequestTimeout::with_message(py, reason.message()).and_then(|error| throw_at(py, work, error));
    if let Err(error) = thrown {
        error.write_unraisable(py, None);
    }
    true
}
