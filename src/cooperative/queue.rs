//! Queues: an item goes straight to the one who has waited longest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{PyTraverseError, PyVisit};

use super::{deadline_of, give_way, join_line};
use crate::interp::{self, Line, Waiter};

pyo3::create_exception!(
    rmeinheld.coroutine,
    ShutDown,
    pyo3::exceptions::PyException,
    "Raised by `put` and `get` of a queue that has been shut down; `queue.ShutDown` where that exists (Python 3.13)."
);

/// Where an item waits for the one whom it is for.
type Slot = Arc<Mutex<Option<Py<PyAny>>>>;

/// What `queue.Queue` is, for coroutines and OS threads: first in, first out, at most `maxsize` items (0: any number).
#[pyclass(frozen, subclass, generic, module = "rmeinheld.coroutine", weakref)]
pub struct Queue {
    inner: Mutex<Inner>,
    maxsize: usize,
    last_first: bool,
}

#[derive(Default)]
struct Inner {
    items: VecDeque<Py<PyAny>>,
    getters: VecDeque<(Arc<Waiter>, Slot)>,
    putters: VecDeque<(Arc<Waiter>, Slot)>,
    unfinished: usize,
    joiners: Vec<Arc<Waiter>>,
    shut: bool,
}

fn slot(item: Option<Py<PyAny>>) -> Slot {
    Arc::new(Mutex::new(item))
}

fn take(slot: &Slot) -> Option<Py<PyAny>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// `queue.Empty`, `queue.Full` or `queue.ShutDown`.
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

    /// The limit; 0 for none.
    #[getter]
    fn maxsize(&self) -> usize {
        self.maxsize
    }

    /// How many items there are.
    fn qsize(&self, py: Python<'_>) -> usize {
        interp::give_way_quietly(py);
        self.inner().items.len()
    }

    /// Whether there is none.
    fn empty(&self, py: Python<'_>) -> bool {
        self.qsize(py) == 0
    }

    /// Whether there are `maxsize`.
    fn full(&self, py: Python<'_>) -> bool {
        self.qsize(py) >= self.maxsize && self.maxsize > 0
    }

    /// Put `item` in, waiting for room at most `timeout` seconds (None: for ever) if `block`.
    ///
    /// Raises queue.Full, queue.ShutDown, ValueError for a negative timeout.
    #[pyo3(signature = (item, block = true, timeout = None))]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, block: bool, timeout: Option<f64>) -> PyResult<()> {
        let deadline = if block { queue_deadline(timeout)? } else { None };
        give_way(py, block)?;
        let Err(item) = self.put_now(py, item)? else { return Ok(()) };
        if !block {
            return Err(queue_error(py, "Full"));
        }
        let kept = slot(Some(item));
        let put = interp::take(py, deadline, &Putter { queue: self, kept: &kept });
        match (put?, take(&kept)) {
            (true, None) => Ok(()),
            (true, Some(_)) => Err(queue_error(py, "ShutDown")),
            (false, _) => Err(queue_error(py, "Full")),
        }
    }

    /// `put(item, block=False)`.
    fn put_nowait(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<()> {
        self.put(py, item, false, None)
    }

    /// Take an item out, waiting for one at most `timeout` seconds (None: for ever) if `block`.
    ///
    /// Raises queue.Empty, queue.ShutDown, ValueError for a negative timeout.
    #[pyo3(signature = (block = true, timeout = None))]
    fn get(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let deadline = if block { queue_deadline(timeout)? } else { None };
        give_way(py, block)?;
        if let Some(item) = self.get_now() {
            return Ok(item);
        }
        if self.inner().shut {
            return Err(queue_error(py, "ShutDown"));
        }
        if !block {
            return Err(queue_error(py, "Empty"));
        }
        let given = slot(None);
        let got = interp::take(py, deadline, &Getter { queue: self, given: &given });
        match (got?, take(&given)) {
            (_, Some(item)) => Ok(item),
            (true, None) => Err(queue_error(py, "ShutDown")),
            (false, None) => Err(queue_error(py, "Empty")),
        }
    }

    /// `get(block=False)`.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.get(py, false, None)
    }

    /// Say that an item that was got is dealt with. Raises ValueError when called more often than there were items.
    fn task_done(&self) -> PyResult<()> {
        let mut inner = self.inner();
        if inner.unfinished == 0 {
            return Err(PyValueError::new_err("task_done() called too many times"));
        }
        inner.unfinished -= 1;
        inner.tell_joiners();
        Ok(())
    }

    /// Wait until `task_done` was called for every item.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        if self.inner().unfinished == 0 {
            return Ok(());
        }
        interp::wait(
            py,
            None,
            |waiter| self.inner().joiners.push(waiter),
            |waiter| self.inner().joiners.retain(|other| !Arc::ptr_eq(other, waiter)),
        )
        .map(drop)
    }

    /// Have `put` raise queue.ShutDown from now on, and `get` when the queue is empty; `immediate`: empty it at once.
    #[pyo3(signature = (immediate = false))]
    fn shutdown(&self, immediate: bool) {
        let mut dropped = VecDeque::new();
        {
            let mut inner = self.inner();
            inner.shut = true;
            if immediate {
                dropped = std::mem::take(&mut inner.items);
                inner.unfinished = inner.unfinished.saturating_sub(dropped.len());
                inner.tell_joiners();
            }
            for (waiter, _) in std::mem::take(&mut inner.getters) {
                waiter.notify();
            }
            for (waiter, _) in std::mem::take(&mut inner.putters) {
                waiter.notify();
            }
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
        Ok(format!("<{name} at {:p}: {} items>", slf.as_ptr(), slf.get().inner().items.len()))
    }
}

