//! Stacks of coroutines, and the facts about all coroutines in the form that Python sees.
//!
//! The facts come from the [records](crate::event_loop::records). The interpreter adds the stacks, the clients behind
//! proxies, the names of threads and the owners of locks. It is held from the first coroutine to the last, so they are
//! facts of one moment. No Python code runs meanwhile.

#![expect(unsafe_code, reason = "frames of other thread states, and objects noted by their addresses")]

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use super::subject;
use crate::event_loop::reasons::{self, Reason, Wait};
use crate::event_loop::records::{self, Record, Snapshot, WorkKind};
use crate::http::redaction::redacted;

/// The owner of a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockOwner {
    /// A coroutine or an OS thread, by its ident.
    Ident(u64),
    /// A coroutine, by the address of its thread state.
    ThreadState(usize),
}

/// Finds the owner of a lock object. `None` if it has none, or none is known. It must not run Python code.
pub type OwnerFinder = fn(&Bound<'_, PyAny>) -> Option<LockOwner>;

static FIND_OWNER: OnceLock<OwnerFinder> = OnceLock::new();

/// Sets the function that finds the owners of locks.
pub fn find_owners_with(find: OwnerFinder) {
    let _ = FIND_OWNER.set(find);
}

/// A frame of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackFrame {
    /// The file of the code.
    pub file: Rc<str>,
    /// The line that runs.
    pub line: i32,
    /// The qualified name of the function.
    pub function: Rc<str>,
}

/// Reads stacks. Code that many stacks share is looked at once.
pub struct StackReader<'py> {
    py: Python<'py>,
    codes: HashMap<usize, KnownCode<'py>>,
}

struct KnownCode<'py> {
    /// Keeps the code alive, so that its address names no other code.
    _code: Bound<'py, PyAny>,
    file: Rc<str>,
    function: Rc<str>,
    /// The lines of instructions.
    lines: HashMap<i32, i32>,
}

/// The most frames of a stack that are read.
const DEEPEST: usize = 200;

impl<'py> StackReader<'py> {
    /// A reader that knows no code yet.
    pub fn new(py: Python<'py>) -> StackReader<'py> {
        StackReader { py, codes: HashMap::new() }
    }

    /// The innermost frame of a unit. `None` if it has no thread state or runs no Python code.
    pub fn innermost(&self, record: &Record) -> Option<Bound<'py, PyAny>> {
        let state = record.thread_state() as *mut ffi::PyThreadState;
        if state.is_null() {
            return None;
        }
        // SAFETY: attached, as `py` shows. The number in the record is written, and removed before the thread state is
        // cleared, while attached, so the thread state lives. A new reference or null comes back. All frames of a thread
        // state that is not the current one are complete, because its unit has let go of the interpreter.
        unsafe { Bound::from_owned_ptr_or_opt(self.py, ffi::PyThreadState_GetFrame(state).cast()) }
    }

    /// The stack of a unit, innermost frame first. `None` if it runs no Python code.
    pub fn stack(&mut self, record: &Record) -> Option<Vec<StackFrame>> {
        let mut frame = self.innermost(record);
        frame.as_ref()?;
        let mut stack = Vec::new();
        while let Some(present) = frame
            && stack.len() < DEEPEST
        {
            stack.push(self.describe(&present));
            // SAFETY: attached; `present` is a frame, as PyThreadState_GetFrame and PyFrame_GetBack return them. A new
            // reference or null comes back.
            frame =
                unsafe { Bound::from_owned_ptr_or_opt(self.py, ffi::PyFrame_GetBack(present.as_ptr().cast()).cast()) };
        }
        Some(stack)
    }

