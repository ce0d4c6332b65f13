"""`concurrent.futures`: the workers of a `ThreadPoolExecutor` are coroutines, or stay OS threads.

As coroutines they wait beside each other, as everything else does. What computes, or blocks in C, wants OS threads:
`patch_all(futures="native")`. Whoever waits for a result parks in either case.
"""

from __future__ import annotations

import concurrent.futures.thread as pools
import gc
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from .._rmeinheld import is_killed
from ..coroutine import CoroutineExit, Lock, current, get_ident
from . import _state
from ._state import Finding
from ._threading import NativeThread

OPTIONS = ("coroutines", "native")

_work: Callable[..., None] = pools._worker


idle: set[int] = set()
"""Numbers of the workers that wait for a job: the end of a server does not wait for them."""


class _Threading(ModuleType):
    """`threading`, as the executor sees it: its threads are OS threads."""

    Thread = NativeThread

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class _Assignment:
    """A worker's executor and its queue, as the worker sees them if it is a coroutine.

    A worker takes CoroutineExit for an error of its own, and an executor counts on workers that have ended so. Here the
    worker is told that there is no executor any more, upon which it ends, and the executor that there is no worker.
    """

    def __init__(self, reference: Callable[[], Any], work: Any) -> None:
        self._reference = reference
        self._work = work
        self._ended = False

    def executor(self) -> Any:
        """The executor; None if the worker is to end."""
        return None if self._ended else self._reference()

    def get_nowait(self) -> Any:
        """The next piece of work. Raises queue.Empty."""
        return self.get(block=False)

    def get(self, block: bool = True) -> Any:
        """The next piece of work, None for a reason to look at the executor."""
        ident = get_ident()
        try:
            if is_killed():
                # In a job, which has taken it for an error of its own.
                raise CoroutineExit
            if block:
                idle.add(ident)
            return self._work.get(block=block)
        except CoroutineExit:
            self._ended = True
            executor = self._reference()
            if executor is not None:
                # A new set, since somebody may be iterating over the old one.
                executor._threads = executor._threads - {threading.current_thread()}
                if block:
                    executor._idle_semaphore.acquire(blocking=False)
            return None
        finally:
            idle.discard(ident)

    def put(self, item: Any) -> None:
        """Wake another worker, if this one ends since all do."""
        if not self._ended:
            self._work.put(item)


def _worker(reference: Callable[[], Any], *arguments: Any) -> None:
    """What a worker runs. From Python 3.14 on its context stands before the queue."""
    if current() is not None:
        place = 1 if sys.version_info >= (3, 14) else 0
        assignment = _Assignment(reference, arguments[place])
        reference, arguments = assignment.executor, (*arguments[:place], assignment, *arguments[place + 1 :])
    _work(reference, *arguments)


def patch(option: object = "coroutines") -> Iterator[Finding]:
    """Have the workers be what `option` says.

    Raises ValueError for anything but "coroutines" and "native".
    """
    if option not in OPTIONS:
        raise ValueError(f"futures must be one of {', '.join(OPTIONS)}, not {option!r}")
    if option == "native":
        _state.replace(pools, "threading", _Threading("threading"))
    _state.replace(pools, "_worker", _worker)
    if _state.is_patched("threading"):
        _renew_lock()
        yield from _adopt_executors()


def _renew_lock() -> None:
    """Replace the lock that is held while a worker starts, if the module has made it before."""
    module: Any = pools
    if not isinstance(module._global_shutdown_lock, Lock):
        module._global_shutdown_lock = lock = Lock()
        os.register_at_fork(before=lock.acquire, after_in_child=lock._at_fork_reinit, after_in_parent=lock.release)


def _adopt_executors() -> Iterator[Finding]:
    """Those made before get locks and a queue that park, unless workers wait in what they have."""
    blocking = type(_state.get_original("_thread", "allocate_lock")())
    executors = [each for each in gc.get_objects() if isinstance(each, pools.ThreadPoolExecutor)]
    early = [each for each in executors if isinstance(getattr(each, "_shutdown_lock", None), blocking)]
    idle = [each for each in early if not each._threads]
    for executor in idle:
        executor._shutdown_lock = threading.Lock()
        executor._idle_semaphore = threading.Semaphore(0)
        executor._work_queue = queue.SimpleQueue()
    if idle:
        yield Finding("concurrent.futures", f"{len(idle)} executors had been made before", fixed=True)
    if len(idle) < len(early):
        what = f"{len(early) - len(idle)} executors with workers, made before, may block every coroutine that submits"
        yield Finding("concurrent.futures", what, fixed=False)
