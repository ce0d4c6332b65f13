"""`fcntl`: waits for file locks park.

Locks of `flock` and open-file locks (`F_OFD_SETLKW`) exclude coroutines that have each opened the file. Locks of
`lockf` and `F_SETLKW` belong to the process. They exclude neither its threads nor its coroutines from each other.
"""

from __future__ import annotations

import fcntl
from typing import Any

from .._rmeinheld import give_way_quietly
from ..coroutine import can_park
from . import _state
from ._os import until_free

_WITHOUT_WAITING = {fcntl.F_SETLKW: fcntl.F_SETLK, fcntl.F_OFD_SETLKW: fcntl.F_OFD_SETLK}
"""The commands of fcntl(2) that wait for a lock, each with the command that does not wait."""

_flock: Any = fcntl.flock
_lockf: Any = fcntl.lockf
_fcntl: Any = fcntl.fcntl


def _waits(operation: Any) -> bool:
    """Whether an operation of `flock` or `lockf` may wait."""
    if not can_park() or not isinstance(operation, int) or operation & fcntl.LOCK_NB:
        return False
    return bool(operation & (fcntl.LOCK_SH | fcntl.LOCK_EX))


def cooperative_flock(fd: Any, operation: Any, /) -> None:
    """`fcntl.flock`, which parks the coroutine."""
    if _waits(operation):
        until_free(lambda: _flock(fd, operation | fcntl.LOCK_NB))
    else:
        # Code may repeat this in a loop.
        give_way_quietly()
        _flock(fd, operation)


def cooperative_lockf(fd: Any, cmd: Any, len: Any = 0, start: Any = 0, whence: Any = 0, /) -> Any:
    """`fcntl.lockf`, which parks the coroutine."""
    if _waits(cmd):
        return until_free(lambda: _lockf(fd, cmd | fcntl.LOCK_NB, len, start, whence))
    give_way_quietly()
    return _lockf(fd, cmd, len, start, whence)


def cooperative_fcntl(fd: Any, cmd: Any, arg: Any = 0, /) -> Any:
    """`fcntl.fcntl`, which parks the coroutine that waits for a lock."""
    command = _WITHOUT_WAITING.get(cmd) if isinstance(cmd, int) and can_park() else None
    if command is None:
        return _fcntl(fd, cmd, arg)
    return until_free(lambda: _fcntl(fd, command, arg))


def patch() -> None:
    """Replace the functions that wait for a lock."""
    for name, function in (("flock", cooperative_flock), ("lockf", cooperative_lockf), ("fcntl", cooperative_fcntl)):
        function.__name__ = function.__qualname__ = name
        function.__module__ = "fcntl"
        _state.replace(fcntl, name, function)
