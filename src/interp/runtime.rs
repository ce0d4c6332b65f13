//! The process's one loop: started when first needed, stopped at the end of `run()` or at exit, switched off by a fork.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, mpsc};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PySystemExit};
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use rustix::fs::FileType;

use super::log::{Level, log};
use super::thread_state::PythonHost;
use super::{subject, waiter};
use crate::event_loop::{self, LoopMessage, Runtime, ends};
use crate::kernel::LentDescriptor;
use crate::output;
use crate::sync::{lock, recover};

/// How long daemon threads and coroutines beside the requests may take to end after CoroutineExit was raised in them.
const DAEMON_PATIENCE: Duration = Duration::from_secs(1);

/// How long requests and threads that are no daemons may take.
const AWAITED_PATIENCE: Duration = Duration::from_secs(2);

/// How long the loop may take to look at a message. It computes, if it takes longer.
const LOOP_PATIENCE: Duration = Duration::from_secs(2);

/// How long to look whether a loop that could not end has ended since.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// How often to look whether the last has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Exit status of a forked child that came back (EX_SOFTWARE of sysexits.h).
const EXIT_SOFTWARE: i32 = 70;

static PREPARE: OnceLock<fn(Python<'_>)> = OnceLock::new();
static RUNTIME: Mutex<Option<Arc<Runtime>>> = Mutex::new(None);
/// The last stop has waited in vain.
static HANGS: AtomicBool = AtomicBool::new(false);
/// [`end_awaited`] has given requests and threads their time.
static AWAITED_TOLD: AtomicBool = AtomicBool::new(false);
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
        // Not one that cannot end: nothing would be served.
        return if HANGS.load(Ordering::Relaxed) { Err(hangs(py)) } else { Ok(runtime) };
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
    HANGS.store(false, Ordering::Relaxed);
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
    recover(RUNTIME.lock_py_attached(py))
}

/// Ends the process's loop, if it runs: raises [`super::CoroutineExit`] once in every coroutine. What still waits two
/// seconds later is left behind, and a second earlier where the end waits for none of it (daemon threads). Blocks the
/// calling OS thread, which must not be the loop's.
///
/// # Errors
/// RuntimeError naming what computes or blocks the loop's thread, so that the loop cannot end.
pub fn stop(py: Python<'_>) -> PyResult<()> {
    let taken = slot(py).take();
    let Some(runtime) = taken else { return Ok(()) };
    if runtime.has_ended() || is_forked() {
        return Ok(());
    }
    let left = Arc::new(Mutex::new(Vec::new()));
    if HANGS.load(Ordering::Relaxed) {
        // That has been waited for. It may have come to an end since.
        let ended = py.detach(|| {
            runtime.end();
            runtime.wait_ended(LAST_LOOK)
        });
        return if ended { Ok(()) } else { Err(keep_hanging(py, runtime)) };
    }
    let were_told = AWAITED_TOLD.swap(false, Ordering::Relaxed);
    let ended = py.detach(|| {
        runtime.end();
        if runtime.wait_ended(DAEMON_PATIENCE) {
            return true;
        }
        leave(&runtime, &left, were_told);
        if runtime.wait_ended(AWAITED_PATIENCE - DAEMON_PATIENCE) {
            return true;
        }
        leave(&runtime, &left, true);
        runtime.wait_ended(LOOP_PATIENCE)
    });
    HANGS.store(!ended, Ordering::Relaxed);
    if !ended {
        return Err(keep_hanging(py, runtime));
    }
    let left = std::mem::take(&mut *lock(&left));
    // CPython says nothing of the daemon threads that it leaves behind.
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

/// Keeps a loop that hangs: a later start must not run beside it. Returns what to say of it.
fn keep_hanging(py: Python<'_>, runtime: Arc<Runtime>) -> PyErr {
    let error = hangs(py);
    *slot(py) = Some(runtime);
    error
}

/// Whether the end waits for it, and its name.
type Left = (bool, String);

/// Has the loop end without what still waits, and notes the names of that. Without `awaited`, only if the end waits for
/// none of it.
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

/// Raises [`super::CoroutineExit`] once in the requests and in the threads that are no daemons, and waits until they have
/// ended, at most two seconds. The loop goes on. Blocks the calling OS thread.
///
/// # Errors
/// RuntimeError naming what computes or blocks the loop's thread.
pub fn end_awaited(py: Python<'_>) -> PyResult<()> {
    let running = slot(py).clone();
    let Some(runtime) = running.filter(|runtime| !runtime.has_ended() && !is_forked()) else { return Ok(()) };
    let (sender, receiver) = mpsc::channel();
    let answers = py.detach(move || {
        runtime.send(LoopMessage::Control(Box::new(ends::kill_awaited)));
        let patience = Instant::now() + AWAITED_PATIENCE;
        loop {
            let asked = sender.clone();
            runtime.send(LoopMessage::Control(Box::new(move || {
                let _ = asked.send(ends::unfinished().iter().any(|work| work.is_awaited));
            })));
            let Ok(goes_on) = receiver.recv_timeout(LOOP_PATIENCE) else { return runtime.has_ended() };
            if !goes_on || Instant::now() >= patience {
                return true;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    });
    if answers {
        AWAITED_TOLD.store(true, Ordering::Relaxed);
        return Ok(());
    }
    HANGS.store(true, Ordering::Relaxed);
    Err(hangs(py))
}

/// Names what the loop's thread runs and does not come back from.
fn hangs(py: Python<'_>) -> PyErr {
    let what = subject::running(py).unwrap_or_else(|| "something".to_owned());
    PyRuntimeError::new_err(format!(
        "the loop cannot end: {what} computes, or blocks in C, and has not come to a wait since the server was stopped"
    ))
}

/// Ends the process's loop, if it runs. What computes must not meet the end of the interpreter, where CPython ends its
/// thread in the middle of Rust code: then the process is left here, with its output flushed.
pub fn stop_at_exit(py: Python<'_>) {
    let is_known = HANGS.load(Ordering::Relaxed);
    let Err(error) = stop(py) else { return };
    if !is_known {
        log(py, Level::Error, &error.value(py).to_string(), None);
    }
    let leave = || -> PyResult<()> {
        // Only an exception that nobody has caught is known here, not the argument of `sys.exit`.
        let failed = py.import("sys")?.hasattr("last_exc")?;
        py.import("rmeinheld.ends")?.call_method1("leave_now", (i32::from(failed),))?;
        Ok(())
    };
    if let Err(error) = leave() {
        error.write_unraisable(py, None);
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
    LentDescriptor::new(number)
        .and_then(rustix::fs::fstat)
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
