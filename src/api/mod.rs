//! The Python face of the engine: the module `rmeinheld._rmeinheld`.
//!
//! The doc comments of this module's functions and classes are their docstrings. `_rmeinheld.pyi` repeats them, written
//! by `.ci/stub_docstrings.py` and checked by a test.

mod coroutines;
mod descriptors;
mod inspection;
mod patching;
mod process;

use pyo3::prelude::*;

/// The engine of rmeinheld: its server, its coroutines, and the functions that the patches are made of.
#[pymodule(gil_used = true)]
mod _rmeinheld {
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    use super::process::{after_fork_in_parent, before_fork, forget_in_child, stop_at_exit};
    use crate::cooperative::{ShutDown, native, owner_of};
    use crate::interp::{self, ClientDisconnected, CoroutineExit, Timeout};
    use crate::wsgi::{ConnectionClosed, WebSocketError};

    #[pymodule_export]
    use crate::cooperative::{
        BoundedSemaphore, Condition, Event, Jobs, LifoQueue, Lock, Queue, RLock, Semaphore, SimpleQueue,
    };
    #[pymodule_export]
    use crate::interp::{Coroutine, RequestTimeout, TimeoutContext};
    #[pymodule_export]
    use crate::server::{AdminListener, ErrorStream, Inspector, Server, SharedCrew, SharedScoreboard};
    #[pymodule_export]
    use crate::wsgi::{
        ClientCheck, ClientSocket, Deadline, EarlyHints, FileWrapper, Input, LoggedRequest, Members, StartResponse,
        Stopping, WebSocket, Write, broadcast,
    };

    #[pymodule_export]
    use super::coroutines::{can_park, current, get_ident, give_way, give_way_quietly, sleep, sleep_until, spawn};
    #[pymodule_export]
    use super::descriptors::{
        descriptor_closes, events_now, is_fifo, may_wait, wait_any, wait_either, wait_readable, wait_writable,
    };
    #[pymodule_export]
    use super::inspection::{
        coroutine_frames, inspect_coroutines, loop_thread_ident, stack_of, waiting_for, write_in_background,
    };
    #[pymodule_export]
    use super::patching::{
        as_builtin, detour, in_turn, locks_park, method, set_attribute, socket_recv, socket_recv_into, socket_recvfrom,
        socket_recvfrom_into, socket_repeat, socket_send, socket_sendall,
    };
    #[pymodule_export]
    use super::process::{
        access_log_line, arm_exit, check_access_log_format, check_sticky, defer_spawned, disarm_exit, end_awaited,
        end_loop, end_with_parent, exclusively, follow_requests, followed_request, forget_followed_request, is_killed,
        metric_families, send_held, set_awaited, start_spawned,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        let py = module.py();
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("ClientDisconnected", py.get_type::<ClientDisconnected>())?;
        module.add("CoroutineExit", py.get_type::<CoroutineExit>())?;
        module.add("Timeout", py.get_type::<Timeout>())?;
        module.add("ConnectionClosed", py.get_type::<ConnectionClosed>())?;
        module.add("WebSocketError", py.get_type::<WebSocketError>())?;
        let shut_down = py.import("queue")?.getattr("ShutDown");
        module.add("ShutDown", shut_down.unwrap_or_else(|_| py.get_type::<ShutDown>().into_any()))?;
        native::keep_samples(py)?;
        interp::prepare_with(prepare);
        interp::inspection::find_owners_with(owner_of);
        py.import("atexit")?.call_method1("register", (wrap_pyfunction!(stop_at_exit, module)?,))?;
        let hooks = PyDict::new(py);
        hooks.set_item("before", wrap_pyfunction!(before_fork, module)?)?;
        hooks.set_item("after_in_parent", wrap_pyfunction!(after_fork_in_parent, module)?)?;
        hooks.set_item("after_in_child", wrap_pyfunction!(forget_in_child, module)?)?;
        py.import("os")?.call_method("register_at_fork", (), Some(&hooks))?;
        Ok(())
    }

    /// Runs before each start of a loop.
    fn prepare(py: Python<'_>) {
        if !native::exchange_methods(py) {
            let message = "locks and queues of the standard library do not park coroutines on this Python: a coroutine \
                           that waits for one stops the process, unless it was made after patch_all()";
            interp::log(py, interp::Level::Warning, message, None);
        }
    }
}
