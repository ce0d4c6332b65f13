"""Meinheld's functions that start coroutines or wait, for `rmeinheld.meinheld.server`.

They work as in Meinheld, without its faults. Times may have fractions. Calls run in the order in which they were
scheduled, each in a coroutine of its own. A timeout is always raised, and a cancelled wait ends.
`rmeinheld.coroutine` has more functions of this kind.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import _rmeinheld, coroutine
from ..coroutine import Coroutine, Timer, can_park, current, sleep, wait_readable, wait_writable
from ..coroutine import timeout as _Timeout  # A parameter of trampoline() is called timeout.
from ..option_kinds import Seconds

if TYPE_CHECKING:
    from ..access_log import ErrorLogger

__all__ = ["cancel_wait", "get_ident", "schedule_call", "spawn", "trampoline"]


def schedule_call(seconds: float, callback: Callable[..., object], /, *args: Any, **kwargs: Any) -> Timer:
    """Call `callback(*args, **kwargs)` after `seconds`, 0 or more, in a coroutine of its own; returns its `Timer`.

    The timer has been started. Calls for the same time run in the order in which they were scheduled. Their exceptions
    go to the error logger. The end of the server, or of the process, drops calls that have not begun.

    Raises TypeError or ValueError naming a bad argument.
    """
    seconds = Seconds().check("seconds", seconds)
    timer = Timer(seconds, _reported(callback, "the callback", args, kwargs))
    timer.start()
    return timer


def spawn(
    func: Callable[..., Any], args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None
) -> Coroutine[Any]:
    """Run `func(*args, **kwargs)` in a coroutine of its own; returns its `Coroutine`, where Meinheld returns None.

    Its exceptions go to the error logger. `rmeinheld.spawn(func, *args, **kwargs)` takes the arguments as they are.
    Raises TypeError naming a bad argument.
    """
    if args is not None and not isinstance(args, tuple | list):
        raise TypeError(f"args must be a tuple, not {type(args).__name__} {args!r}")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs must be a dict, not {type(kwargs).__name__} {kwargs!r}")
    return coroutine.spawn(_reported(func, "the function", args or (), kwargs or {}))


def trampoline(fileno: int, read: object = None, write: object = None, timeout: float = 0) -> None:
    """Wait until the descriptor can be read (`read` true), or written (`write`), or either.

    After `timeout` seconds it raises `rmeinheld.timeout`; 0 waits for ever. With neither `read` nor `write` it waits
    for the time alone, and `timeout` must be positive. Raises OSError for a bad descriptor, OSError with ECANCELED
    after `cancel_wait`, and TypeError or ValueError naming a bad argument.
    """
    seconds = Seconds().check("timeout", timeout)
    limit = seconds or None
    if not read and not write:
        if limit is None:
            raise ValueError("trampoline() needs read, write, or a timeout > 0")
        sleep(limit)
        raise _Timeout("timed out")
    wait = _rmeinheld.wait_either if read and write else wait_readable if read else wait_writable
    try:
        is_ready = wait(fileno, limit)
    except OSError as error:
        if error.errno == errno.EBADF and _is_open(fileno):
            raise OSError(errno.ECANCELED, f"the wait for descriptor {fileno} was cancelled") from None
        raise
    if not is_ready:
        raise _Timeout("timed out")


def cancel_wait(fileno: int) -> None:
    """End every wait for a descriptor: each raises OSError. (In Meinheld they last for ever.)"""
    if not isinstance(fileno, int):
        raise TypeError(f"fileno must be an int, not {type(fileno).__name__} {fileno!r}")
    if can_park():
        _rmeinheld.descriptor_closes(fileno)
    else:
        coroutine.spawn(_rmeinheld.descriptor_closes, fileno)


def get_ident() -> Coroutine[Any] | int:
    """Return the caller's `Coroutine`, or the number of the OS thread outside a coroutine. Either can be a dict's key.

    `rmeinheld.coroutine.get_ident` returns a number in both cases.
    """
    return current() or _rmeinheld.get_ident()


error_logger: ErrorLogger | None = None
"""The argument of `set_error_logger`."""


def _reported(
    func: Callable[..., Any], what: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Callable[[], object]:
    """Return a call of `func` whose exceptions go to the error logger. Without one, the coroutine logs them itself."""
    if not callable(func):
        raise TypeError(f"{what} must be callable, not {type(func).__name__} {func!r}")

    def call() -> object:
        try:
            return func(*args, **kwargs)
        except Exception:
            if error_logger is None:
                raise
            error_logger.error(*sys.exc_info())
            return None

    call.__qualname__ = getattr(func, "__qualname__", type(func).__name__)
    return call


def _is_open(fileno: int) -> bool:
    try:
        os.fstat(fileno)
    except OSError:
        return False
    return True