impl Queue {
    fn with_order(maxsize: isize, last_first: bool) -> Queue {
        Queue { inner: Mutex::default(), maxsize: usize::try_from(maxsize).unwrap_or(0), last_first }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows the collector the items. They change only where the interpreter is attached, so nobody can have them locked.
    fn visit(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.inner.try_lock().map_or(Ok(()), |inner| inner.items.iter().try_for_each(|item| visit.call(item)))
    }

    fn drop_items(&self) {
        let items = std::mem::take(&mut self.inner().items);
        drop(items);
    }

    /// Puts the item in if there is room; gives it back if not.
    fn put_now(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<Result<(), Py<PyAny>>> {
        let mut inner = self.inner();
        if inner.shut {
            drop(inner);
            return Err(queue_error(py, "ShutDown"));
        }
        if !self.has_room(&inner) {
            return Ok(Err(item));
        }
        inner.add(item);
        Ok(Ok(()))
    }

    fn has_room(&self, inner: &Inner) -> bool {
        self.maxsize == 0 || inner.items.len() < self.maxsize
    }

    fn get_now(&self) -> Option<Py<PyAny>> {
        let mut inner = self.inner();
        let item = if self.last_first { inner.items.pop_back() } else { inner.items.pop_front() }?;
        // The room goes to the one who has waited for it.
        while let Some((waiter, kept)) = inner.putters.pop_front() {
            if waiter.notify() {
                if let Some(next) = take(&kept) {
                    inner.add(next);
                }
                break;
            }
        }
        Some(item)
    }
}

/// Waits for an item, or for the end of the queue: then `given` stays empty.
struct Getter<'a> {
    queue: &'a Queue,
    given: &'a Slot,
}

impl Line for Getter<'_> {
    fn attempt(&self) -> bool {
        let item = self.queue.get_now();
        let is_over = item.is_some() || self.queue.inner().shut;
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = item;
        is_over
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        join_line(&mut self.queue.inner().getters, (waiter, Arc::clone(self.given)), again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.queue.inner().getters.retain(|(other, _)| !Arc::ptr_eq(other, waiter));
    }
}

/// Waits for room for the item in `kept`, or for the end of the queue: then the item stays there.
struct Putter<'a> {
    queue: &'a Queue,
    kept: &'a Slot,
}

impl Line for Putter<'_> {
    fn attempt(&self) -> bool {
        let mut inner = self.queue.inner();
        if inner.shut {
            return true;
        }
        let has_room = self.queue.has_room(&inner);
        if has_room && let Some(item) = take(self.kept) {
            inner.add(item);
        }
        has_room
    }

    fn enqueue(&self, waiter: Arc<Waiter>, again: bool) {
        join_line(&mut self.queue.inner().putters, (waiter, Arc::clone(self.kept)), again);
    }

    fn dequeue(&self, waiter: &Arc<Waiter>) {
        self.queue.inner().putters.retain(|(other, _)| !Arc::ptr_eq(other, waiter));
    }
}

impl Inner {
    fn add(&mut self, item: Py<PyAny>) {
        self.unfinished += 1;
        while let Some((waiter, given)) = self.getters.pop_front() {
            if waiter.notify() {
                *given.lock().unwrap_or_else(PoisonError::into_inner) = Some(item);
                return;
            }
        }
        self.items.push_back(item);
    }

    fn tell_joiners(&mut self) {
        if self.unfinished == 0 {
            for waiter in self.joiners.drain(..) {
                waiter.notify();
            }
        }
    }
}

/// # Errors
/// ValueError, in the words of `queue`.
fn queue_deadline(timeout: Option<f64>) -> PyResult<Option<std::time::Instant>> {
    if timeout.is_some_and(|seconds| seconds < 0.0) {
        return Err(PyValueError::new_err("'timeout' must be a non-negative number"));
    }
    deadline_of(timeout)
}

/// What `queue.LifoQueue` is: last in, first out.
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

/// What `queue.SimpleQueue` is: without a limit, without tasks.
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

    /// How many items there are.
    fn qsize(&self, py: Python<'_>) -> usize {
        self.queue.qsize(py)
    }

    /// Whether there is none.
    fn empty(&self, py: Python<'_>) -> bool {
        self.queue.empty(py)
    }

    /// Put `item` in. `block` and `timeout` have no meaning: there is always room.
    #[pyo3(signature = (item, block = true, timeout = None))]
    #[expect(unused_variables, reason = "the signature of queue.SimpleQueue.put")]
    fn put(&self, item: Py<PyAny>, block: bool, timeout: Option<&Bound<'_, PyAny>>) {
        self.queue.inner().add(item);
    }

    /// Put `item` in.
    fn put_nowait(&self, item: Py<PyAny>) {
        self.queue.inner().add(item);
    }

    /// Take an item out, waiting for one at most `timeout` seconds (None: for ever) if `block`. Raises queue.Empty.
    #[pyo3(signature = (block = true, timeout = None))]
    fn get(&self, py: Python<'_>, block: bool, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        self.queue.get(py, block, timeout)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.queue.visit(&visit)
    }

    fn __clear__(&self) {
        self.queue.drop_items();
    }

    /// `get(block=False)`.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.queue.get(py, false, None)
    }
}
