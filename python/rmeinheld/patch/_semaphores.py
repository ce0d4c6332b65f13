"""The semaphore in the locks of `multiprocessing`. `_multiprocessing` imports this module with the one in C.

No event reports that another process has posted a semaphore, so a coroutine tries repeatedly, at growing intervals.
Only one coroutine does so for each lock, and the others wait in line.
"""

from __future__ import annotations

import _multiprocessing  # type: ignore[import-not-found]
import functools
from time import monotonic
from typing import Any

from ..coroutine import Lock, can_park, get_ident
from . import _state
from ._pauses import poll

LONGEST_POLL = 0.005
"""Seconds between two attempts to acquire a semaphore that another process or coroutine holds."""

RECURSIVE = 0
"""The kind of semaphore that is an RLock (`multiprocessing.synchronize.RECURSIVE_MUTEX`)."""

_base: Any = _multiprocessing.SemLock


class SemLock(_base):  # type: ignore[misc]
    """The semaphore in the locks, semaphores and conditions of `multiprocessing`.

    The class in C takes all coroutines for one thread. Therefore this class keeps the owner's number too.
    """

    _owner = 0

    @functools.cached_property
    def _turn(self) -> Lock:
        """The lock of the coroutine that polls the semaphore for this process."""
        return Lock()

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Acquire the semaphore; wait for at most `timeout` seconds (None: for ever). Parks."""
        if not can_park():
            acquired = bool(super().acquire(block, timeout))
            if acquired:
                self._owner = get_ident()
            return acquired
        return self._attempt() or (bool(block) and self._wait(timeout))

    def _attempt(self) -> bool:
        if self.kind == RECURSIVE and super()._is_mine() and not self._is_mine():
            return False
        if not super().acquire(False):
            return False
        self._owner = get_ident()
        return True

    def _wait(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else monotonic() + timeout
        if not self._turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        try:
            return poll(self._attempt, None if deadline is None else deadline - monotonic(), LONGEST_POLL)
        finally:
            self._turn.release()

    def release(self) -> None:
        """Release the semaphore.

        Raises ValueError if it is free, and AssertionError if it is recursive and the caller does not own it.
        """
        if self.kind == RECURSIVE and not self._is_mine():
            raise AssertionError("attempt to release recursive lock not owned by thread")
        super().release()

    def _is_mine(self) -> bool:
        return bool(super()._is_mine()) and self._owner == get_ident()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


SemLock.__module__ = "_multiprocessing"


def replace() -> None:
    """Replace the semaphore of which locks are made."""
    _state.replace(_multiprocessing, "SemLock", SemLock)
