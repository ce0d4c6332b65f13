"""Running the server from Python, under Meinheld's names.

One call is enough, `rmeinheld.run(app)`; or as in Meinheld:

    from rmeinheld import server

    server.listen(("127.0.0.1", 8000))
    server.run(app)

The `set_*` functions change what later calls of `listen` and `run` take where they are not told otherwise. `listen`,
`run` and `stop` can be repeated in one process; one server runs at a time. `spawn`, `sleep`, `schedule_call`,
`trampoline`, `cancel_wait` and `get_ident` are in `rmeinheld.scheduling`.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, cast

from . import _rmeinheld, ends, error_log, scheduling, stdio
from .coroutine import sleep
from .listeners import (
    DEFAULT_HOST,
    DEFAULT_PORT,
    Address,
    Descriptor,
    Listener,
    address_of,
    close_all,
    open_all,
    parse_address,
    unix_address,
)
from .option_kinds import Count, Seconds
from .scheduling import Timer, cancel_wait, get_ident, schedule_call, spawn, timeout, trampoline
from .settings import OPTIONS, Settings, resolve
from .watchdog import ParentWatch, Watchdog

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from .access_log import AccessLogger, ErrorLogger

__all__ = [
    "Timer",
    "cancel_wait",
    "get_backlog",
    "get_client_body_buffer_size",
    "get_ident",
    "get_keepalive",
    "get_max_content_length",
    "get_picoev_max_fd",
    "listen",
    "run",
    "schedule_call",
    "set_access_logger",
    "set_backlog",
    "set_client_body_buffer_size",
    "set_error_logger",
    "set_fastwatchdog",
    "set_keepalive",
    "set_listen_socket",
    "set_max_content_length",
    "set_picoev_max_fd",
    "set_watchdog",
    "shutdown",
    "sleep",
    "spawn",
    "stop",
    "timeout",
    "trampoline",
]


# --- listen, run, stop -----------------------------------------------------------------------------------------------


def listen(
    address: tuple[str, int] | str | bytes | None = None,
    socket_fd: int | Sequence[int] | None = None,
    *,
    backlog: int | None = None,
    reuse_port: bool = False,
    umask: int | None = None,
) -> None:
    """Make the socket that the next `run` serves.

    `address` is a tuple `(host, port)`, the path of a Unix socket as bytes, or a str as for `--bind`: `"host:port"`,
    `"unix:/path"`, `"/path"`, `"unix:@name"`, `"fd://3"`. `socket_fd` is the descriptor of a socket that listens
    already, or several; such descriptors stay open after `run`. Exactly one of the two is given; beyond that,
    `listen("0.0.0.0", 8000)`, which Meinheld never took, means the tuple.

    `backlog` (connections; default: `set_backlog`), `reuse_port` (SO_REUSEPORT) and `umask` (mask of permissions of a
    Unix socket; None: that of the process) apply to the socket that is made.

    Raises RuntimeError if there is a socket that no `run` has served yet, OSError naming the address if it cannot be
    listened on, TypeError or ValueError naming an argument that is not understood.
    """
    addresses = _addresses(address, socket_fd)
    options: dict[str, object] = {"reuse_port": reuse_port, "umask": umask}
    if backlog is not None:
        options["backlog"] = backlog
    settings = Settings.from_options(options, _defaults)
    _state.refuse_second_listen()
    _state.add_pending(_open(addresses, settings))


def set_listen_socket(socket_fd: int | Sequence[int]) -> None:
    """Serve, in the next `run`, the socket of this descriptor or these, as `listen(socket_fd=...)` does.

    Raises TypeError if it is neither an int nor a sequence of ints, otherwise what `listen` raises.
    """
    listen(socket_fd=_descriptors(socket_fd))


def run(
    app: WSGIApplication,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    silent: bool = True,
    **options: Any,
) -> None:
    """Serve `app` until SIGINT, SIGTERM or `stop`, and print on standard error where.

    `host` is a name or address, or `"unix:/path"`, `"unix:@name"` or `"fd://3"` (`port` then means nothing); `port` 0
    takes a free one. Sockets made by `listen` or `set_listen_socket` are served in their place; a `host` or `port` that
    is not the default is served as well.

    `options` are those of the command line with underscores, `keep_alive=5` for `--keep-alive 5`; the table is in
    `rmeinheld.settings`. `bind` (an address or several) replaces `host` and `port`. `log_level` and `error_logfile`,
    if given, send the logger `rmeinheld.error` there while the server runs; otherwise logging is left as it is.

    In the main thread, SIGINT and SIGTERM end the server: requests in progress may go on for `graceful_timeout`
    seconds. SIGQUIT, or SIGINT while the server is ending, stops it at once. SIGUSR1 opens the log files anew. The
    handlers that were there before are back when `run` returns. In another thread no signal is handled.

    `silent=False` raises KeyboardInterrupt at the end if SIGINT has ended the server, as Meinheld does.

    Raises TypeError if `app` is not callable or an option is unknown; ValueError or TypeError naming an option and its
    bad value; OSError naming an address that cannot be listened on; RuntimeError if a server is running already.
    """
    check_application(app)
    settings = Settings.from_options(options, _defaults)
    given = resolve(options)
    addresses: list[Address] = []
    if (host, port) != (DEFAULT_HOST, DEFAULT_PORT):
        if "bind" in given:
            raise TypeError("run() takes either bind or host and port")
        addresses = [address_of(host, port)]
    elif "bind" in given:
        addresses = [parse_address(text) for text in settings.bind]
    elif not _state.pending:
        addresses = [address_of(host, port)]
    for name in ("reuse_port", "umask"):
        if name in given and not addresses:
            raise TypeError(f"option {name!r} comes too late for a socket that is there already; give it to listen()")

    # All of it: a second run() must not take the sockets that are meant for the run after this one.
    _rmeinheld.exclusively(lambda: _run(app, addresses, settings, given, bool(silent)), _clean_up)


def stop(timeout: float | None = None) -> None:
    """Stop the running server: `run` returns when the requests in progress have ended, or after `timeout` seconds.

    None is the option `graceful_timeout`; 0 ends them at once. Idle connections are closed at once. May be called from
    anywhere, also from a request or a signal handler, and does nothing if no server runs.

    Raises TypeError or ValueError if `timeout` is not a number of seconds from 0.
    """
    if timeout is not None:
        timeout = Seconds().check("timeout", timeout)
    ending = _state.ending
    if ending is not None:
        ending(timeout)


def shutdown(timeout: float | None = None) -> None:
    """Stop the running server; the same as `stop`."""
    stop(timeout)


# --- what later calls take -------------------------------------------------------------------------------------------


def set_keepalive(seconds: float) -> None:
    """Set how long an idle connection waits for its next request (option `keep_alive`; default 5 s).

    0 means one request per connection, which was Meinheld's default. ValueError if negative.
    """
    _set("keep_alive", seconds)


def get_keepalive() -> float:
    """Return what `set_keepalive` has set, in seconds."""
    return cast(float, _get("keep_alive"))


def set_max_content_length(size_bytes: int) -> None:
    """Set the longest request body (option `limit_request_body`; default 16 MiB). 0: no limit. ValueError if negative.

    A longer one is answered with 413.
    """
    _set("limit_request_body", size_bytes)


def get_max_content_length() -> int:
    """Return what `set_max_content_length` has set, in bytes."""
    return cast(int, _get("limit_request_body"))


def set_backlog(connections: int) -> None:
    """Set how many connections may wait to be accepted (option `backlog`; default 2048). ValueError if < 1."""
    _set("backlog", connections)


def get_backlog() -> int:
    """Return what `set_backlog` has set."""
    return cast(int, _get("backlog"))


def set_client_body_buffer_size(size_bytes: int) -> None:
    """Set how long a body may be that stays in memory where bodies are gathered; a longer one goes to a file.

    It has an effect with the option `request_buffering` only: without it, bodies are streamed to the application.
    TypeError or ValueError for a bad value.
    """
    _set("client_body_buffer_size", size_bytes)


def get_client_body_buffer_size() -> int:
    """Return what `set_client_body_buffer_size` has set, in bytes (default 512000, as Meinheld)."""
    return cast(int, _get("client_body_buffer_size"))


def set_picoev_max_fd(number: int) -> None:
    """Keep a number for `get_picoev_max_fd`. It has no effect: there is no table of descriptors to outgrow.

    What limits the requests in progress is the option `worker_connections`. ValueError if < 1.
    """
    _inert["picoev_max_fd"] = Count(1, 2**31 - 1).check("picoev_max_fd", number)


def get_picoev_max_fd() -> int:
    """Return what `set_picoev_max_fd` has set (default 4096, as Meinheld)."""
    return _inert["picoev_max_fd"]


def set_access_logger(logger: AccessLogger | None) -> None:
    """Call `logger.access(environ)` after each response (option `access_logger`). None, the default, calls nothing.

    Raises AttributeError if there is no `access`, TypeError if it cannot be called.
    """
    _set("access_logger", logger)


def set_error_logger(logger: ErrorLogger | None) -> None:
    """Call `logger.error(exc_type, exc, tb)` for errors of the application (option `error_logger`).

    None, the default, logs them to the logger `rmeinheld.error`. Raises AttributeError if there is no `error`,
    TypeError if it cannot be called.
    """
    _set("error_logger", logger)
    scheduling.error_logger = logger


def set_watchdog(callback: Callable[[], object] | None) -> None:
    """Call `callback()` once a second while the loop of a later `run` turns. None, the default, calls nothing.

    It runs in a coroutine. What it raises is logged, and it is called again. Raises TypeError if it cannot be called.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"the watchdog must be callable, not {type(callback).__name__} {callback!r}")
    _watchdog.callback = callback


