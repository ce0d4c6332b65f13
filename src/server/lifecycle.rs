//! A server's life, seen from the thread that runs it: start the loop, wait for signals, drain, end.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::event::{PollFd, PollFlags, poll};

use super::access_log::AccessLog;
use super::given_descriptor::given_descriptor;
use super::service::LoopService;
use super::settings::Settings;
use super::shared::Shared;
use super::shared_scoreboard::SharedScoreboard;
use super::stop_signal::StopSignal;
use super::tls::Tls;
use crate::crew::scoreboard::WorkerState;
use crate::crew::seat::Seat;
use crate::event_loop::{self, LoopMessage, Runtime};
use crate::interp;
use crate::kernel::{LentDescriptor, timespec_until};
use crate::net::Listener;
use crate::sync::lock;
use crate::wsgi::Gateway;

/// SIGABRT as it arrives through the file descriptor of `signal.set_wakeup_fd`.
const ABORT: u8 = libc::SIGABRT.to_le_bytes()[0];

/// Signals whose handlers end the server.
const ENDS: [u8; 3] = [libc::SIGTERM.to_le_bytes()[0], libc::SIGINT.to_le_bytes()[0], libc::SIGQUIT.to_le_bytes()[0]];

/// How long the handler of SIGABRT may wait for the interpreter.
const ABORT_GRACE: Duration = Duration::from_millis(300);

/// How long the thread that runs the server may take to end the process in order after the grace period. Coroutines,
/// the loop and the handlers at exit have two seconds each.
const EXIT_GRACE: Duration = Duration::from_secs(6);

/// How long a stop waits in silence for requests in progress.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// The time between two log lines about the requests that a stop waits for.
const NEXT_WORD: Duration = Duration::from_secs(10);

/// The engine of one server. It runs once.
///
/// `app` is the WSGI application. `listeners` are the listening sockets, non-blocking, each with its descriptor,
/// SERVER_NAME and SERVER_PORT; the engine works with duplicates of the descriptors. `settings` are the settings.
///
/// With `ssl_context` (None by default) every connection speaks TLS. It is an `ssl.SSLContext`, or an object that
/// chooses one in its method `wrap_bio`. With `suppress_ragged_eofs` (the default) a client may end a connection
/// without the closing alert of TLS. `access_log` is the descriptor of an access log that is open already; the engine
/// writes to a duplicate, and the setting `access_logfile` names the file.
///
/// With `scoreboard` (None by default) the engine notes its turns, counters and state in the slot `slot`.
///
/// Raises TypeError if `app` is not callable, and OSError for a bad descriptor or if the access log cannot be opened.
/// Raises ValueError if the scoreboard has no such slot.
#[pyclass(frozen, module = "rmeinheld")]
pub struct Server {
    prepared: Mutex<Option<Prepared>>,
    graceful_timeout: Duration,
    request_limit: usize,
    stop_signal: Arc<StopSignal>,
    runtime: Mutex<Option<Arc<Runtime>>>,
}

