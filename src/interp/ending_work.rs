//! The end of one piece of work by force: a request or a coroutine whose time is up, or that an operator ends.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyBaseException;
use pyo3::prelude::*;
use pyo3::types::PyType;

pub use super::endings::EndReason;
use super::endings::{self, Due, Stage};
use super::exceptions::CoroutineExit;
use super::inspection::{self, StackFrame, frames_of};
use super::log::Level;
use super::log_lines::{self, LogLine};
use super::process_loop;
use super::request_timeout::{ClientDisconnected, RequestTimeout};
use super::spawned::throw_at;
use super::subject;
use super::swallowed;
use crate::event_loop::deadlines;
use crate::event_loop::records::{self, Record, WorkKind};
use crate::event_loop::{self, LoopMessage, interrupts, turn};
use crate::http::redaction::redacted;

/// Ends the piece of work with this number, and no other. From any thread.
///
/// Work that waits gets the exception there, work that computes gets it asynchronously: RequestTimeout, and CoroutineExit
/// if it goes on for two seconds. A coroutine without a request gets CoroutineExit if an operator ends it. Work whose
/// client is gone gets ClientDisconnected, at its present or next wait alone. Logs the stack of the work.
///
/// A caller that ends its own work has to raise RequestTimeout itself.
///
/// Returns false if there is no such work, or it is the server's own. Repeated calls are harmless.
pub fn end_work(py: Python<'_>, work: u64, reason: EndReason) -> bool {
    let Some(line) = begin_ending(py, work, reason, true) else { return false };
    if let Some(line) = line {
        report(py, line);
    }
    true
}

/// Sends the exception that is due on its way. Returns the line to log, if there is one and `describes` asks for it;
/// `None` if there is no such work. Runs no Python code.
pub(super) fn begin_ending(py: Python<'_>, work: u64, reason: EndReason, describes: bool) -> Option<Option<LogLine>> {
    let record = deadlines::record_of(work)?;
    begin_ending_of(py, &record, work, reason, describes)
}

/// Does the same for `work`, which the unit of `record` runs.
fn begin_ending_of(
    py: Python<'_>,
    record: &Arc<Record>,
    work: u64,
    reason: EndReason,
    describes: bool,
) -> Option<Option<LogLine>> {
    if record.work() != work || !matches!(record.kind(), WorkKind::Request | WorkKind::Spawned) {
        return None;
    }
    let is_spawned = record.kind() == WorkKind::Spawned;
    let first = if is_spawned && reason == EndReason::Asked { Stage::Exit } else { Stage::First };
    let computes = is_own(work) || is_computing(record, work);
    let (stage, line) = match endings::begin(py, work, reason, first) {
        Due::Nothing => return Some(None),
        Due::Again if !computes => return Some(None),
        Due::Again => (Stage::First, None),
        Due::New(stage) => (stage, describes.then(|| description(py, record, reason, stage, computes))),
    };
    swallowed::watch(py);
    if is_own(work) {
        // The caller raises the exception.
    } else if computes && reason != EndReason::Disconnected {
        endings::set_asynchronous(py, work, record.thread_state(), &class_of(py, reason, stage));
    } else if event_loop::is_loop_thread() {
        throw(py, work, reason, stage);
    } else if let Some(runtime) = process_loop::running(py) {
        runtime.send(LoopMessage::Control(Box::new(move || {
            Python::attach(|py| throw(py, work, reason, stage));
        })));
    }
    look_again(py);
    Some(line)
}

/// Ends all work whose deadline has passed, and takes the next step with work that goes on. Runs as work of the loop.
///
/// # Parks
pub fn end_overdue(py: Python<'_>) {
    let mut ended = 0;
    for (record, work) in deadlines::overdue() {
        // The deadline may have been moved in the turns of others.
        if deadlines::is_overdue(&record)
            && let Some(line) = begin_ending_of(py, &record, work, EndReason::Deadline, true).flatten()
        {
            log_lines::log_later(line);
            ended += 1;
            if ended % ENDED_AT_ONCE == 0 {
                turn::after_next_poll();
            }
        }
    }
    for (work, reason, left) in endings::patience_left(py) {
        if !left.is_zero() {
            deadlines::look_at(records::now() + deadlines::nanoseconds(left));
        } else if let Some(line) = begin_ending(py, work, reason, true).flatten() {
            log_lines::log_later(line);
        }
    }
}

/// Pieces of work that are ended in one turn. All other ready work runs between two turns.
const ENDED_AT_ONCE: usize = 8;

