//! `Queue`, `LifoQueue` and `SimpleQueue`. An item goes straight to the waiter that has waited longest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{PyTraverseError, PyVisit};

use super::hand_over::HandOver;
use super::timeouts::{deadline_of, give_way};
use crate::event_loop::reasons::Reason;
use crate::interp::{self, Line, WaitReason, Waiter, Waiters};
use crate::sync::lock;

pyo3::create_exception!(
    rmeinheld.coroutine,
    ShutDown,
    pyo3::exceptions::PyException,
    "Raised by `put` and `get` of a queue that has been shut down. It is `queue.ShutDown` on Python 3.13 and later."
);

/// A queue for coroutines and OS threads, like `queue.Queue`: first in, first out.
///
/// `maxsize` is the largest number of items; 0 (the default) or less sets no limit. An item goes straight to the waiter
/// that has waited longest.
#[pyclass(frozen, subclass, generic, module = "rmeinheld.coroutine", weakref)]
pub struct Queue {
    items: Mutex<Items>,
    maxsize: usize,
    last_first: bool,
}

#[derive(Default)]
struct Items {
    items: VecDeque<Py<PyAny>>,
    getters: Waiters<HandOver>,
    /// Each with the item that it puts.
    putters: Waiters<HandOver>,
    unfinished: usize,
    joiners: Waiters,
    is_shut_down: bool,
}

/// The exception `queue.Empty`, `queue.Full` or `queue.ShutDown`.
fn queue_error(py: Python<'_>, name: &str) -> PyErr {
    let class = py.import("queue").and_then(|module| module.getattr(name));
    match class.and_then(|class| class.cast_into::<PyType>().map_err(PyErr::from)) {
        Ok(class) => PyErr::from_type(class, ()),
        Err(_) if name == "ShutDown" => ShutDown::new_err(()),
        Err(error) => error,
    }
}

#[pymethods]
impl Queue {
    #[new]
    #[pyo3(signature = (maxsize = 0))]
    fn new(maxsize: isize) -> Queue {
        Queue::with_order(maxsize, false)
    }

    /// The largest number of items; 0 for no limit.
    #[getter]
    fn maxsize(&self) -> usize {
        self.maxsize
    }

    /// Return the number of items.
    fn qsize(&self, py: Python<'_>) -> usize {
        interp::give_way_quietly(py);
        self.items().items.len()
    }

    /// Return whether the queue is empty.
    fn empty(&self, py: Python<'_>) -> bool {
        self.qsize(py) == 0
    }

    /// Return whether the queue holds `maxsize` items.
    fn full(&self, py: Python<'_>) -> bool {
        self.qsize(py) >= self.maxsize && self.maxsize > 0
    }

    /// Put `item` in, and wait for room if need be.
    ///
    /// With `block` false the call does not wait. `timeout` is the longest wait in seconds; None (the default) waits
    /// for ever.
    ///
    /// Raises queue.Full without room in time, ShutDown after `shutdown`, ValueError for a negative timeout.
    #[pyo3(signature = (item, block = true, timeout = None))]
    fn put(slf: &Bound<'_, Self>, item: Py<PyAny>, block: bool, timeout: Option<f64>) -> PyResult<()> {
        let (this, py) = (slf.get(), slf.py());
        let deadline = if block { queue_deadline(timeout)? } else { None };
        give_way(py, block)?;
        let Err(item) = this.put_now(py, item)? else { return Ok(()) };
        if !block {
            return Err(queue_error(py, "Full"));
        }
        let kept = HandOver::holding(item);
        let reason = WaitReason::object(Reason::Queue, slf).with(1);
        let put = interp::take(py, reason, deadline, &Putter { queue: this, kept: &kept });
        match (put?, kept.take()) {
            (true, None) => Ok(()),
            (true, Some(_)) => Err(queue_error(py, "ShutDown")),
            (false, _) => Err(queue_error(py, "Full")),
        }
    }

    /// `put(item, block=False)`.
    fn put_nowait(slf: &Bound<'_, Self>, item: Py<PyAny>) -> PyResult<()> {
        Queue::put(slf, item, false, None)
    }

    /// Take an item out, and wait for one if need be.
    ///
    /// With `block` false the call does not wait. `timeout` is the longest wait in seconds; None (the default) waits
    /// for ever.
    ///
    /// Raises queue.Empty without an item in time, ShutDown after `shutdown`, ValueError for a negative timeout.
    #[pyo3(signature = (block = true, timeout = None))]
    fn get(slf: &Bound<'_, Self>, block: bool, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        slf.get().get_for(slf.as_any(), block, timeout)
    }