struct Prepared {
    settings: Settings,
    gateway: Gateway,
    sockets: Vec<Listener>,
    templates: Vec<Py<PyDict>>,
    access_log: Option<AccessLog>,
    tls: Option<Tls>,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (app, listeners, settings, ssl_context = None, suppress_ragged_eofs = true, access_log = None, *,
        scoreboard = None, slot = -1),
        text_signature = "(app, listeners, settings, ssl_context=None, suppress_ragged_eofs=True, access_log=None, *, \
                          scoreboard=None, slot=-1)")]
    #[expect(clippy::too_many_arguments, reason = "they are keywords in Python")]
    fn new(
        py: Python<'_>,
        app: Bound<'_, PyAny>,
        listeners: Vec<(RawFd, String, String)>,
        settings: Settings,
        ssl_context: Option<Py<PyAny>>,
        suppress_ragged_eofs: bool,
        access_log: Option<RawFd>,
        scoreboard: Option<PyRef<'_, SharedScoreboard>>,
        slot: i64,
    ) -> PyResult<Server> {
        if !app.is_callable() {
            let message = format!("the application must be callable, not {}", app.get_type().name()?);
            return Err(PyTypeError::new_err(message));
        }
        let seat =
            Arc::new(scoreboard.map(|scoreboard| scoreboard.seat(slot)).transpose()?.unwrap_or_else(Seat::private));
        let gateway = Gateway::new(py, app.unbind(), settings.gateway(py), Arc::clone(&seat))?;
        let (mut sockets, mut templates) = (Vec::new(), Vec::new());
        for (number, name, port) in listeners {
            sockets.push(given_descriptor(number, "a listening socket", Listener::new)?);
            templates.push(gateway.template(py, &name, &port, ssl_context.is_some())?);
        }
        let opened = access_log
            .map(|number| given_descriptor(number, "the access log", |descriptor| descriptor.try_clone_to_owned()))
            .transpose()?;
        let access_log = settings
            .access_logfile
            .as_ref()
            .map(|path| AccessLog::new(path, opened, &settings.access_log_format))
            .transpose()?;
        let tls = ssl_context.map(|context| Tls::new(context, suppress_ragged_eofs));
        crate::coroutine::set_stack_bytes(settings.stack_size);
        event_loop::turn::set_budget(settings.turn_budget());
        Ok(Server {
            graceful_timeout: settings.graceful_timeout(),
            request_limit: settings.worker_connections,
            stop_signal: Arc::new(StopSignal::new(gateway.stop_flag().clone(), settings.graceful_timeout(), seat)?),
            prepared: Mutex::new(Some(Prepared { settings, gateway, sockets, templates, access_log, tls })),
            runtime: Mutex::new(None),
        })
    }

    /// Serve until `stop()`. Returns when the last request has ended or the grace period is over; the loop goes on.
    ///
    /// When `wakeup_fd` becomes readable, `run` empties it and runs Python's signal handlers; see
    /// `signal.set_wakeup_fd`. The default -1 means no descriptor.
    ///
    /// `exit_status` is the status of a process that ends with the server. If the caller does not get the interpreter
    /// in time to call `disarm_exit`, the process ends with this status. None (the default) leaves the process alone.
    ///
    /// Returns at once if `stop()` came first. Raises RuntimeError if called a second time or in a coroutine, and the
    /// exception of a signal handler.
    #[pyo3(signature = (wakeup_fd = -1, exit_status = None), text_signature = "($self, wakeup_fd=-1, exit_status=None)")]
    fn run(&self, py: Python<'_>, wakeup_fd: RawFd, exit_status: Option<i32>) -> PyResult<()> {
        if event_loop::can_park() {
            return Err(PyRuntimeError::new_err("a server cannot be run from within a request or coroutine"));
        }
        let Some(prepared) = lock(&self.prepared).take() else {
            return Err(PyRuntimeError::new_err("this server has been run already; make a new one"));
        };
        let runtime = interp::ensure_started(py)?;
        *lock(&self.runtime) = Some(Arc::clone(&runtime));
        let stop_signal = Arc::clone(&self.stop_signal);
        let request_limit = self.request_limit;
        runtime.send(LoopMessage::Control(Box::new(move || install(prepared, stop_signal, request_limit))));
        let waited = self.wait(py, &runtime, wakeup_fd, exit_status);
        *lock(&self.runtime) = None;
        waited?;
        // Without a loop there was no server; see `event_loop::Runtime::failure`.
        match runtime.failure().or_else(|| self.stop_signal.failure()) {
            Some(failure) => Err(PyOSError::new_err(failure)),
            None => Ok(()),
        }
    }

    /// Seconds until the grace period is over; None before `stop()`.
    #[getter]
    fn seconds_left(&self) -> Option<f64> {
        Some(self.stop_signal.deadline()?.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    /// Stop accepting, close idle connections, and let requests in progress end. Then `run()` returns.
    ///
    /// `timeout` is the grace period in seconds; None (the default) is the setting `graceful_timeout`, 0 ends requests
    /// at once. May be called from any thread, signal handler or request, and more than once: a later call may only
    /// shorten the time.
    #[pyo3(signature = (timeout = None))]
    fn stop(&self, timeout: Option<f64>) {
        let grace = timeout.map_or(self.graceful_timeout, |seconds| {
            Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(self.graceful_timeout)
        });
        self.stop_signal.ask_to_stop(Instant::now() + grace);
    }

    /// Have `run()` return at once although the loop hangs, in a process that is about to end.
    fn abandon(&self) {
        self.stop_signal.ask_to_stop(Instant::now());
    }

    /// Open the file of the access log anew, after the old one was renamed.
    ///
    /// With `access_log`, a descriptor, the engine goes on in a duplicate of it instead. Raises OSError if that fails.
    #[pyo3(signature = (access_log = None))]
    fn reopen_logs(&self, access_log: Option<RawFd>) -> PyResult<()> {
        let opened = access_log
            .map(|number| given_descriptor(number, "the access log", |descriptor| descriptor.try_clone_to_owned()))
            .transpose()?;
        if let Some(runtime) = &*lock(&self.runtime) {
            // A task, since a handler of the log may wait.
            runtime.send(LoopMessage::Task(Box::new(move || {
                Python::attach(|py| with_service(|service| service.shared().reopen_logs(py, opened)));
            })));
        }
        Ok(())
    }

    /// Whether `run()` is serving.
    #[getter]
    fn running(&self) -> bool {
        lock(&self.runtime).is_some()
    }

    /// Number of requests answered so far.
    #[getter]
    fn requests(&self) -> u64 {
        self.stop_signal.requests()
    }

    /// Number of requests whose client went away until the answer was complete.
    #[getter]
    fn clients_gone(&self) -> u64 {
        self.stop_signal.clients_gone()
    }
}

impl Server {
    /// Blocks until the server has drained, or the grace period or the loop is over.
    fn wait(&self, py: Python<'_>, runtime: &Runtime, wakeup_fd: RawFd, exit_status: Option<i32>) -> PyResult<()> {
        let mut is_armed = false;
        let mut next_word = None;
        let wakeup = LentDescriptor::new(wakeup_fd);
        loop {
            let deadline = self.tell_to_stop(runtime);
            if self.stop_signal.is_drained() || runtime.has_ended() {
                return Ok(());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(());
            }
            let word_at = deadline.map(|deadline| self.say_what_is_waited_for(runtime, deadline, &mut next_word));
            let wake_at = deadline.into_iter().chain(word_at).min();
            let (rung, in_time, may_end) = py.detach(|| {
                let mut descriptors = vec![
                    PollFd::from_borrowed_fd(self.stop_signal.bell(), PollFlags::IN),
                    PollFd::from_borrowed_fd(runtime.end_bell(), PollFlags::IN),
                ];
                if let Ok(wakeup) = &wakeup {
                    descriptors.push(PollFd::new(wakeup, PollFlags::IN));
                }
                let timeout = wake_at.map(timespec_until);
                let rung = poll(&mut descriptors, timeout.as_ref());
                // Armed while detached, since something may hold the interpreter for ever.
                if let (Some(status), Some(deadline)) = (exit_status, deadline)
                    && (self.stop_signal.is_drained() || Instant::now() >= deadline)
                    && !std::mem::replace(&mut is_armed, true)
                {
                    interp::arm_exit(deadline.saturating_duration_since(Instant::now()) + EXIT_GRACE, status);
                }
                let signals = signals_of(wakeup_fd);
                // The handlers of these signals need the interpreter, too.
                let asked = exit_status.filter(|_| ENDS.iter().any(|number| signals.contains(number)));
                if let Some(status) = asked {
                    interp::arm_exit(self.graceful_timeout + EXIT_GRACE, status);
                }
                (rung, signals.contains(&ABORT).then(abort_unless_in_time), asked.is_some())
            });
            if let Some(in_time) = in_time {
                in_time.store(true, Ordering::Release);
            }
            if let Err(error) = rung
                && error != rustix::io::Errno::INTR
            {
                return Err(interp::os_error(error));
            }
            self.stop_signal.silence_bell();
            py.check_signals()?;
            if may_end && self.stop_signal.deadline().is_none() {
                // The handler is the application's own, and has not asked for a stop.
                interp::disarm_exit();
            }
        }
    }

    /// Logs the requests that the stop waits for, once `next` has come. Returns the time of the next line.
    fn say_what_is_waited_for(&self, runtime: &Runtime, deadline: Instant, next: &mut Option<Instant>) -> Instant {
        let now = Instant::now();
        let at = *next.get_or_insert(now + FIRST_WORD);
        if at > now {
            return at;
        }
        let graceful_timeout = self.graceful_timeout;
        // A task, since a handler of the log may wait.
        runtime.send(LoopMessage::Task(Box::new(move || {
            Python::attach(|py| with_service(|service| service.say_what_is_waited_for(py, deadline, graceful_timeout)));
        })));
        *next.insert(now + NEXT_WORD)
    }

    /// Passes a stop on to the loop, once. Returns its deadline.
    fn tell_to_stop(&self, runtime: &Runtime) -> Option<Instant> {
        let (deadline, is_new) = self.stop_signal.stop_asked()?;
        if is_new {
            runtime.send(LoopMessage::Control(Box::new(|| {
                Python::attach(|py| with_service(|service| service.begin_stop(py)));
            })));
        }
        Some(deadline)
    }
}

thread_local! {
    /// The service that the loop on this thread serves.
    static SERVICE: RefCell<std::rc::Weak<LoopService>> = const { RefCell::new(std::rc::Weak::new()) };
}

fn with_service(action: impl FnOnce(&LoopService)) {
    let service = SERVICE.with(|service| service.borrow().upgrade());
    if let Some(service) = service {
        action(&service);
    }
}

/// Reads the numbers of the signals that Python has noted.
fn signals_of(wakeup_fd: RawFd) -> Vec<u8> {
    let mut numbers = vec![0; 512];
    let count = LentDescriptor::new(wakeup_fd).and_then(|wakeup| rustix::io::read(wakeup, &mut numbers)).unwrap_or(0);
    numbers.truncate(count);
    numbers
}

/// Aborts the process after [`ABORT_GRACE`], unless the returned flag is set by then. SIGABRT has come, and its handler
/// in Python waits for an interpreter that C code may hold for ever.
fn abort_unless_in_time() -> Arc<AtomicBool> {
    let in_time = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&in_time);
    // Without a thread the sender of the signal has to send another one.
    let _ = std::thread::Builder::new().name("abort".into()).spawn(move || {
        std::thread::sleep(ABORT_GRACE);
        if !seen.load(Ordering::Acquire) {
            std::process::abort();
        }
    });
    in_time
}

