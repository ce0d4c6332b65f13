//! A server's life: start the loop, serve, stop. `waiting` has the part between start and stop.

use std::cell::RefCell;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::access_log::AccessLog;
use super::blockage::Blockages;
use super::blockage_report::Reporter;
use super::given_descriptor::given_descriptor;
use super::heartbeat::Heartbeat;
use super::moving::Moving;
use super::overdue::OverdueCheck;
use super::parent_watch::ParentWatch;
use super::service::LoopService;
use super::settings::Settings;
use super::shared::Shared;
use super::shared_crew::SharedCrew;
use super::shared_scoreboard::SharedScoreboard;
use super::slow_requests::{SlowRequests, SlowWatch};
use super::sticky::Sticky;
use super::stop_signal::{StopSignal, StopTerms};
use super::tls::Tls;
use super::watchdog::{Check, Watchdog};
use crate::crew::Crew;
use crate::crew::scoreboard::WorkerState;
use crate::crew::seat::Seat;
use crate::event_loop::{self, LoopMessage, Runtime};
use crate::interp::{self, Level, log};
use crate::net::Listener;
use crate::sync::lock;
use crate::wsgi::Gateway;

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
/// With `scoreboard` (None by default) the engine notes its turns, counters and state in the slot `slot`. With
/// `metrics` (off by default) it measures for `/metrics`, too. With `crew` (None by default) it hands connections to
/// the siblings that they belong to by the setting `sticky`, and takes those of its siblings.
///
/// Raises TypeError if `app` is not callable, and OSError for a bad descriptor or if the access log cannot be opened.
/// Raises ValueError if the scoreboard has no such slot.
#[pyclass(frozen, module = "rmeinheld")]
pub struct Server {
    prepared: Mutex<Option<Prepared>>,
    pub(super) graceful_timeout: Duration,
    pub(super) drain_delay: Duration,
    holds_answers: bool,
    request_limit: usize,
    block_warning: Option<Duration>,
    pub(super) stop_signal: Arc<StopSignal>,
    /// The reporter of the watchdog, while the server runs.
    reporter: Mutex<Option<Arc<Reporter>>>,
    parent_watch: Mutex<Option<ParentWatch>>,
    runtime: Mutex<Option<Arc<Runtime>>>,
}

