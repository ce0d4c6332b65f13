//! `Scoreboard`: the memory that the workers of a service share, as Python sees it.

use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::shared_measures;
use crate::crew::exposition::TextFormat;
use crate::crew::metrics::{Build, scrape};
use crate::crew::places::KEY_BYTES;
use crate::crew::scoreboard::{Counters, DEFAULT_SLOTS, EXIT_REASONS, REASONS, Scoreboard, TURN_LIMIT, WorkerState};
use crate::crew::seat::Seat;
use crate::kernel::LentDescriptor;

/// The memory that the workers of a service share: a slot for each worker. Any process reads it without waking others.
///
/// The master makes it before the first fork, with room for `slots` workers (256 by default). Slots have numbers from
/// 0. The master reserves a slot before it forks a worker, and releases it when the worker has ended.
///
/// Raises ValueError if `slots` is not a number from 1 to 65536, and OSError if there is no memory or descriptor.
#[pyclass(frozen, name = "Scoreboard", module = "rmeinheld._rmeinheld")]
pub struct SharedScoreboard(Arc<Scoreboard>);

#[pymethods]
impl SharedScoreboard {
    #[new]
    #[pyo3(signature = (slots = DEFAULT_SLOTS), text_signature = "(slots=256)")]
    fn new(slots: u32) -> PyResult<SharedScoreboard> {
        Scoreboard::new(slots).map(|board| SharedScoreboard(Arc::new(board))).map_err(refused)
    }

    /// Open the scoreboard behind `descriptor`, of which it keeps a duplicate.
    ///
    /// Raises ValueError, with the difference, if the file is no scoreboard or one of another version or size. Raises
    /// OSError if the descriptor cannot be used.
    #[staticmethod]
    #[pyo3(signature = (descriptor, /))]
    fn from_descriptor(descriptor: RawFd) -> PyResult<SharedScoreboard> {
        let opened = LentDescriptor::new(descriptor)
            .map_err(Into::into)
            .and_then(|descriptor| Scoreboard::from_descriptor(descriptor.as_fd()));
        opened.map(|board| SharedScoreboard(Arc::new(board))).map_err(|error| {
            let message = format!("descriptor {descriptor} cannot be used as a scoreboard: {error}");
            match error.kind() {
                std::io::ErrorKind::InvalidData => PyValueError::new_err(message),
                _ => PyOSError::new_err((error.raw_os_error(), message)),
            }
        })
    }

    /// Number of the memory's descriptor. A program started by execve(2) inherits it only if it is made inheritable.
    #[getter]
    fn descriptor(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }

    /// Number of slots.
    #[getter]
    fn slots(&self) -> u32 {
        self.0.slots()
    }

    /// Take a free slot for a worker that is about to start, whose state becomes "booting". Returns its number.
    ///
    /// Raises RuntimeError if no slot is free.
    fn reserve(&self) -> PyResult<u32> {
        self.0.reserve().ok_or_else(|| {
            let slots = self.0.slots();
            PyRuntimeError::new_err(format!(
                "all {slots} slots of the scoreboard are taken; a service with more workers needs a larger scoreboard"
            ))
        })
    }

    /// Give the slot of a worker free that has ended. Its counters stay in the sum of all.
    #[pyo3(signature = (slot, /))]
    fn release(&self, slot: u32) -> PyResult<()> {
        self.0.release(self.checked(slot)?);
        Ok(())
    }

    /// Note that the calling process, a worker after its fork, owns the slot.
    #[pyo3(signature = (slot, /))]
    fn claim(&self, slot: u32) -> PyResult<()> {
        self.seat(slot.into()).map(|seat| seat.note_turn())
    }

