"""Run and stop the server from Python: `rmeinheld.run`, Meinheld's `run` and `stop`, and the part for the command line.

Servers can follow one another in a process; one runs at a time.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from . import _rmeinheld, channel_options, ends, error_log, stdio
from .addresses import DEFAULT_HOST, DEFAULT_PORT, Address, address_of, parse_address
from .health import Health, measures
from .listeners import Listener, close_all, open_all
from .option_kinds import Seconds
from .process_state import defaults, start_hooks, state
from .settings import Settings, resolve
from .signals import Signals, has_terminal
from .tls import Tls, tls_of
from .wsgi_callable import check_application

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["check_application", "make_engine", "open_listeners", "run", "serve", "start_line", "stop"]


def run(
    app: WSGIApplication,
    host: str = DEFAULT_HOST,
    port: int = DEFAULT_PORT,
    *,
    silent: bool = True,
    **options: Any,
) -> None:
    """Serve `app` until SIGINT, SIGTERM or `stop`, and print the addresses on standard error.

    `host` is a name or address, or `"unix:/path"`, `"unix:@name"` or `"fd://3"`, for which `port` is ignored. `port` 0
    takes a free one. Sockets made by `listen` or `set_listen_socket` are served in place of the default address; a
    `host` or `port` other than the default is served as well.

    `options` are those of the command line with underscores, `keep_alive=5` for `--keep-alive 5`; the table is in
    `rmeinheld.settings`. `bind` (an address or several) replaces `host` and `port`. If `log_level` or `error_logfile`
    is given, the logger `rmeinheld.error` writes there while the server runs; otherwise logging is left as it is.

    In the main thread, SIGINT and SIGTERM end the server: requests in progress have `graceful_timeout` seconds to
    finish. SIGTERM first lets the server go on for `drain_delay` seconds; SIGINT closes idle connections at once and
    prints what it waits for. SIGQUIT, or SIGINT while the server is ending, stops it at once. SIGUSR1 reopens the log
    files. With `certfile` or `ssl_context`, SIGHUP reads the certificates again; without them SIGHUP is left alone.
    `run` restores the previous handlers before it returns. In another thread no signal is handled.

    `silent=False` raises KeyboardInterrupt at the end if SIGINT ended the server, as Meinheld does.

    Raises TypeError if `app` is not callable or an option is unknown. Raises ValueError or TypeError naming an option
    and its bad value, OSError naming an address that it cannot listen on, and RuntimeError if a server already runs.
    """
    check_application(app)
    settings = Settings.from_options(options, defaults)
    given = resolve(options)
    addresses: list[Address] = []
    if (host, port) != (DEFAULT_HOST, DEFAULT_PORT):
        if "bind" in given:
            raise TypeError("run() takes either bind or host and port")
        addresses = [address_of(host, port)]
    elif "bind" in given:
        addresses = [parse_address(text) for text in settings.bind]
    elif not state.pending:
        addresses = [address_of(host, port)]
    for name in ("reuse_port", "umask"):
        if name in given and not addresses:
            raise TypeError(f"option {name!r} comes too late for a socket that is open already; give it to listen()")

    # All of it is exclusive: a second run() must not take the sockets that are meant for the run after this one.
    _rmeinheld.exclusively(lambda: _run(app, addresses, settings, given, bool(silent)), _clean_up)


def stop(timeout: float | None = None) -> None:
    """Stop the running server: `run` returns when the requests in progress have ended, or after `timeout` seconds.

    None is the option `graceful_timeout`; 0 ends the requests at once. An idle connection is kept for the rest of its
    `keep_alive`, and its next request is answered with `Connection: close`. The option `drain_delay` does not count.
    It may be called from anywhere, also from a request or a signal handler. If no server runs, it does nothing.

    Raises TypeError or ValueError if `timeout` is not a number of seconds from 0.
    """
    if timeout is not None:
        timeout = Seconds().check("timeout", timeout)
    end = state.end
    if end is not None:
        end(timeout)


def open_listeners(addresses: Sequence[Address], settings: Settings) -> list[Listener]:
    """Open a listener for each address, with the options of `settings`. Raises OSError naming the address."""
    stdio.fill_standard_descriptors()
    return open_all(addresses, backlog=settings.backlog, reuse_port=settings.reuse_port, umask=settings.umask)


def make_engine(
    app: WSGIApplication,
    listeners: Sequence[Listener],
    settings: Settings,
    *,
    tls: Tls | None = None,
    access_log: int | None = None,
    health: Health | None = None,
) -> _rmeinheld.Server:
    """Make the engine that serves `app` on `listeners`, and notes its work for `health`.

    `access_log` is the descriptor of the access log, if it is open already. Raises OSError if it cannot be opened.
    """
    if settings.wsgi_errors is None:
        settings = settings.replace(wsgi_errors=stdio.standard_error())
    sockets = [(listener.socket.fileno(), listener.server_name, listener.server_port) for listener in listeners]
    board: dict[str, Any] = {} if health is None else {"scoreboard": health.scoreboard, "slot": health.slot}
    if board and measures(settings):
        board["metrics"] = True
    return _rmeinheld.Server(app, sockets, settings, tls, settings.suppress_ragged_eofs, access_log, **board)


def serve(
    engine: _rmeinheld.Server,
    listeners: Sequence[Listener],
    settings: Settings,
    *,
    tls: Tls | None = None,
    silent: bool = True,
    exit_status: int | None = None,
    health: Health | None = None,
) -> None:
    """Print the start line and run `engine` with signals handled. A stop closes `listeners` at once.

    `tls` is that of the engine: its files are watched.

    With `exit_status` the process is about to end, and the loop runs until then: see `rmeinheld.ends`. The process ends
    with that status if it cannot end in order.

    Raises RuntimeError if a server already runs, or if a request computes and keeps the server from ending; the message
    names that request. Raises KeyboardInterrupt after SIGINT unless `silent`.
    """
    clean_up = _clean_up if exit_status is None else _put_back
    _rmeinheld.exclusively(lambda: _serve(engine, listeners, settings, tls, silent, exit_status, health), clean_up)


def start_line(listeners: Sequence[Listener], *, is_tls: bool = False) -> str:
    """Return the line that says where the server listens."""
    urls = [listener.url for listener in listeners]
    if is_tls:
        urls = [f"https{url.removeprefix('http')}" if url.startswith("http://") else url for url in urls]
    places = ", ".join(urls)
    return f"rmeinheld {_rmeinheld.__version__} listening at {places} (pid {os.getpid()})"


def _run(
    app: WSGIApplication, addresses: Sequence[Address], settings: Settings, given: Mapping[str, object], silent: bool
) -> None:
    channel_options.configure(settings)
    with ExitStack() as stack:
        if "log_level" in given or "error_logfile" in given:
            stack.enter_context(error_log.configured(settings.log_level, settings.error_logfile))
        # A fault of the certificate is found before a client can connect.
        tls = tls_of(settings, settings.ssl_context)
        listeners = open_listeners(addresses, settings)
        pending = state.take_pending()
        listeners[:0] = pending
        stack.callback(close_all, listeners)
        if "backlog" in given:
            for listener in pending:
                listener.set_backlog(settings.backlog)
        # Without a service manager nothing is noted.
        health = Health(ends_process=False) if "NOTIFY_SOCKET" in os.environ else None
        engine = make_engine(app, listeners, settings, tls=tls, health=health)
        _serve(engine, listeners, settings, tls, silent, health=health)


def _serve(
    engine: _rmeinheld.Server,
    listeners: Sequence[Listener],
    settings: Settings,
    tls: Tls | None,
    silent: bool,
    exit_status: int | None = None,
    health: Health | None = None,
) -> None:
    grace = ends.Grace(settings.graceful_timeout)

    def end(
        timeout: float | None,
        idle: float | None = None,
        *,
        delay: float = 0.0,
        interrupted: bool = False,
        hurries: bool = False,
    ) -> None:
        grace.begin(timeout, delay, interrupted=interrupted, hurries=hurries)
        engine.stop(timeout, idle, delay=delay, interrupted=interrupted, hurries=hurries)
        if health is not None:
            health.stop(delay + (settings.graceful_timeout if timeout is None else timeout))
        if not delay:
            stop_listening()

    def stop_listening() -> None:
        # The engine has duplicates, which serve the clients that wait already. Closing ours, and removing the path of a
        # Unix socket, lets the next server take the address while this one finishes its requests.
        close_all(listeners)

    state.end = end
    sighup = _work_of_sighup(tls, process_ends=exit_status is not None)
    signals = Signals(
        engine,
        end,
        sighup if health is None or sighup is None else health.reloads(sighup),
        drain_delay=settings.drain_delay,
        exit_status=exit_status,
        dump_signal=settings.dump_signal,
    )
    signals.install()
    # A closed or full standard error must not keep a server from starting.
    with suppress(OSError, ValueError, AttributeError):
        print(f"{start_line(listeners, is_tls=tls is not None)}\n", end="", file=sys.stderr, flush=True)
    for hook in start_hooks:
        hook(engine, end)
    _rmeinheld.spawn(ends.name_loop_thread)
    if health is not None:
        health.begin(settings.graceful_timeout)
    watch = None if tls is None else tls.watch()
    try:
        engine.run(signals.wakeup_fd, exit_status, stop_listening)
        ends.finish(engine, grace, process_ends=exit_status is not None)
    finally:
        if watch is not None:
            watch.kill()
        if exit_status is None:
            _rmeinheld.end_loop()
    if signals.interrupted and not silent:
        raise KeyboardInterrupt


def _work_of_sighup(tls: Tls | None, *, process_ends: bool) -> Callable[[], object] | None:
    if tls is not None:
        return tls.read_again
    # A supervisor means a reload. It must not end the server, as the end of a terminal does.
    return _refuse_reload if process_ends and not has_terminal() else None


def _refuse_reload() -> None:
    logging.getLogger(error_log.LOGGER_NAME).warning(
        "SIGHUP: a single process has nothing to reload without certfile; restart it, or use --workers 2"
    )


def _clean_up() -> None:
    """End the loop, if an exception of a signal handler kept `_serve` from it, and restore the signal handlers."""
    try:
        _rmeinheld.end_loop()
    finally:
        _put_back()


def _put_back() -> None:
    state.end = None
    Signals.put_back()


# The engine runs in the parent only. With the server's signal handlers, a child that the application has forked (by
# multiprocessing, for example) would ignore SIGTERM.
os.register_at_fork(after_in_child=_put_back)
