"""Functions that block in C, run on OS threads while the coroutine that calls them parks."""

from __future__ import annotations

import _thread
import os
from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from ._rmeinheld import Lock, can_park

__all__ = ["get_offload_threads", "offload", "set_offload_threads"]

DEFAULT_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""OS threads at most, as in `concurrent.futures.ThreadPoolExecutor`."""

IDLE_SECONDS = 10.0
"""How long a thread without work stays."""

# The real ones: this module is imported before anything is patched.
_start_new_thread = _thread.start_new_thread
_allocate_lock = _thread.allocate_lock


class _Job:
    """One call."""

    __slots__ = ("_call", "_context", "done", "error", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call: Callable[[], Any] | None = call
        self._context = copy_context()
        self.done = Lock()
        self.done.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Call, in the context of the caller; what it held on to ends here."""
        try:
            if self._call is not None:
                self.result = self._context.run(self._call)
        except BaseException as error:
            self.error = error
        finally:
            self._call = None
            self.done.release()


class _Worker:
    """An OS thread."""

    __slots__ = ("job", "wake")

    def __init__(self, job: _Job) -> None:
        self.job: _Job | None = job
        self.wake = _allocate_lock()
        self.wake.acquire()

    def is_idle(self) -> bool:
        """Whether it has been given nothing to do. Somebody else may do that."""
        return self.job is None


class _Pool:
    """OS threads that start when they are needed and leave when they are not."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Held for moments; never while anything else is waited for.
        self._guard = _allocate_lock()
        self.threads = 0
        self._idle: list[_Worker] = []
        self._waiting: deque[_Job] = deque()

    def submit(self, job: _Job) -> None:
        """Have it run as soon as there is a thread. Raises RuntimeError when none can be started."""
        with self._guard:
            if self._idle:
                worker = self._idle.pop()
                worker.job = job
                worker.wake.release()
                return
            if self.threads >= self.limit:
                self._waiting.append(job)
                return
            self.threads += 1
        self._start(job)

    def set_limit(self, limit: int) -> None:
        """Threads beyond it end after their job; room that is new is for those who wait already."""
        with self._guard:
            self.limit = limit
            room = max(0, min(limit - self.threads, len(self._waiting)))
            jobs = [self._waiting.popleft() for _ in range(room)]
            self.threads += room
        for job in jobs:
            self._start(job)

    def _start(self, job: _Job) -> None:
        try:
            _start_new_thread(self._work, (_Worker(job),))
        except BaseException:
            with self._guard:
                self.threads -= 1
            raise

    def _work(self, worker: _Worker) -> None:
        while worker.job is not None:
            worker.job.run()
            with self._guard:
                worker.job = self._waiting.popleft() if self._waiting else None
                if worker.job is not None:
                    continue
                if self.threads > self.limit:
                    self.threads -= 1
                    return
                self._idle.append(worker)
            if worker.wake.acquire(timeout=IDLE_SECONDS):
                continue
            with self._guard:
                if worker.is_idle():
                    self._idle.remove(worker)
                    self.threads -= 1
                else:
                    # Woken in the same moment: the next wait must not end by that.
                    worker.wake.acquire(blocking=False)


_pool = _Pool(DEFAULT_THREADS)


def offload[**P, T](func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `func(*args, **kwargs)` on an OS thread and return what it returns; the coroutine parks meanwhile.

    For what blocks in C: DNS, database drivers, compression, files on slow disks. The call sees a copy of the caller's
    context variables, and its exceptions are raised here. Outside of a coroutine, `func` is just called. At most
    `get_offload_threads()` run at once; the others wait for their turn. If the waiting coroutine is interrupted
    (`kill`, `timeout`), the function runs to its end, and its result is dropped.

    Raises what `func` raises, RuntimeError when no thread can be started.
    """
    if not can_park():
        return func(*args, **kwargs)
    job = _Job(lambda: func(*args, **kwargs))
    _pool.submit(job)
    job.done.acquire()
    error, job.error = job.error, None
    try:
        if error is not None:
            raise error
        result: T = job.result
        return result
    finally:
        del error, job


def set_offload_threads(number: int) -> None:
    """Set how many OS threads `offload` uses at most (default: processors + 4, 32 at most).

    Those that run go on. Raises ValueError for less than 1, TypeError for what is no whole number.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"offload threads must be a whole number, not {number!r}")
    if number < 1:
        raise ValueError(f"offload threads must be 1 or more, not {number}")
    _pool.set_limit(number)


def get_offload_threads() -> int:
    """How many OS threads `offload` uses at most."""
    return _pool.limit


def number_of_threads() -> int:
    """How many OS threads there are now, those without work included."""
    return _pool.threads


def _forget_in_child() -> None:
    global _pool
    _pool = _Pool(_pool.limit)


os.register_at_fork(after_in_child=_forget_in_child)
