"""Functions that block in C, run on OS threads while the coroutine that calls them parks."""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from ._rmeinheld import Jobs, Lock, can_park

__all__ = ["get_offload_threads", "offload", "set_offload_threads"]

DEFAULT_THREADS = min(32, (os.cpu_count() or 1) + 4)
"""OS threads at most, as in `concurrent.futures.ThreadPoolExecutor`."""

IDLE_SECONDS = 10.0
"""How long a thread without work stays."""

# The real one: this module is imported before anything is patched.
_start_new_thread = _thread.start_new_thread


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


def _submit(job: _Job) -> None:
    """Have it run as soon as there is a thread. Raises RuntimeError when none can be started."""
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
    _submit(job)
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
    for job in _jobs.set_limit(number):
        _start(job)


def get_offload_threads() -> int:
    """How many OS threads `offload` uses at most."""
    return _jobs.limit


def number_of_threads() -> int:
    """How many OS threads there are now, those without work included."""
    return _jobs.threads


def _forget_in_child() -> None:
    global _jobs
    _jobs = Jobs(_jobs.limit)


os.register_at_fork(after_in_child=_forget_in_child)
