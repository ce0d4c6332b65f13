"""`signal` and `time`: functions that take a thread's number know a coroutine's; waits for signals park.

The number of a coroutine is no address of an OS thread's, and the C functions would look there. Handlers are set, as
ever, in the main thread, which runs them.
"""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Iterable
from time import monotonic
from typing import Any

from .._rmeinheld import give_way
from ..coroutine import can_park, sleep
from . import _state
from ._os import LONGEST_PAUSE, SHORTEST_PAUSE
from ._time import TOO_LONG

LOWEST_ADDRESS = 1 << 36
"""A thread's number below this is a coroutine's, which are counted. Those of OS threads are addresses, which on 64 bits
lie far above.
"""


def is_coroutine(ident: int) -> bool:
    """Whether a thread's number is that of a coroutine."""
    return 0 < ident < LOWEST_ADDRESS


def _os_thread(ident: int) -> int:
    """The OS thread that is meant: for a coroutine, the one in which all coroutines run.

    Raises ProcessLookupError for a coroutine's number outside of that thread.
    """
    if not isinstance(ident, int) or not is_coroutine(ident):
        return ident
    if not can_park():
        raise ProcessLookupError(errno.ESRCH, "a coroutine's number means nothing outside of its thread")
    return int(_state.get_original("_thread", "get_ident")())


def sigtimedwait(sigset: Iterable[int], timeout: float, /) -> signal.struct_siginfo | None:
    """`signal.sigtimedwait`, which parks the coroutine. The signals are those that its OS thread would get."""
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
    """Ask for a pending signal again and again, until `deadline`: no event tells when one arrives."""
    pause = SHORTEST_PAUSE
    give_way()
    while True:
        found: signal.struct_siginfo | None = _originals["sigtimedwait"](signals, 0)
        if found is not None or (deadline is not None and monotonic() >= deadline):
            return found
        sleep(pause if deadline is None else max(0.0, min(pause, deadline - monotonic())))
        pause = min(2 * pause, LONGEST_PAUSE)


def pthread_kill(thread_id: int, signalnum: int, /) -> None:
    """`signal.pthread_kill`; for a coroutine, the OS thread of all coroutines gets the signal."""
    _state.get_original("signal", "pthread_kill")(_os_thread(thread_id), signalnum)


def pthread_getcpuclockid(thread_id: int, /) -> int:
    """`time.pthread_getcpuclockid`; for a coroutine, the clock of the OS thread of all coroutines."""
    return int(_state.get_original("time", "pthread_getcpuclockid")(_os_thread(thread_id)))


_originals: dict[str, Any] = {name: getattr(signal, name) for name in ("sigtimedwait", "sigwait", "sigwaitinfo")}

pthread_kill.__module__ = sigwait.__module__ = "signal"


def patch() -> None:
    """Replace what takes a thread's number, and what waits for a signal."""
    for function in (sigtimedwait, sigwait, sigwaitinfo):
        _state.replace(signal, function.__name__, function)
    _state.replace(signal, "pthread_kill", pthread_kill)
    _state.replace(time, "pthread_getcpuclockid", pthread_getcpuclockid)
