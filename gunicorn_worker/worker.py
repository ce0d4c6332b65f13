"""`Worker`, for Gunicorn's `--worker-class`: this server instead of Gunicorn's own workers.

    gunicorn --worker-class rmeinheld.gunicorn_worker.Worker app:app

It is an ordinary Gunicorn worker. Nothing happens at import, and Gunicorn opens the sockets. Before the fork only the
memory is made by which the workers find each other (`rmeinheld.channel`), and the socket of `inspect_socket`. The
signals, `--timeout`, `--graceful-timeout` and `--max-requests` work as for Gunicorn's own workers.
`rmeinheld.gunicorn_worker.settings` lists all settings with their effects.

Options come from the environment or `--env`, too: `RMEINHELD_` and the option's name in capitals, such as
`RMEINHELD_WEBSOCKET_PING_INTERVAL=20`; or from a global of `gunicorn.conf.py`, `websocket_ping_interval = 20`.

A worker calls `rmeinheld.patch.patch_all()` before it imports the application. `RMEINHELD_PATCH=0`, or `patch = False`
in `gunicorn.conf.py`, forbids it. With `--preload` the master imports the application: call `patch_all()` at the top of
`gunicorn.conf.py`, which is read before that.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import logging
import os
import queue
import signal
import sys
import tempfile
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from rmeinheld import _crew, _rmeinheld, _sticky, channel_options, ends, inspecting
from rmeinheld.addresses import Descriptor
from rmeinheld.application import StartError, mounted
from rmeinheld.coroutine import set_offload_threads, sleep, spawn
from rmeinheld.health import answer_probes, measures
from rmeinheld.inspect_socket import Host, answer_questions
from rmeinheld.listeners import Listener
from rmeinheld.patch import is_patched
from rmeinheld.privileges import Identity
from rmeinheld.stdio import fill_standard_descriptors
from rmeinheld.tls import Tls, describe, tls_of

from .access_log import Observer, access_log_descriptor, needs_gunicorns_logger
from .error_log import forward_errors
from .hooks import is_hook_set
from .limits import Limits
from .plain_crew import PlainCrew
from .reloading import Reloading
from .request import request_of
from .settings import settings_of
from .sources import options_of_sources, refuse_settings

try:
    from gunicorn.errors import AppImportError, ConfigError
    from gunicorn.workers.base import Worker as _Base
except ModuleNotFoundError as missing:
    if missing.name != "gunicorn":
        raise
    _Base = object
    AppImportError = ConfigError = RuntimeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from rmeinheld.crew_directory import Place
    from rmeinheld.settings import Settings

__all__ = ["MeinheldWorker", "Worker"]

BEAT_SECONDS: Final = 1.0
"""Most time between two heartbeats. It is shorter with a short `--timeout`."""

FIRST_LOOK_SECONDS: Final = 0.001
"""Time between two looks whether the engine is ready."""


class Worker(_Base):  # type: ignore[misc]
    """A Gunicorn worker process with this server. Gunicorn makes and runs it."""

    if _Base is object:

        def __init__(self, *args: object, **kwargs: object) -> None:
            raise ModuleNotFoundError("rmeinheld.gunicorn_worker.Worker needs Gunicorn: pip install gunicorn")

    alive: bool
    nr: int
    scoreboard: _rmeinheld.Scoreboard | None = None
    """The states of the service's workers. The arbiter of `rmeinheld --workers` sets it; Gunicorn's own does not."""
    slot = -1
    """This worker's place in the scoreboard."""
    place: Place | None = None
    """The place of the sockets of the service's crew."""
    admin: Listener | None = None
    """The socket of `admin_bind`, which the arbiter opens. Each worker answers there for all."""
    inspect: Listener | None = None
    """The socket of `inspect_socket`, which the arbiter opens. Each worker answers there for all."""
    master_user = 0
    """The user of the arbiter, who may ask there."""
    plain_crew: PlainCrew | None = None
    """The crew under Gunicorn's own arbiter."""
    _engine: _rmeinheld.Server | None = None
    _grace: ends.Grace | None = None
    _limits: Limits | None = None
    _is_armed = False
    _is_ready = False
    _has_asked = False
    _is_draining = False
    _tls: Tls | None = None
    _reloading: Reloading | None = None
    _is_interrupted = False
    _has_ended = False

    @classmethod
    def setup(cls) -> None:
        """Called by Gunicorn in the master before it opens sockets, so that no socket becomes standard output."""
        fill_standard_descriptors()
        _crew.note_master()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Called by Gunicorn in the master, before the first worker.

        Raises RuntimeError, of which Gunicorn's command makes a line, naming a setting that cannot be honoured.
        """
        if getattr(cfg, "rmeinheld_options", None) is not None:
            return
        try:
            refuse_settings(cfg)
            options_of_sources(cfg, log.warning)
            settings = settings_of(cfg)
        except (StartError, ValueError, TypeError) as error:
            raise RuntimeError(str(error)) from None
        log.info(
            "Gunicorn's own arbiter replaces workers: they leave before their replacements are ready, and there is "
            "no drain_delay. The command 'rmeinheld --workers' has both"
        )
        try:
            cls.plain_crew = PlainCrew()
        except OSError as error:
            log.warning("The workers cannot send each other messages of channels: no memory for their crew: %s", error)
        if settings.inspect_socket is not None:
            cls._open_inspect_socket(settings.inspect_socket)
        if cfg.preload_app and settings.patch and not is_patched("time"):
            log.warning(
                "preload_app: the application was imported before its workers patch the standard library, so names and "
                "locks that it made at import may block. Call rmeinheld.patch.patch_all() at the top of "
                "gunicorn.conf.py, or forbid the patch by RMEINHELD_PATCH=0"
            )

    @classmethod
    def _open_inspect_socket(cls, path: str) -> None:
        try:
            if cls.plain_crew is None:
                raise OSError("the workers have no memory in common")
            cls.plain_crew.open_inspect_socket(path)
        except OSError as error:
            raise RuntimeError(f"inspect_socket is {path!r}: {error.strerror or error}") from None

    def init_process(self) -> None:
        """Patch the standard library, unless that is forbidden, and start as every Gunicorn worker does, by `run`.

        Raises ConfigError naming a setting or environment variable and its bad value.
        """
        if self.scoreboard is not None:
            self.scoreboard.claim(self.slot)
            if self.place is not None:
                _crew.join(self.place, self.slot, self.scoreboard)
        elif self.plain_crew is not None:
            self._join_plain_crew(self.plain_crew)
        if self.scoreboard is not None:
            if self.admin is not None:
                # Before the import, so that a worker is known to live while it imports.
                # It answers until the process ends, and then to the clients that it has accepted.
                answers = answer_probes(self.admin, self.scoreboard, self.app.resolved.settings)
                atexit.register(answers.stop)
        try:
            settings = settings_of(self.cfg)
        except (StartError, ValueError, TypeError) as error:
            raise ConfigError(str(error)) from None
        channel_options.configure(settings)
        self._obey_early()
        if self.scoreboard is not None and self.app.resolved.settings.sticky == "socketio":
            _sticky.name_process(self.scoreboard, self.slot)
        if settings.patch:
            from rmeinheld.patch import patch_all

            patch_all()
        # A private key is often readable by root alone, and the base class drops root's rights.
        self._tls = self._make_tls()
        self._become_user()
        self._end_with_master()
        if self.inspect is not None and self.scoreboard is not None:
            self._answer_questions(self.inspect, self.scoreboard)
        elif self.scoreboard is None and self.plain_crew is not None:
            self.plain_crew.answer_questions(_Host(self.log))
        if self.cfg.reload and self.scoreboard is not None:
            # Gunicorn's reloader would end this worker.
            self.cfg.set("reload", False)
            self._reloading = Reloading(self)
            self._reloading.start()
        super().init_process()

    def _join_plain_crew(self, crew: PlainCrew) -> None:
        try:
            crew.join()
        except (OSError, RuntimeError) as error:
            self.log.warning("This worker gets no messages of other workers' channels: %s", error)

    def _answer_questions(self, listener: Listener, scoreboard: _rmeinheld.Scoreboard) -> None:
        """Answer at the inspect socket until the process ends. As the user of its siblings, who ask it."""
        inspector = answer_questions(
            listener,
            scoreboard,
            self.slot,
            user=self.master_user,
            place=None if self.place is None else str(self.place),
            master=self.ppid,
            host=_Host(self.log),
            sticky=self.app.resolved.settings.sticky is not None,
        )
        atexit.register(inspector.stop)

    def _become_user(self) -> None:
        """Become the user and group of the settings, in place of the base class.

        The base class leaves root's further groups to the user, and with `initgroups` root's own group.
        """
        wanted = self.cfg.uid, self.cfg.gid
        if os.geteuid() == 0 and wanted != (0, os.getegid()):
            Identity.of_numbers(*wanted, initgroups=self.cfg.initgroups).assume()
            self.cfg.set("initgroups", False)

    def _end_with_master(self) -> None:
        """Have SIGTERM come when the master ends. A worker that computes does not notice it by itself."""
        with contextlib.suppress(OSError):
            _rmeinheld.end_with_parent()
        if os.getppid() != self.ppid:
            # It ended earlier.
            os.kill(os.getpid(), signal.SIGTERM)

    def _obey_early(self) -> None:
        """Handle the signals for the end early, because patching takes a while before Gunicorn's code handles them.

        Until then the handlers are the master's. They put a signal into a queue that a worker never reads.
        """
        arbiter: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGQUIT, self.handle_quit)
        signal.signal(signal.SIGINT, self.handle_interrupt)
        # Signals since the fork.
        with contextlib.suppress(AttributeError, queue.Empty):
            while True:
                missed = arbiter.SIG_QUEUE.get_nowait()
                if missed in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
                    os.kill(os.getpid(), missed)

    def init_signals(self) -> None:
        """Handle signals as every Gunicorn worker does, apart from SIGINT in a service."""
        super().init_signals()
        signal.signal(signal.SIGINT, self.handle_interrupt)
        self._handle_dump_signal()

    def _handle_dump_signal(self) -> None:
        """Have the signal of `dump_signal` write a dump. Without a handler SIGUSR2 would end the worker."""
        number = inspecting.number_of(settings_of(self.cfg).dump_signal)
        if number is not None:
            signal.signal(number, inspecting.handle)

    def load_wsgi(self) -> None:
        """Import the application. Of a service, the error log shows the application's own exception.

        With `--reload` of a service, a failed import waits for the next edit.
        """
        try:
            try:
                super().load_wsgi()
            except StartError as error:
                if error.cause_shown is not None:
                    raise error.cause_shown from None
                raise AppImportError(str(error)) from None
        except (Exception, SystemExit) as error:
            if self._reloading is None or not self.alive:
                raise
            self._reloading.await_edit(error)
        _crew.enter()

    def run(self) -> None:
        """Serve until a signal, `max_requests` or the end of the master."""
        forward_errors(self.log)
        self._arm()
        listeners = [Listener(socket.sock, Descriptor(socket.fileno())) for socket in self.sockets]
        sockets = [(one.socket.fileno(), one.server_name, one.server_port) for one in listeners]
        logs, posts = needs_gunicorns_logger(self.cfg, self.log), is_hook_set(self.cfg, "post_request")
        observer = Observer(self, logs=logs, posts=posts) if logs or posts else None
        settings = settings_of(self.cfg, observer, writes_log=not logs)
        if settings.threads > 1:
            set_offload_threads(settings.threads)
        tls, ragged = self._tls, bool(self.cfg.suppress_ragged_eofs)
        self._grace = grace = ends.Grace(settings.graceful_timeout)
        descriptor = None if logs else access_log_descriptor(self.log)
        board: dict[str, Any] = {} if self.scoreboard is None else {"scoreboard": self.scoreboard, "slot": self.slot}
        if self.scoreboard is not None:
            board["metrics"] = measures(self.app.resolved.settings)
            board["crew"] = _crew.current()
        elif self.plain_crew is not None:
            board = self.plain_crew.board()
        self._engine = engine = _rmeinheld.Server(
            self._application(settings), sockets, settings, tls, ragged, descriptor, **board
        )
        if self.scoreboard is not None:
            self._limits = Limits(self.app.resolved.settings)
        beat = spawn(self._beat)
        watch = None if tls is None else tls.watch()
        spawn(ends.name_loop_thread)
        if self._reloading is not None:
            self._reloading.serves()
        try:
            engine.run(self.PIPE[0], 0)
            ends.finish(engine, grace, process_ends=True)
        except RuntimeError as error:
            # A coroutine computes, or blocks in C. It must not meet the end of the interpreter.
            self.log.error("The worker ends anyway: %s", error)
            atexit.register(ends.leave, 0)
        finally:
            # Gunicorn now closes the file of the heartbeat.
            self._has_ended = True
            beat.kill()
            if watch is not None:
                watch.kill()
            _crew.leave()
            # With max_requests or a hook, the requests were counted before.
            self.nr = max(self.nr, engine.requests)

    def _application(self, settings: Settings) -> WSGIApplication:
        """Return the application, wrapped only as the settings need."""
        app: WSGIApplication = self.wsgi
        if root := settings.root_path or os.environ.get("SCRIPT_NAME", ""):
            app = mounted(app, root)
        if is_hook_set(self.cfg, "pre_request") or self.log.error_log.isEnabledFor(logging.DEBUG):
            app = self._announced(app)
        if self.max_requests < sys.maxsize or is_hook_set(self.cfg, "post_request"):
            app = self._counted(app)
        return app

    def _make_tls(self) -> Tls | None:
        """Return the TLS of Gunicorn's settings, with the hook `ssl_context` if it is set.

        Raises ConfigError naming a setting and its file.
        """
        try:
            return tls_of(self.cfg, self.cfg.ssl_context if is_hook_set(self.cfg, "ssl_context") else None)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(describe(error)) from None

    def _arm(self) -> None:
        """Have SIGABRT write the stacks to the error log before `handle_abort`, even while C code holds the GIL.

        Python's handlers wait for the interpreter. The handler of faulthandler does not, and it calls the previous one.
        """
        faulthandler.disable()
        signal.signal(signal.SIGABRT, self.handle_abort)
        self._is_armed = False
        for handler in self.log.error_log.handlers:
            if isinstance(handler, logging.StreamHandler):
                try:
                    faulthandler.enable(handler.stream, all_threads=True)
                except (OSError, ValueError, AttributeError, RuntimeError):
                    # The stream has no descriptor.
                    continue
                self._is_armed = True
                return

    def _beat(self) -> None:
        """Send the heartbeat. It runs in a coroutine, so it stops when the loop stops."""
        interval = min(BEAT_SECONDS, self.timeout / 2) if self.timeout else BEAT_SECONDS
        is_ending = False
        while not self._has_ended:
            self.notify()
            self._report()
            if self.alive and os.getppid() != self.ppid:
                self.log.info("Parent changed, shutting down: %s", self)
                self.alive = False
            self._drain()
            if not self.alive and not is_ending:
                # The reloader sets this flag and does nothing else.
                is_ending = True
                self._end(None)
            # The engine becomes ready soon.
            is_starting = self.alive and not self._is_ready and self.scoreboard is not None
            sleep(FIRST_LOOK_SECONDS if is_starting else interval)

    def _report(self) -> None:
        """Notify the master that this worker is ready, or ask for a replacement if a limit is exceeded."""
        if self.scoreboard is None or not self.alive:
            return
        if not self._is_ready and self.scoreboard.state(self.slot) == "ready":
            # The engine has written it: it accepts connections, and takes those of siblings.
            self._is_ready = True
            self._wake_master()
        if self._limits is not None and not self._has_asked and (exceeded := self._limits.exceeded()) is not None:
            self.ask_for_replacement(*exceeded)

    def ask_for_replacement(self, reason: str, text: str) -> None:
        """Ask the arbiter of the service for a replacement, and serve until it sends SIGTERM. From any thread.

        `reason` is one of the scoreboard's; `text` is for the log.
        """
        assert self.scoreboard is not None
        self._has_asked = True
        self.log.info("Worker (pid:%s) asks to be replaced: %s", self.pid, text)
        self.scoreboard.ask(self.slot, reason)
        self._wake_master()

    def _wake_master(self) -> None:
        # A worker of another user may not send a signal. The master looks by itself, too.
        with contextlib.suppress(OSError):
            if os.getppid() == self.ppid:
                os.kill(self.ppid, signal.SIGCHLD)

    def _announced(self, app: WSGIApplication) -> WSGIApplication:
        """Return an application that calls `pre_request`, whose default logs at level DEBUG, and then `app`."""

        def announced(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            request_of(environ).change(environ, lambda request: self.cfg.pre_request(self, request))
            return app(environ, start_response)

        return announced

    def _drain(self) -> None:
        """Close WebSockets one after the other once the master has begun `drain_delay`, before it stops the service."""
        if self._is_draining or self.scoreboard is None or not self.scoreboard.is_stopping:
            return
        self._is_draining = True
        # The master has begun up to a beat ago.
        left = self.app.resolved.settings.drain_delay - BEAT_SECONDS
        if left > 0 and self._engine is not None:
            self._engine.drain(left)

    def _counted(self, app: WSGIApplication) -> WSGIApplication:
        def counted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            self.nr += 1
            if self.nr >= self.max_requests and self.alive and not self._has_asked:
                if self.scoreboard is not None:
                    text = f"it has had {self.nr} requests, which is max_requests with its jitter"
                    self.ask_for_replacement("requests", text)
                else:
                    self.log.info("Autorestarting worker after current request.")
                    self.alive = False
                    self._end(None)
            return app(environ, start_response)

        return counted

    def _end(self, timeout: float | None) -> None:
        restarts = interrupted = False
        if self.scoreboard is not None:
            self.scoreboard.set_state(self.slot, "draining")
            # Otherwise another worker takes over.
            restarts = not self.scoreboard.is_stopping
            interrupted = self._is_interrupted and not restarts
        if self._engine is not None and self._grace is not None:
            self._grace.begin(timeout, interrupted=interrupted)
            # With --reload, one more request on a kept connection would get the answer of the code of before.
            idle = 0 if interrupted or (restarts and self._reloading is not None) else None
            self._engine.stop(timeout, idle, restarts=restarts, interrupted=interrupted)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: finish the requests in progress within `graceful_timeout`. A worker that is importing ends at once.

        Only the worker knows for certain whether it serves: it may just have begun when the master decides to stop it.
        """
        if self.alive and os.getppid() != self.ppid:
            self.log.info("Parent changed, shutting down: %s", self)
        self.alive = False
        if self._engine is None:
            sys.exit(0)
        self._end(None)

    def handle_interrupt(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT: end at once. In a service only the master acts on it, since a terminal sends it to all processes.

        If the master then stops the service, idle connections are closed at once, and the worker prints its requests.
        """
        if self.scoreboard is None:
            self.handle_quit(sig, frame)
            return
        self._is_interrupted = True
        if not self.alive:
            self._end(None)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, SIGINT: end at once, and end waiting requests."""
        if self._engine is None:
            # The application is still being imported.
            super().handle_quit(sig, frame)
        self.alive = False
        self.cfg.worker_int(self)
        self._end(0)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """SIGUSR1: reopen the log files."""
        super().handle_usr1(sig, frame)
        # The previous file is closed.
        self._arm()
        if self._engine is not None:
            self._engine.reopen_logs(access_log_descriptor(self.log))

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: the master has missed the heartbeat. Log the stacks, and die."""
        if self._is_armed:
            self.log.critical("The worker hangs; the stacks of its threads and coroutines are above")
        else:
            # faulthandler writes all thread states.
            with tempfile.TemporaryFile() as stacks:
                faulthandler.dump_traceback(stacks, all_threads=True)
                stacks.seek(0)
                self.log.critical("The worker hangs; its threads and coroutines are at\n%s", stacks.read().decode())
        self.alive = False
        self.cfg.worker_abort(self)
        if self._engine is not None:
            # The loop does not turn, so it cannot end in order.
            self._engine.abandon()
            atexit.register(ends.leave_now, 1)
        sys.exit(1)


class _Host(Host):
    """Sets the level of Gunicorn's error log, too."""

    def __init__(self, log: Any) -> None:
        self._log = log

    def set_level(self, level: str) -> None:
        self._log.error_log.setLevel(level.upper())
        super().set_level(level)


MeinheldWorker = Worker
"""The name by which Meinheld's users know the worker (`meinheld.gmeinheld.MeinheldWorker`)."""