    fn describe(&mut self, frame: &Bound<'py, PyAny>) -> StackFrame {
        let pointer = frame.as_ptr().cast::<ffi::PyFrameObject>();
        // SAFETY: attached; `frame` is a frame. PyFrame_GetCode returns a new reference and never null.
        let (code, instruction) = unsafe {
            let code: Bound<'py, PyAny> = Bound::from_owned_ptr(self.py, ffi::PyFrame_GetCode(pointer).cast());
            (code, ffi::PyFrame_GetLasti(pointer))
        };
        let address = code.as_ptr() as usize;
        let known = self.codes.entry(address).or_insert_with(|| {
            let text = |name: &Bound<'_, PyString>| {
                let value = code.getattr(name).ok();
                let value = value.as_ref().and_then(|value| value.cast::<PyString>().ok());
                Rc::from(value.map_or("?".into(), |value| value.to_string_lossy()).as_ref())
            };
            KnownCode {
                file: text(intern!(self.py, "co_filename")),
                function: text(intern!(self.py, "co_qualname")),
                _code: code.clone(),
                lines: HashMap::new(),
            }
        });
        // SAFETY: attached; `frame` is a frame.
        let line = *known.lines.entry(instruction).or_insert_with(|| unsafe { ffi::PyFrame_GetLineNumber(pointer) });
        StackFrame { file: Rc::clone(&known.file), line, function: Rc::clone(&known.function) }
    }
}

/// The stack of a unit, innermost frame first. `None` if it runs no Python code. From any thread.
pub fn frames_of(py: Python<'_>, record: &Record) -> Option<Vec<StackFrame>> {
    StackReader::new(py).stack(record)
}

/// The innermost frames of all coroutines, by their idents.
///
/// # Errors
/// MemoryError.
pub fn frame_objects(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let reader = StackReader::new(py);
    let frames = PyDict::new(py);
    for record in records::all() {
        if record.work() > 0
            && let Some(frame) = reader.innermost(&record)
        {
            frames.set_item(record.ident(), frame)?;
        }
    }
    Ok(frames)
}

/// The options of a list of coroutines.
#[derive(Clone, Copy, Debug)]
pub struct ListOptions {
    /// With the stacks.
    pub stacks: bool,
    /// Without the values of queries and the credentials in targets.
    pub redact: bool,
}