def set_fastwatchdog(fd: int, ppid: int, timeout: float) -> None:
    """Once a second while the loop of a later `run` turns, tell a supervising parent so, and see that it is there.

    The time of modification of the file `fd` (-1: none) is set to `time.monotonic()`, which Gunicorn reads since its
    version 22. (Meinheld changed the file's mode, which no Gunicorn looks at any more.) Once the process `ppid` is not
    the parent, the server is stopped, with `timeout` seconds for the requests in progress.

    Raises TypeError or ValueError naming an argument and its bad value.
    """
    _watchdog.parent = ParentWatch.checked(fd, ppid, timeout)


# --- shared with the command line ------------------------------------------------------------------------------------


def check_application(app: object, name: str = "the application") -> None:
    """Raise TypeError naming its type if `app` cannot be called."""
    if not callable(app):
        raise TypeError(f"{name} must be a callable as PEP 3333 has it, not {type(app).__name__} {app!r:.80}")


def make_engine(app: WSGIApplication, listeners: Sequence[Listener], settings: Settings) -> _rmeinheld.Server:
    """Make the engine that serves `app` on `listeners`. Raises OSError if the access log cannot be opened."""
    if settings.wsgi_errors is None:
        settings = replace(settings, wsgi_errors=stdio.standard_error())
    sockets = [(listener.socket.fileno(), listener.server_name, listener.server_port) for listener in listeners]
    return _rmeinheld.Server(app, sockets, settings)


