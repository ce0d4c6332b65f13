"""`signal` and `time`: functions that take a thread's number know a coroutine's.

The number of a coroutine is no address of an OS thread's, and the C functions would look there. Handlers are set, as
ever, in the main thread, which runs them.
"""

from __future__ import annotations

import errno
import signal
import time

from ..coroutine import can_park
from . import _state

LOWEST_ADDRESS = 1 << 20
"""A thread's number below this is a coroutine's: OS threads have addresses."""


def _os_thread(ident: int) -> int:
    """The OS thread that is meant: for a coroutine, the one in which all coroutines run.

    Raises ProcessLookupError for a coroutine's number outside of that thread.
    """
    if not isinstance(ident, int) or ident >= LOWEST_ADDRESS or ident <= 0:
        return ident
    if not can_park():
        raise ProcessLookupError(errno.ESRCH, "a coroutine's number means nothing outside of its thread")
    return int(_state.get_original("_thread", "get_ident")())


def pthread_kill(thread_id: int, signalnum: int, /) -> None:
    """`signal.pthread_kill`; for a coroutine, the OS thread of all coroutines gets the signal."""
    _state.get_original("signal", "pthread_kill")(_os_thread(thread_id), signalnum)


def pthread_getcpuclockid(thread_id: int, /) -> int:
    """`time.pthread_getcpuclockid`; for a coroutine, the clock of the OS thread of all coroutines."""
    return int(_state.get_original("time", "pthread_getcpuclockid")(_os_thread(thread_id)))


pthread_kill.__module__ = "signal"


def patch() -> None:
    """Replace what takes a thread's number."""
    _state.replace(signal, "pthread_kill", pthread_kill)
    _state.replace(time, "pthread_getcpuclockid", pthread_getcpuclockid)