    /// `get(block=False)`.
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Queue::get(slf, false, None)
    }

    /// Say that an item taken out is dealt with.
    ///
    /// Raises ValueError if called more often than there were items.
    fn task_done(&self) -> PyResult<()> {
        let mut state = self.items();
        if state.unfinished == 0 {
            return Err(PyValueError::new_err("task_done() called too many times"));
        }
        state.unfinished -= 1;
        state.notify_joiners_at_the_end();
        Ok(())
    }

    /// Wait until `task_done` was called for every item that was put in.
    fn join(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if this.items().unfinished == 0 {
            return Ok(());
        }
        interp::wait(
            slf.py(),
            WaitReason::object(Reason::Queue, slf).with(2),
            None,
            |waiter| this.items().joiners.join(waiter, (), false),
            |waiter| this.items().joiners.leave(waiter),
        )
        .map(drop)
    }

    /// Shut the queue down: `put` raises ShutDown from now on, and `get` does once the queue is empty.
    ///
    /// `immediate` empties the queue at once.
    #[pyo3(signature = (immediate = false))]
    fn shutdown(&self, immediate: bool) {
        let mut dropped = VecDeque::new();
        {
            let mut state = self.items();
            state.is_shut_down = true;
            if immediate {
                dropped = std::mem::take(&mut state.items);
                state.unfinished = state.unfinished.saturating_sub(dropped.len());
                state.notify_joiners_at_the_end();
            }
            state.getters.notify_all();
            state.putters.notify_all();
        }
        drop(dropped);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.visit(&visit)
    }

    fn __clear__(&self) {
        self.drop_items();
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let name = slf.get_type().fully_qualified_name()?;
        Ok(format!("<{name} at {:p}: {} items>", slf.as_ptr(), slf.get().items().items.len()))
    }
}

impl Queue {
    fn with_order(maxsize: isize, last_first: bool) -> Queue {
        Queue { items: Mutex::default(), maxsize: usize::try_from(maxsize).unwrap_or(0), last_first }
    }

    fn items(&self) -> MutexGuard<'_, Items> {
        lock(&self.items)
    }

    /// Shows the items to the garbage collector. They change only under the interpreter's lock, so no other thread
    /// holds theirs.
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.items.try_lock().map_or(Ok(()), |state| state.items.iter().try_for_each(|item| visit.call(item)))
    }

    fn drop_items(&self) {
        let items = std::mem::take(&mut self.items().items);
        drop(items);
    }

    /// Puts the item in if there is room; gives it back if not.
    fn put_now(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<Result<(), Py<PyAny>>> {
        let mut state = self.items();
        if state.is_shut_down {
            drop(state);
            return Err(queue_error(py, "ShutDown"));
        }
        if !self.has_room(&state) {
            return Ok(Err(item));
        }
        state.add(item);
        Ok(Ok(()))
    }

    fn has_room(&self, state: &Items) -> bool {
        self.maxsize == 0 || state.items.len() < self.maxsize
    }

    /// Takes an item out for `object`, the queue as Python sees it.
    ///
    /// # Errors
    /// As `get`.
    ///
    /// # Parks
    fn get_for(&self, object: &Bound<'_, PyAny>, block: bool, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let py = object.py();
        let deadline = if block { queue_deadline(timeout)? } else { None };
        give_way(py, block)?;
        if let Some(item) = self.get_now() {
            return Ok(item);
        }
        if self.items().is_shut_down {
            return Err(queue_error(py, "ShutDown"));
        }
        if !block {
            return Err(queue_error(py, "Empty"));
        }
        let given = HandOver::default();
        let got = interp::take(
            py,
            WaitReason::object(Reason::Queue, object),
            deadline,
            &Getter { queue: self, given: &given },
        );
        match (got?, given.take()) {
            (_, Some(item)) => Ok(item),
            (true, None) => Err(queue_error(py, "ShutDown")),
            (false, None) => Err(queue_error(py, "Empty")),
        }
    }

    fn get_now(&self) -> Option<Py<PyAny>> {
        let mut state = self.items();
        let item = if self.last_first { state.items.pop_back() } else { state.items.pop_front() }?;
        // The room goes to the longest waiter.
        if let Some(next) = state.putters.notify_first().and_then(|kept| kept.take()) {
            state.add(next);
        }
        Some(item)
    }
}

