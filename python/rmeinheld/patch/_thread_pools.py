"""`ThreadPoolExecutor`: its workers may be coroutines. `_futures` imports this module together with the executor."""

from __future__ import annotations

import concurrent.futures.thread as pools
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

_work: Callable[..., None] = pools._worker


idle: set[int] = set()
"""The numbers of the workers that wait for a job. A server that stops does not wait for these workers."""


class _Threading(ModuleType):
    """The module `threading` as the executor sees it: threads are OS threads."""

    Thread = NativeThread

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class _Assignment:
    """The executor and the queue of a worker, as the worker sees them if it is a coroutine.

    `concurrent.futures` treats CoroutineExit as an error of the job: the worker would go on, or end while the executor
    still counts it. This class ends the worker, by showing it no executor, and removes it from the executor's workers.
    """

    def __init__(self, reference: Callable[[], Any], work: Any) -> None:
        self._reference = reference
        self._work = work
        self._ended = False

    def executor(self) -> Any:
        """Return the executor; None if the worker has to end."""
        return None if self._ended else self._reference()

    def get_nowait(self) -> Any:
        """Return the next piece of work. Raises queue.Empty."""
        return self.get(block=False)

    def get(self, block: bool = True) -> Any:
        """Return the next piece of work, or None: the worker then checks whether its executor still exists."""
        ident = get_ident()
        try:
            if is_killed():
                # It was raised in a job, and caught as the job's error.
                raise CoroutineExit
            if block:
                idle.add(ident)
            return self._work.get(block=block)
        except CoroutineExit:
            self._ended = True
            executor = self._reference()
            if executor is not None:
                # A new set: another coroutine may be iterating over the old one.
                executor._threads = executor._threads - {threading.current_thread()}
                if block:
                    executor._idle_semaphore.acquire(blocking=False)
            return None
        finally:
            idle.discard(ident)

    def put(self, item: Any) -> None:
        """Wake another worker, unless only this worker ends."""
        if not self._ended:
            self._work.put(item)


def _worker(reference: Callable[[], Any], *arguments: Any) -> None:
    """Run a worker. Since Python 3.14 the arguments are a context and the queue, before that the queue alone."""
    if current() is not None:
        place = 1 if sys.version_info >= (3, 14) else 0
        assignment = _Assignment(reference, arguments[place])
        reference, arguments = assignment.executor, (*arguments[:place], assignment, *arguments[place + 1 :])
    _work(reference, *arguments)


def replace(*, native: bool) -> None:
    """Make the workers coroutines, or OS threads with `native`."""
    if native:
        _state.replace(pools, "threading", _Threading("threading"))
    _state.replace(pools, "_worker", _worker)
    if _state.is_patched("threading"):
        _renew_lock()


def _renew_lock() -> None:
    """Replace the lock that is held while a worker starts, if it was made before the patch."""
    module: Any = pools
    if not isinstance(module._global_shutdown_lock, Lock):
        module._global_shutdown_lock = lock = Lock()
        os.register_at_fork(before=lock.acquire, after_in_child=lock._at_fork_reinit, after_in_parent=lock.release)


def adopt() -> Iterator[Finding]:
    """Give executors made before the patch locks and a queue that park, unless workers already use theirs."""
    if not _state.is_patched("threading"):
        return
    blocking = type(_state.get_original("_thread", "allocate_lock")())
    executors = _state.instances(pools.ThreadPoolExecutor)
    early = [each for each in executors if isinstance(getattr(each, "_shutdown_lock", None), blocking)]
    idle = [each for each in early if not each._threads]
    for executor in idle:
        executor._shutdown_lock = threading.Lock()
        executor._idle_semaphore = threading.Semaphore(0)
        executor._work_queue = queue.SimpleQueue()
    if idle:
        yield Finding("concurrent.futures", f"{len(idle)} executors had been made before the patch", fixed=True)
    if len(idle) < len(early):
        number = len(early) - len(idle)
        what = f"{number} executors with workers, made before the patch, may block every coroutine that submits"
        yield Finding("concurrent.futures", what, fixed=False)