/// The facts about all coroutines with work, as dictionaries. docs/inspecting.md describes their keys.
///
/// # Errors
/// MemoryError.
pub fn list_coroutines(py: Python<'_>, options: ListOptions) -> PyResult<Bound<'_, PyList>> {
    let all: Vec<_> = records::all().into_iter().filter(|record| record.work() > 0).collect();
    let idents = all.iter().map(|record| (record.thread_state(), record.ident())).collect();
    let running = records::running();
    let mut view =
        View { py, options, reader: StackReader::new(py), idents, threads: active_threads(py), now: records::now() };
    let list = PyList::empty(py);
    for record in &all {
        let turn = running.as_ref().filter(|(running, _)| Arc::ptr_eq(running, record)).map(|(_, begun)| *begun);
        list.append(view.describe(record, turn)?)?;
    }
    Ok(list)
}

/// The name that a coroutine has in `threading`. Runs no Python code.
pub fn thread_name(py: Python<'_>, ident: u64) -> Option<String> {
    static THREADS: PyOnceLock<Option<Py<PyDict>>> = PyOnceLock::new();
    let threads = THREADS.get_or_init(py, || active_threads(py).map(Bound::unbind)).as_ref()?;
    name_in(threads.bind(py), ident)
}

fn name_in(threads: &Bound<'_, PyDict>, ident: u64) -> Option<String> {
    let thread = threads.get_item(ident).ok()??;
    let name = thread.getattr("_name").ok()?;
    let name = name.cast::<PyString>().ok()?.to_string_lossy().into_owned();
    // `threading` invents such a name for a coroutine that asks for its thread.
    (!name.starts_with("Dummy-")).then_some(name)
}

/// `threading._active`: the threads that `threading` knows, by their idents.
fn active_threads(py: Python<'_>) -> Option<Bound<'_, PyDict>> {
    py.import("threading").and_then(|threading| threading.getattr("_active")).ok()?.cast_into::<PyDict>().ok()
}

/// The sources of a list of coroutines.
struct View<'py> {
    py: Python<'py>,
    options: ListOptions,
    reader: StackReader<'py>,
    /// The idents of coroutines, by the addresses of their thread states.
    idents: HashMap<usize, u64>,
    threads: Option<Bound<'py, PyDict>>,
    now: u64,
}

impl<'py> View<'py> {
    /// `turn` is the start of the running turn, for the coroutine that runs.
    fn describe(&mut self, record: &Record, turn: Option<u64>) -> PyResult<Bound<'py, PyDict>> {
        let snapshot = record.snapshot();
        let facts = PyDict::new(self.py);
        facts.set_item("ident", snapshot.ident)?;
        facts.set_item("work", snapshot.work)?;
        facts.set_item("kind", snapshot.kind.name())?;
        facts.set_item("label", self.label(&snapshot))?;
        facts.set_item("client", client(self.py, record, &snapshot))?;
        facts.set_item("request_id", subject::request_id(self.py, record))?;
        facts.set_item("age", self.since(snapshot.begun))?;
        let (state, since) = match (turn, &snapshot.wait) {
            (Some(begun), _) => ("running", Some(begun)),
            (None, Some(wait)) => ("waiting", Some(wait.since)),
            (None, None) => ("ready", None),
        };
        facts.set_item("state", state)?;
        facts.set_item("since", since.map(|since| self.since(since)))?;
        let stack = self.options.stacks.then(|| self.reader.stack(record).unwrap_or_default());
        let wait = snapshot.wait.filter(|_| turn.is_none());
        let wait = wait.map(|wait| self.describe_wait(&wait, stack.as_deref().unwrap_or_default()));
        facts.set_item("wait", wait.transpose()?)?;
        if let Some(stack) = stack {
            let frames = PyList::empty(self.py);
            for frame in stack {
                frames.append((&*frame.file, frame.line, &*frame.function))?;
            }
            facts.set_item("stack", frames)?;
        }
        Ok(facts)
    }

    fn describe_wait(&self, wait: &Wait, stack: &[StackFrame]) -> PyResult<Bound<'py, PyDict>> {
        let facts = PyDict::new(self.py);
        let is_in_condition = stack.first().is_none_or(|frame| &*frame.function == CONDITION_WAIT);
        let owner = match wait.reason {
            Reason::Join => Some(wait.details[0]).filter(|&ident| ident > 0),
            Reason::Lock | Reason::RLock | Reason::NativeLock => self.owner(wait),
            // A lock that its waiter has taken before: outside of a condition, no other coroutine may release it.
            Reason::Condition if !is_in_condition => self.owner(wait),
            _ => None,
        };
        let is_own_lock = wait.reason == Reason::Condition && owner.is_some();
        facts.set_item("reason", if is_own_lock { Reason::Lock } else { wait.reason }.name())?;
        let text = match wait.reason {
            _ if is_own_lock => "lock".to_owned(),
            Reason::Condition => notification(stack).unwrap_or("condition").to_owned(),
            _ => wait.describe(self.now),
        };
        facts.set_item("text", text)?;
        facts.set_item("descriptor", wait.descriptor())?;
        facts.set_item(
            "peer",
            wait.descriptor().and_then(|number| reasons::peer_of(u64::from(number.unsigned_abs()))),
        )?;
        facts.set_item("left", wait.until.map(|until| until.saturating_sub(self.now) as f64 / 1e9))?;
        // The lock within a condition of `threading` tells users nothing.
        let is_hidden = wait.reason == Reason::Condition && is_in_condition;
        let object = Some(wait.details[0]).filter(|&address| wait.reason.has_object() && address > 0 && !is_hidden);
        facts.set_item("object", object)?;
        facts.set_item("owner", owner)?;
        facts.set_item("owner_name", owner.and_then(|owner| self.thread_name(owner)))?;
        Ok(facts)
    }

    /// The ident of the owner of the lock that a coroutine waits for.
    fn owner(&self, wait: &Wait) -> Option<u64> {
        let address = usize::try_from(wait.details[0]).ok().filter(|&address| address > 0)?;
        let find = FIND_OWNER.get()?;
        // SAFETY: attached, as `py` shows. A coroutine notes the address of a lock and takes it away again in a call of
        // the lock's method, while attached. The caller of that method has a reference to the lock.
        let object = unsafe { Bound::from_borrowed_ptr(self.py, address as *mut ffi::PyObject) };
        match find(&object)? {
            LockOwner::Ident(ident) => Some(ident),
            LockOwner::ThreadState(state) => self.idents.get(&state).copied(),
        }
    }

    fn label(&self, snapshot: &Snapshot) -> String {
        match snapshot.kind {
            WorkKind::Request if self.options.redact => redacted(&snapshot.label),
            WorkKind::Spawned => {
                self.thread_name(snapshot.ident).map_or(snapshot.label.clone(), |name| format!("thread {name}"))
            }
            _ => snapshot.label.clone(),
        }
    }

    /// The name of a thread of `threading`.
    fn thread_name(&self, ident: u64) -> Option<String> {
        name_in(self.threads.as_ref()?, ident)
    }

    fn since(&self, time: u64) -> f64 {
        self.now.saturating_sub(time) as f64 / 1e9
    }
}

