"""Calls once a second while the loop of a server turns: Meinheld's `set_watchdog` and `set_fastwatchdog`.

The calls come from a coroutine of their own, so they stop when the loop stops. A request that computes for a minute
causes a minute without a call, by which a supervisor sees that the process hangs.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from .. import error_log
from ..coroutine import sleep, spawn
from ..option_kinds import Count, Seconds

__all__ = ["INTERVAL_SECONDS", "ParentWatch", "Watchdog"]

INTERVAL_SECONDS: Final = 1.0
"""Time between two calls, as in Meinheld."""


@dataclass(frozen=True)
class ParentWatch:
    """A heartbeat for a parent process that supervises this one.

    `descriptor` is a file whose modification time is set to the monotonic clock; -1 is none. Gunicorn reads it since
    version 22. When `parent` (a process id) is no longer the parent, the server stops, and requests in progress have
    `timeout` seconds.
    """

    descriptor: int
    parent: int
    timeout: float

    @classmethod
    def checked(cls, descriptor: object, parent: object, timeout: object) -> ParentWatch:
        """Make one from a caller's arguments. Raises TypeError or ValueError naming the argument and its value."""
        return cls(
            Count(-1, 2**31 - 1).check("fd", descriptor),
            Count(1, 2**31 - 1).check("ppid", parent),
            Seconds().check("timeout", timeout),
        )

    @property
    def is_orphan(self) -> bool:
        """Has the parent ended?"""
        return os.getppid() != self.parent

    def beat(self) -> None:
        """Show the parent that the loop turns. Raises OSError for a bad descriptor."""
        if self.descriptor >= 0:
            now = time.monotonic()
            os.utime(self.descriptor, (now, now))


class Watchdog:
    """The watchdog and the fast watchdog. Unless one is set, nothing runs and nothing wakes the process."""

    def __init__(self) -> None:
        self.callback: Callable[[], object] | None = None
        self.parent: ParentWatch | None = None

    def start(self, stop: Callable[[float], None]) -> None:
        """Watch until the server ends, if a watchdog is set. CoroutineExit then ends the coroutine."""
        if self.callback is not None or self.parent is not None:
            spawn(self._watch, stop)

    def _watch(self, stop: Callable[[float], None]) -> None:
        log = logging.getLogger(error_log.LOGGER_NAME)
        is_stopping = False
        while True:
            if (parent := self.parent) and parent.is_orphan and not is_stopping:
                log.warning("the parent process %d is gone: the server stops", parent.parent)
                stop(parent.timeout)
                is_stopping = True
            for call in (parent.beat if parent else None, self.callback):
                try:
                    if call is not None:
                        call()
                except Exception:
                    log.exception("Error in the watchdog")
            sleep(INTERVAL_SECONDS)