def serve(
    engine: _rmeinheld.Server,
    listeners: Sequence[Listener],
    settings: Settings,
    *,
    silent: bool = True,
    exit_status: int | None = None,
) -> None:
    """Run `engine` with signals handled, after the start line. `listeners` are closed as soon as it is to stop.

    With `exit_status` the process is about to end, and the loop goes on until then: see `rmeinheld.ends`. The status is
    for an end that cannot be in order.

    Raises RuntimeError if a server is running already; RuntimeError naming the request that computes and keeps the
    server from ending; KeyboardInterrupt after SIGINT unless `silent`.
    """
    clean_up = _clean_up if exit_status is None else _put_back
    _rmeinheld.exclusively(lambda: _serve(engine, listeners, settings, silent, exit_status), clean_up)


def _run(
    app: WSGIApplication, addresses: Sequence[Address], settings: Settings, given: Mapping[str, object], silent: bool
) -> None:
    with ExitStack() as stack:
        if "log_level" in given or "error_logfile" in given:
            stack.enter_context(error_log.configured(settings.log_level, settings.error_logfile))
        listeners = _open(addresses, settings)
        pending = _state.take_pending()
        listeners[:0] = pending
        stack.callback(close_all, listeners)
        if "backlog" in given:
            for listener in pending:
                listener.set_backlog(settings.backlog)
        _serve(make_engine(app, listeners, settings), listeners, settings, silent)


