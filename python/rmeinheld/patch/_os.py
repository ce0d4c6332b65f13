"""`os`: reads and writes of pipes, sockets and terminals park, and so do waits for children.

Regular files never make a program wait for somebody else, and are left alone.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Callable
from typing import Any

from .._rmeinheld import give_way, give_way_quietly
from ..coroutine import can_park, offload, sleep, wait_readable, wait_writable
from . import _state

LARGEST_READ = 1 << 20
"""Bytes that one read takes at most: its buffer is made before it is known how much there is."""

LONGEST_POLL = 0.05
"""Seconds between two looks for a child that no descriptor stands for: any child, or one that is stopped."""

_WAITING_KINDS = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, 0)
"""Pipes, sockets, terminals, and those that are no files at all: eventfd, timerfd, inotify."""

_NOT_FOR_THIS_KIND = (errno.EOPNOTSUPP, errno.ENOSYS)
"""What RWF_NOWAIT gives for terminals, and with Linux before 6.4 for pipes."""

_poll: Any = select.poll


def _waits(fd: Any) -> bool:
    """Whether a read or write of `fd` may wait for somebody, in a coroutine, on a descriptor that blocks."""
    if not can_park() or not isinstance(fd, int) or fd < 0:
        return False
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        return kind in _WAITING_KINDS and os.get_blocking(fd)
    except OSError:
        return False


def _is_ready(fd: int, events: int) -> bool:
    poller = _poll()
    poller.register(fd, events)
    return bool(poller.poll(0))


def read(fd: int, length: int, /) -> bytes:
    """`os.read`, which parks the coroutine."""
    if not _waits(fd) or not isinstance(length, int) or length <= 0:
        return bytes(_originals["read"](fd, length))
    buffer = bytearray(min(length, LARGEST_READ))
    count = _read_when_ready(fd, [buffer])
    if count is None:
        return bytes(_originals["read"](fd, length))
    return bytes(memoryview(buffer)[:count])


def readv(fd: int, buffers: Any, /) -> int:
    """`os.readv`, which parks the coroutine."""
    count = _read_when_ready(fd, buffers) if _waits(fd) else None
    return int(_originals["readv"](fd, buffers)) if count is None else count


def eventfd_read(fd: int) -> int:
    """`os.eventfd_read`, which parks the coroutine."""
    return int.from_bytes(read(fd, 8), sys.byteorder) if _waits(fd) else int(_originals["eventfd_read"](fd))


def _read_when_ready(fd: int, buffers: Any) -> int | None:
    """Read as soon as there is something. None if only a read that blocks can: there is something then.

    Between a look and a read another process may read the descriptor empty, so the read itself must not block; and
    O_NONBLOCK is of no use, for the other processes would get it too.
    """
    give_way()
    while True:
        try:
            return os.preadv(fd, buffers, -1, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in _NOT_FOR_THIS_KIND:
                raise
            break
        wait_readable(fd)
    # Another coroutine may have read it empty by the time at which this one is resumed.
    while not _is_ready(fd, select.POLLIN):
        wait_readable(fd)
    return None


def read_into(fd: int, buffer: Any) -> int:
    """Read once into a buffer; parks the coroutine as `os.read` does."""
    with memoryview(buffer) as view:
        return int(os.readv(fd, [view]))


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
        give_way()
        written += _write_some(fd, octets[written:])
        if written >= total:
            return written
        wait_writable(fd)


def _write_some(fd: int, octets: memoryview) -> int:
    """Write what there is room for, which may be nothing."""
    try:
        return os.pwritev(fd, [octets], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno not in _NOT_FOR_THIS_KIND:
            raise
    # Other processes that have the descriptor see this too, but only the shortest of times.
    os.set_blocking(fd, False)
    try:
        return int(_originals["write"](fd, octets))
    except BlockingIOError:
        return 0
    finally:
        os.set_blocking(fd, True)


def close(fd: int) -> None:
    """`os.close`; coroutines that wait for the descriptor get OSError."""
    _state.closing(fd if isinstance(fd, int) else -1, lambda: _originals["close"](fd))


def _cannot_wait(options: int) -> bool:
    """Whether a call for a child returns at once. It may be repeated in a loop, so it is a chance to switch."""
    if not can_park():
        return True
    if options & os.WNOHANG:
        give_way_quietly()
        return True
    return False


def waitpid(pid: int, options: int, /) -> tuple[int, int]:
    """`os.waitpid`, which parks the coroutine."""
    if _cannot_wait(options):
        return _originals["waitpid"](pid, options)  # type: ignore[no-any-return]
    return _await_child(pid, options, lambda flags: _originals["waitpid"](pid, flags), _nobody)  # type: ignore[no-any-return]


def wait() -> tuple[int, int]:
    """`os.wait`, which parks the coroutine."""
    return waitpid(-1, 0)


def wait3(options: int) -> Any:
    """`os.wait3`, which parks the coroutine."""
    if _cannot_wait(options):
        return _originals["wait3"](options)
    return _await_child(-1, options, lambda flags: _originals["wait3"](flags), _nobody)


def wait4(pid: int, options: int) -> Any:
    """`os.wait4`, which parks the coroutine."""
    if _cannot_wait(options):
        return _originals["wait4"](pid, options)
    return _await_child(pid, options, lambda flags: _originals["wait4"](pid, flags), _nobody)


def waitid(idtype: int, ident: int, options: int, /) -> Any:
    """`os.waitid`, which parks the coroutine."""
    if _cannot_wait(options):
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


_new: tuple[Callable[..., Any], ...] = (
    *(read, readv, eventfd_read, write, writev, close, dup2),
    *(waitpid, wait, wait3, wait4, waitid, system),
)
_originals: dict[str, Callable[..., Any]] = {function.__name__: getattr(os, function.__name__) for function in _new}


def patch() -> None:
    """Replace what reads, writes, closes, and waits for children."""
    for function in _new:
        _state.replace(os, function.__name__, function)