/// The purpose of a notification, by the functions of the standard library that wait for it.
fn notification(stack: &[StackFrame]) -> Option<&'static str> {
    stack
        .iter()
        .take(NOTIFIED_WITHIN)
        .find_map(|frame| {
            NOTIFIED.iter().find(|(function, file, _)| *function == &*frame.function && frame.file.ends_with(file))
        })
        .map(|(_, _, what)| *what)
}

/// The function of `threading` that takes a lock a second time to wait.
const CONDITION_WAIT: &str = "Condition.wait";

/// The number of innermost frames in which [`notification`] looks.
const NOTIFIED_WITHIN: usize = 4;

/// Functions that wait for a notification, the ends of their files, and what they wait for.
const NOTIFIED: [(&str, &str, &str); 8] = [
    ("Event.wait", "/threading.py", "event"),
    ("Semaphore.acquire", "/threading.py", "semaphore"),
    ("Barrier._wait", "/threading.py", "barrier"),
    ("Queue.get", "/queue.py", "item of queue"),
    ("Queue.put", "/queue.py", "room in queue"),
    ("Queue.join", "/queue.py", "task_done of all items of queue"),
    ("Future.result", "/_base.py", "future"),
    ("Future.exception", "/_base.py", "future"),
];

/// The address of a request's client: that of the environ, which may come from a trusted proxy, or that of the socket.
fn client(py: Python<'_>, record: &Record, snapshot: &Snapshot) -> Option<String> {
    if snapshot.kind != WorkKind::Request {
        return None;
    }
    subject::client(py, record.subject()).or_else(|| reasons::peer_of(u64::from(snapshot.client?.unsigned_abs())))
}

/// The numbers of a stack frame as a tuple; see [`list_coroutines`].
pub fn as_tuple<'py>(py: Python<'py>, frame: &StackFrame) -> PyResult<Bound<'py, PyTuple>> {
    (&*frame.file, frame.line, &*frame.function).into_pyobject(py)
}

/// The stack of one piece of work, innermost frame first. `None` if it has ended.
pub fn stack_of(py: Python<'_>, work: u64) -> Option<Vec<StackFrame>> {
    let record = records::all().into_iter().find(|record| record.work() == work && work > 0)?;
    Some(frames_of(py, &record).unwrap_or_default())
}