def _serve(
    engine: _rmeinheld.Server,
    listeners: Sequence[Listener],
    settings: Settings,
    silent: bool,
    exit_status: int | None = None,
) -> None:
    def end(timeout: float | None) -> None:
        engine.stop(timeout)
        # The engine has duplicates, which serve who is waiting already. With ours closed, and the path of a Unix socket
        # gone, the next server can take the address while this one still finishes its requests.
        close_all(listeners)

    _state.ending = end
    signals = _Signals(engine, end)
    signals.install()
    # A closed or full standard error must not keep a server from starting.
    with suppress(OSError, ValueError, AttributeError):
        print(start_line(listeners), file=sys.stderr, flush=True)
    _watchdog.start(end)
    _rmeinheld.spawn(ends.name_loop_thread)
    try:
        engine.run(signals.wakeup_fd, exit_status)
        ends.finish(engine, settings.graceful_timeout, process_ends=exit_status is not None)
    finally:
        if exit_status is None:
            _rmeinheld.end_loop()
    if signals.interrupted and not silent:
        raise KeyboardInterrupt


def _clean_up() -> None:
    """End the loop, where an exception of a signal handler has kept `_serve` from that, and put the signals back."""
    try:
        _rmeinheld.end_loop()
    finally:
        _put_back()


def _put_back() -> None:
    _state.ending = None
    _Signals.put_back()


def start_line(listeners: Sequence[Listener]) -> str:
    """Return the line that says where the server listens."""
    places = ", ".join(listener.url for listener in listeners)
    return f"rmeinheld {_rmeinheld.__version__} listening at {places} (pid {os.getpid()})"


# --- state -----------------------------------------------------------------------------------------------------------

_defaults: Final[dict[str, object]] = {}
"""Values that the `set_*` functions have set, by the name of the option."""

_inert: Final[dict[str, int]] = {"picoev_max_fd": 4096}
"""Values of Meinheld's that are kept and have no effect."""

_watchdog: Final = Watchdog()


def _set(name: str, value: object) -> None:
    _defaults[name] = OPTIONS[name].check(value)


def _get(name: str) -> object:
    return _defaults.get(name, OPTIONS[name].default)


type _End = Callable[[float | None], None]


class _State:
    """The server that runs in this process, and the sockets of the next one."""

    def __init__(self) -> None:
        self.ending: _End | None = None
        # At most one item, put in and taken out in one step each: threads and signal handlers may come between others.
        self._pending: list[list[Listener]] = []

    @property
    def pending(self) -> list[Listener]:
        return [listener for listeners in self._pending for listener in listeners]

    def refuse_second_listen(self) -> None:
        if pending := self.pending:
            places = ", ".join(listener.url for listener in pending)
            raise RuntimeError(f"there is a listening socket already ({places}); run() the server before the next")

    def add_pending(self, listeners: list[Listener]) -> None:
        self._pending.append(listeners)
        # A socket that is never served leaves no path behind.
        atexit.register(close_all, listeners)

    def take_pending(self) -> list[Listener]:
        taken: list[Listener] = []
        while self._pending:
            taken += self._pending.pop()
        atexit.unregister(close_all)
        return taken

    def forget_server(self) -> None:
        """Forget, in a forked child, the server that runs in the parent only."""
        self.ending = None


