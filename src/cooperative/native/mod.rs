//! CPython's own locks and `SimpleQueue`, made to exclude and to park coroutines, whenever they were made.
//!
//! Their methods are exchanged in place when a loop starts ([`method`]). On the loop thread a call that would block
//! tries, and then waits in a line of coroutines ([`lines`]). It is woken when any thread releases the object or puts
//! something into it. On every other thread the originals do the work, and a release checks for waiting coroutines. The
//! state of CPython's objects remains the only state: coroutines and blocked threads compete for them, and no coroutine
//! overtakes another.

mod call;
mod holders;
mod import_lock;
mod lines;
mod lock;
mod method;
mod rlock;
mod simple_queue;

pub use holders::holder;
pub use lines::forget_in_child;

use std::sync::atomic::{AtomicU8, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use method::{exchange, probe, restore};

const UNTRIED: u8 = 0;
const EXCHANGED: u8 = 1;
const FAILED: u8 = 2;

static SAMPLES: PyOnceLock<[Py<PyAny>; 4]> = PyOnceLock::new();
static STATE: AtomicU8 = AtomicU8::new(UNTRIED);

/// Exchanges the methods, once. Returns whether CPython's own locks park. On an interpreter whose locks are unlike
/// those of CPython 3.12 to 3.15 they do not, and everything stays as it was.
pub fn exchange_methods(py: Python<'_>) -> bool {
    if STATE.load(Ordering::Relaxed) == UNTRIED {
        let well = exchange_all(py).unwrap_or(false);
        if well {
            if let Err(error) = import_lock::tell_coroutines_apart(py) {
                error.write_unraisable(py, None);
            }
        } else {
            restore_all(py);
        }
        STATE.store(if well { EXCHANGED } else { FAILED }, Ordering::Relaxed);
    }
    STATE.load(Ordering::Relaxed) == EXCHANGED
}

/// Waits, before a fork, until no other coroutine or thread has the import lock.
///
/// # Parks
pub fn wait_for_import_lock(py: Python<'_>) {
    if STATE.load(Ordering::Relaxed) == EXCHANGED {
        import_lock::wait_until_free(py);
    }
}

/// Makes an object of each kind, whose methods are exchanged later. By then the patch may have replaced the names of
/// their classes.
///
/// # Errors
/// The errors of an import or a constructor.
pub fn keep_samples(py: Python<'_>) -> PyResult<()> {
    let thread = py.import("_thread")?;
    let samples = [
        thread.call_method0("allocate_lock")?,
        thread.call_method0("RLock")?,
        py.import("_queue")?.call_method0("SimpleQueue")?,
        py.import("_imp")?.into_any(),
    ];
    let _ = SAMPLES.set(py, samples.map(Bound::unbind));
    Ok(())
}

fn exchange_all(py: Python<'_>) -> PyResult<bool> {
    let Some(samples) = SAMPLES.get(py) else { return Ok(false) };
    let [lock, rlock, queue, imp] = samples.each_ref().map(|sample| sample.bind(py).clone());
    let before = [lock.getattr("acquire")?, lock.getattr("release")?];
    let needed = [
        exchange::<lock::Acquire>(&lock),
        exchange::<lock::Enter>(&lock),
        exchange::<lock::Release>(&lock),
        exchange::<lock::Exit>(&lock),
        exchange::<lock::Locked>(&lock),
        exchange::<rlock::Acquire>(&rlock),
        exchange::<rlock::Enter>(&rlock),
        exchange::<rlock::Release>(&rlock),
        exchange::<rlock::Exit>(&rlock),
        exchange::<rlock::IsOwned>(&rlock),
        exchange::<rlock::ReleaseSave>(&rlock),
        exchange::<rlock::AcquireRestore>(&rlock),
        exchange::<simple_queue::Size>(&queue),
        exchange::<simple_queue::Empty>(&queue),
        exchange::<simple_queue::Get>(&queue),
        exchange::<simple_queue::Put>(&queue),
        exchange::<simple_queue::PutNoWait>(&queue),
        exchange::<import_lock::Held>(&imp),
        exchange::<import_lock::Acquire>(&imp),
        exchange::<import_lock::Release>(&imp),
    ];
    // These are old names, or missing in some versions.
    exchange::<lock::AcquireLock>(&lock);
    exchange::<lock::ReleaseLock>(&lock);
    exchange::<lock::LockedLock>(&lock);
    exchange::<lock::AtForkReinit>(&lock);
    exchange::<rlock::RecursionCount>(&rlock);
    exchange::<rlock::AtForkReinit>(&rlock);
    Ok(needed.iter().all(|done| *done) && self_test(&lock, &rlock, &queue, &before)?)
}

/// The number of calls of exchanged methods in the self-test.
const CALLS: u32 = 20;

/// Whether calls reach the exchanged functions, also through methods bound before, and have the same results.
fn self_test<'py>(
    lock: &Bound<'py, PyAny>,
    rlock: &Bound<'py, PyAny>,
    queue: &Bound<'py, PyAny>,
    before: &[Bound<'py, PyAny>; 2],
) -> PyResult<bool> {
    let py = lock.py();
    let names = PyDict::new(py);
    for (name, value) in
        [("lock", lock), ("rlock", rlock), ("queue", queue), ("take", &before[0]), ("give", &before[1])]
    {
        names.set_item(name, value)?;
    }
    let (ran, calls) = probe(|| {
        py.run(
            c"
with lock:
    held = lock.locked() and not lock.acquire(False) and not lock.acquire(timeout=0)
take()
held = held and lock.locked()
give()
with rlock:
    rlock.acquire(True, 1)
    held = held and rlock._is_owned()
    rlock.release()
queue.put(1)
queue.put_nowait(2)
held = held and (queue.get(), queue.get(True, 1), queue.qsize()) == (1, 2, 0)
held = held and not lock.locked() and not rlock._is_owned()
",
            Some(&names),
            None,
        )
    });
    ran?;
    let held = names.get_item("held")?.is_some_and(|held| held.is_truthy().unwrap_or(false));
    Ok(held && calls == CALLS)
}

fn restore_all(py: Python<'_>) {
    restore::<lock::Acquire>(py);
    restore::<lock::Locked>(py);
    restore::<lock::LockedLock>(py);
    restore::<lock::Enter>(py);
    restore::<lock::Release>(py);
    restore::<lock::Exit>(py);
    restore::<lock::AcquireLock>(py);
    restore::<lock::ReleaseLock>(py);
    restore::<lock::AtForkReinit>(py);
    restore::<rlock::Acquire>(py);
    restore::<rlock::Enter>(py);
    restore::<rlock::Release>(py);
    restore::<rlock::Exit>(py);
    restore::<rlock::IsOwned>(py);
    restore::<rlock::RecursionCount>(py);
    restore::<rlock::ReleaseSave>(py);
    restore::<rlock::AcquireRestore>(py);
    restore::<rlock::AtForkReinit>(py);
    restore::<simple_queue::Size>(py);
    restore::<simple_queue::Empty>(py);
    restore::<simple_queue::Get>(py);
    restore::<simple_queue::Put>(py);
    restore::<simple_queue::PutNoWait>(py);
    restore::<import_lock::Held>(py);
    restore::<import_lock::Acquire>(py);
    restore::<import_lock::Release>(py);
}
