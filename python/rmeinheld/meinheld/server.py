"""Meinheld's server functions, under Meinheld's names.

    from rmeinheld.meinheld import server

    server.listen(("127.0.0.1", 8000))
    server.run(app)

The `set_*` functions change the defaults of later calls of `listen` and `run`. `listen`, `run` and `stop` can be
repeated in one process; one server runs at a time. `run` and `stop` are explained in `rmeinheld.running`; `spawn`,
`schedule_call`, `trampoline`, `cancel_wait` and `get_ident` in `rmeinheld.meinheld.scheduling`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, cast

from ..addresses import Address, Descriptor, address_of, parse_address, unix_address
from ..coroutine import Timer, sleep, timeout
from ..option_kinds import Count
from ..process_state import defaults, start_hooks, state
from ..running import open_listeners, run, stop
from ..settings import OPTIONS, Settings
from . import scheduling
from .scheduling import cancel_wait, get_ident, schedule_call, spawn, trampoline
from .watchdog import ParentWatch, Watchdog

if TYPE_CHECKING:
    from ..access_log import AccessLogger, ErrorLogger

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
    `"unix:/path"`, `"/path"`, `"unix:@name"`, `"fd://3"`. `socket_fd` is the descriptor of a listening socket, or
    several descriptors; they stay open after `run`. Give one of the two arguments. As an exception,
    `listen("0.0.0.0", 8000)`, which Meinheld refuses, means the tuple.

    Three options apply to a new socket. `backlog` is the number of connections that wait (default: `set_backlog`).
    `reuse_port` sets SO_REUSEPORT. `umask` is the mask of permissions of a Unix socket (None: that of the process).

    Raises RuntimeError if there is a socket that no `run` has served yet. Raises OSError naming an address that it
    cannot listen on, and TypeError or ValueError naming a bad argument.
    """
    addresses = _addresses(address, socket_fd)
    options: dict[str, object] = {"reuse_port": reuse_port, "umask": umask}
    if backlog is not None:
        options["backlog"] = backlog
    settings = Settings.from_options(options, defaults)
    state.refuse_second_listen()
    state.add_pending(open_listeners(addresses, settings))


def set_listen_socket(socket_fd: int | Sequence[int]) -> None:
    """Make the next `run` serve the listening sockets of these descriptors, as `listen(socket_fd=...)` does.

    Raises TypeError if it is neither an int nor a sequence of ints, and the exceptions of `listen`.
    """
    listen(socket_fd=_descriptors(socket_fd))


def shutdown(timeout: float | None = None) -> None:
    """Stop the running server; the same as `stop`."""
    stop(timeout)


# --- defaults of later calls -----------------------------------------------------------------------------------------


def set_keepalive(seconds: float) -> None:
    """Set how long an idle connection waits for its next request (option `keep_alive`; default 5 s).

    0 means one request per connection, which was Meinheld's default. ValueError if negative.
    """
    _set("keep_alive", seconds)


def get_keepalive() -> float:
    """Return the value of `set_keepalive`, in seconds."""
    return cast(float, _get("keep_alive"))


def set_max_content_length(size_bytes: int) -> None:
    """Set the longest request body (option `limit_request_body`; default 16 MiB). 0: no limit. ValueError if negative.

    The answer to a longer body is 413.
    """
    _set("limit_request_body", size_bytes)


def get_max_content_length() -> int:
    """Return the value of `set_max_content_length`, in bytes."""
    return cast(int, _get("limit_request_body"))


def set_backlog(connections: int) -> None:
    """Set how many connections may wait to be accepted (option `backlog`; default 2048). ValueError if < 1."""
    _set("backlog", connections)


def get_backlog() -> int:
    """Return the value of `set_backlog`."""
    return cast(int, _get("backlog"))


def set_client_body_buffer_size(size_bytes: int) -> None:
    """Set the longest buffered body that stays in memory; a longer one goes to a file.

    It has an effect only with the option `request_buffering`. Without it, bodies are streamed to the application.
    Raises TypeError or ValueError for a bad value.
    """
    _set("client_body_buffer_size", size_bytes)


def get_client_body_buffer_size() -> int:
    """Return the value of `set_client_body_buffer_size`, in bytes (default 512000, as Meinheld)."""
    return cast(int, _get("client_body_buffer_size"))


def set_picoev_max_fd(number: int) -> None:
    """Keep a number for `get_picoev_max_fd`. It has no effect: no table of descriptors limits the server.

    The option `worker_connections` limits the requests in progress. Raises ValueError if < 1.
    """
    _inert["picoev_max_fd"] = Count(1, 2**31 - 1).check("picoev_max_fd", number)


def get_picoev_max_fd() -> int:
    """Return the value of `set_picoev_max_fd` (default 4096, as Meinheld)."""
    return _inert["picoev_max_fd"]


def set_access_logger(logger: AccessLogger | None) -> None:
    """Call `logger.access(environ)` after each response (option `access_logger`). None, the default, calls nothing.

    Raises AttributeError if `logger` has no `access`, TypeError if that cannot be called.
    """
    _set("access_logger", logger)


def set_error_logger(logger: ErrorLogger | None) -> None:
    """Call `logger.error(exc_type, exc, tb)` for errors of the application (option `error_logger`).

    None, the default, logs them to the logger `rmeinheld.error`. Raises AttributeError if `logger` has no `error`,
    TypeError if that cannot be called.
    """
    _set("error_logger", logger)
    scheduling.error_logger = logger


def set_watchdog(callback: Callable[[], object] | None) -> None:
    """Call `callback()` once a second while the loop of a later `run` turns. None, the default, calls nothing.

    It runs in a coroutine. Its exceptions are logged, and the calls go on. While a request blocks the loop there are no
    calls. The engine's watchdog reports such a request after `block_warning` seconds (an option of `run`, 1 s by
    default), whether a function is set or not. Raises TypeError if it cannot be called.
    """
    if callback is not None and not callable(callback):
        raise TypeError(f"the watchdog must be callable, not {type(callback).__name__} {callback!r}")
    _watchdog.callback = callback


def set_fastwatchdog(fd: int, ppid: int, timeout: float) -> None:
    """Send a heartbeat to a supervising parent, and stop with it: once a second while the loop of a later `run` turns.

    The modification time of the file `fd` (-1: none) is set to `time.monotonic()`, which Gunicorn reads since version
    22. (Meinheld changed the file's mode, which later Gunicorns ignore.) When the process `ppid` is no longer the
    parent, the server stops, with `timeout` seconds for the requests in progress.

    A thread of the engine's watchdog does it, which needs neither the loop nor, for a heartbeat, the interpreter. A
    turn that lasts longer than a second gives no heartbeat. The end of the parent is noticed all the same.

    Raises TypeError or ValueError naming an argument and its bad value. `run` raises OSError for a closed `fd`.
    """
    _watchdog.parent = ParentWatch.checked(fd, ppid, timeout)


# --- state and arguments ---------------------------------------------------------------------------------------------

_inert: Final[dict[str, int]] = {"picoev_max_fd": 4096}
"""Values that have no effect."""

_watchdog: Final = Watchdog()

start_hooks.append(_watchdog.start)


def _set(name: str, value: object) -> None:
    defaults[name] = OPTIONS[name].check(value)


def _get(name: str) -> object:
    return defaults.get(name, OPTIONS[name].default)


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
