"""The application behind the tests of isolation: requests that wait for each other with state of their own."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import contextvars
import ctypes
import decimal
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from rmeinheld.coroutine import Lock, current, sleep, timeout

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

VARIABLE: contextvars.ContextVar[int | None] = contextvars.ContextVar("VARIABLE", default=None)
LOCAL = threading.local()

PATIENCE = 30.0
"""Seconds that a request waits for the others."""


class Meeting:
    """Lets a number of requests wait until all have arrived."""

    def __init__(self) -> None:
        self.arrived: dict[str, int] = {}

    def wait(self, name: str, number: int) -> None:
        self.arrived[name] = self.arrived.get(name, 0) + 1
        deadline = time.monotonic() + PATIENCE
        while self.arrived[name] < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.arrived[name]} of {number} requests came to {name}")
            sleep(0.01)


MEETING = Meeting()


class Kept:
    """The value that a request leaves in a `threading.local`. It ends with the thread state that it is in."""

    ended = 0

    def __del__(self) -> None:
        with KEPT:
            sleep(0.01)
            Kept.ended += 1


KEPT = Lock()
"""Taken when a kept value ends. Held meanwhile, if the request asks for it."""


def keep(total: int) -> dict[str, Any]:
    """Leave something behind, after all `total` requests were parked."""
    if not KEPT.locked():
        KEPT.acquire()
    LOCAL.kept = Kept()
    MEETING.wait("kept", total)
    return {}


def end_kept(seconds: float) -> dict[str, Any]:
    """End the kept values, after some time for them to begin. Returns the number of ended values, once it is one or
    more."""
    sleep(seconds)
    KEPT.release()
    deadline = time.monotonic() + PATIENCE
    while not Kept.ended and time.monotonic() < deadline:
        sleep(0.01)
    return {"ended": Kept.ended}


def late(start_response: StartResponse) -> None:
    """Write more than the client takes, until an exception ends that whose constructor asks for the response."""

    class Late(Exception):
        def __init__(self) -> None:
            with contextlib.suppress(AssertionError):
                start_response("500 Internal Server Error", [])

    write = start_response("200 OK", [("Content-Type", "text/plain")])
    with timeout(0.1, Late):
        while True:
            write(bytes(1_000_000))


def together(number: int, total: int) -> dict[str, Any]:
    """State of request `number`, taken after all `total` requests have put theirs in place and were parked."""
    before = VARIABLE.get()
    VARIABLE.set(number)
    LOCAL.number = number
    decimal.getcontext().prec = number % 50 + 1
    stack = []

    def deep(level: int) -> int:
        # Together far deeper than the recursion limit, which holds for each request alone.
        return deep(level - 1) + 1 if level else meet()

    def meet() -> int:
        MEETING.wait("deep", total)
        return 0

    async def main() -> int:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        await asyncio.sleep(0)
        MEETING.wait("asyncio", total)  # parks within the running loop
        await asyncio.sleep(0)
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        value = VARIABLE.get()
        assert value is not None
        return value

    try:
        raise KeyError(number)
    except KeyError as error:
        stack.append(deep(100))
        running = asyncio.run(main())
        MEETING.wait("exception", total)
        active = sys.exception()
        assert active is error
        try:
            raise
        except KeyError as again:
            raised = again.args[0]
    MEETING.wait("end", total)
    return {
        "number": number,
        "before": before,
        "variable": VARIABLE.get(),
        "local": LOCAL.number,
        "precision": decimal.getcontext().prec,
        "asyncio": running,
        "exception": raised,
        "depth": stack[0],
        "nothing active": sys.exception() is None,
        "thread": threading.get_native_id(),
        "coroutine": (coroutine := current()) is not None and coroutine.ident,
    }


# --- recursion -------------------------------------------------------------------------------------------------------


def recurse_in_json() -> None:
    json.loads("[" * 100_000)


def recurse_in_repr() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    try:
        repr(nested)
    finally:
        # Taken apart step by step, so that nothing else recurses.
        while nested:
            nested = nested[0]


def recurse_in_sorted() -> None:
    def key(_: object) -> int:
        return len(sorted([1, 2], key=key))

    key(None)


def recurse_in_python() -> None:
    def endless() -> None:
        endless()

    endless()


def recurse_in_parentheses() -> None:
    ast.parse("(" * 100_000 + ")" * 100_000)


def recurse_in_the_parser() -> None:
    ast.parse("-" * 100_000 + "1")


def recurse_in_comparison() -> None:
    first: list[Any] = []
    second: list[Any] = []
    # The collector follows the growing chain again and again: seconds on an interpreter with assertions.
    gc.disable()
    for _ in range(1_000_000):  # CPython 3.14 compares 100,000 levels within 8 MiB
        first, second = [first], [second]
    gc.enable()
    try:
        _ = first == second
    finally:
        while first:
            first, second = first[0], second[0]


def overflow_with_the_interpreter() -> None:
    # glibc's regcomp recurses for each parenthesis and has no limit. PyDLL keeps the interpreter attached.
    ctypes.PyDLL(None).regcomp(ctypes.create_string_buffer(4096), b"(" * 5_000_000, 1)


def overflow_without_the_interpreter() -> None:
    ctypes.CDLL(None).regcomp(ctypes.create_string_buffer(4096), b"(" * 5_000_000, 1)


def overflow_after_parking() -> None:
    sleep(0.05)
    overflow_with_the_interpreter()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    name = environ["PATH_INFO"].strip("/").replace("-", "_")
    if name == "together":
        number, total = environ["QUERY_STRING"].split(",")
        body = json.dumps(together(int(number), int(total))).encode()
    elif name == "keep":
        body = json.dumps(keep(int(environ["QUERY_STRING"]))).encode()
    elif name == "end_kept":
        body = json.dumps(end_kept(float(environ["QUERY_STRING"]))).encode()
    elif name.startswith(("recurse_", "overflow_")):
        function: Callable[[], None] = globals()[name]
        function()
        body = b"no error"
    else:
        body = b"hello"
    if name == "late":
        late(start_response)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
