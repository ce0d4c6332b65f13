"""`os`: reads and writes of pipes, sockets and terminals park, and so do waits for children and for file locks.

Regular files never make a program wait for another one, and are not changed.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .. import _rmeinheld
from .._rmeinheld import events_now, give_way, give_way_quietly, may_wait, waiting_for
from ..coroutine import Lock, can_park, offload, wait_readable, wait_writable
from . import _state
from ._pauses import Pauses

LARGEST_READ = 1 << 20
"""Bytes that one read returns at most. The buffer is allocated before the amount of data is known."""

LONGEST_POLL = 0.05
"""Seconds between two checks for a child if no pidfd reports it: any child, or a child that stops."""

_NOT_FOR_THIS_KIND = (errno.EOPNOTSUPP, errno.ENOSYS)
"""The errors of RWF_NOWAIT for terminals, and before Linux 6.4 for pipes."""


def _waits(fd: Any) -> bool:
    """Whether a read or write of `fd` may wait for another program: in a coroutine, on a descriptor that blocks."""
    return isinstance(fd, int) and may_wait(fd)


def _is_ready(fd: int, events: int) -> bool:
    return events_now(fd, events) != 0


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
    """Read as soon as there is data. Return None if there is data that only a blocking read can take.

    Another process may read the data between the check and the read, so the read itself must not block. O_NONBLOCK is
    no choice: the other processes would get it too.
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
    # Another coroutine may have read the data before this one is resumed.
    while not _is_ready(fd, select.POLLIN):
        wait_readable(fd)
    return None


def read_into(fd: int, buffer: Any) -> int:
    """Read once into a buffer. Parks as `os.read` does."""
    with memoryview(buffer) as view:
        return int(os.readv(fd, [view]))


def write(fd: int, data: Any, /) -> int:
    """`os.write`, which parks the coroutine until all data is written, as a descriptor that blocks does."""
    if not _waits(fd):
        return int(_originals["write"](fd, data))
    with memoryview(data) as view, view.cast("B") as octets:
        return _write_all(fd, octets, len(octets))


def writev(fd: int, buffers: Any, /) -> int:
    """`os.writev`, which parks the coroutine until all data is written, as a descriptor that blocks does."""
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
    """Write as much as fits, which may be nothing."""
    try:
        return os.pwritev(fd, [octets], -1, os.RWF_NOWAIT)
    except BlockingIOError:
        return 0
    except OSError as error:
        if error.errno not in _NOT_FOR_THIS_KIND:
            raise
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        # A ready pipe has room for PIPE_BUF bytes (pipe(7)). Other processes share its flags, so these do not change.
        return int(_originals["write"](fd, octets[: select.PIPE_BUF])) if _is_ready(fd, select.POLLOUT) else 0
    with _not_blocking(fd):
        try:
            return int(_originals["write"](fd, octets))
        except BlockingIOError:
            return 0


@contextmanager
def _not_blocking(*descriptors: int) -> Iterator[None]:
    """Make descriptors non-blocking for one call. Other processes that share a descriptor see this for as long."""
    changed = [fd for fd in descriptors if os.get_blocking(fd)]
    for fd in changed:
        os.set_blocking(fd, False)
    try:
        yield
    finally:
        for fd in changed:
            os.set_blocking(fd, True)


def sendfile(out_fd: Any, in_fd: Any, offset: Any, count: Any, *arguments: Any, **keywords: Any) -> int:
    """`os.sendfile`, which parks the coroutine until all is sent, as a descriptor that blocks does."""
    plain = isinstance(in_fd, int) and isinstance(count, int) and count >= 0 and not arguments and not keywords
    if not plain or not (offset is None or isinstance(offset, int)) or not _waits(out_fd):
        return int(_originals["sendfile"](out_fd, in_fd, offset, count, *arguments, **keywords))
    sent = 0
    while sent < count:
        give_way()
        try:
            with _not_blocking(out_fd):
                at = None if offset is None else offset + sent
                more = int(_originals["sendfile"](out_fd, in_fd, at, count - sent))
        except BlockingIOError:
            wait_writable(out_fd)
            continue
        except OSError:
            if sent == 0:
                raise
            # The number of bytes sent is reported first, as sendfile(2) does.
            break
        if more == 0:
            break
        sent += more
    return sent


def splice(src: Any, dst: Any, count: Any, offset_src: Any = None, offset_dst: Any = None, flags: Any = 0) -> int:
    """`os.splice`, which parks the coroutine."""
    original = _originals["splice"]
    mine = [fd for fd in (src, dst) if _waits(fd)]
    if not mine or not isinstance(flags, int) or flags & os.SPLICE_F_NONBLOCK:
        return int(original(src, dst, count, offset_src, offset_dst, flags))
    pauses = Pauses()
    give_way()
    while True:
        try:
            with _not_blocking(*mine):
                return int(original(src, dst, count, offset_src, offset_dst, flags | os.SPLICE_F_NONBLOCK))
        except BlockingIOError:
            pass
        if src in mine and not _is_ready(src, select.POLLIN):
            wait_readable(src)
        elif dst in mine and not _is_ready(dst, select.POLLOUT):
            wait_writable(dst)
        else:
            # poll(2) calls both ready, and splice(2) does not yet.
            pauses.pause()


def open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
    """`os.open`; for a FIFO it parks the coroutine until another program has opened the other end."""
    if can_park() and isinstance(flags, int) and not flags & (os.O_NONBLOCK | os.O_PATH) and is_fifo(path, dir_fd):
        return open_fifo(path, flags, mode, dir_fd)
    return int(_originals["open"](path, flags, mode, dir_fd=dir_fd))


