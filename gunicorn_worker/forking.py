"""Forks of workers, in which no signal is lost.

CPython forgets a signal that reaches a child before its fork is over. A worker that gets SIGTERM so early would go on
until it is killed.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["signals_kept"]

_KEPT: Final = (signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)


class _Mask:
    """The signals of the calling thread that are blocked during a fork, and those that were blocked before it."""

    def __init__(self) -> None:
        self.is_on = self.is_registered = False
        self._before: set[int] = set()

    def block(self) -> None:
        if self.is_on:
            self._before = set(signal.pthread_sigmask(signal.SIG_BLOCK, _KEPT))

    def put_back(self) -> None:
        if self.is_on:
            self.is_on = False
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


_mask: Final = _Mask()


@contextmanager
def signals_kept() -> Iterator[None]:
    """Keep the signals that end a worker, in the one fork of this block, until the child can handle them."""
    if not _mask.is_registered:
        os.register_at_fork(before=_mask.block, after_in_parent=_mask.put_back, after_in_child=_mask.put_back)
        _mask.is_registered = True
    _mask.is_on = True
    try:
        yield
    finally:
        _mask.is_on = False
