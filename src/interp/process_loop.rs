//! The process's one loop. It is started when first needed, stopped at the end of `run()` or at exit, and switched off
//! by a fork.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PySystemExit};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use rustix::fs::FileType;

use super::frame_memory::keep_frame_memory;
use super::log::{Level, log};
use super::log_lines;
use super::thread_state::PythonHost;
use super::{subject, waiter};
use crate::event_loop::{self, LoopMessage, Runtime, ends};
use crate::kernel::LentDescriptor;
use crate::output;
use crate::sync::{lock, recover};

/// How long daemon threads and spawned coroutines may take to end after CoroutineExit was raised in them.
const DAEMON_PATIENCE: Duration = Duration::from_secs(1);

/// How long requests and non-daemon threads may take to end after CoroutineExit was raised in them.
const AWAITED_PATIENCE: Duration = Duration::from_secs(2);

/// How long the loop may take to look at a message. A loop that takes longer runs work that computes.
const LOOP_PATIENCE: Duration = Duration::from_secs(2);

/// The shorter time for each of these, once [`hurry`] was called: a person waits.
const HURRIED_PATIENCE: Duration = Duration::from_millis(200);

/// How long a later stop waits for a loop that could not end before.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// The pause between two looks at unfinished work.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Exit status of a forked child that came back into the server's code (EX_SOFTWARE of sysexits.h).
const EXIT_SOFTWARE: i32 = 70;

/// The function that runs before each start of a loop.
static PREPARE: OnceLock<fn(Python<'_>)> = OnceLock::new();
/// The process's loop.
static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);
/// Whether the last stop has waited in vain.
static HANGS: AtomicBool = AtomicBool::new(false);
/// Whether [`end_awaited`] has given requests and threads their time.
static AWAITED_HAD_TIME: AtomicBool = AtomicBool::new(false);
/// Whether unfinished work has only [`HURRIED_PATIENCE`].
static HURRIES: AtomicBool = AtomicBool::new(false);
/// Whether this process was forked from one whose loop ran.
static FORKED: AtomicBool = AtomicBool::new(false);
/// Whether a loop was started in this process or its parent. The coroutine scheduler's threads belong to that process,
/// and the scheduler cannot be started a second time.
static STARTED: AtomicBool = AtomicBool::new(false);

/// The process's loop, started if need be.
///
/// # Errors
/// - RuntimeError in the child of a fork whose parent had started a loop, and on an unfit interpreter;
/// - MemoryError without room for the first stacks;
/// - OSError when the process has no descriptors left.
pub fn ensure_started(py: Python<'_>) -> PyResult<Arc<Runtime>> {
    if is_forked() {
        return Err(PyRuntimeError::new_err(
            "coroutines were in use before this process was forked: start them after the fork",
        ));
    }
    if let Some(runtime) = running(py) {
        // A loop that cannot end would serve nothing.
        return if HANGS.load(Ordering::Relaxed) { Err(hangs(py)) } else { Ok(runtime) };
    }
    // Ahead of the lock: this runs Python code, which may call this function itself or let other threads call it.
    enable_faulthandler(py)?;
    let host = PythonHost::new(py)?;
    keep_frame_memory(py);
    if let Some(prepare) = PREPARE.get() {
        prepare(py);
    }
    let mut slot = slot(py);
    if let Some(runtime) = slot.as_ref().filter(|runtime| !runtime.has_ended()) {
        return Ok(Arc::clone(runtime));
    }
    HANGS.store(false, Ordering::Relaxed);
    HURRIES.store(false, Ordering::Relaxed);
    STARTED.store(true, Ordering::Relaxed);
    let runtime = Runtime::start(Arc::new(host))?;
    *slot = Some(Arc::clone(&runtime));
    Ok(runtime)
}

/// Shortens the time that unfinished work has at the end of the loop.
pub fn hurry() {
    HURRIES.store(true, Ordering::Relaxed);
}

fn patience(unhurried: Duration) -> Duration {
    if HURRIES.load(Ordering::Relaxed) { HURRIED_PATIENCE } else { unhurried }
}

