//! The process's one loop: started when first needed, stopped at the end of `run()` or at exit, switched off by a fork.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PySystemExit};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use rustix::fs::FileType;

use super::thread_state::PythonHost;
use super::{Level, log, waiter};
use crate::event_loop::{self, Runtime};
use crate::output;

/// How long coroutines may take to end after the exit exception was raised in them, before it is raised at every wait.
const FIRST_WARNING: Duration = Duration::from_secs(2);

/// Exit status of a forked child that came back (EX_SOFTWARE of sysexits.h).
const EXIT_SOFTWARE: i32 = 70;

/// How long to wait after that before giving up on them.
const LAST_WARNING: Duration = Duration::from_secs(2);

static PREPARE: OnceLock<fn(Python<'_>)> = OnceLock::new();
static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);
/// The last stop has waited in vain.
static GIVEN_UP: AtomicBool = AtomicBool::new(false);
static FORKED: AtomicBool = AtomicBool::new(false);
/// A loop has been started in this process or the one that it was forked from: the coroutine scheduler's threads belong to
/// that one, and it cannot be started a second time.
static STARTED: AtomicBool = AtomicBool::new(false);

/// The process's loop, started if need be.
///
/// # Errors
/// RuntimeError in the child of a fork whose parent had started one; RuntimeError on an unfit interpreter; MemoryError
/// without room for the first stacks; OSError when the process has no descriptors left.
pub fn ensure_started(py: Python<'_>) -> PyResult<Arc<Runtime>> {
    if is_forked() {
        return Err(PyRuntimeError::new_err(
            "coroutines were in use before this process was forked: start them after the fork",
        ));
    }
    if let Some(runtime) = running(py) {
        return Ok(runtime);
    }
    // Python code, which may come here itself, or let other threads come: before the lock.
    enable_faulthandler(py)?;
    let host = PythonHost::new(py)?;
    if let Some(prepare) = PREPARE.get() {
        prepare(py);
    }
    let mut slot = slot(py);
    if let Some(runtime) = slot.as_ref().filter(|runtime| !runtime.has_ended()) {
        return Ok(Arc::clone(runtime));
    }
    STARTED.store(true, Ordering::Relaxed);
    let runtime = Runtime::start(Arc::new(host))?;
    *slot = Some(Arc::clone(&runtime));
    Ok(runtime)
}

/// Has `prepare` called before each start of a loop.
pub fn prepare_with(prepare: fn(Python<'_>)) {
    let _ = PREPARE.set(prepare);
}

fn running(py: Python<'_>) -> Option<Arc<Runtime>> {
    slot(py).as_ref().filter(|runtime| !runtime.has_ended()).map(Arc::clone)
}

/// Detached while it waits: whoever holds the lock may need the interpreter to go on. No Python code runs under it.
fn slot(py: Python<'_>) -> MutexGuard<'static, Option<Arc<Runtime>>> {
    RUNTIME.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process's loop, if it runs: raises [`super::CoroutineExit`] in every coroutine that waits. Returns whether all
/// of them have ended. Blocks the calling OS thread, which must not be the loop's.
pub fn stop(py: Python<'_>) -> bool {
    let taken = slot(py).take();
    let Some(runtime) = taken else { return true };
    if runtime.has_ended() || is_forked() {
        return true;
    }
    let ended = py.detach(|| {
        runtime.end(false);
        if runtime.wait_ended(FIRST_WARNING) {
            return true;
        }
        let patience = Instant::now() + LAST_WARNING;
        while Instant::now() < patience {
            // Again and again: a coroutine that was computing may wait only now.
            runtime.end(true);
            if runtime.wait_ended(Duration::from_millis(200)) {
                return true;
            }
        }
        false
    });
    GIVEN_UP.store(!ended, Ordering::Relaxed);
    if !ended {
        // Kept: a later start must not run beside it.
        *slot(py) = Some(runtime);
        log(py, Level::Error, "coroutines did not end although CoroutineExit was raised in them", None);
    }
    ended
}

/// Ends the process's loop, if it runs and is not known to hang.
pub fn stop_at_exit(py: Python<'_>) {
    if !GIVEN_UP.load(Ordering::Relaxed) {
        stop(py);
    }
}

/// Tells those who wait on a descriptor that it is about to be closed. Returns whether they will not wait for it again:
/// on another thread than the loop's it has to be said once more when it has been closed.
pub fn descriptor_closes(py: Python<'_>, number: std::os::fd::RawFd) -> bool {
    if event_loop::descriptor_closes(number) || is_forked() || is_on_disk(number) {
        return true;
    }
    if let Some(runtime) = slot(py).as_ref() {
        runtime.descriptor_closes(number);
    }
    false
}

/// Whether a descriptor is that of a regular file. Nobody can wait for one, so the loop need not know that it is closed.
fn is_on_disk(number: std::os::fd::RawFd) -> bool {
    number >= 0
        && rustix::fs::fstat(event_loop::borrow_descriptor(number))
            .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile)
}

/// Whether this process was forked from one whose loop ran.
pub fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Called in the child after a fork: its loop thread does not exist, so from now on everything takes its blocking path.
pub fn forget_in_child() {
    FORKED.store(STARTED.load(Ordering::Relaxed), Ordering::Relaxed);
    // The lock may have been held by a thread that the child does not have.
    if let Ok(mut slot) = RUNTIME.try_lock()
        && let Some(runtime) = slot.take()
    {
        // Its descriptors are shared with the parent and its state with stacks that will never run: leave them be.
        std::mem::forget(runtime);
    }
    event_loop::forget_in_child();
    waiter::forget_in_child();
}

/// Ends a forked child whose function has come back into the server's code, where there is nothing for it to do: the loop
/// is the parent's, and so is the client. `sys.exit()` in the child is obeyed.
pub fn leave_if_forked(py: Python<'_>, result: Option<&PyErr>) {
    if !event_loop::was_forgotten() {
        return;
    }
    let code = result.filter(|error| error.is_instance_of::<PySystemExit>(py)).map(|error| {
        let code = error.value(py).getattr("code").ok();
        code.filter(|code| !code.is_none()).map_or(0, |code| code.extract::<i32>().unwrap_or(1))
    });
    if let (None, Some(error)) = (code, result) {
        error.print(py);
    }
    if code.is_none() {
        output::say("a forked child returned from its request or coroutine instead of exiting; it ends here");
    } else if let Ok(sys) = py.import("sys") {
        for stream in ["stdout", "stderr"] {
            let _ = sys.getattr(stream).and_then(|stream| stream.call_method0("flush"));
        }
    }
    std::process::exit(code.unwrap_or(EXIT_SOFTWARE));
}

/// So that an overflow of the C stack prints the Python traceback. Before the first coroutine: see `coroutine::overflow`.
fn enable_faulthandler(py: Python<'_>) -> PyResult<()> {
    let faulthandler = py.import("faulthandler")?;
    if !faulthandler.call_method0("is_enabled")?.extract::<bool>()? {
        let kwargs = pyo3::types::PyDict::new(py);
        kwargs.set_item("all_threads", false)?;
        // sys.stderr may have been replaced by something without a descriptor; descriptor 2 is what is meant.
        kwargs.set_item("file", 2)?;
        faulthandler.call_method("enable", (), Some(&kwargs))?;
    }
    Ok(())
}
