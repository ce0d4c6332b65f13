"""`Worker`, which Gunicorn's `--worker-class` names: this server in place of Gunicorn's own workers.

    gunicorn --worker-class rmeinheld.gunicorn_worker.Worker app:app

A worker is an ordinary Gunicorn worker: nothing happens at import or before the fork, Gunicorn opens the sockets, and
its signals, `--timeout`, `--graceful-timeout` and `--max-requests` mean what they mean for its own. What is not there
yet is refused when a worker starts (TLS), or named in a warning (see `NOT_HONOURED`).
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import tempfile
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from rmeinheld import _rmeinheld, error_log
from rmeinheld.coroutine import sleep, spawn
from rmeinheld.listeners import Descriptor, Listener
from rmeinheld.settings import Settings

try:
    from gunicorn.errors import ConfigError
    from gunicorn.workers.base import Worker as _Base
except ModuleNotFoundError as missing:
    if missing.name != "gunicorn":
        raise
    _Base = object
    ConfigError = RuntimeError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = ["NOT_HONOURED", "MeinheldWorker", "Worker", "settings_of"]

BEAT_SECONDS: Final = 1.0
"""Between two heartbeats, at most; less where `--timeout` is short."""

NOT_HONOURED: Final[dict[str, object]] = {
    "logconfig": None,
    "logconfig_dict": {},
    "logconfig_json": None,
    "statsd_host": None,
    "syslog": False,
    "permit_obsolete_folding": False,
    "strip_header_spaces": False,
    "permit_unconventional_http_method": False,
    "permit_unconventional_http_version": False,
    "casefold_http_method": False,
    "pre_request": None,
    "post_request": None,
}
"""Settings of Gunicorn that this version takes no notice of, and the value of each that needs none. The first five
concern the access log only, which goes to the file of `--access-logfile`."""


def settings_of(cfg: Any) -> Settings:
    """Return the options of this server that Gunicorn's configuration means.

    Raises ValueError or TypeError naming an option that this server cannot take so.
    """
    fields, field_bytes = cfg.limit_request_fields or 32768, cfg.limit_request_field_size
    head_bytes = cfg.limit_request_line + fields * ((field_bytes or 8190) + 2) + 4
    return Settings(
        keep_alive=cfg.keepalive,
        worker_connections=cfg.worker_connections,
        graceful_timeout=cfg.graceful_timeout,
        limit_request_line=cfg.limit_request_line,
        limit_request_fields=fields,
        limit_request_field_size=field_bytes,
        limit_request_head=min(max(head_bytes, 80 * 1024), 16 * 1024 * 1024),
        # Gunicorn knows no limit of a body.
        limit_request_body=0,
        header_map=cfg.header_map,
        forwarder_headers=tuple(cfg.forwarder_headers),
        forwarded_allow_ips=tuple(cfg.forwarded_allow_ips),
        secure_scheme_headers=cfg.secure_scheme_headers,
        # Gunicorn never changes REMOTE_ADDR by a field.
        trusted_proxy_headers=(),
        proxy_protocol=cfg.proxy_protocol,
        proxy_allow_ips=tuple(cfg.proxy_allow_ips),
        sendfile=cfg.sendfile is not False,
        multiprocess=cfg.workers > 1,
        access_logfile=cfg.accesslog,
        access_logformat=cfg.access_log_format,
    )


class Worker(_Base):  # type: ignore[misc]
    """A worker process of Gunicorn that serves by this server. Gunicorn makes and runs it."""

    if _Base is object:

        def __init__(self, *args: object, **kwargs: object) -> None:
            raise ModuleNotFoundError("rmeinheld.gunicorn_worker.Worker needs Gunicorn: pip install gunicorn")

    alive: bool
    _engine: _rmeinheld.Server | None = None

    def init_process(self) -> None:
        """Do what every worker of Gunicorn does; ends with `run`. Raises ConfigError for TLS: it is not served yet."""
        if self.cfg.is_ssl:
            raise ConfigError("certfile, keyfile: rmeinheld serves no TLS yet; put a proxy in front")
        super().init_process()

    def run(self) -> None:
        """Serve until a signal, `max_requests` or the end of the master."""
        self._forward_errors()
        for name, silent in NOT_HONOURED.items():
            value = getattr(self.cfg, name, silent)
            # A hook that nobody has set is Gunicorn's own function.
            if value not in (silent, None) and getattr(value, "__module__", "") != "gunicorn.config":
                self.log.warning("rmeinheld takes no notice of the setting %s yet", name)
        listeners = [Listener(socket.sock, Descriptor(socket.fileno())) for socket in self.sockets]
        sockets = [(one.socket.fileno(), one.server_name, one.server_port) for one in listeners]
        app = self._counted if self.max_requests < sys.maxsize else self.wsgi
        self._engine = engine = _rmeinheld.Server(app, sockets, settings_of(self.cfg))
        spawn(self._beat)
        engine.run(self.PIPE[0])

    def _forward_errors(self) -> None:
        """Errors of requests go where Gunicorn's own do."""
        log = logging.getLogger(error_log.LOGGER_NAME)
        log.handlers, log.propagate = self.log.error_log.handlers, self.log.error_log.propagate
        log.setLevel(self.log.error_log.level)

    def _beat(self) -> None:
        """The heartbeat. It is a coroutine, so it stops where the loop stops."""
        interval = min(BEAT_SECONDS, self.timeout / 2) if self.timeout else BEAT_SECONDS
        is_ending = False
        while True:
            self.notify()
            if self.alive and os.getppid() != self.ppid:
                self.log.info("Parent changed, shutting down: %s", self)
                self.alive = False
            if not self.alive and not is_ending:
                # The reloader says so by this flag alone.
                is_ending = True
                self._end(None)
            sleep(interval)

    def _counted(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            self._end(None)
        result: Iterable[bytes] = self.wsgi(environ, start_response)
        return result

    def _end(self, timeout: float | None) -> None:
        if self._engine is not None:
            self._engine.stop(timeout)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: finish the requests in progress within `graceful_timeout`."""
        self.alive = False
        self._end(None)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGQUIT, SIGINT: end at once. Requests that wait are ended."""
        self.alive = False
        self.cfg.worker_int(self)
        self._end(0)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        """SIGUSR1: open the log files anew."""
        super().handle_usr1(sig, frame)
        if self._engine is not None:
            self._engine.reopen_logs()

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """SIGABRT: the master has missed the heartbeat. Say what holds the loop, and die."""
        # All thread states: coroutines share a thread's number, by which sys._current_frames() would tell them apart.
        with tempfile.TemporaryFile() as stacks:
            faulthandler.dump_traceback(stacks, all_threads=True)
            stacks.seek(0)
            self.log.critical("The worker hangs; its threads and coroutines are at\n%s", stacks.read().decode())
        self.alive = False
        self.cfg.worker_abort(self)
        # Nothing in order can come of it: the loop does not turn.
        logging.shutdown()
        os._exit(1)


MeinheldWorker = Worker
"""The name by which Meinheld's users know the worker (`meinheld.gmeinheld.MeinheldWorker`)."""
