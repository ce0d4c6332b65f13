"""`subprocess`: `Popen` stays as it is; its pipes are files whose reads and writes park.

Waiting for a child and reading what it says to its parent before it runs is `os`'s part.
"""

from __future__ import annotations

import functools
import io
import os
import subprocess
import warnings
from collections.abc import Buffer, Callable
from types import ModuleType
from typing import Any

from ..coroutine import RLock
from . import _state
from ._os import read_into, write


class PipeIO(io.RawIOBase):
    """The end of a pipe, as a raw file."""

    def __init__(self, fd: int, mode: str) -> None:
        self._fd = fd
        self._reads = "r" in mode or "+" in mode
        self._writes = "w" in mode or "+" in mode
        self.mode = "rb" if self._reads else "wb"
        self.name = fd

    def fileno(self) -> int:
        """Its descriptor."""
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return self._fd

    def readable(self) -> bool:
        """Whether it is the reading end."""
        return self._reads

    def writable(self) -> bool:
        """Whether it is the writing end."""
        return self._writes

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return os.isatty(self.fileno())

    def readinto(self, buffer: Buffer, /) -> int | None:
        """Read what there is, at least one byte; 0 at the end, None if a pipe that does not block has nothing."""
        try:
            return read_into(self.fileno(), buffer)
        except BlockingIOError:
            return None

    def write(self, data: Buffer, /) -> int | None:
        """Write all; None if a pipe that does not block is full."""
        try:
            return write(self.fileno(), data)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            super().close()
            os.close(self._fd)

    def __repr__(self) -> str:
        return f"<rmeinheld PipeIO {'[closed]' if self.closed else f'fd={self._fd} mode={self.mode!r}'}>"


def _in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that one coroutine at a time is in. To C they all are one thread, which is not let in twice."""

    @functools.wraps(method)
    def function(self: Any, /, *arguments: Any, **keywords: Any) -> Any:
        with self._turn:
            return method(self, *arguments, **keywords)

    return function


class _BufferedReader(io.BufferedReader):
    """The reading end, for several coroutines."""

    def __init__(self, raw: PipeIO, size: int) -> None:
        self._turn = RLock()
        super().__init__(raw, size)

    read = _in_turn(io.BufferedReader.read)
    read1 = _in_turn(io.BufferedReader.read1)
    readinto = _in_turn(io.BufferedReader.readinto)
    readinto1 = _in_turn(io.BufferedReader.readinto1)
    readline = _in_turn(io.BufferedReader.readline)
    peek = _in_turn(io.BufferedReader.peek)
    close = _in_turn(io.BufferedReader.close)


class _BufferedWriter(io.BufferedWriter):
    """The writing end, for several coroutines."""

    def __init__(self, raw: PipeIO, size: int) -> None:
        self._turn = RLock()
        super().__init__(raw, size)

    write = _in_turn(io.BufferedWriter.write)
    flush = _in_turn(io.BufferedWriter.flush)
    close = _in_turn(io.BufferedWriter.close)


def _open(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **keywords: Any) -> Any:
    """`io.open`, for the descriptors of pipes that `Popen` opens in binary mode."""
    if not isinstance(file, int) or "b" not in mode or arguments or keywords:
        return open(file, mode, buffering, *arguments, **keywords)
    raw = PipeIO(file, mode)
    if buffering == 0:
        return raw
    if buffering == 1:
        message = "line buffering (buffering=1) isn't supported in binary mode, the default buffer size will be used"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    size = io.DEFAULT_BUFFER_SIZE if buffering in (-1, 1) else buffering
    return _BufferedReader(raw, size) if "r" in mode else _BufferedWriter(raw, size)


class _IO(ModuleType):
    """`io`, as `subprocess` sees it."""

    open = staticmethod(_open)

    def __getattr__(self, name: str) -> Any:
        return getattr(io, name)


def patch() -> None:
    """Have `Popen` open its pipes so that they park."""
    _state.replace(subprocess, "io", _IO("io"))
