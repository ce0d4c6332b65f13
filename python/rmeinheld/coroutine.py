"""Coroutines: plain blocking functions that run by the thousand on one OS thread.

Every request runs in a coroutine, and an application can start more. Each has its own Python thread state, so context
variables, `threading.local` and the exception being handled are its own, as in a thread. A coroutine that waits (here,
in `sleep`) lets the others run. A coroutine that computes does not.

    from rmeinheld.coroutine import sleep, spawn

    def fetch(key):
        sleep(0.1)
        return key.upper()

    def app(environ, start_response):
        fetches = [spawn(fetch, key) for key in ("a", "b", "c")]
        for each in fetches:
            each.join()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [" ".join(each.result for each in fetches).encode()]

Together the three fetches take a tenth of a second.
"""

from __future__ import annotations

from threading import local

from ._rmeinheld import (
    BoundedSemaphore,
    Condition,
    Coroutine,
    CoroutineExit,
    Event,
    LifoQueue,
    Lock,
    Queue,
    RLock,
    Semaphore,
    ShutDown,
    SimpleQueue,
    Timeout,
    can_park,
    current,
    get_ident,
    sleep,
    spawn,
    wait_readable,
    wait_writable,
)
from .offload import get_offload_threads, offload, set_offload_threads
from .pool import Barrier, Group, Pool, PriorityQueue
from .time_limit import timeout
from .timer import Timer

__all__ = [
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Coroutine",
    "CoroutineExit",
    "Event",
    "Group",
    "LifoQueue",
    "Lock",
    "Pool",
    "PriorityQueue",
    "Queue",
    "RLock",
    "Semaphore",
    "ShutDown",
    "SimpleQueue",
    "Timeout",
    "Timer",
    "can_park",
    "current",
    "get_ident",
    "get_offload_threads",
    "local",
    "offload",
    "set_offload_threads",
    "sleep",
    "spawn",
    "timeout",
    "wait_readable",
    "wait_writable",
]
