//! The logger `rmeinheld.error`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

static LOGGING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// Logs to `logging.getLogger("rmeinheld.error")`. If logging itself fails, `sys.unraisablehook` gets that exception.
pub fn log(py: Python<'_>, level: Level, message: &str, error: Option<&PyErr>) {
    let error = error.map(|error| ("exc_info", error.value(py).as_any().clone()));
    log_with(py, level, message, error);
}

/// Logs as [`log`] does. The record belongs to the request of this id instead of the one that logs it.
pub fn log_about(py: Python<'_>, level: Level, message: &str, request_id: &str) {
    let extra = PyDict::new(py);
    let extra = extra.set_item("request_id", request_id).map(|()| extra.into_any());
    log_with(py, level, message, extra.ok().map(|extra| ("extra", extra)));
}

fn log_with(py: Python<'_>, level: Level, message: &str, keyword: Option<(&str, Bound<'_, PyAny>)>) {
    let log = || -> PyResult<()> {
        // An import costs 5,000 instructions, even of a module that is known.
        let logging = LOGGING.get_or_try_init(py, || py.import("logging").map(Bound::unbind))?.bind(py);
        let logger = logging.call_method1("getLogger", ("rmeinheld.error",))?;
        let kwargs = PyDict::new(py);
        if let Some((name, value)) = keyword {
            kwargs.set_item(name, value)?;
        }
        logger.call_method(level.method(), ("%s", message), Some(&kwargs))?;
        Ok(())
    };
    if let Err(error) = log() {
        error.write_unraisable(py, None);
    }
}

/// The level of a log record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Details for developers.
    Debug,
    /// Normal events.
    Info,
    /// Something that an administrator should look at.
    Warning,
    /// A request or a coroutine failed.
    Error,
}

impl Level {
    fn method(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}
