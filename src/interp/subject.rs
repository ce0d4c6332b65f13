//! The request or coroutine that a unit works for, and its name in messages.

#![expect(unsafe_code, reason = "objects noted by their addresses")]

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use crate::event_loop::ends;
use crate::event_loop::notes::OwnWork;
use crate::event_loop::records::{Record, WorkKind};

/// Notes that the current unit works for an object, an environ or a coroutine, until it is dropped.
pub struct Subject<'py> {
    /// Keeps the object alive while its address is noted.
    _object: Bound<'py, PyAny>,
    own: Option<OwnWork>,
    previous: usize,
}

impl<'py> Subject<'py> {
    /// Notes `object`.
    pub fn set(object: Bound<'py, PyAny>) -> Subject<'py> {
        let own = OwnWork::current();
        let previous = own.as_ref().map_or(0, |own| own.replace_subject(object.as_ptr() as usize));
        Subject { _object: object, own, previous }
    }

    /// The work whose subject this is. `None` off the loop thread.
    pub fn own_work(&self) -> Option<&OwnWork> {
        self.own.as_ref()
    }
}

impl Drop for Subject<'_> {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            own.replace_subject(self.previous);
        }
    }
}

/// Names the unfinished work of the loop, each with whether the end of the process waits for it. On the loop thread.
pub fn unfinished(py: Python<'_>) -> Vec<(bool, String)> {
    ends::unfinished().iter().map(|work| (work.is_awaited, describe(py, work.subject))).collect()
}

/// Names the work that the loop thread is running. None between two pieces of work.
pub fn running(py: Python<'_>) -> Option<String> {
    Some(ends::running_subject()).filter(|&subject| subject != 0).map(|subject| describe(py, subject))
}

/// The address of the client of a request, as its environ has it. `None` for other subjects, and if the application has
/// changed the environ. Runs no Python code.
pub fn client(py: Python<'_>, subject: usize) -> Option<String> {
    let address = item_of(py, subject, "REMOTE_ADDR").filter(|address| !address.is_empty())?;
    let address = if address.contains(':') { format!("[{address}]") } else { address };
    Some(item_of(py, subject, "REMOTE_PORT").map_or(address.clone(), |port| format!("{address}:{port}")))
}

/// The id of the request that a unit works for, if it has one. `None` for other work. Runs no Python code.
pub fn request_id(py: Python<'_>, record: &Record) -> Option<String> {
    if record.kind() != WorkKind::Request {
        return None;
    }
    item_of(py, record.subject(), "rmeinheld.request_id")
}

/// The text of a key in the environ of a request.
fn item_of(py: Python<'_>, subject: usize, key: &str) -> Option<String> {
    if subject == 0 {
        return None;
    }
    // SAFETY: as in `describe`.
    let object = unsafe { Bound::from_borrowed_ptr(py, subject as *mut ffi::PyObject) };
    let environ = object.cast_into::<PyDict>().ok()?;
    let value = environ.get_item(key).ok()??;
    value.cast::<PyString>().ok().map(|value| value.to_string_lossy().into_owned())
}

/// A name for a subject: "request GET /path", "thread 'Thread-1 (job)'", "coroutine 'job'".
fn describe(py: Python<'_>, subject: usize) -> String {
    if subject == 0 {
        return "a task of the server".to_owned();
    }
    // SAFETY: the number comes from `ends`, where only `Subject` puts it. `Subject` removes the number first and then
    // lets go of the object, both while attached, as its `Bound` requires; the caller is attached now. The stack of a
    // coroutine that is left behind keeps its `Subject` for ever.
    let object = unsafe { Bound::from_borrowed_ptr(py, subject as *mut ffi::PyObject) };
    if let Ok(environ) = object.cast::<PyDict>() {
        let item = |key| environ.get_item(key).ok().flatten().map_or_else(|| "?".to_owned(), |value| value.to_string());
        return format!("request {} {}", item("REQUEST_METHOD").escape_debug(), item("RAW_URI").escape_debug());
    }
    let name = |object: &Bound<'_, PyAny>| object.getattr("name").and_then(|name| name.extract::<String>());
    let thread = || -> PyResult<String> {
        let threads = py.import("threading")?.getattr("_active")?;
        name(&threads.get_item(object.getattr("ident")?)?)
    };
    match thread() {
        Ok(name) => format!("thread {name:?}"),
        Err(_) => format!("coroutine {:?}", name(&object).unwrap_or_default()),
    }
}
