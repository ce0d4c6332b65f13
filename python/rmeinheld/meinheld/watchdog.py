"""What is called once a second while the loop of a server turns: Meinheld's `set_watchdog` and `set_fastwatchdog`.

The calls come from a coroutine of their own, so they stop where the loop stops: a request that computes for a minute
leaves a minute without a call. A supervisor that misses them knows that the process hangs.
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
"""Between two calls, as in Meinheld."""


@dataclass(frozen=True)
class ParentWatch:
    """A heartbeat for a parent process that supervises this one.

    `descriptor` is a file whose time of modification is set to the monotonic clock, which Gunicorn reads since
    its version 22; -1 for none. When `parent` (a process id) is not the parent any more, the server is stopped, and
    requests in progress have `timeout` seconds.
    """

    descriptor: int
    parent: int
    timeout: float

    @classmethod
    def checked(cls, descriptor: object, parent: object, timeout: object) -> ParentWatch:
        """Make one of what a caller gave. Raises TypeError or ValueError naming the argument and the value."""
        return cls(
            Count(-1, 2**31 - 1).check("fd", descriptor),
            Count(1, 2**31 - 1).check("ppid", parent),
            Seconds().check("timeout", timeout),
        )

    @property
    def is_orphan(self) -> bool:
        """Is the parent gone?"""
        return os.getppid() != self.parent

    def beat(self) -> None:
        """Tell the parent that the loop turns. Raises OSError for a bad descriptor."""
        if self.descriptor >= 0:
            now = time.monotonic()
            os.utime(self.descriptor, (now, now))


class Watchdog:
    """Both of them. Nothing runs, and nothing wakes the process up, unless one is set."""

    def __init__(self) -> None:
        self.callback: Callable[[], object] | None = None
        self.parent: ParentWatch | None = None

    def start(self, stop: Callable[[float], None]) -> None:
        """Begin to watch, if there is anything to watch, until the server ends (`CoroutineExit` ends the coroutine)."""
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
