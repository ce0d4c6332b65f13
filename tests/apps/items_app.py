"""Iterables whose items follow each other at once, or after something that takes a while."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rmeinheld.coroutine import sleep

PAUSE = 0.6
ITEM = b"x" * 1000

_libc, _libc_with_the_interpreter = ctypes.CDLL(None), ctypes.PyDLL(None)


def _computes() -> None:
    end = time.perf_counter() + PAUSE
    while time.perf_counter() < end:
        pass


PAUSES: dict[str, Callable[[], object]] = {
    "/computes": _computes,
    "/blocks": lambda: _libc.usleep(int(PAUSE * 1e6)),
    "/blocks-with-the-interpreter": lambda: _libc_with_the_interpreter.usleep(int(PAUSE * 1e6)),
    "/waits": lambda: sleep(PAUSE),
}


def _pausing(pause: Callable[[], object]) -> Iterator[bytes]:
    yield b"first"
    pause()
    yield b"second"


def _failing() -> Iterator[bytes]:
    yield b"first"
    raise ValueError("after the first item")


def _forking() -> Iterator[bytes]:
    yield b"first"
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    yield b"second"


def _large(count: int) -> Iterator[bytes]:
    for number in range(count):
        yield b"%7d " % number * 125


def _waits_behind() -> Iterator[bytes]:
    """More than a slow client takes, then a wait, then what tells whether the wait was long enough."""
    yield from _large(10_000)
    sleep(0.01)
    yield b"end"


def app(environ: dict[str, Any], start_response: Callable[..., Callable[[bytes], object]]) -> Iterable[bytes]:
    """The path says which."""
    path = environ["PATH_INFO"]
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if path in PAUSES:
        return _pausing(PAUSES[path])
    if path == "/many":
        return (ITEM for _ in range(10))
    if path == "/fails":
        return _failing()
    if path == "/forks":
        return _forking()
    if path == "/large":
        return _large(10_000)
    if path == "/slow-client":
        return _waits_behind()
    if path == "/writes":

        def mixed() -> Iterator[bytes]:
            yield b"a"
            write(b"b")
            yield b"c"
            yield b"d" * 20_000
            yield b"e"

        return mixed()
    raise ValueError(path)
