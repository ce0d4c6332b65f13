"""One row for each primitive: a way to wait, and a way to end the wait.

The bodies of the tests in `test_primitives.py` follow this text and use its imports.
"""

# ruff: noqa: F401, F403, F405

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from rmeinheld.coroutine import *
from strands import KINDS, PAIRS, PATIENCE, Signal, Strand


@dataclass
class Row:
    make: Callable[..., Any]  # the object
    wait: Callable[..., Any]  # (object, timeout or None): waits
    wake: Callable[..., Any]  # (object): ends one wait
    got: Any  # the result of `wait` then
    late: Any  # its result, or the name of its exception, when the timeout comes first
    hold: Callable[..., Any] = lambda it: None  # the waker's preparation
    again: bool = True  # after a wait that failed, another one can follow


def taken(it):
    it.acquire()
    return it


def full(it):
    it.put("first")
    return it


def within(lock, action):
    with lock:
        return action()


def limit(timeout):
    return -1 if timeout is None else timeout


rows = {
    "Lock": Row(
        lambda: taken(Lock()), lambda it, t: it.acquire(timeout=limit(t)), lambda it: it.release(), True, False
    ),
    "RLock": Row(
        RLock,
        lambda it, t: it.acquire(timeout=limit(t)),
        lambda it: (it.release(), it.release()),
        True,
        False,
        hold=lambda it: (it.acquire(), it.acquire()),
    ),
    "Condition": Row(
        Condition, lambda it, t: within(it, lambda: it.wait(t)), lambda it: within(it, it.notify), True, False
    ),
    "Condition of Lock": Row(
        lambda: Condition(Lock()),
        lambda it, t: within(it, lambda: it.wait(t)),
        lambda it: within(it, it.notify),
        True,
        False,
    ),
    "Condition of threading.Lock": Row(
        lambda: Condition(threading.Lock()),
        lambda it, t: within(it, lambda: it.wait(t)),
        lambda it: within(it, it.notify),
        True,
        False,
    ),
    "Condition of RLock, held twice": Row(
        Condition,
        lambda it, t: within(it, lambda: within(it, lambda: it.wait(t))),
        lambda it: within(it, it.notify_all),
        True,
        False,
    ),
    "Event": Row(Event, lambda it, t: it.wait(t), lambda it: it.set(), True, False),
    "Semaphore": Row(lambda: Semaphore(0), lambda it, t: it.acquire(timeout=t), lambda it: it.release(), True, False),
    "BoundedSemaphore": Row(
        lambda: taken(BoundedSemaphore(1)), lambda it, t: it.acquire(timeout=t), lambda it: it.release(), True, False
    ),
    "Barrier": Row(
        lambda: Barrier(2), lambda it, t: it.wait(t), lambda it: it.wait(), 0, "BrokenBarrierError", again=False
    ),
    "Queue.get": Row(Queue, lambda it, t: it.get(timeout=t), lambda it: it.put("item"), "item", "Empty"),
    "Queue.put": Row(
        lambda: full(Queue(1)), lambda it, t: it.put("second", timeout=t), lambda it: it.get(), None, "Full"
    ),
    "LifoQueue.get": Row(LifoQueue, lambda it, t: it.get(timeout=t), lambda it: it.put("item"), "item", "Empty"),
    "LifoQueue.put": Row(
        lambda: full(LifoQueue(1)), lambda it, t: it.put("second", timeout=t), lambda it: it.get(), None, "Full"
    ),
    "PriorityQueue.get": Row(
        PriorityQueue, lambda it, t: it.get(timeout=t), lambda it: it.put("item"), "item", "Empty"
    ),
    "PriorityQueue.put": Row(
        lambda: full(PriorityQueue(1)), lambda it, t: it.put("second", timeout=t), lambda it: it.get(), None, "Full"
    ),
    "SimpleQueue.get": Row(SimpleQueue, lambda it, t: it.get(timeout=t), lambda it: it.put("item"), "item", "Empty"),
}


class Waker:
    """Does its preparation, and wakes at a call."""

    def __init__(self, kind, row, it):
        ready, self.go = Signal(), Signal()

        def run():
            row.hold(it)
            ready.give()
            self.go.wait()
            row.wake(it)

        self.strand = Strand(kind, run)
        ready.wait()

    def wake(self):
        self.go.give()
        self.strand.result()
