//! `Crew`: messages between the workers of a service, as Python sees them.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex};

use pyo3::exceptions::{
    PyBlockingIOError, PyConnectionRefusedError, PyPermissionError, PyRuntimeError, PySystemExit, PyTypeError,
    PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};
use rustix::io::Errno;

use super::shared_scoreboard::SharedScoreboard;
use crate::crew::interest::{ListeningCounts, place_of};
use crate::crew::kinds::MOVED_CONNECTION;
use crate::crew::scoreboard::Scoreboard;
use crate::crew::{Crew, CrewHost, CrewPlace, Letter, NotSent, Roster, Sibling};
use crate::interp::{Lent, Level, Subject, ensure_started, in_fresh_context, io_error, leave_if_forked, log};
use crate::kernel::LentDescriptor;
use crate::sync::lock;

/// The messages between one worker and its siblings, the other workers of the service.
///
/// `place` is the text of a `rmeinheld.crew_directory.Place`, which all workers share. `slot` is the worker's slot of
/// `scoreboard`, which it has claimed. No socket is opened until a message is sent or a handler registered. Call no
/// method but `close` in the master: its workers would share the sockets.
///
/// Raises ValueError for a place or a slot that does not exist, and RuntimeError if another process has claimed the
/// slot.
#[pyclass(frozen, name = "Crew", module = "rmeinheld._rmeinheld")]
pub struct SharedCrew {
    place: CrewPlace,
    own: Sibling,
    roster: Arc<Scoreboard>,
    handlers: Arc<CrewHandlers>,
    /// The channels that this worker listens to.
    listening: Mutex<ListeningCounts>,
    /// The sockets, once they are needed.
    sockets: Mutex<Sockets>,
}

enum Sockets {
    Unopened,
    Open(Arc<Crew>),
    Closed,
}

#[pymethods]
impl SharedCrew {
    #[new]
    #[pyo3(signature = (place, slot, scoreboard))]
    fn new(place: &str, slot: u32, scoreboard: &Bound<'_, SharedScoreboard>) -> PyResult<SharedCrew> {
        let roster = Arc::clone(scoreboard.get().board());
        let Some(place) = CrewPlace::parse(place) else {
            let message = format!("a crew's place is an absolute path, or @ and a name, not {place:?}");
            return Err(PyValueError::new_err(message));
        };
        if slot >= roster.slots() {
            let last = roster.slots() - 1;
            return Err(PyValueError::new_err(format!("the scoreboard has slots 0 to {last}, not {slot}")));
        }
        if roster.pid(slot) != std::process::id() {
            let message = format!("this process has not claimed slot {slot}: call scoreboard.claim({slot}) first");
            return Err(PyRuntimeError::new_err(message));
        }
        let own = Sibling { slot, generation: roster.generation(slot) };
        let sockets = Mutex::new(Sockets::Unopened);
        Ok(SharedCrew { place, own, roster, handlers: Arc::default(), listening: Mutex::default(), sockets })
    }

    /// Number of the worker's slot.
    #[getter]
    fn slot(&self) -> u32 {
        self.own.slot
    }

    /// Call `handler(slot, generation, payload, descriptors)` for each message of `kind`, from 2 to 255.
    ///
    /// `slot` and `generation` name the sender. Messages of one sender come in order: the next one waits until the
    /// handler has returned. The handler runs in a coroutine, and owns the `descriptors`, a list of numbers. A handler
    /// of None drops such messages. Messages without a handler are dropped, and their descriptors closed.
    ///
    /// Raises ValueError for another kind, TypeError if `handler` is not callable, OSError if the socket cannot be
    /// opened, and RuntimeError if the crew is closed.
    #[pyo3(signature = (kind, handler, /))]
    fn on(&self, py: Python<'_>, kind: u32, handler: Bound<'_, PyAny>) -> PyResult<()> {
        let kind = checked_kind(kind)?;
        let previous = match callable(handler)? {
            Some(handler) => {
                self.crew(py)?.open().map_err(error_of)?;
                lock(&self.handlers.by_kind).insert(kind, handler)
            }
            None => lock(&self.handlers.by_kind).remove(&kind),
        };
        drop(previous);
        Ok(())
    }

