//! `AdminListener`: the thread that answers probes, as Python sees it.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::given_descriptor::given_descriptor;
use super::shared_scoreboard::{SharedScoreboard, build};
use crate::crew::admin::AdminThread;
use crate::crew::probe::{Readiness, Topics};
use crate::crew::scoreboard::{Scoreboard, TURN_LIMIT};
use crate::net::Listener;
use crate::sync::lock;

/// Answers `/live`, `/ready` and `/metrics` on a listening socket, on an OS thread of its own that never takes the
/// interpreter.
///
/// It works with a duplicate of `descriptor`, a listening TCP or Unix socket that several processes may share. `/live`
/// is answered with 200 as long as the process runs. `/ready` is answered with 200 while at least `ready_workers`
/// workers of `scoreboard` are ready, and with 503 and the reasons otherwise. A worker is ready if it accepts requests,
/// does not drain, and its loop has turned within the last `turn_limit` seconds (5 by default). With `metrics` (off by
/// default) `/metrics` is answered with the measures of all workers, in the format of Prometheus or OpenMetrics.
///
/// Raises ValueError for a negative or infinite `turn_limit`, and OSError for a bad descriptor.
#[pyclass(frozen, module = "rmeinheld._rmeinheld")]
pub struct AdminListener {
    prepared: Mutex<Option<Listener>>,
    board: Arc<Scoreboard>,
    topics: Topics,
    thread: Mutex<Option<AdminThread>>,
}

#[pymethods]
impl AdminListener {
    #[new]
    #[pyo3(signature = (descriptor, scoreboard, ready_workers = 1, turn_limit = TURN_LIMIT.as_secs_f64(), *,
        metrics = false),
        text_signature = "(descriptor, scoreboard, ready_workers=1, turn_limit=5.0, *, metrics=False)")]
    fn new(
        descriptor: RawFd,
        scoreboard: PyRef<'_, SharedScoreboard>,
        ready_workers: u32,
        turn_limit: f64,
        metrics: bool,
    ) -> PyResult<AdminListener> {
        let Ok(turn_limit) = Duration::try_from_secs_f64(turn_limit) else {
            let message = format!("turn_limit is a number of seconds from 0, not {turn_limit}");
            return Err(PyValueError::new_err(message));
        };
        Ok(AdminListener {
            prepared: Mutex::new(Some(given_descriptor(descriptor, "the admin listener", Listener::new)?)),
            board: Arc::clone(scoreboard.board()),
            topics: Topics { readiness: Readiness { workers: ready_workers, turn_limit }, build: metrics.then(build) },
            thread: Mutex::default(),
        })
    }

    /// Start to answer. A process calls it after its last fork.
    ///
    /// Raises RuntimeError if called a second time, and OSError if no thread or descriptor is left.
    fn start(&self) -> PyResult<()> {
        let Some(listener) = lock(&self.prepared).take() else {
            return Err(PyRuntimeError::new_err("this admin listener has been started already; make a new one"));
        };
        *lock(&self.thread) = Some(AdminThread::start(listener, Arc::clone(&self.board), self.topics.clone())?);
        Ok(())
    }

    /// Stop accepting, and close the duplicate of the socket. May be repeated. In a forked child it does nothing.
    ///
    /// Clients whose connections were accepted still get their answers, for 0.3 seconds at most.
    fn stop(&self, py: Python<'_>) {
        let prepared = lock(&self.prepared).take();
        let thread = lock(&self.thread).take();
        py.detach(|| drop((prepared, thread)));
    }
}
