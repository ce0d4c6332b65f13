//! Coroutines that the master of a service has spawned. They run in each of its workers, since a fork copies no loop.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rustix::process::getpid;

use super::process_loop::ensure_started;
use crate::event_loop::LoopMessage;
use crate::sync::lock;

/// The process whose coroutines are deferred; 0 for none.
static MASTER: AtomicI32 = AtomicI32::new(0);

/// The calls of the master, in their order.
static CALLS: Mutex<Vec<SpawnedTask>> = Mutex::new(Vec::new());

type SpawnedTask = Box<dyn FnOnce() + Send>;

/// Has this process keep its coroutines for the workers that it forks.
pub fn defer_spawned() {
    MASTER.store(getpid().as_raw_nonzero().get(), Ordering::Relaxed);
}

/// Is this process a master, which runs no coroutine?
pub fn is_deferring() -> bool {
    let master = MASTER.load(Ordering::Relaxed);
    master != 0 && master == getpid().as_raw_nonzero().get()
}

/// Keeps a call for the workers.
pub fn keep(call: SpawnedTask) {
    lock(&CALLS).push(call);
}

/// Runs the coroutines that the master of this process has kept. From now on coroutines run at once.
///
/// # Errors
/// See [`ensure_started`].
pub fn start_spawned(py: Python<'_>) -> PyResult<()> {
    MASTER.store(0, Ordering::Relaxed);
    let calls = std::mem::take(&mut *lock(&CALLS));
    if !calls.is_empty() {
        let runtime = ensure_started(py)?;
        calls.into_iter().for_each(|call| runtime.send(LoopMessage::Task(call)));
    }
    Ok(())
}

/// The error of a wait for a coroutine, in the master.
pub fn wait_in_master() -> PyErr {
    PyRuntimeError::new_err(
        "the master of a service runs no coroutines: this one runs in each worker. With preload_app the master imports \
         the application, which may not wait for coroutines then",
    )
}