    /// Call `handler(slot, generation)` when the connection of a sibling that has sent messages has ended.
    ///
    /// The sibling has ended, or closed its crew, or sent something malformed. Raises as `on` does.
    #[pyo3(signature = (handler, /))]
    fn on_gone(&self, py: Python<'_>, handler: Bound<'_, PyAny>) -> PyResult<()> {
        let handler = callable(handler)?;
        if handler.is_some() {
            self.crew(py)?.open().map_err(error_of)?;
        }
        let previous = std::mem::replace(&mut *lock(&self.handlers.gone), handler);
        drop(previous);
        Ok(())
    }

    /// Send a message to the worker of `slot`. Never waits: it is queued if the sibling does not read now.
    ///
    /// `kind` is a number from 2 to 255, `payload` at most 1 MiB of bytes. Of up to 16 `descriptors` the sibling gets
    /// duplicates; these stay open. May be called from any thread.
    ///
    /// Raises ValueError for a message over a limit and for the worker's own slot. Raises BlockingIOError if the queue
    /// for the sibling is full, and ConnectionRefusedError if the slot has no worker that takes messages. Raises
    /// PermissionError if another user's process is in its place, RuntimeError if the crew is closed, and OSError.
    #[pyo3(signature = (slot, kind, payload, descriptors = Vec::new()), text_signature = "($self, slot, kind, payload, descriptors=())")]
    fn send(
        &self,
        py: Python<'_>,
        slot: u32,
        kind: u32,
        payload: &Bound<'_, PyAny>,
        descriptors: Vec<RawFd>,
    ) -> PyResult<()> {
        let kind = checked_kind(kind)?;
        let lent = descriptors.into_iter().map(LentDescriptor::new).collect::<Result<Vec<_>, _>>();
        let lent = lent.map_err(|error| io_error(error.into()))?;
        let borrowed: Vec<BorrowedFd<'_>> = lent.iter().map(AsFd::as_fd).collect();
        let payload: Arc<[u8]> = Lent::readable(payload)?.bytes(py).into();
        self.crew(py)?.send(slot, kind, &payload, &borrowed).map_err(error_of)
    }

    /// Receive messages to the listeners of the channel `name` from now on.
    ///
    /// Call it once for each name. Siblings learn it from shared memory, so it holds when this method has returned.
    /// Does nothing if the crew is closed, and in a forked child.
    #[pyo3(signature = (name, /))]
    fn listen(&self, name: &[u8]) {
        let mut listening = lock(&self.listening);
        let place = place_of(name);
        if self.owns_slot()
            && listening.add(place)
            && let Some(interest) = self.roster.interest(self.own.slot)
        {
            interest.add(place);
        }
    }

    /// Receive no more messages to the listeners of the channel `name`, which `listen` has named.
    #[pyo3(signature = (name, /))]
    fn unlisten(&self, name: &[u8]) {
        let mut listening = lock(&self.listening);
        let place = place_of(name);
        if self.owns_slot()
            && listening.remove(place)
            && let Some(interest) = self.roster.interest(self.own.slot)
        {
            interest.remove(place);
        }
    }