/// Has the loop look again when the patience with the work that is being ended is over.
fn look_again(py: Python<'_>) {
    let at = records::now() + deadlines::nanoseconds(endings::PATIENCE);
    if event_loop::is_loop_thread() {
        deadlines::look_at(at);
    } else if let Some(runtime) = process_loop::running(py) {
        runtime.send(LoopMessage::Control(Box::new(move || deadlines::look_at(at))));
    }
}

fn is_own(work: u64) -> bool {
    interrupts::current_work().is_some_and(|own| own.number == work)
}

/// Whether the loop thread runs `work` now, as far as another thread can know.
fn is_computing(record: &Arc<Record>, work: u64) -> bool {
    let runs = records::running().is_some_and(|(running, _)| Arc::ptr_eq(&running, record));
    !event_loop::is_loop_thread() && runs && record.work() == work && record.wait().is_none()
}

fn class_of(py: Python<'_>, reason: EndReason, stage: Stage) -> Bound<'_, PyType> {
    match (stage, reason) {
        (Stage::Exit, _) => py.get_type::<CoroutineExit>(),
        (Stage::First, EndReason::Disconnected) => py.get_type::<ClientDisconnected>(),
        (Stage::First, _) => py.get_type::<RequestTimeout>(),
    }
}

/// Raises the exception at the present or next wait of `work`. On the loop thread.
fn throw(py: Python<'_>, work: u64, reason: EndReason, stage: Stage) {
    let Some(place) = interrupts::work_of_number(work) else { return };
    if endings::reason_of(py, work).is_none() {
        return;
    }
    let thrown = || -> PyResult<()> {
        let error = class_of(py, reason, stage).call1((reason.message(),))?.cast_into::<PyBaseException>()?.unbind();
        if let Some(interruptions) = throw_at(py, place, error.clone_ref(py))? {
            endings::note_thrown(py, work, interruptions, error);
        }
        Ok(())
    };
    if let Err(error) = thrown() {
        error.write_unraisable(py, None);
    }
}

/// The names of the limits, for the log.
const TIME_LIMITS: &str = "request_timeout, rmeinheld.deadline";

/// The line about the end of work, with its stack.
fn description(py: Python<'_>, record: &Record, reason: EndReason, stage: Stage, computes: bool) -> LogLine {
    let id = subject::request_id(py, record);
    let (level, text) = text_about(py, record, reason, stage, computes, id.as_deref());
    let ident = record.ident();
    let name = inspection::thread_name(py, ident).unwrap_or_else(|| record.kind().name().to_owned());
    LogLine { level, text, request_id: id, ident, name }
}

fn text_about(
    py: Python<'_>,
    record: &Record,
    reason: EndReason,
    stage: Stage,
    computes: bool,
    id: Option<&str>,
) -> (Level, String) {
    let kind = if record.kind() == WorkKind::Request { "request" } else { "coroutine" };
    let age = Duration::from_nanos(records::now().saturating_sub(record.begun())).as_millis();
    let id = id.map_or(String::new(), |id| format!(", id {id}"));
    let what = format!("{kind} {} (after {}.{:03} s{id})", redacted(&record.label()), age / 1000, age % 1000);
    let does = if computes { "computes" } else { "waits" };
    let message = match (stage, reason) {
        (_, EndReason::Disconnected) => return (Level::Debug, format!("{what} is ended: its client has gone away")),
        (Stage::First, EndReason::Deadline) if is_own(record.work()) && frames_of(py, record).is_none() => {
            return (Level::Warning, format!("{what} is ended: it has answered after its time was up ({TIME_LIMITS})"));
        }
        (Stage::First, EndReason::Deadline) => {
            format!("{what} is ended: its time is up ({TIME_LIMITS}). It {does}")
        }
        (Stage::First, EndReason::Asked) => format!("{what} is ended: an operator asks for it. It {does}"),
        (Stage::Exit, _) => format!("{what} went on for 2 s after it was to end, and gets CoroutineExit. It {does}"),
    };
    (Level::Warning, with_stack(py, record, message + " at"))
}

/// Adds the stack of work, the innermost frame last, as in a traceback.
fn with_stack(py: Python<'_>, record: &Record, mut text: String) -> String {
    let Some(frames) = frames_of(py, record) else {
        return text + "\n  no Python code: the server reads or writes for the request";
    };
    for StackFrame { file, line, function } in frames.iter().rev() {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  File \"{file}\", line {line}, in {function}");
    }
    text
}

/// Logs from a place where a log handler may wait.
fn report(py: Python<'_>, line: LogLine) {
    if event_loop::is_loop_thread() && !event_loop::can_park() {
        log_lines::log_later(line);
    } else {
        line.log(py);
    }
}

#[cfg(test)]
mod tests;