struct Prepared {
    settings: Settings,
    gateway: Gateway,
    sockets: Vec<Listener>,
    templates: Vec<Py<PyDict>>,
    access_log: Option<AccessLog>,
    tls: Option<Tls>,
    slow: Option<SlowRequests>,
    crew: Option<Py<SharedCrew>>,
    sticky: Option<Sticky>,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (app, listeners, settings, ssl_context = None, suppress_ragged_eofs = true, access_log = None, *,
        scoreboard = None, slot = -1, metrics = false, crew = None),
        text_signature = "(app, listeners, settings, ssl_context=None, suppress_ragged_eofs=True, access_log=None, *, \
                          scoreboard=None, slot=-1, metrics=False, crew=None)")]
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
        metrics: bool,
        crew: Option<Py<SharedCrew>>,
    ) -> PyResult<Server> {
        if !app.is_callable() {
            let message = format!("the application must be callable, not {}", app.get_type().name()?);
            return Err(PyTypeError::new_err(message));
        }
        let mut seat = scoreboard.map(|scoreboard| scoreboard.seat(slot)).transpose()?.unwrap_or_else(Seat::private);
        if metrics {
            seat.measure();
        }
        let seat = Arc::new(seat);
        let mut gateway = Gateway::new(py, app.unbind(), settings.gateway(py), Arc::clone(&seat))?;
        let sticky = Sticky::new(&settings, &seat, ssl_context.is_some());
        gateway.set_cookies_of(sticky.as_ref().and_then(Sticky::cookies));
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
        let slow = settings.slow_request().map(SlowRequests::new);
        event_loop::deadlines::set_limit(settings.request_timeout());
        event_loop::deadlines::look_with(|| Python::attach(interp::end_overdue));
        Ok(Server {
            graceful_timeout: settings.graceful_timeout(),
            drain_delay: settings.drain_delay(),
            holds_answers: !settings.hold_answers().is_zero(),
            request_limit: settings.worker_connections,
            block_warning: settings.block_warning(),
            reporter: Mutex::default(),
            parent_watch: Mutex::default(),
            stop_signal: Arc::new(StopSignal::new(gateway.stop_flag().clone(), settings.graceful_timeout(), seat)?),
            prepared: Mutex::new(Some(Prepared {
                settings,
                gateway,
                sockets,
                templates,
                access_log,
                tls,
                slow,
                crew,
                sticky,
            })),
            runtime: Mutex::new(None),
        })
    }

    /// Send heartbeats to a parent process that supervises this one, and find out that it is gone. Before `run`.
    ///
    /// While the loop turns or waits, the modification time of the file `descriptor` (-1: none) is set to the monotonic
    /// clock once a second, without the interpreter. `orphaned()` is called once, on a thread of the watchdog, when the
    /// process `parent` is no longer the parent, also while a request blocks the loop.
    ///
    /// Raises OSError for a bad descriptor, and ValueError for a number that no process has.
    fn watch_parent(&self, descriptor: RawFd, parent: i32, orphaned: Py<PyAny>) -> PyResult<()> {
        *lock(&self.parent_watch) = Some(ParentWatch::new(descriptor, parent, orphaned)?);
        Ok(())
    }

    /// Serve until `stop()`. Returns when the last request has ended or the grace period is over; the loop goes on.
    ///
    /// When `wakeup_fd` becomes readable, `run` empties it and runs Python's signal handlers; see
    /// `signal.set_wakeup_fd`. The default -1 means no descriptor.
    ///
    /// `exit_status` is the status of a process that ends with the server. If the caller does not get the interpreter
    /// in time to call `disarm_exit`, the process ends with this status. None (the default) leaves the process alone.
    ///
    /// `on_stop()` is called once accepting ends, in the thread of `run`; None (the default) calls nothing.
    ///
    /// Returns at once if `stop()` came first. Raises RuntimeError if called a second time or in a coroutine, and the
    /// exception of a signal handler or of `on_stop`.
    #[pyo3(
        signature = (wakeup_fd = -1, exit_status = None, on_stop = None),
        text_signature = "($self, wakeup_fd=-1, exit_status=None, on_stop=None)"
    )]
    fn run(
        &self,
        py: Python<'_>,
        wakeup_fd: RawFd,
        exit_status: Option<i32>,
        on_stop: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        if event_loop::can_park() {
            return Err(PyRuntimeError::new_err("a server cannot be run from within a request or coroutine"));
        }
        let Some(prepared) = lock(&self.prepared).take() else {
            return Err(PyRuntimeError::new_err("this server has been run already; make a new one"));
        };
        if self.holds_answers {
            py.import("rmeinheld.held_answers")?.call_method0("send_before_ends")?;
        }
        let slow = prepared.slow.clone();
        let reporter = self.block_warning.map(|_| Reporter::new(py).map(Arc::new)).transpose()?;
        (*lock(&self.reporter)).clone_from(&reporter);
        let runtime = interp::ensure_started(py)?;
        *lock(&self.runtime) = Some(Arc::clone(&runtime));
        let stop_signal = Arc::clone(&self.stop_signal);
        let request_limit = self.request_limit;
        runtime.send(LoopMessage::Control(Box::new(move || install(prepared, stop_signal, request_limit))));
        let watchdog = Watchdog::start(self.checks(py, reporter.as_ref()));
        let slow = slow.and_then(SlowWatch::start);
        let waited = self.wait(py, &runtime, wakeup_fd, exit_status, on_stop.as_ref());
        *lock(&self.runtime) = None;
        if let Some(watchdog) = watchdog {
            py.detach(|| watchdog.stop());
        }
        if let Some(slow) = slow {
            py.detach(|| slow.stop());
        }
        *lock(&self.reporter) = None;
        if let Some(reporter) = reporter {
            reporter.remove_signals(py);
        }
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
        Some(self.stop_signal.terms()?.deadline.saturating_duration_since(Instant::now()).as_secs_f64())
    }

    /// Stop: accept what the kernel has queued, then nothing more, and let requests in progress end. Then `run()`
    /// returns.
    ///
    /// Every response ends its connection, unless the next request has arrived already. A connection that is idle waits
    /// for one more request, as long as `idle` and the grace period permit.
    ///
    /// `timeout` is the grace period in seconds; None (the default) is the setting `graceful_timeout`, 0 ends requests
    /// at once. `idle` is the time for idle connections in seconds; None (the default) is the setting `keep_alive`, 0
    /// closes them at once, and WebSockets, too. `delay` (0 by default) is the time in seconds for which the server goes
    /// on as before; the grace period begins after it. `restarts` closes WebSockets with 1012 instead of 1001, because
    /// another process takes over. `interrupted` says soon what is waited for: on the terminal of a person who has
    /// pressed Ctrl-C, or in the log. `hurries` shortens the waits for work that does not end, to less than a second together.
    ///
    /// May be called from any thread, signal handler or request, and more than once: a later call may only shorten the
    /// times.
    #[pyo3(signature = (timeout = None, idle = None, *, delay = 0.0, restarts = false, interrupted = false,
        hurries = false))]
    fn stop(
        &self,
        timeout: Option<f64>,
        idle: Option<f64>,
        delay: f64,
        restarts: bool,
        interrupted: bool,
        hurries: bool,
    ) {
        let duration = |seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0));
        let grace = timeout.map_or(Ok(self.graceful_timeout), duration).unwrap_or(self.graceful_timeout);
        let begins = Instant::now() + duration(delay).unwrap_or_default();
        if hurries {
            interp::hurry();
        }
        self.stop_signal.ask_to_stop(StopTerms {
            begins,
            deadline: begins + grace,
            idle: idle.and_then(|seconds| duration(seconds).ok()),
            restarts,
            is_interrupt: interrupted,
            hurries,
        });
    }

    /// Close the WebSockets of now, evenly over `seconds`: the service stops after them, and all else goes on meanwhile.
    /// Does nothing once a stop has begun, and the second time.
    ///
    /// May be called from any thread.
    fn drain(&self, seconds: f64) {
        let delay = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
        if let Some(runtime) = &*lock(&self.runtime) {
            runtime.send(LoopMessage::Control(Box::new(move || {
                with_service(|service| service.begin_draining(delay));
            })));
        }
    }

    /// Have `run()` return at once although the loop hangs, in a process that is about to end.
    fn abandon(&self) {
        self.stop_signal.ask_to_stop_now(Duration::ZERO);
    }

    /// Open the file of the access log anew, after the old one was renamed.
    ///
    /// With `access_log`, a descriptor, the engine goes on in a duplicate of it instead. Raises OSError if that fails.
    #[pyo3(signature = (access_log = None))]
    fn reopen_logs(&self, py: Python<'_>, access_log: Option<RawFd>) -> PyResult<()> {
        let opened = access_log
            .map(|number| given_descriptor(number, "the access log", |descriptor| descriptor.try_clone_to_owned()))
            .transpose()?;
        let reporter = lock(&self.reporter).clone();
        if let Some(reporter) = reporter {
            reporter.reopen(py);
        }
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
    /// The checks of the watchdog.
    fn checks(&self, py: Python<'_>, reporter: Option<&Arc<Reporter>>) -> Vec<Box<dyn Check>> {
        let mut checks: Vec<Box<dyn Check>> = vec![Box::new(OverdueCheck::new(Arc::clone(self.stop_signal.seat())))];
        if let (Some(limit), Some(reporter)) = (self.block_warning, reporter) {
            checks.push(Box::new(Blockages::new(limit, reporter.is_unpatched(py), Arc::clone(reporter))));
        }
        if let Some(watch) = lock(&self.parent_watch).take() {
            checks.push(Box::new(watch));
        }
        checks
    }
}