class _Signals:
    """The server's signal handlers, for as long as it runs."""

    current: _Signals | None = None

    def __init__(self, engine: _rmeinheld.Server, end: _End) -> None:
        self._engine = engine
        self._end = end
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._previous_fd = -1
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._ending = False
        self.interrupted = False
        self.wakeup_fd = -1

    def install(self) -> None:
        """Put the handlers in place; `put_back` undoes it, however far it has come."""
        # Python runs signal handlers in the main thread and lets no other thread set them.
        if threading.current_thread() is not threading.main_thread():
            return
        _Signals.current = self
        self._pair = reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self.wakeup_fd = reader.fileno()
        # A full pair is no loss: it is readable, and that is all that is asked of it.
        self._previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number, handler in (
            (signal.SIGINT, self._interrupt),
            (signal.SIGTERM, self._terminate),
            (signal.SIGQUIT, self._quit),
            (signal.SIGUSR1, self._reopen),
        ):
            self._previous[number] = signal.getsignal(number)
            signal.signal(number, handler)

    @staticmethod
    def put_back() -> None:
        """Put everything back as it was. If an exception cuts it short, another call does the rest.

        SIGINT comes last: with its handler of before in place, Ctrl-C may raise anywhere.
        """
        self = _Signals.current
        if self is None:
            return
        if self._pair is not None:
            try:
                signal.set_wakeup_fd(self._previous_fd)
            except (OSError, ValueError):
                # Its owner has closed it meanwhile.
                signal.set_wakeup_fd(-1)
            for end in self._pair:
                end.close()
            self._pair = None
        while self._previous:
            number = next(reversed(self._previous))
            handler = self._previous[number]
            # None is a handler that was not set from Python, and cannot be set from there either.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            del self._previous[number]
        _Signals.current = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        self._end(0 if self._ending else None)
        self._ending = True

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._ending = True
        self._end(None)

    def _quit(self, number: int, frame: FrameType | None) -> None:
        self._ending = True
        self._end(0)

    def _reopen(self, number: int, frame: FrameType | None) -> None:
        # What a handler raises would end the server.
        for reopen in (self._engine.reopen_logs, error_log.reopen):
            try:
                reopen()
            except OSError as error:
                logging.getLogger(error_log.LOGGER_NAME).error("cannot reopen a log file: %s", error)


_state: Final = _State()


def _after_fork_in_child() -> None:
    # The engine runs in the parent only. Were its handlers to stay, a child that the application has forked (by
    # multiprocessing, for example) would take no notice of SIGTERM.
    _state.forget_server()
    _Signals.put_back()


os.register_at_fork(after_in_child=_after_fork_in_child)


# --- arguments of listen ---------------------------------------------------------------------------------------------


def _addresses(address: object, socket_fd: object) -> list[Address]:
    if address is None and socket_fd is None:
        raise TypeError("listen() needs an address or socket_fd")
    if address is None:
        return [Descriptor(number) for number in _descriptors(socket_fd)]
    if isinstance(address, str) and isinstance(socket_fd, int):
        return [address_of(address, socket_fd)]
    if socket_fd is not None:
        raise TypeError(f"listen() takes an address or socket_fd, not both: {address!r} and {socket_fd!r}")
    if isinstance(address, str):
        return [parse_address(address)]
    if isinstance(address, bytes):
        return [unix_address(address)]
    if isinstance(address, tuple | list) and len(address) == 2:
        return [address_of(*address)]
    raise TypeError(
        "address must be a tuple (host, port), a str such as 'host:port' or 'unix:/path', or a path as bytes, "
        f"not {type(address).__name__} {address!r}"
    )


def _descriptors(socket_fd: object) -> list[int]:
    numbers = [socket_fd] if isinstance(socket_fd, int) else socket_fd
    if (
        not isinstance(numbers, list | tuple)
        or not numbers
        or not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers)
    ):
        raise TypeError(f"socket_fd must be an int or a list of ints, not {type(socket_fd).__name__} {socket_fd!r}")
    for number in numbers:
        if number < 0:
            raise ValueError(f"socket_fd must be a descriptor, from 0, not {number!r}")
    return list(numbers)


def _open(addresses: Sequence[Address], settings: Settings) -> list[Listener]:
    stdio.fill_standard_descriptors()
    return open_all(addresses, backlog=settings.backlog, reuse_port=settings.reuse_port, umask=settings.umask)