def is_fifo(path: Any, dir_fd: int | None = None) -> bool:
    """Whether `path` is a FIFO."""
    try:
        name = os.fspath(path)
        if dir_fd is None and type(name) is str:
            return _rmeinheld.is_fifo(name)
        return stat.S_ISFIFO(os.stat(name, dir_fd=dir_fd).st_mode)
    except (OSError, TypeError, ValueError):
        return False


def open_fifo(path: Any, flags: int, mode: int, dir_fd: int | None = None) -> int:
    """Open a FIFO on an OS thread of its own. Parks until it is open.

    No event reports that the other end is opened. `offload` has few threads, and waits for FIFOs might occupy them for
    ever. If the coroutine is interrupted, the thread stays until the other end is opened, and closes the descriptor.
    """
    outcome: list[int | BaseException] = []
    done = Lock()
    done.acquire()
    given_up = False

    def run() -> None:
        try:
            outcome.append(int(_originals["open"](path, flags, mode, dir_fd=dir_fd)))
        except BaseException as error:
            outcome.append(error)
        done.release()
        if given_up:
            discard()

    def discard() -> None:
        # The thread or the coroutine: the one that removes the descriptor from the list closes it.
        with suppress(IndexError):
            opened = outcome.pop()
            if isinstance(opened, int):
                _originals["close"](opened)

    _state.get_original("_thread", "start_new_thread")(run, ())
    try:
        done.acquire()
    except BaseException:
        given_up = True
        discard()
        raise
    opened = outcome.pop()
    if isinstance(opened, BaseException):
        raise opened
    return opened


def lockf(fd: Any, command: int, length: int, /) -> None:
    """`os.lockf`, which parks the coroutine.

    Such a lock belongs to the process. It excludes neither its threads nor its coroutines from each other.
    """
    if not can_park() or command != os.F_LOCK:
        give_way_quietly()
        _originals["lockf"](fd, command, length)
        return
    until_free(lambda: _originals["lockf"](fd, os.F_TLOCK, length))


def until_free[T](attempt: Callable[[], T]) -> T:
    """Repeat an attempt to lock a file while another program or coroutine holds the lock. Parks.

    No event reports that a file is unlocked. `offload` is no choice: if waiting callers occupied all of its threads,
    the holder of the lock could find none.
    """
    pauses = Pauses()
    give_way()
    while True:
        try:
            return attempt()
        except BlockingIOError:
            pauses.pause()


def close(fd: int) -> None:
    """`os.close`; coroutines that wait for the descriptor get an OSError."""
    _state.closing(fd if isinstance(fd, int) else -1, lambda: _originals["close"](fd))


def _cannot_wait(options: int) -> bool:
    """Whether a call for a child returns at once. Code may repeat such a call in a loop, so this may switch."""
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
    return _await_child(pid, options, lambda flags: _originals["waitpid"](pid, flags), _is_no_child)  # type: ignore[no-any-return]


def wait() -> tuple[int, int]:
    """`os.wait`, which parks the coroutine."""
    return waitpid(-1, 0)


def wait3(options: int) -> Any:
    """`os.wait3`, which parks the coroutine."""
    if _cannot_wait(options):
        return _originals["wait3"](options)
    return _await_child(-1, options, lambda flags: _originals["wait3"](flags), _is_no_child)


def wait4(pid: int, options: int) -> Any:
    """`os.wait4`, which parks the coroutine."""
    if _cannot_wait(options):
        return _originals["wait4"](pid, options)
    return _await_child(pid, options, lambda flags: _originals["wait4"](pid, flags), _is_no_child)


def waitid(idtype: int, ident: int, options: int, /) -> Any:
    """`os.waitid`, which parks the coroutine."""
    if _cannot_wait(options):
        return _originals["waitid"](idtype, ident, options)
    pid = ident if idtype == os.P_PID and not options & ~(os.WEXITED | os.WNOWAIT) else -1
    attempt = lambda flags: _originals["waitid"](idtype, ident, flags)  # noqa: E731
    return _await_child(pid, options, attempt, lambda found: found is None)


def _is_no_child(found: Any) -> bool:
    return bool(found[0] == 0)


def _await_child(pid: int, options: int, attempt: Callable[[int], Any], is_nothing: Callable[[Any], bool]) -> Any:
    """Repeat `attempt`, which does not wait, each time that a child may have ended. Parks.

    `is_nothing` says whether its result names no child.
    """
    pauses = Pauses(LONGEST_POLL)
    while is_nothing(found := attempt(options | os.WNOHANG)):
        if pid > 0 and not options & (os.WUNTRACED | os.WCONTINUED):
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                pass
            else:
                try:
                    waiting_for("process", pid, wait_readable, pidfd)
                finally:
                    _originals["close"](pidfd)
                continue
        pauses.pause()
    return found


def system(command: Any) -> int:
    """`os.system`, on an OS thread."""
    return int(offload(_originals["system"], command))


def dup2(fd: int, fd2: int, inheritable: bool = True) -> int:
    """`os.dup2`; coroutines that wait for the replaced descriptor get an OSError."""
    replaced = fd2 if isinstance(fd2, int) and fd != fd2 else -1
    return int(_state.closing(replaced, lambda: _originals["dup2"](fd, fd2, inheritable)))


_new: tuple[Callable[..., Any], ...] = (
    *(open, read, readv, eventfd_read, write, writev, sendfile, splice, lockf, close, dup2),
    *(waitpid, wait, wait3, wait4, waitid, system),
)
_originals: dict[str, Callable[..., Any]] = {function.__name__: getattr(os, function.__name__) for function in _new}


def patch() -> None:
    """Replace the functions that read, write, close, lock and wait for children."""
    for function in _new:
        _state.replace(os, function.__name__, function)