    /// Send a message to all siblings that listen to the channel `name`, or to another one of the same hash.
    ///
    /// Returns the number of siblings that it was sent to, and a list of those whose queue is full: slots and
    /// generations. Never waits, as `send`. Nothing is sent to siblings in the list `resting`, which count as full. A
    /// sibling that takes no messages is left out.
    ///
    /// Raises ValueError for a message over a limit, and RuntimeError if the crew is closed.
    #[pyo3(
        signature = (name, kind, payload, resting = Vec::new(), /),
        text_signature = "($self, name, kind, payload, resting=(), /)"
    )]
    fn send_to_listeners(
        &self,
        py: Python<'_>,
        name: &[u8],
        kind: u8,
        payload: &Bound<'_, PyBytes>,
        resting: Vec<(u32, u64)>,
    ) -> PyResult<(usize, Vec<(u32, u64)>)> {
        // The crew is opened for the first sibling that listens.
        let place = place_of(name);
        if self.roster.listeners(place, self.own.slot).is_empty() {
            return Ok((0, Vec::new()));
        }
        let payload: Arc<[u8]> = payload.as_bytes().into();
        let resting: Vec<_> = resting.into_iter().map(|(slot, generation)| Sibling { slot, generation }).collect();
        let sent = self.crew(py)?.send_to_listeners(place, kind, &payload, &resting).map_err(error_of)?;
        Ok((sent.number, sent.full.into_iter().map(|sibling| (sibling.slot, sibling.generation)).collect()))
    }

    /// Return whether at least half of the queue for the sibling of `slot` is free.
    #[pyo3(signature = (slot, /))]
    fn has_room(&self, slot: u32) -> bool {
        match &*lock(&self.sockets) {
            Sockets::Open(crew) => crew.has_room(slot),
            _ => true,
        }
    }

    /// Return the number of messages to siblings that wait in this process.
    fn waiting(&self) -> usize {
        match &*lock(&self.sockets) {
            Sockets::Open(crew) => crew.waiting(),
            _ => 0,
        }
    }

    /// Return the other workers of the service: tuples of slot, generation and process id.
    fn siblings(&self) -> Vec<(u32, u64, u32)> {
        let others = (0..self.roster.slots()).filter(|&slot| slot != self.own.slot);
        let owners = others.filter_map(|slot| self.roster.owner(slot));
        owners.map(|owner| (owner.worker.slot, owner.worker.generation, owner.process)).collect()
    }

    /// Return the numbers of messages since the worker began, by name.
    ///
    /// "sent" and "received" need no explanation. "refused" messages found a full queue. The sibling of "lost" messages
    /// died first. "faults" counts connections that were closed because they were malformed or of another user.
    fn counts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let numbers = PyDict::new(py);
        let crew = match &*lock(&self.sockets) {
            Sockets::Open(crew) => Some(Arc::clone(crew)),
            _ => None,
        };
        if let Some(crew) = crew {
            for (name, count) in crew.counts() {
                numbers.set_item(name, count)?;
            }
        }
        Ok(numbers)
    }

    /// Close all sockets. Messages that the kernel has not taken yet are lost. May be called from any thread.
    fn close(&self) {
        if self.owns_slot()
            && let Some(interest) = self.roster.interest(self.own.slot)
        {
            interest.clear();
        }
        let sockets = std::mem::replace(&mut *lock(&self.sockets), Sockets::Closed);
        if let Sockets::Open(crew) = sockets {
            crew.close();
        }
        let handlers = (std::mem::take(&mut *lock(&self.handlers.by_kind)), lock(&self.handlers.gone).take());
        *lock(&self.handlers.adopt) = None;
        drop(handlers);
    }
}

impl SharedCrew {
    /// Whether this process is the worker, instead of a forked child of it, and still has the slot.
    fn owns_slot(&self) -> bool {
        self.roster.pid(self.own.slot) == std::process::id()
            && self.roster.generation(self.own.slot) == self.own.generation
    }

    /// Opens the worker's socket, and passes connections that siblings hand over to `adopt`, in a unit of the loop.
    ///
    /// # Errors
    /// As for `on`.
    pub fn adopt_by(&self, py: Python<'_>, adopt: Adopt) -> PyResult<Arc<Crew>> {
        *lock(&self.handlers.adopt) = Some(adopt);
        let crew = self.crew(py)?;
        crew.open().map_err(error_of)?;
        Ok(crew)
    }

    fn crew(&self, py: Python<'_>) -> PyResult<Arc<Crew>> {
        match &*lock(&self.sockets) {
            Sockets::Open(crew) => return Ok(Arc::clone(crew)),
            Sockets::Closed => return Err(error_of(NotSent::Closed)),
            Sockets::Unopened => {}
        }
        // This runs Python code, which may call this method.
        let runtime = ensure_started(py)?;
        let mut sockets = lock(&self.sockets);
        if matches!(*sockets, Sockets::Unopened) {
            let roster = Arc::clone(&self.roster) as Arc<dyn Roster>;
            let host = Box::new(PythonCrewHost(Arc::clone(&self.handlers)));
            let crew = Crew::new(self.place.clone(), self.own, roster, host, runtime);
            *sockets = Sockets::Open(Arc::new(crew));
        }
        match &*sockets {
            Sockets::Open(crew) => Ok(Arc::clone(crew)),
            _ => Err(error_of(NotSent::Closed)),
        }
    }
}