    /// Return the state of a slot: "free", "booting", "ready" or "draining".
    #[pyo3(signature = (slot, /))]
    fn state(&self, slot: u32) -> PyResult<&'static str> {
        Ok(self.0.state(self.checked(slot)?).name())
    }

    /// Set the state of a slot. A worker that drains does not become ready again: "ready" then changes nothing.
    ///
    /// Raises ValueError for an unknown state.
    #[pyo3(signature = (slot, state, /))]
    fn set_state(&self, slot: u32, state: &str) -> PyResult<()> {
        let slot = self.checked(slot)?;
        let Some(state) = WorkerState::ALL.into_iter().find(|known| known.name() == state) else {
            let names = WorkerState::ALL.map(WorkerState::name).join(", ");
            return Err(PyValueError::new_err(format!("the state of a slot is one of {names}, not {state:?}")));
        };
        self.0.set_state(slot, state);
        Ok(())
    }

    /// Return the reason why the worker asks to be replaced: "requests", "memory", "lifetime", "reload",
    /// "stuck"; "" without.
    #[pyo3(signature = (slot, /))]
    fn asks(&self, slot: u32) -> PyResult<&'static str> {
        Ok(self.0.asks(self.checked(slot)?))
    }

    /// Ask for a replacement of the worker. An empty reason takes the wish back.
    ///
    /// Raises ValueError for an unknown reason.
    #[pyo3(signature = (slot, reason, /))]
    fn ask(&self, slot: u32, reason: &str) -> PyResult<()> {
        if self.0.ask(self.checked(slot)?, reason) {
            return Ok(());
        }
        let known = REASONS.join(", ");
        Err(PyValueError::new_err(format!("the reason for a replacement is one of {known}, or empty, not {reason:?}")))
    }

    /// Return the process id of the worker; 0 before the worker has written it.
    #[pyo3(signature = (slot, /))]
    fn pid(&self, slot: u32) -> PyResult<u32> {
        Ok(self.0.pid(self.checked(slot)?))
    }

    /// Return how many workers have owned the slot, the current one included.
    #[pyo3(signature = (slot, /))]
    fn generation(&self, slot: u32) -> PyResult<u64> {
        Ok(self.0.generation(self.checked(slot)?))
    }

    /// Return the slots that workers own, each with its state.
    fn workers(&self) -> Vec<(u32, &'static str)> {
        self.0.taken().map(|slot| (slot, self.0.state(slot).name())).collect()
    }

    /// Return the holders of all places, as slots; None for a place that is empty. See `assign_places`.
    fn places(&self) -> Vec<Option<u32>> {
        (0..self.0.places()).map(|place| self.0.assigned(place)).collect()
    }

    /// Assign the places of sessions to slots, in their order. None leaves a place empty. Only the master may do this.
    ///
    /// Raises ValueError for a slot that does not exist, or more places than slots.
    #[pyo3(signature = (holders, /))]
    fn assign_places(&self, holders: Vec<Option<u32>>) -> PyResult<()> {
        if holders.len() > self.0.slots() as usize {
            let (places, slots) = (holders.len(), self.0.slots());
            return Err(PyValueError::new_err(format!(
                "the scoreboard has {slots} slots, too few for {places} places"
            )));
        }
        holders.iter().flatten().try_for_each(|&slot| self.checked(slot).map(drop))?;
        self.0.assign_places(&holders);
        Ok(())
    }

    /// Set the key that signs cookies of sticky sessions: 32 bytes. The first one stays.
    ///
    /// Raises ValueError for another length.
    #[pyo3(signature = (key, /))]
    fn set_service_key(&self, key: &[u8]) -> PyResult<()> {
        let Ok(key) = <&[u8; KEY_BYTES]>::try_from(key) else {
            return Err(PyValueError::new_err(format!(
                "the key of a service has {KEY_BYTES} bytes, not {}",
                key.len()
            )));
        };
        if self.0.service_key().is_none() {
            self.0.set_service_key(key);
        }
        Ok(())
    }

    /// Return how many seconds the running turn of the worker's loop has lasted; 0 while the loop waits for events.
    #[pyo3(signature = (slot, /))]
    fn turn_age(&self, slot: u32) -> PyResult<f64> {
        Ok(self.0.turn_age(self.checked(slot)?).as_secs_f64())
    }

    /// Return the numbers of one worker, or of all, with those that have ended (None, the default).
    ///
    /// "requests" (answered) and "connections" (accepted) only grow. "open_connections", "in_progress" (requests) and
    /// "websockets" are those of now.
    #[pyo3(signature = (slot = None))]
    fn counters<'py>(&self, py: Python<'py>, slot: Option<u32>) -> PyResult<Bound<'py, PyDict>> {
        let Counters { requests, connections, open_connections, in_progress, websockets } = match slot {
            Some(slot) => self.0.counters(self.checked(slot)?),
            None => self.0.total(),
        };
        let numbers = PyDict::new(py);
        numbers.set_item("requests", requests)?;
        numbers.set_item("connections", connections)?;
        numbers.set_item("open_connections", open_connections)?;
        numbers.set_item("in_progress", in_progress)?;
        numbers.set_item("websockets", websockets)?;
        Ok(numbers)
    }

    /// Return the measures of one slot, or of all (None, the default), with those of its earlier owners.
    ///
    /// They are empty unless metrics are on. The counts of "requests" are by method and class of the status, those of
    /// "refused" by status. The numbers of "waits" are coroutines by the reason of their wait. Those of
    /// "channels" are counted without metrics, too. The histograms are "request_duration", "time_to_first_byte",
    /// "queue_time", "loop_lag" and "gil_wait": dictionaries with "bounds" in seconds, "counts" for each bucket (one more than bounds),
    /// and the "sum" in seconds. The other items are numbers.
    /// Counts and histograms only grow, so the difference of two calls is that of the time between.
    #[pyo3(signature = (slot = None))]
    fn metrics<'py>(&self, py: Python<'py>, slot: Option<u32>) -> PyResult<Bound<'py, PyDict>> {
        let measured = match slot {
            Some(slot) => self.0.measured(self.checked(slot)?).unwrap_or_default(),
            None => self.0.measured_in_total(),
        };
        shared_measures::as_dict(py, &measured)
    }

    /// Return the text of `/metrics`, in the format of Prometheus.
    fn scrape(&self) -> String {
        scrape(&self.0, TURN_LIMIT, &build(), TextFormat::Prometheus)
    }

    /// Return the share of the last 10 seconds for which a worker's loop was busy, from 0 to 1. It needs metrics.
    #[pyo3(signature = (slot, /))]
    fn busy_share(&self, slot: u32) -> PyResult<f64> {
        Ok(self.0.busy_share(self.checked(slot)?))
    }

    /// Count messages of channels in a slot: published, queued for subscriptions, dropped, and gaps.
    #[pyo3(signature = (slot, published, delivered, dropped, gaps, /))]
    fn count_channels(&self, slot: u32, published: u64, delivered: u64, dropped: u64, gaps: u64) -> PyResult<()> {
        self.0.note_channels(self.checked(slot)?, [published, delivered, dropped, gaps]);
        Ok(())
    }

    /// Count a worker that has ended.
    ///
    /// `reason` is one for which a worker asks to be replaced, or "scale_down", "stop", "timeout", "killed", "crash" or
    /// "boot". Raises ValueError for another one.
    #[pyo3(signature = (reason, /))]
    fn count_exit(&self, reason: &str) -> PyResult<()> {
        if self.0.count_exit(reason) {
            return Ok(());
        }
        let known = EXIT_REASONS.join(", ");
        Err(PyValueError::new_err(format!("the reason for the end of a worker is one of {known}, not {reason:?}")))
    }

    /// Whether the whole service stops.
    #[getter]
    fn is_stopping(&self) -> bool {
        self.0.is_stopping()
    }

    #[setter]
    fn set_is_stopping(&self, is_stopping: bool) {
        self.0.set_stopping(is_stopping);
    }

    /// Return the number of workers that are ready, alive, and whose loop has turned within the last five seconds.
    fn ready_workers(&self) -> u32 {
        self.0.ready_workers(TURN_LIMIT)
    }
}

