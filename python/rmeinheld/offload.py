"""Runs functions that block in C on OS threads, while the calling coroutine parks."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from ._rmeinheld import Jobs, Lock, can_park, waiting_for

__all__ = ["get_offload_threads", "offload", "set_offload_threads"]

DEFAULT_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""Most OS threads, as in `concurrent.futures.ThreadPoolExecutor`."""

IDLE_SECONDS = 10.0
"""Time after which a thread without work ends."""

# The unpatched function: this module is imported before patches are installed.
_start_new_thread = _thread.start_new_thread


class _Job:
    """One call on an OS thread."""

    __slots__ = ("_call", "_context", "done", "error", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call: Callable[[], Any] | None = call
        self._context = copy_context()
        self.done = Lock()
        self.done.acquire()
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Run the call in the context of the caller, then release its references."""
        try:
            if self._call is not None:
                self.result = self._context.run(self._call)
        except BaseException as error:
            self.error = error
        finally:
            self._call = None
            self.done.release()


def _submit(job: _Job) -> None:
    """Run `job` as soon as there is a thread. Raises RuntimeError if none can be started."""
    if _jobs.put(job):
        _start(job)


def _start(job: _Job) -> None:
    try:
        _start_new_thread(_work, (_jobs, job))
    except BaseException:
        _jobs.failed()
        raise


def _work(jobs: Jobs, job: _Job | None) -> None:
    while job is not None:
        job.run()
        job = jobs.next(IDLE_SECONDS)


_jobs = Jobs(DEFAULT_THREADS)


def offload[**P, T](func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `func(*args, **kwargs)` on an OS thread and return its result. The coroutine parks in the meantime.

    It is for functions that block in C: DNS, database drivers, compression, files on slow disks. The call sees a copy
    of the caller's context variables, and its exceptions are raised here. Outside a coroutine, `func` is just called.
    At most `get_offload_threads()` calls run at once; the others wait for their turn. If the waiting coroutine is
    interrupted (`kill`, `timeout`), the function runs to its end and its result is dropped.

    Raises the exception of `func`, and RuntimeError if no thread can be started.
    """
    if not can_park():
        return func(*args, **kwargs)
    job = _Job(lambda: func(*args, **kwargs))
    _submit(job)
    waiting_for("offload", 0, job.done.acquire)
    error, job.error = job.error, None
    try:
        if error is not None:
            raise error
        result: T = job.result
        return result
    finally:
        del error, job


def set_offload_threads(number: int) -> None:
    """Set the most OS threads that `offload` uses (default: processors + 4, but at most 32).

    Running threads go on. Raises ValueError below 1, and TypeError if `number` is not an int.
    """
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"offload threads must be a whole number, not {number!r}")
    if number < 1:
        raise ValueError(f"offload threads must be 1 or more, not {number}")
    for job in _jobs.set_limit(number):
        _start(job)


def get_offload_threads() -> int:
    """Return the most OS threads that `offload` uses."""
    return _jobs.limit


def number_of_threads() -> int:
    """Return the number of OS threads of `offload`, including those without work."""
    return _jobs.threads


def _forget_in_child() -> None:
    global _jobs
    _jobs = Jobs(_jobs.limit)


os.register_at_fork(after_in_child=_forget_in_child)
