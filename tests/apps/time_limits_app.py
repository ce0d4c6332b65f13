"""Requests that take longer than `request_timeout`, by the path. `/seen` shows what they met."""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import rmeinheld
from rmeinheld.coroutine import CoroutineExit, Lock, Queue, offload, sleep, spawn

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

seen: list[str] = []
"""The events that requests have noted."""

SECONDS = 30.0
"""Longer than any limit."""

held = threading.Lock()
ours = Lock()


def note(event: str) -> None:
    seen.append(event)


def wait_for_a_lock() -> None:
    held.acquire(blocking=False)
    with held:
        note("got the lock")


def wait_for_our_lock() -> None:
    ours.acquire(blocking=False)
    with ours:
        note("got the lock")


def wait_for_a_socket() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.recv(1)


def wait_for_tls() -> None:
    one, other = socket.socketpair()
    with one, other, ssl.create_default_context().wrap_socket(one, server_hostname="localhost"):
        note("got TLS")


def wait_in_finally() -> None:
    try:
        try:
            sleep(SECONDS)
        finally:
            sleep(0.05)
            note("inner")
    finally:
        note("outer")


def run_asyncio() -> None:
    async def wait() -> None:
        await asyncio.sleep(SECONDS)

    asyncio.run(wait())


def wait_for_a_thread() -> None:
    thread = threading.Thread(target=sleep, args=(SECONDS,), daemon=True)
    thread.start()
    thread.join()


def spin() -> None:
    while True:
        pass


class SwallowsIt:
    """Computes where exceptions go to `sys.unraisablehook`."""

    def __del__(self) -> None:
        spin()


def swallow_in_del() -> None:
    SwallowsIt()
    note("swallowed")
    spin()


def spin_in_finally() -> None:
    try:
        spin()
    finally:
        note("cleaned up")


def catch_and_wait() -> None:
    try:
        sleep(SECONDS)
    except rmeinheld.RequestTimeout:
        note("caught")
        try:
            sleep(SECONDS)
        except CoroutineExit:
            note("exit")
            raise


def catch_and_spin() -> None:
    try:
        spin()
    except rmeinheld.RequestTimeout:
        note("caught")
    try:
        spin()
    except CoroutineExit:
        note("exit")
        raise


def match_slowly() -> None:
    re.match(r"(a+)+$", "a" * int(os.environ.get("PATTERN_LENGTH", "27")) + "b")


def sum_much() -> None:
    sum(range(int(os.environ.get("SUM_LENGTH", "200_000_000"))))


def sleep_in_c() -> None:
    ctypes.CDLL(None).usleep(800_000)
    note("slept")


def sleep_in_c_with_the_gil() -> None:
    ctypes.PyDLL(None).usleep(800_000)
    note("slept")


def spin_unseen() -> None:
    """Compute past the limit in a way in which no other thread gets the interpreter."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SECONDS)
    until = time.monotonic() + 0.6
    while time.monotonic() < until:
        pass
    sys.setswitchinterval(interval)
    note("finished")


WORK: dict[str, Callable[[], Any]] = {
    "sleep": lambda: time.sleep(SECONDS),
    "lock": wait_for_a_lock,
    "our-lock": wait_for_our_lock,
    "queue": lambda: queue.Queue[int]().get(),
    "simple-queue": lambda: queue.SimpleQueue[int]().get(),
    "our-queue": lambda: Queue().get(),
    "event": lambda: threading.Event().wait(),
    "socket": wait_for_a_socket,
    "tls": wait_for_tls,
    "offload": lambda: offload(time.sleep, 1),
    "asyncio": run_asyncio,
    "finally": wait_in_finally,
    "thread": wait_for_a_thread,
    "join": lambda: spawn(sleep, SECONDS).join(),
    "spin": spin,
    "spin-finally": spin_in_finally,
    "del": swallow_in_del,
    "catch-wait": catch_and_wait,
    "catch-spin": catch_and_spin,
    "pattern": match_slowly,
    "sum": sum_much,
    "unseen": spin_unseen,
    "c-sleep": sleep_in_c,
    "c-sleep-gil": sleep_in_c_with_the_gil,
}


def inherits(deadline: Any) -> None:
    """A coroutine that inherits the deadline, a thread that does, and one of each that does not."""

    def job(name: str) -> None:
        try:
            sleep(1.0)
            note(f"{name} went on")
        except rmeinheld.RequestTimeout:
            note(f"{name} ended")

    deadline.extend_to(spawn(job, "coroutine"))
    spawn(job, "free coroutine")
    thread = threading.Thread(target=job, args=("thread",))
    thread.start()
    deadline.extend_to(thread)
    sleep(SECONDS)


def spin_unseen_between_items() -> Iterator[bytes]:
    spin_unseen()
    yield b"done"


def parts(kind: str) -> Iterator[bytes]:
    yield b"first\n"
    try:
        if kind == "spin":
            spin()
        sleep(SECONDS)
    except rmeinheld.RequestTimeout:
        note("part caught")
        if kind != "catch":
            raise
    yield b"second\n"
    note("part sent")


def moved(deadline: Any, query: str) -> None:
    name, _, value = query.partition("=")
    if name == "set":
        deadline.set(None if value == "None" else float(value))
    elif name == "at":
        deadline.at = time.monotonic() + float(value)
    note(f"left {deadline()}")
    sleep(0.4)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"].strip("/")
    deadline = environ["rmeinheld.deadline"]
    ok = ("200 OK", [("Content-Type", "text/plain")])
    if path == "seen":
        start_response(*ok)
        events = "\n".join(seen)
        seen.clear()
        return [events.encode()]
    if path == "pid":
        start_response(*ok)
        return [b"%d" % os.getpid()]
    if path.startswith("parts-"):
        start_response(*ok)
        return parts(path.removeprefix("parts-"))
    if path == "unseen-items":
        start_response(*ok)
        return spin_unseen_between_items()
    if path == "return":
        try:
            sleep(SECONDS)
        except rmeinheld.RequestTimeout:
            start_response(*ok)
            return [b"too late"]
    if path == "long-spin":
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            pass
    if path == "moved":
        try:
            moved(deadline, environ["QUERY_STRING"])
        except ValueError as error:
            note(str(error))
    if path == "inherit":
        inherits(deadline)
    if path in WORK:
        try:
            WORK[path]()
        except BaseException as error:
            note(type(error).__name__)
            raise
    if websocket := environ.get("wsgi.websocket"):
        if path == "limited":
            deadline.set(0.2)
        while (message := websocket.receive()) is not None:
            websocket.send(message)
        return []
    start_response(*ok)
    return [b"done"]
