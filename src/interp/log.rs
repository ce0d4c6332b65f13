//! The logger `rmeinheld.error`.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

static LOGGING: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// Logs to `logging.getLogger("rmeinheld.error")`. If logging itself fails, `sys.unraisablehook` gets that exception.
pub fn log(py: Python<'_>, level: Level, message: &str, error: Option<&PyErr>) {
    let log = || -> PyResult<()> {
        // An import costs 5,000 instructions, even of a module that is known.
        let logging = LOGGING.get_or_try_init(py, || py.import("logging").map(Bound::unbind))?.bind(py);
        let logger = logging.call_method1("getLogger", ("rmeinheld.error",))?;
        let kwargs = PyDict::new(py);
        if let Some(error) = error {
            kwargs.set_item("exc_info", error.value(py))?;
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
