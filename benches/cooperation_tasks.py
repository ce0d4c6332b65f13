"""The tasks of `cooperation.py`, each run in a process of its own by rmeinheld or gevent.

python cooperation_tasks.py rmeinheld|gevent TASK COUNT
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

LIBRARY, TASK = sys.argv[1], sys.argv[2]
COUNT = int(sys.argv[3])

if LIBRARY == "rmeinheld":
    from rmeinheld.patch import patch_all

    patch_all()
    primitives: Any = import_module("rmeinheld.coroutine")
    spawn, Event, Queue, Semaphore, Lock = (
        primitives.spawn,
        primitives.Event,
        primitives.Queue,
        primitives.Semaphore,
        primitives.Lock,
    )
else:
    import_module("gevent.monkey").patch_all()
    spawn = import_module("gevent").spawn
    Event, Queue = import_module("gevent.event").Event, import_module("gevent.queue").Queue
    Semaphore, Lock = import_module("gevent.lock").Semaphore, import_module("gevent.lock").BoundedSemaphore

type Pair = tuple[Callable[[], None], Callable[[], None]]


def echo() -> Pair:
    """Round trips of 64 bytes over a pair of sockets."""
    left, right = socket.socketpair()

    def ask() -> None:
        for _ in range(COUNT):
            left.sendall(b"x" * 64)
            left.recv(4096)
        left.close()

    def answer() -> None:
        while data := right.recv(4096):
            right.sendall(data)

    return ask, answer


def hand_over_queue() -> Pair:
    """An item there, an item back."""
    there, back = Queue(), Queue()

    def first() -> None:
        for _ in range(COUNT):
            there.put(1)
            back.get()

    def second() -> None:
        for _ in range(COUNT):
            there.get()
            back.put(1)

    return first, second


def hand_over_event() -> Pair:
    """An event there, an event back."""
    there, back = Event(), Event()

    def first() -> None:
        for _ in range(COUNT):
            there.set()
            back.wait()
            back.clear()

    def second() -> None:
        for _ in range(COUNT):
            there.wait()
            there.clear()
            back.set()

    return first, second


def hand_over_lock() -> Pair:
    """Two locks, each taken by one and given back by the other."""
    there, back = Lock(), Lock()
    there.acquire()
    back.acquire()

    def first() -> None:
        for _ in range(COUNT):
            there.release()
            back.acquire()

    def second() -> None:
        for _ in range(COUNT):
            there.acquire()
            back.release()

    return first, second


def microseconds_of(pair: Pair) -> float:
    """CPU time of the process for each round."""
    before = time.process_time()
    for coroutine in [spawn(function) for function in pair]:
        coroutine.join()
    return (time.process_time() - before) / COUNT * 1e6


def spawn_join() -> float:
    """Microseconds of CPU for a coroutine that does nothing."""
    before = time.process_time()
    for _ in range(COUNT):
        spawn(int).join()
    return (time.process_time() - before) / COUNT * 1e6


def waiting() -> float:
    """KiB of resident memory for each of many coroutines in `recv`, the socket included."""

    def resident_kib() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

    sockets = [socket.socketpair() for _ in range(COUNT)]
    before = resident_kib()

    def receive(end: socket.socket) -> None:
        end.recv(100)

    coroutines = [spawn(receive, left) for left, _ in sockets]
    time.sleep(0.2)
    each = (resident_kib() - before) / COUNT
    for _, right in sockets:
        right.sendall(b"x")
    for coroutine in coroutines:
        coroutine.join()
    return each


PAIRS: dict[str, Callable[[], Pair]] = {
    "echo": echo,
    "queue": hand_over_queue,
    "event": hand_over_event,
    "lock": hand_over_lock,
}
OTHERS: dict[str, Callable[[], float]] = {"spawn": spawn_join, "waiting": waiting}


def run() -> None:
    """Print the figure of the task."""
    print(microseconds_of(PAIRS[TASK]()) if TASK in PAIRS else OTHERS[TASK]())


spawn(run).join()