/// A wait for an item, which comes in `given`, or for the end of the queue, which leaves `given` empty.
struct Getter<'a> {
    queue: &'a Queue,
    given: &'a HandOver,
}

impl Line for Getter<'_> {
    fn attempt(&self) -> bool {
        match self.queue.get_now() {
            Some(item) => {
                self.given.put(item);
                true
            }
            None => self.queue.items().is_shut_down,
        }
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        self.queue.items().getters.join(waiter, self.given.clone(), again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.queue.items().getters.leave(waiter);
    }
}

/// A wait for room for the item in `kept`, or for the end of the queue, which leaves the item there.
struct Putter<'a> {
    queue: &'a Queue,
    kept: &'a HandOver,
}

impl Line for Putter<'_> {
    fn attempt(&self) -> bool {
        let mut state = self.queue.items();
        if state.is_shut_down {
            return true;
        }
        let has_room = self.queue.has_room(&state);
        if has_room && let Some(item) = self.kept.take() {
            state.add(item);
        }
        has_room
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        self.queue.items().putters.join(waiter, self.kept.clone(), again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.queue.items().putters.leave(waiter);
    }
}

impl Items {
    fn add(&mut self, item: Py<PyAny>) {
        self.unfinished += 1;
        match self.getters.notify_first() {
            Some(given) => given.put(item),
            None => self.items.push_back(item),
        }
    }

    fn notify_joiners_at_the_end(&mut self) {
        if self.unfinished == 0 {
            self.joiners.notify_all();
        }
    }
}

/// # Errors
/// ValueError for a negative timeout, with the message of `queue`.
fn queue_deadline(timeout: Option<f64>) -> PyResult<Option<std::time::Instant>> {
    if timeout.is_some_and(|seconds| seconds < 0.0) {
        return Err(PyValueError::new_err("'timeout' must be a non-negative number"));
    }
    deadline_of(timeout)
}

/// A queue for coroutines and OS threads, like `queue.LifoQueue`: last in, first out.
///
/// `maxsize` is the largest number of items; 0 (the default) or less sets no limit.
#[pyclass(frozen, extends = Queue, subclass, module = "rmeinheld.coroutine")]
pub struct LifoQueue;

#[pymethods]
impl LifoQueue {
    #[new]
    #[pyo3(signature = (maxsize = 0))]
    fn new(maxsize: isize) -> PyClassInitializer<LifoQueue> {
        PyClassInitializer::from(Queue::with_order(maxsize, true)).add_subclass(LifoQueue)
    }
}

/// A queue for coroutines and OS threads, like `queue.SimpleQueue`: no limit, no `task_done`.
#[pyclass(frozen, subclass, generic, module = "rmeinheld.coroutine", weakref)]
pub struct SimpleQueue {
    queue: Queue,
}

#[pymethods]
impl SimpleQueue {
    #[new]
    fn new() -> SimpleQueue {
        SimpleQueue { queue: Queue::with_order(0, false) }
    }

    /// Return the number of items.
    fn qsize(&self, py: Python<'_>) -> usize {
        self.queue.qsize(py)
    }

    /// Return whether the queue is empty.
    fn empty(&self, py: Python<'_>) -> bool {
        self.queue.empty(py)
    }

    /// Put `item` in. `block` and `timeout` are ignored: there is always room.
    #[pyo3(signature = (item, block = true, timeout = None))]
    #[expect(unused_variables, reason = "the signature of queue.SimpleQueue.put")]
    fn put(&self, item: Py<PyAny>, block: bool, timeout: Option<&Bound<'_, PyAny>>) {
        self.queue.items().add(item);
    }

    /// `put(item)`.
    fn put_nowait(&self, item: Py<PyAny>) {
        self.queue.items().add(item);
    }

    /// Take an item out, and wait for one if need be.
    ///
    /// With `block` false the call does not wait. `timeout` is the longest wait in seconds; None (the default) waits
    /// for ever.
    ///
    /// Raises queue.Empty without an item in time, ValueError for a negative timeout.
    #[pyo3(signature = (block = true, timeout = None))]
    fn get(slf: &Bound<'_, Self>, block: bool, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        slf.get().queue.get_for(slf.as_any(), block, timeout)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.queue.visit(&visit)
    }

    fn __clear__(&self) {
        self.queue.drop_items();
    }

    /// `get(block=False)`.
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        SimpleQueue::get(slf, false, None)
    }
}
