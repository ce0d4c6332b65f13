//! Meinheld's fast watchdog: a heartbeat for the process that supervises this one, and an end together with it.
//!
//! Both are checks of the [watchdog](super::watchdog), whose first thread never takes the interpreter. A loop that waits
//! for events gives a beat each second, and so does one that turns. A turn that lasts longer gives none. An orphan is
//! found in any case, and then the second thread calls Python code, also while a request computes.

use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustix::fs::{Timestamps, futimens};
use rustix::process::{Pid, getppid};
use rustix::time::{ClockId, clock_gettime};

use super::given_descriptor::given_descriptor;
use super::watchdog::{Check, Turn, Wishes};
use crate::interp::{self, Level};
use crate::output;

/// The time between two beats, as in Meinheld.
const INTERVAL: Duration = Duration::from_secs(1);

/// The check.
pub struct ParentWatch {
    /// The file whose modification time is the heartbeat.
    file: Option<OwnedFd>,
    parent: Pid,
    /// The function that is called once the parent is gone.
    orphaned: Option<Py<PyAny>>,
    next: Instant,
    has_failed: bool,
}

impl ParentWatch {
    /// A check that sets the modification time of the file `number` to the monotonic clock; -1 is no file. `orphaned` is
    /// called once, when the process `parent` is no longer the parent.
    ///
    /// # Errors
    /// OSError that names a bad descriptor, ValueError for a number that no process has.
    pub fn new(number: RawFd, parent: i32, orphaned: Py<PyAny>) -> PyResult<ParentWatch> {
        let duplicate = |descriptor: BorrowedFd<'_>| descriptor.try_clone_to_owned();
        let file = (number >= 0).then(|| given_descriptor(number, "the heartbeat of set_fastwatchdog", duplicate));
        let refused = || PyValueError::new_err(format!("no process has the id {parent}"));
        Ok(ParentWatch {
            file: file.transpose()?,
            parent: (parent > 0).then(|| Pid::from_raw(parent)).flatten().ok_or_else(refused)?,
            orphaned: Some(orphaned),
            next: Instant::now(),
            has_failed: false,
        })
    }

    fn beat(&mut self) {
        let Some(file) = &self.file else { return };
        let now = clock_gettime(ClockId::Monotonic);
        let beaten = futimens(file, &Timestamps { last_access: now, last_modification: now });
        if let Err(error) = beaten
            && !std::mem::replace(&mut self.has_failed, true)
        {
            output::say(&format!("the heartbeat of set_fastwatchdog cannot be written: {error}"));
        }
    }
}

impl Check for ParentWatch {
    fn look(&mut self, turn: Option<Turn>) -> Wishes {
        let left = self.next.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Wishes { next: Some(left), job: None };
        }
        self.next = Instant::now() + INTERVAL;
        if turn.is_none_or(|turn| turn.age < INTERVAL) {
            self.beat();
        }
        let orphaned = if getppid() == Some(self.parent) { None } else { self.orphaned.take() };
        let job = orphaned.map(|orphaned| -> super::watchdog::Job {
            Box::new(move |py, _| {
                if let Err(error) = orphaned.call0(py) {
                    interp::log(py, Level::Error, "The server cannot stop after its parent process", Some(&error));
                }
            })
        });
        Wishes { next: Some(INTERVAL), job }
    }

    fn longest_sleep(&self) -> Option<Duration> {
        Some(INTERVAL)
    }
}
