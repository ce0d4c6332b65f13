//! The logger `rmeinheld.error`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

static LOGGING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
static LOGGER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Logs to `logging.getLogger("rmeinheld.error")`. If logging itself fails, `sys.unraisablehook` gets that exception.
pub fn log(py: Python<'_>, level: Level, message: &str, error: Option<&PyErr>) {
    let log = || -> PyResult<()> {
        let kwargs = PyDict::new(py);
        if let Some(error) = error {
            kwargs.set_item("exc_info", error.value(py))?;
        }
        logger(py)?.call_method(level.method(), ("%s", message), Some(&kwargs))?;
        Ok(())
    };
    if let Err(error) = log() {
        error.write_unraisable(py, None);
    }
}

/// The name of the logger.
pub(super) const LOGGER_NAME: &str = "rmeinheld.error";

/// The module `logging`. An import costs 5,000 instructions, even of a module that is known.
pub(super) fn logging(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    LOGGING.get_or_try_init(py, || py.import("logging").map(Bound::unbind)).map(|module| module.bind(py))
}

/// The logger. `logging` has one of a name.
pub(super) fn logger(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    if let Some(known) = LOGGER.get(py) {
        return Ok(known.bind(py).clone());
    }
    // Not by `get_or_try_init`: this waits for a lock that another coroutine may have.
    let logger = logging(py)?.call_method1("getLogger", (LOGGER_NAME,))?;
    let _ = LOGGER.set(py, logger.clone().unbind());
    Ok(logger)
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
    /// The number that `logging` has for the level.
    pub(super) fn number(self) -> u8 {
        match self {
            Level::Debug => 10,
            Level::Info => 20,
            Level::Warning => 30,
            Level::Error => 40,
        }
    }

    fn method(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}