thread_local! {
    /// The service that the loop on this thread serves.
    static SERVICE: RefCell<std::rc::Weak<LoopService>> = const { RefCell::new(std::rc::Weak::new()) };
}

pub(super) fn with_service(action: impl FnOnce(&LoopService)) {
    let service = SERVICE.with(|service| service.borrow().upgrade());
    if let Some(service) = service {
        action(&service);
    }
}

/// Makes the service and starts to accept. On the loop thread.
fn install(prepared: Prepared, stop_signal: Arc<StopSignal>, request_limit: usize) {
    let Prepared { settings, gateway, sockets, templates, access_log, tls, slow, crew, sticky } = prepared;
    if slow.is_some() {
        event_loop::activity::keep_polls();
    }
    let access_logger = Python::attach(|py| settings.access_logger.as_ref().map(|logger| logger.clone_ref(py)));
    let mut shared =
        Shared::new(&settings, gateway, templates, access_log, access_logger, slow, Arc::clone(&stop_signal));
    let seat = stop_signal.seat();
    if let (Some(crew), Some((board, _)), Some(sticky)) = (crew, seat.shared(), sticky) {
        let limit = shared.connection_limit().connections;
        let places = sockets.iter().map(Listener::place);
        let moving = join_siblings(&crew).map(|crew| Moving::new(crew, Arc::clone(board), sticky, places, limit));
        shared.set_moving(moving);
    }
    let service = Rc::new(LoopService::new(shared, sockets, tls, settings.hold_answers()));
    SERVICE.with(|slot| *slot.borrow_mut() = Rc::downgrade(&service));
    event_loop::set_service(Some(Rc::clone(&service) as Rc<dyn event_loop::Service>), request_limit);
    service.begin();
    event_loop::set_pulse(seat.shared().map(|_| Rc::new(Heartbeat::new(Arc::clone(seat), request_limit)) as Rc<_>));
    // After a stop that came first it changes nothing.
    stop_signal.seat().set_state(WorkerState::Ready);
}

/// Opens the socket by which siblings hand connections over.
fn join_siblings(crew: &Py<SharedCrew>) -> Option<Arc<Crew>> {
    Python::attach(|py| {
        let adopt = |letter| Python::attach(|py| with_service(|service| service.adopt(py, letter)));
        let opened = crew.get().adopt_by(py, Arc::new(adopt));
        opened.map_err(|error| log(py, Level::Error, "Connections cannot move between workers", Some(&error))).ok()
    })
}
