//! The requests in progress: a stop of the server waits for them, and ends those that end with the server.

use std::cell::RefCell;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use slab::Slab;

use super::start_response::StartResponse;
use super::stop_flag::StopFlag;
use crate::event_loop::notes::OwnWork;
use crate::event_loop::{self, WorkId, deadlines, interrupts, turn};
use crate::interp::{self, EndReason};

struct Entry {
    work: WorkId,
    environ: Py<PyDict>,
    response: Py<StartResponse>,
    /// When the turn of the request began; see [`turn::begun`].
    began: u64,
}

thread_local! {
    /// The table of the loop thread. No Python code runs while it is borrowed.
    static REQUESTS: RefCell<Slab<Entry>> = const { RefCell::new(Slab::new()) };
}

/// A request's entry, for as long as this lives.
pub struct InProgress<'work> {
    slot: usize,
    own: &'work OwnWork,
    work: u64,
}

impl<'work> InProgress<'work> {
    /// Enters the request that `own` serves; `None` outside of one.
    /// With `ends_with_client` a client that goes away ends it.
    // Not part of its caller: frames that coroutines wait in should be small.
    #[inline(never)]
    pub fn begin(
        own: Option<&'work OwnWork>,
        environ: &Bound<'_, PyDict>,
        response: &Bound<'_, StartResponse>,
        ends_with_client: bool,
    ) -> Option<InProgress<'work>> {
        let own = own?;
        let work = own.id()?;
        if ends_with_client && response.get().end_with_client(work) {
            event_loop::spawn(Box::new(move || client_hung_up(work)));
        }
        let (environ, response) = (environ.clone().unbind(), response.clone().unbind());
        let entry = Entry { work, environ, response, began: turn::begun() };
        deadlines::begin_request();
        let slot = REQUESTS.with_borrow_mut(|requests| requests.insert(entry));
        Some(InProgress { slot, own, work: work.number })
    }

    /// Notes that the application is done with the request, which can be ended by force no more. Exceptions on their way
    /// to it are withdrawn. Returns why it was ended; `None` if it was not.
    pub fn application_is_done(&self, py: Python<'_>) -> Option<EndReason> {
        interp::work_has_ended(py, self.own, self.work)
    }

    /// Removes the entry. Cheaper than a drop, which has to find out whether the caller is attached.
    pub fn end(self, py: Python<'_>) {
        let entry = REQUESTS.with_borrow_mut(|requests| requests.try_remove(self.slot));
        std::mem::forget(self);
        if let Some(Entry { environ, response, .. }) = entry {
            environ.drop_ref(py);
            response.drop_ref(py);
        }
    }
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        let entry = REQUESTS.with_borrow_mut(|requests| requests.try_remove(self.slot));
        drop(entry);
    }
}

/// Raises ClientDisconnected where a request waits whose client has reset or hung up the connection. A connection that
/// speaks another protocol has its own ways to end.
pub fn client_hung_up(work: WorkId) {
    Python::attach(|py| {
        let response = REQUESTS.with_borrow(|requests| {
            let own = requests.iter().find(|(_, entry)| entry.work == work);
            own.map(|(_, entry)| entry.response.clone_ref(py))
        });
        if response.is_some_and(|response| response.get().client_hung_up()) {
            interp::end_work(py, work.number, EndReason::Disconnected);
        }
    });
}

/// The requests that a stop waits for.
pub struct Waited {
    /// The number of requests in progress.
    pub count: usize,
    /// Method and target of the oldest request.
    pub oldest: String,
    /// The age of the oldest request in seconds.
    pub oldest_seconds: u64,
}

/// The requests in progress; `None` without any.
pub fn waited_for(py: Python<'_>) -> Option<Waited> {
    let (count, environ, began) = REQUESTS.with_borrow(|requests| {
        let (_, oldest) = requests.iter().min_by_key(|(_, entry)| (entry.began, entry.work.number))?;
        Some((requests.len(), oldest.environ.clone_ref(py), oldest.began))
    })?;
    let oldest = describe(environ.bind(py));
    Some(Waited { count, oldest, oldest_seconds: turn::seconds_since(began) })
}

/// Raises GeneratorExit at the next wait of all responses that end with the server.
///
/// # Errors
/// MemoryError.
pub fn end_streams(py: Python<'_>) -> PyResult<()> {
    let all: Vec<_> = REQUESTS
        .with_borrow(|requests| requests.iter().map(|(_, entry)| (entry.work, entry.response.clone_ref(py))).collect());
    all.into_iter().try_for_each(|(work, response)| response.get().end_stream(py, work))
}

/// Method and target of a request, for the log.
pub fn describe(environ: &Bound<'_, PyDict>) -> String {
    let item = |key| match environ.get_item(key) {
        Ok(Some(value)) => value.to_string(),
        _ => "?".to_owned(),
    };
    // Escaped, since the target may hold anything printable, and the application may have replaced it.
    format!("{} {}", item("REQUEST_METHOD").escape_debug(), item("RAW_URI").escape_debug())
}

/// `environ["rmeinheld.stopping"]`: calling it returns whether the server is stopping.
///
/// If an application has called it in the request's own coroutine and got False, its response gets GeneratorExit at its
/// next wait once the server stops. One object serves all requests.
#[pyclass(frozen, module = "rmeinheld")]
pub struct Stopping {
    stop: StopFlag,
}

impl Stopping {
    /// An object that returns whether `stop` is set.
    pub fn new(stop: StopFlag) -> Stopping {
        Stopping { stop }
    }
}

#[pymethods]
impl Stopping {
    #[pyo3(signature = ())]
    fn __call__(&self, py: Python<'_>) -> bool {
        let stops = self.stop.is_set();
        if let Some(work) = interrupts::current_work() {
            let own = REQUESTS.with_borrow(|requests| {
                let own = requests.iter().find(|(_, entry)| entry.work == work);
                own.map(|(_, entry)| entry.response.clone_ref(py))
            });
            if let Some(response) = own {
                response.get().note_asked(stops);
            }
        }
        stops
    }
}
