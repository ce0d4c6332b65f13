//! `Inspector`: the threads of the inspect socket, as Python sees them.

use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use serde_json::{Value, json};

use super::given_descriptor::given_descriptor;
use super::shared_scoreboard::SharedScoreboard;
use crate::crew::CrewPlace;
use crate::crew::inspect::{Inquiry, InspectHost, InspectThreads, OwnWorker, answer, gone, refusal};
use crate::event_loop::records::{self, WorkKind};
use crate::http::redaction::redacted;
use crate::interp::{EndReason, end_work, inspection};
use crate::net::LocalListener;
use crate::sync::lock;

/// Answers questions about the workers of a service on the inspect socket, on OS threads of its own.
///
/// It works with a duplicate of `descriptor`, a listening Unix socket that several processes may share. The worker has
/// claimed `slot` of `scoreboard`. `place` is where the workers find each other, as `Crew` takes it; None for a single
/// process. `master` is the process id of the arbiter, or None. `user` is the number of a user who may ask, apart from
/// the worker's own and root. `host` answers what needs Python code. With `sticky` (off by default) the answers have
/// the places of workers, and the connections that have moved between them.
///
/// Raises ValueError for a slot or a place that does not exist, and OSError for a bad descriptor.
#[pyclass(frozen, module = "rmeinheld._rmeinheld")]
pub struct Inspector {
    prepared: Mutex<Option<(LocalListener, OwnWorker, PythonInspectHost)>>,
    threads: Mutex<Option<Arc<InspectThreads>>>,
}

#[pymethods]
impl Inspector {
    #[new]
    #[pyo3(signature = (descriptor, scoreboard, slot, place, master, user, host, sticky = false))]
    #[expect(clippy::too_many_arguments, reason = "they are arguments of Python")]
    fn new(
        descriptor: RawFd,
        scoreboard: PyRef<'_, SharedScoreboard>,
        slot: u32,
        place: Option<&str>,
        master: Option<u32>,
        user: u32,
        host: Py<PyAny>,
        sticky: bool,
    ) -> PyResult<Inspector> {
        let slot = scoreboard.checked(slot)?;
        let place = place.map(|text| {
            let refused =
                || PyValueError::new_err(format!("a place is an absolute path, or @ and a name, not {text:?}"));
            CrewPlace::parse(text).ok_or_else(refused)
        });
        let worker =
            OwnWorker::new(Arc::clone(scoreboard.board()), slot, place.transpose()?, master, user).sticky(sticky);
        let listener = given_descriptor(descriptor, "the inspect socket", LocalListener::shared)?;
        let prepared = Mutex::new(Some((listener, worker, PythonInspectHost { host })));
        Ok(Inspector { prepared, threads: Mutex::default() })
    }

    /// Start to answer. A process calls it after its last fork.
    ///
    /// Raises RuntimeError if called a second time, and OSError if no thread or descriptor is left.
    fn start(&self) -> PyResult<()> {
        let Some((listener, worker, host)) = lock(&self.prepared).take() else {
            return Err(PyRuntimeError::new_err("this inspector has been started already; make a new one"));
        };
        *lock(&self.threads) = Some(Arc::new(InspectThreads::start(Some(listener), worker, Box::new(host))?));
        Ok(())
    }

    /// Stop to answer, and close the duplicate of the socket. May be repeated. In a forked child it does nothing.
    fn stop(&self, py: Python<'_>) {
        let threads = lock(&self.threads).take();
        if let Some(threads) = threads {
            py.detach(|| threads.stop());
        }
    }
}

/// How long an order to end a request waits for the end, for its answer.
const END_TIME: Duration = Duration::from_millis(500);

/// The time between two looks for that end.
const END_LOOK: Duration = Duration::from_millis(5);

/// Ends one piece of work.
fn kill(py: Python<'_>, question: &Inquiry, work: u64) -> Value {
    let found = records::all().into_iter().find(|record| record.work() == work);
    let Some(record) = found else { return gone(question) };
    if !matches!(record.kind(), WorkKind::Request | WorkKind::Spawned) {
        return refusal("this is work of the server itself, which an order cannot end");
    }
    let label = redacted(&record.label());
    if !end_work(py, work, EndReason::Asked) {
        return gone(question);
    }
    let is_over = py.detach(|| {
        let deadline = Instant::now() + END_TIME;
        while record.work() == work && Instant::now() < deadline {
            std::thread::sleep(END_LOOK);
        }
        record.work() != work
    });
    answer(json!({"label": label, "over": is_over}))
}

/// The interpreter of this process.
struct PythonInspectHost {
    host: Py<PyAny>,
}

impl InspectHost for PythonInspectHost {
    fn answer(&self, question: &Inquiry, may_begin: &dyn Fn() -> bool) -> Option<Value> {
        Python::try_attach(|py| may_begin().then(|| self.answer_attached(py, question))).flatten()
    }
}

impl PythonInspectHost {
    fn answer_attached(&self, py: Python<'_>, question: &Inquiry) -> Value {
        let outcome = match question {
            Inquiry::LogLevel(level) => self.host.call_method1(py, "set_level", (*level,)).map(|_| answer(json!({}))),
            Inquiry::Kill(id) => Ok(kill(py, question, id.work)),
            Inquiry::Stack(id, locals) => self.stack(py, question, id.work, *locals),
            Inquiry::Dump(locals) => self.host.call_method1(py, "dump", (*locals,)).and_then(|text| {
                let text: String = text.extract(py)?;
                Ok(answer(json!({"dump": text})))
            }),
            Inquiry::Workers | Inquiry::Requests(_) | Inquiry::Reload => Ok(refusal("it needs no interpreter")),
        };
        outcome.unwrap_or_else(|error| refusal(format!("the worker cannot answer: {error}")))
    }

    fn stack(&self, py: Python<'_>, question: &Inquiry, work: u64, locals: bool) -> PyResult<Value> {
        let found = records::all().into_iter().find(|record| record.work() == work);
        let Some(record) = found else { return Ok(gone(question)) };
        let label = redacted(&record.label());
        let text = if locals {
            let frame = inspection::frame_objects(py)?.get_item(record.ident())?;
            self.host.call_method1(py, "stack_with_locals", (frame,))?
        } else {
            let frames = inspection::frames_of(py, &record).unwrap_or_default();
            let frames: Vec<_> =
                frames.iter().map(|one| (one.file.to_string(), one.line, one.function.to_string())).collect();
            self.host.call_method1(py, "stack", (frames,))?
        };
        let text: String = text.extract(py)?;
        Ok(answer(json!({"label": label, "stack": text})))
    }
}