/// Kind 0 is the protocol's, and kind 1 the engine's.
fn checked_kind(kind: u32) -> PyResult<u8> {
    let checked = u8::try_from(kind).ok().filter(|&kind| kind > MOVED_CONNECTION);
    checked.ok_or_else(|| PyValueError::new_err(format!("the kind of a message is a number from 2 to 255, not {kind}")))
}

/// None for None.
fn callable(handler: Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    if handler.is_none() {
        return Ok(None);
    }
    if !handler.is_callable() {
        let message = format!("a handler is callable or None, not {}", handler.get_type().name()?);
        return Err(PyTypeError::new_err(message));
    }
    Ok(Some(handler.unbind()))
}

fn error_of(error: NotSent) -> PyErr {
    let message = error.to_string();
    match error {
        NotSent::Unsendable(_) | NotSent::OwnSlot(_) => PyValueError::new_err(message),
        NotSent::NoSibling(_) => PyConnectionRefusedError::new_err((Errno::CONNREFUSED.raw_os_error(), message)),
        NotSent::Full { .. } | NotSent::NotAccepting(_) => {
            PyBlockingIOError::new_err((Errno::AGAIN.raw_os_error(), message))
        }
        NotSent::Untrusted { .. } => PyPermissionError::new_err((Errno::PERM.raw_os_error(), message)),
        NotSent::Closed => PyRuntimeError::new_err(message),
        NotSent::Failed(error) => io_error(error),
    }
}

/// Takes a connection that a sibling has handed over. Runs in a unit; may park.
pub type Adopt = Arc<dyn Fn(Letter<OwnedFd>) + Send + Sync>;

/// The handlers of a worker's messages.
#[derive(Default)]
struct CrewHandlers {
    adopt: Mutex<Option<Adopt>>,
    by_kind: Mutex<HashMap<u8, Py<PyAny>>>,
    gone: Mutex<Option<Py<PyAny>>>,
}

struct PythonCrewHost(Arc<CrewHandlers>);

impl CrewHost for PythonCrewHost {
    fn receive(&self, sender: Sibling, letter: Letter<OwnedFd>) {
        if letter.kind == MOVED_CONNECTION {
            let adopt = lock(&self.0.adopt).clone();
            if let Some(adopt) = adopt {
                adopt(letter);
            }
            return;
        }
        Python::attach(|py| {
            let known = lock(&self.0.by_kind).get(&letter.kind).map(|handler| handler.clone_ref(py));
            let Some(handler) = known else { return };
            let arguments = || -> PyResult<_> {
                let numbers = PyList::new(py, letter.descriptors.into_iter().map(IntoRawFd::into_raw_fd))?;
                (sender.slot, sender.generation, PyBytes::new(py, &letter.payload), numbers).into_pyobject(py)
            };
            call(handler.bind(py), arguments());
        });
    }

    fn gone(&self, sender: Sibling) {
        Python::attach(|py| {
            let known = lock(&self.0.gone).as_ref().map(|handler| handler.clone_ref(py));
            if let Some(handler) = known {
                call(handler.bind(py), (sender.slot, sender.generation).into_pyobject(py));
            }
        });
    }

    fn complain(&self, text: &str) {
        Python::attach(|py| log(py, Level::Warning, text, None));
    }
}

/// Calls a handler in a fresh context.
///
/// # Parks
fn call<'py>(handler: &Bound<'py, PyAny>, arguments: PyResult<Bound<'py, PyTuple>>) {
    let py = handler.py();
    let _subject = Subject::set(handler.clone());
    let outcome =
        arguments.and_then(|arguments| in_fresh_context(py, || handler.call1(arguments)).and_then(|outcome| outcome));
    leave_if_forked(py, outcome.as_ref().err());
    if let Err(error) = outcome
        && !error.is_instance_of::<PySystemExit>(py)
    {
        let name = handler.repr().map_or_else(|_| "a handler".to_owned(), |name| name.to_string());
        log(py, Level::Error, &format!("Exception in {name}, which handles messages of siblings"), Some(&error));
    }
}