/// Notes the turns of the loop in the server's seat.
struct Heartbeat(Arc<StopSignal>);

impl event_loop::Pulse for Heartbeat {
    fn waits(&self) {
        self.0.seat().note_wait();
    }

    fn turns(&self) {
        self.0.seat().note_turn();
    }
}

/// Makes the service and starts to accept. On the loop thread.
fn install(prepared: Prepared, stop_signal: Arc<StopSignal>, request_limit: usize) {
    let Prepared { settings, gateway, sockets, templates, access_log, tls } = prepared;
    let access_logger = Python::attach(|py| settings.access_logger.as_ref().map(|logger| logger.clone_ref(py)));
    let shared = Shared::new(&settings, gateway, templates, access_log, access_logger, Arc::clone(&stop_signal));
    let service = Rc::new(LoopService::new(shared, sockets, tls));
    SERVICE.with(|slot| *slot.borrow_mut() = Rc::downgrade(&service));
    event_loop::set_service(Some(Rc::clone(&service) as Rc<dyn event_loop::Service>), request_limit);
    service.begin();
    event_loop::set_pulse(stop_signal.seat().shared().map(|_| Rc::new(Heartbeat(Arc::clone(&stop_signal))) as Rc<_>));
    // After a stop that came first it changes nothing.
    stop_signal.seat().set_state(WorkerState::Ready);
}
