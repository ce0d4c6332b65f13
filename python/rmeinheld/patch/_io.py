"""`io`: files of pipes, sockets and terminals park, and several coroutines may use one buffered file.

The classes stay the same and their methods are replaced. Files that were opened before the patch park too, above all
`sys.stdin`, `sys.stdout` and `sys.stderr`. Files on a disk never wait for another program, and are not changed.
"""

from __future__ import annotations

import _io
import builtins
import functools
import io
import sys
import warnings
from collections.abc import Callable
from typing import Any

from .. import _rmeinheld
from ..coroutine import can_park
from . import _os, _state

BUFFERED: tuple[tuple[type, tuple[str, ...]], ...] = (
    (
        _io.BufferedReader,
        ("__next__", "close", "peek", "read", "read1", "readinto", "readinto1", "readline", "seek"),
    ),
    (_io.BufferedWriter, ("close", "flush", "seek", "truncate", "write")),
    (
        _io.BufferedRandom,
        (
            *("__next__", "close", "flush", "peek", "read", "read1", "readinto", "readinto1", "readline"),
            *("seek", "truncate", "write"),
        ),
    ),
)
"""The classes with a lock in C, and the methods that take it."""

CHUNK = 1 << 16
"""Bytes that `readall` asks for at a time."""

_file: Any = io.FileIO
_input = builtins.input


def _waits(file: io.FileIO, permits: Callable[[io.FileIO], bool]) -> int:
    """Return the descriptor if the operation may park, and -1 if the original method is right.

    `permits` says whether the file is open for the operation.
    """
    if not can_park() or file.closed or not permits(file):
        return -1
    fd = file.fileno()
    return fd if _rmeinheld.may_wait(fd) else -1


def _readinto(self: io.FileIO, buffer: Any, /) -> int | None:
    fd = _waits(self, _file.readable)
    return _originals["readinto"](self, buffer) if fd < 0 else _os.read_into(fd, buffer)


def _read(self: io.FileIO, size: int | None = -1, /) -> bytes | None:
    fd = _waits(self, _file.readable)
    if fd < 0 or not (size is None or isinstance(size, int)):
        data: bytes | None = _originals["read"](self, size)
        return data
    return _read_all(fd) if size is None or size < 0 else _os.read(fd, size)


def _readall(self: io.FileIO) -> bytes | None:
    fd = _waits(self, _file.readable)
    return _originals["readall"](self) if fd < 0 else _read_all(fd)


def _read_all(fd: int) -> bytes:
    chunks = []
    while chunk := _os.read(fd, CHUNK):
        chunks.append(chunk)
    return b"".join(chunks)


def _write(self: io.FileIO, data: Any, /) -> int | None:
    fd = _waits(self, _file.writable)
    return _originals["write"](self, data) if fd < 0 else _os.write(fd, data)


def _close(self: io.FileIO) -> None:
    fd = -1 if self.closed or not self.closefd else self.fileno()
    _state.closing(fd, lambda: _originals["close"](self))


def _init(self: io.FileIO, file: Any, mode: str = "r", closefd: bool = True, opener: Any = None) -> None:
    if opener is None and not isinstance(file, int) and can_park() and _os.is_fifo(file):
        # Opening one end of a FIFO waits until the other end is opened.
        opener = _open_fifo
    if isinstance(file, bool) and sys.version_info >= (3, 13):
        # The warning of the original would name this line instead of the caller's.
        warnings.warn("bool is used as a file descriptor", RuntimeWarning, stacklevel=2)
        file = int(file)
    _original_init(self, file, mode, closefd, opener)


def _open_fifo(path: Any, flags: int) -> int:
    return _os.open_fifo(path, flags, 0o666)


def cooperative_input(prompt: object = "", /) -> str:
    """`input`, which parks the coroutine."""
    if not can_park() or sys.stdin is None or sys.stdout is None:
        return _input(prompt)
    # The original reads a terminal in C and holds a lock, which would block all coroutines.
    sys.audit("builtins.input", prompt)
    if sys.stderr is not None:
        sys.stderr.flush()
    sys.stdout.write(str(prompt))
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError("EOF when reading a line")
    sys.audit("builtins.input/result", line.removesuffix("\n"))
    return line.removesuffix("\n")


_methods: dict[str, Callable[..., Any]] = {
    "close": _close,
    "read": _read,
    "readall": _readall,
    "readinto": _readinto,
    "write": _write,
}
_original_init: Any = _file.__init__
_originals: dict[str, Any] = {name: getattr(_file, name) for name in _methods}


@functools.cache
def patch() -> None:
    """Replace the methods of files that may wait, and those of buffered files."""
    for name, method in _methods.items():
        _state.replace(_file, name, _rmeinheld.detour(_file, name, method, name == "close"))
    # `inspect` and `help` show the original.
    functools.update_wrapper(_init, _original_init, ("__name__", "__qualname__", "__doc__"), ())
    _state.replace(_file, "__init__", _init)
    for buffered, names in BUFFERED:
        for name in names:
            _state.replace(buffered, name, _rmeinheld.in_turn(buffered, name))
    cooperative_input.__name__ = cooperative_input.__qualname__ = "input"
    cooperative_input.__module__ = "builtins"
    _state.replace(builtins, "input", cooperative_input)
