//! Exceptions that end work, but are raised where nothing can handle them: in `__del__`, in a callback of a weak
//! reference. CPython reports such an exception to `sys.unraisablehook` and goes on.
//!
//! While work is being ended, a hook in front of the present one sets such an exception again.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyModule, PyType};

use super::endings::{self, EndReason};
use super::exceptions::CoroutineExit;
use super::request_timeout::RequestTimeout;
use crate::event_loop::deadlines;
use crate::event_loop::notes::OwnWork;

static SYS: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// The module `sys`. An import costs 5,000 instructions each time.
fn sys(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    SYS.get_or_try_init(py, || py.import("sys").map(Bound::unbind)).map(|module| module.bind(py))
}

/// `sys.unraisablehook` while work is being ended.
#[pyclass(frozen, module = "rmeinheld")]
struct SwallowedHook {
    previous: Py<PyAny>,
}

#[pymethods]
impl SwallowedHook {
    fn __call__(&self, py: Python<'_>, unraisable: &Bound<'_, PyAny>) -> PyResult<()> {
        let reported = self.previous.bind(py).call1((unraisable,));
        let class = unraisable.getattr("exc_type")?.cast_into::<PyType>()?;
        if class.is_subclass_of::<RequestTimeout>()? || class.is_subclass_of::<CoroutineExit>()? {
            endings::set_again(py, &class);
        }
        reported.map(drop)
    }
}

/// Puts the hook in front of the present one, unless it is there.
pub fn watch(py: Python<'_>) {
    let put = || -> PyResult<()> {
        let sys = sys(py)?;
        let present = sys.getattr(intern!(py, "unraisablehook"))?;
        if !present.is_instance_of::<SwallowedHook>() {
            sys.setattr(intern!(py, "unraisablehook"), Bound::new(py, SwallowedHook { previous: present.unbind() })?)?;
        }
        Ok(())
    };
    if let Err(error) = put() {
        error.write_unraisable(py, None);
    }
}

/// Notes the end of the caller's own `work`, which can be ended by force no more: its deadline is forgotten, and
/// exceptions that it has not raised are withdrawn. Returns why the work was ended; `None` if it was not.
#[inline]
pub fn work_has_ended(py: Python<'_>, own: &OwnWork, work: u64) -> Option<EndReason> {
    own.is_over();
    deadlines::forget(work);
    let reason = endings::forget(py, work)?;
    unwatch(py);
    Some(reason)
}

/// Puts the previous hook back, if no work is being ended and the application has not set another one.
fn unwatch(py: Python<'_>) {
    let put_back = || -> PyResult<()> {
        let sys = sys(py)?;
        if let Ok(hook) = sys.getattr(intern!(py, "unraisablehook"))?.cast_into::<SwallowedHook>() {
            sys.setattr(intern!(py, "unraisablehook"), hook.get().previous.clone_ref(py))?;
        }
        Ok(())
    };
    if !endings::any()
        && let Err(error) = put_back()
    {
        error.write_unraisable(py, None);
    }
}