impl SharedScoreboard {
    /// The memory.
    pub fn board(&self) -> &Arc<Scoreboard> {
        &self.0
    }

    /// Takes the seat of a slot for this process.
    ///
    /// # Errors
    /// ValueError if the scoreboard has no such slot.
    pub fn seat(&self, slot: i64) -> PyResult<Seat> {
        let seat = u32::try_from(slot).ok().and_then(|slot| Seat::take(Arc::clone(&self.0), slot));
        seat.ok_or_else(|| self.no_slot(slot))
    }

    /// `slot`, if the scoreboard has it.
    ///
    /// # Errors
    /// ValueError if the scoreboard has no such slot.
    pub fn checked(&self, slot: u32) -> PyResult<u32> {
        if slot < self.0.slots() { Ok(slot) } else { Err(self.no_slot(slot.into())) }
    }

    fn no_slot(&self, slot: i64) -> PyErr {
        PyValueError::new_err(format!("the scoreboard has slots 0 to {}, not {slot}", self.0.slots() - 1))
    }
}

/// The versions of the server and of Python.
pub fn build() -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        python: Python::version_str().split_whitespace().next().unwrap_or_default().to_owned(),
    }
}

fn refused(error: std::io::Error) -> PyErr {
    match error.kind() {
        std::io::ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
        _ => PyOSError::new_err((error.raw_os_error(), format!("cannot make a scoreboard: {error}"))),
    }
}
