"""`os`: reads and writes of pipes, sockets and terminals park, and so do waits for children.

Regular files never make a program wait for somebody else, and are left alone.
"""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from typing import Any

from ..coroutine import can_park, offload, sleep, wait_readable, wait_writable
from . import _state

LONGEST_POLL = 0.05
"""Seconds between two looks for a child that no descriptor stands for: any child, or one that is stopped."""

_originals: dict[str, Callable[..., Any]] = {}
_poll: Any = select.poll


def _waits(fd: Any) -> bool:
    """Whether a read or write of `fd` may wait for somebody, in a coroutine, on a descriptor that blocks."""
    if not can_park() or not isinstance(fd, int) or fd < 0:
        return False
    try:
        mode = os.fstat(fd).st_mode
        return (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)) and os.get_blocking(fd)
    except OSError:
        return False


def _is_ready(fd: int, events: int) -> bool:
    poller = _poll()
    poller.register(fd, events)
    return bool(poller.poll(0))


def _reading(name: str) -> Callable[..., Any]:
    original = _originals[name]

    def function(fd: int, *arguments: Any) -> Any:
        if _waits(fd):
            # Another coroutine may have read it empty by the time at which this one is resumed.
            while not _is_ready(fd, select.POLLIN):
                wait_readable(fd)
        return original(fd, *arguments)

    return _named(function, original)


def read_into(fd: int, buffer: Any) -> int:
    """Read once into a buffer; parks the coroutine as `os.read` does."""
    with memoryview(buffer) as view:
        return int(os.readv(fd, [view]))


def _named(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = original.__name__
    function.__doc__ = original.__doc__
    return function


def write(fd: int, data: Any, /) -> int:
    """`os.write`, which parks the coroutine until all is written, as a descriptor that blocks does."""
    if not _waits(fd):
        return int(_originals["write"](fd, data))
    with memoryview(data) as view, view.cast("B") as octets:
        return _write_all(fd, octets, len(octets))


def writev(fd: int, buffers: Any, /) -> int:
    """`os.writev`, which parks the coroutine until all is written, as a descriptor that blocks does."""
    if not _waits(fd):
        return int(_originals["writev"](fd, buffers))
    return write(fd, b"".join(bytes(buffer) for buffer in buffers))


def _write_all(fd: int, octets: memoryview, total: int) -> int:
    written = 0
    while True:
        os.set_blocking(fd, False)
        try:
            written += _originals["write"](fd, octets[written:])
        except BlockingIOError:
            pass
        finally:
            os.set_blocking(fd, True)
        if written >= total:
            return written
        wait_writable(fd)


def close(fd: int) -> None:
    """`os.close`; coroutines that wait for the descriptor get OSError."""
    _state.closing(fd if isinstance(fd, int) else -1, lambda: _originals["close"](fd))


def waitpid(pid: int, options: int, /) -> tuple[int, int]:
    """`os.waitpid`, which parks the coroutine."""
    if not can_park() or options & os.WNOHANG:
        return _originals["waitpid"](pid, options)  # type: ignore[no-any-return]
    return _await_child(pid, options, lambda flags: _originals["waitpid"](pid, flags), _nobody)  # type: ignore[no-any-return]


def wait() -> tuple[int, int]:
    """`os.wait`, which parks the coroutine."""
    return waitpid(-1, 0)


def wait3(options: int) -> Any:
    """`os.wait3`, which parks the coroutine."""
    if not can_park() or options & os.WNOHANG:
        return _originals["wait3"](options)
    return _await_child(-1, options, lambda flags: _originals["wait3"](flags), _nobody)


def wait4(pid: int, options: int) -> Any:
    """`os.wait4`, which parks the coroutine."""
    if not can_park() or options & os.WNOHANG:
        return _originals["wait4"](pid, options)
    return _await_child(pid, options, lambda flags: _originals["wait4"](pid, flags), _nobody)


def waitid(idtype: int, ident: int, options: int, /) -> Any:
    """`os.waitid`, which parks the coroutine."""
    if not can_park() or options & os.WNOHANG:
        return _originals["waitid"](idtype, ident, options)
    pid = ident if idtype == os.P_PID and not options & ~(os.WEXITED | os.WNOWAIT) else -1
    attempt = lambda flags: _originals["waitid"](idtype, ident, flags)  # noqa: E731
    return _await_child(pid, options, attempt, lambda found: found is None)


def _nobody(found: Any) -> bool:
    return bool(found[0] == 0)


def _await_child(pid: int, options: int, attempt: Callable[[int], Any], nobody: Callable[[Any], bool]) -> Any:
    """Repeat an attempt that does not wait, each time that a child may have ended."""
    interval = 0.0005
    while nobody(found := attempt(options | os.WNOHANG)):
        if pid > 0 and not options & (os.WUNTRACED | os.WCONTINUED):
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                pass
            else:
                try:
                    wait_readable(pidfd)
                finally:
                    _originals["close"](pidfd)
                continue
        sleep(interval)
        interval = min(2 * interval, LONGEST_POLL)
    return found


def system(command: Any) -> int:
    """`os.system`, on an OS thread."""
    return int(offload(_originals["system"], command))


def dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
    """`os.dup2`; coroutines that wait for the descriptor that is replaced get OSError."""
    replaced = fd2 if isinstance(fd2, int) and fd != fd2 else -1
    return int(_state.closing(replaced, lambda: _originals["dup2"](fd, fd2, inheritable)))


def patch() -> None:
    """Replace what reads, writes, closes, and waits for children."""
    names = (
        "read",
        "readv",
        "write",
        "writev",
        "close",
        "dup2",
        "waitpid",
        "wait",
        "wait3",
        "wait4",
        "waitid",
        "system",
    )
    for name in names:
        _originals[name] = getattr(os, name)
    new: dict[str, Callable[..., Any]] = {name: _reading(name) for name in ("read", "readv")}
    for function in (write, writev, close, dup2, waitpid, wait, wait3, wait4, waitid, system):
        new[function.__name__] = function
    for name in names:
        _state.replace(os, name, new[name])
