"""`signal` and `time`: functions that take a thread's number accept a coroutine's, and waits for signals park.

The C library takes the number of a thread as an address, and the number of a coroutine is none. Handlers are still set
in the main thread, which runs them.
"""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Iterable
from time import monotonic
from typing import Any

from .._rmeinheld import give_way
from ..coroutine import can_park
from . import _state
from ._pauses import Pauses
from ._time import TOO_LONG

LOWEST_ADDRESS = 1 << 36
"""A thread's number below this limit is a coroutine's: these are counted from 1. The numbers of OS threads are
addresses, which on 64 bits are far larger.
"""


def is_coroutine(ident: int) -> bool:
    """Whether `ident` is the number of a coroutine."""
    return 0 < ident < LOWEST_ADDRESS


def _os_thread(ident: int) -> int:
    """Return the number of the OS thread: for a coroutine, that of the loop thread.

    Raises ProcessLookupError for a coroutine's number outside the loop thread.
    """
    if not isinstance(ident, int) or not is_coroutine(ident):
        return ident
    if not can_park():
        raise ProcessLookupError(errno.ESRCH, "a coroutine's number means nothing outside of its thread")
    return int(_state.get_original("_thread", "get_ident")())


def sigtimedwait(sigset: Iterable[int], timeout: float, /) -> signal.struct_siginfo | None:
    """`signal.sigtimedwait`, which parks the coroutine. It takes the signals that its OS thread would get."""
    if not can_park() or not isinstance(timeout, int | float) or not 0 <= timeout < TOO_LONG:
        return _originals["sigtimedwait"](sigset, timeout)  # type: ignore[no-any-return]
    return _wait_for(tuple(sigset), monotonic() + timeout)


def sigwaitinfo(sigset: Iterable[int], /) -> signal.struct_siginfo:
    """`signal.sigwaitinfo`, which parks the coroutine."""
    if not can_park():
        return _originals["sigwaitinfo"](sigset)  # type: ignore[no-any-return]
    found = _wait_for(tuple(sigset), None)
    assert found is not None
    return found


def sigwait(sigset: Iterable[int], /) -> Any:
    """`signal.sigwait`, which parks the coroutine."""
    if not can_park():
        return _originals["sigwait"](sigset)
    number = sigwaitinfo(sigset).si_signo
    try:
        return signal.Signals(number)
    except ValueError:
        return number


def _wait_for(signals: tuple[int, ...], deadline: float | None) -> signal.struct_siginfo | None:
    """Ask for a pending signal at growing intervals, until `deadline`. No event reports a signal. Parks."""
    pauses = Pauses()
    give_way()
    while True:
        found: signal.struct_siginfo | None = _originals["sigtimedwait"](signals, 0)
        left = None if deadline is None else deadline - monotonic()
        if found is not None or (left is not None and left <= 0):
            return found
        pauses.pause(left)


def pthread_kill(thread_id: int, signalnum: int, /) -> None:
    """`signal.pthread_kill`; for a coroutine, the loop thread gets the signal."""
    _state.get_original("signal", "pthread_kill")(_os_thread(thread_id), signalnum)


def pthread_getcpuclockid(thread_id: int, /) -> int:
    """`time.pthread_getcpuclockid`; for a coroutine, the clock of the loop thread."""
    return int(_state.get_original("time", "pthread_getcpuclockid")(_os_thread(thread_id)))


_originals: dict[str, Any] = {name: getattr(signal, name) for name in ("sigtimedwait", "sigwait", "sigwaitinfo")}

pthread_kill.__module__ = sigwait.__module__ = "signal"


def patch() -> None:
    """Replace the functions that take a thread's number or wait for a signal."""
    for function in (sigtimedwait, sigwait, sigwaitinfo):
        _state.replace(signal, function.__name__, function)
    _state.replace(signal, "pthread_kill", pthread_kill)
    _state.replace(time, "pthread_getcpuclockid", pthread_getcpuclockid)