/// Sets the function that runs before each start of a loop.
pub fn prepare_with(prepare: fn(Python<'_>)) {
    let _ = PREPARE.set(prepare);
}

/// The process's loop, if it runs.
pub fn running(py: Python<'_>) -> Option<Arc<Runtime>> {
    slot(py).as_ref().filter(|runtime| !runtime.has_ended()).map(Arc::clone)
}

/// Locks the process's loop. The caller is detached while it waits, because the holder of the lock may need the
/// interpreter. No Python code runs under the lock.
fn slot(py: Python<'_>) -> MutexGuard<'static, Option<Arc<Runtime>>> {
    recover(RUNTIME.lock_py_attached(py))
}

/// Ends the process's loop, if it runs, and raises [`super::CoroutineExit`] once in every coroutine. Work that still
/// waits two seconds later is left behind; if only daemon threads and the like are left, one second later. Blocks the
/// calling OS thread, which must not be the loop's.
///
/// # Errors
/// RuntimeError if the loop cannot end, naming the work that computes or blocks its thread.
pub fn stop(py: Python<'_>) -> PyResult<()> {
    let taken = slot(py).take();
    let Some(runtime) = taken else { return Ok(()) };
    if runtime.has_ended() || is_forked() {
        return Ok(());
    }
    let left = Arc::new(Mutex::new(Vec::new()));
    if HANGS.load(Ordering::Relaxed) {
        // An earlier stop has waited for it. It may have ended since.
        let ended = py.detach(|| {
            runtime.end();
            runtime.wait_ended(LAST_LOOK)
        });
        return if ended { Ok(()) } else { Err(keep_hanging(py, runtime)) };
    }
    let had_time = AWAITED_HAD_TIME.swap(false, Ordering::Relaxed);
    let ended = py.detach(|| {
        runtime.end();
        if runtime.wait_ended(patience(DAEMON_PATIENCE)) {
            return true;
        }
        leave(&runtime, &left, had_time);
        if runtime.wait_ended(patience(AWAITED_PATIENCE - DAEMON_PATIENCE)) {
            return true;
        }
        leave(&runtime, &left, true);
        runtime.wait_ended(patience(LOOP_PATIENCE))
    });
    HANGS.store(!ended, Ordering::Relaxed);
    if !ended {
        return Err(keep_hanging(py, runtime));
    }
    log_lines::log_rest(py);
    let left = std::mem::take(&mut *lock(&left));
    // At level INFO for daemon threads: CPython abandons its own without a word.
    for (is_awaited, level) in [(true, Level::Warning), (false, Level::Info)] {
        let names: Vec<&str> = left.iter().filter(|work| work.0 == is_awaited).map(|work| work.1.as_str()).collect();
        if !names.is_empty() {
            let message = format!(
                "{} caught CoroutineExit and went on waiting; left behind at the end of the loop, never to run again",
                names.join(", ")
            );
            log(py, level, &message, None);
        }
    }
    Ok(())
}

/// Keeps a loop that hangs, so that no second loop starts next to it. Returns the exception for the caller.
fn keep_hanging(py: Python<'_>, runtime: Arc<Runtime>) -> PyErr {
    let error = hangs(py);
    *slot(py) = Some(runtime);
    error
}

/// Work that is left behind: whether the end waits for it, and its name.
type Left = (bool, String);

/// Has the loop end without the work that still waits, and notes the names of that work. Without `awaited` it does so
/// only if the end waits for none.
fn leave(runtime: &Runtime, left: &Arc<Mutex<Vec<Left>>>, awaited: bool) {
    let left = Arc::clone(left);
    runtime.send(LoopMessage::Control(Box::new(move || {
        if !awaited && ends::unfinished().iter().any(|work| work.is_awaited) {
            return;
        }
        let names = Python::attach(subject::unfinished);
        *lock(&left) = names;
        ends::leave_the_rest_behind();
    })));
}

/// Raises [`super::CoroutineExit`] once in the requests and in non-daemon threads, and waits two seconds at most for
/// their end. The loop goes on. Blocks the calling OS thread.
///
/// # Errors
/// RuntimeError if the loop does not answer, naming the work that computes or blocks its thread.
pub fn end_awaited(py: Python<'_>) -> PyResult<()> {
    let running = slot(py).clone();
    let Some(runtime) = running.filter(|runtime| !runtime.has_ended() && !is_forked()) else { return Ok(()) };
    let (sender, receiver) = mpsc::channel();
    let answers = py.detach(move || {
        runtime.send(LoopMessage::Control(Box::new(ends::kill_awaited)));
        let until = Instant::now() + patience(AWAITED_PATIENCE);
        loop {
            let asked = sender.clone();
            runtime.send(LoopMessage::Control(Box::new(move || {
                let _ = asked.send(ends::unfinished().iter().any(|work| work.is_awaited));
            })));
            let Ok(goes_on) = receiver.recv_timeout(patience(LOOP_PATIENCE)) else { return runtime.has_ended() };
            if !goes_on || Instant::now() >= until {
                return true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    });
    if answers {
        AWAITED_HAD_TIME.store(true, Ordering::Relaxed);
        return Ok(());
    }
    HANGS.store(true, Ordering::Relaxed);
    Err(hangs(py))
}

/// The error for a loop that does not answer. It names the work that the loop thread runs.
fn hangs(py: Python<'_>) -> PyErr {
    let what = subject::running(py).unwrap_or_else(|| "something".to_owned());
    PyRuntimeError::new_err(format!(
        "the loop cannot end: {what} computes, or blocks in C, and has not come to a wait since the server was stopped"
    ))
}

/// Ends the process's loop, if it runs. If work that computes keeps the loop from its end, the process ends here, with
/// its output flushed. At the end of the interpreter CPython would end the loop thread in the middle of Rust code.
pub fn stop_at_exit(py: Python<'_>) {
    let is_known = HANGS.load(Ordering::Relaxed);
    let Err(error) = stop(py) else { return };
    if !is_known {
        log(py, Level::Error, &error.value(py).to_string(), None);
    }
    let leave = || -> PyResult<()> {
        // An uncaught exception is known here; the argument of `sys.exit` is not.
        let failed = py.import("sys")?.hasattr("last_exc")?;
        py.import("rmeinheld.ends")?.call_method1("leave_now", (i32::from(failed),))?;
        Ok(())
    };
    if let Err(error) = leave() {
        error.write_unraisable(py, None);
    }
}

/// Wakes the waiters of a descriptor that is about to be closed. Returns false on other threads than the loop's: a
/// waiter may wait again until the descriptor is closed, so call it again then.
pub fn descriptor_closes(py: Python<'_>, number: std::os::fd::RawFd) -> bool {
    if event_loop::descriptor_closes(number) || is_forked() || is_on_disk(number) {
        return true;
    }
    if let Some(runtime) = slot(py).as_ref() {
        runtime.descriptor_closes(number);
    }
    false
}

/// Whether a descriptor is that of a regular file. Such a file has no waiters, so the loop need not know of its end.
fn is_on_disk(number: std::os::fd::RawFd) -> bool {
    LentDescriptor::new(number)
        .and_then(rustix::fs::fstat)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::RegularFile)
}

/// Whether this process was forked from one whose loop ran.
pub fn is_forked() -> bool {
    FORKED.load(Ordering::Relaxed)
}

/// Switches the loop off in the child of a fork, which has no loop thread. All calls take their blocking path from now
/// on.
pub fn forget_in_child() {
    FORKED.store(STARTED.load(Ordering::Relaxed), Ordering::Relaxed);
    // The lock may have been held by a thread that the child does not have.
    if let Ok(mut slot) = RUNTIME.try_lock()
        && let Some(runtime) = slot.take()
    {
        // Not dropped: it shares its descriptors with the parent, and its state with stacks that never run again.
        std::mem::forget(runtime);
    }
    event_loop::forget_in_child();
    waiter::forget_in_child(is_forked());
}

/// Ends a forked child whose function has come back into the server's code. The loop and the client are the parent's,
/// so the child has nothing to do there. `sys.exit()` in the child sets the exit status.
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

/// Enables faulthandler, so that an overflow of the C stack prints the Python traceback. It comes before the first
/// coroutine (`coroutine::overflow`).
fn enable_faulthandler(py: Python<'_>) -> PyResult<()> {
    let faulthandler = py.import("faulthandler")?;
    if !faulthandler.call_method0("is_enabled")?.extract::<bool>()? {
        let kwargs = pyo3::types::PyDict::new(py);
        kwargs.set_item("all_threads", false)?;
        // Descriptor 2, because `sys.stderr` may have been replaced by an object without a descriptor.
        kwargs.set_item("file", 2)?;
        faulthandler.call_method("enable", (), Some(&kwargs))?;
    }
    Ok(())
}
