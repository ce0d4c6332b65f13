"""Meinheld's `set_watchdog` and `set_fastwatchdog`, by which a supervisor sees that a process hangs.

The function of `set_watchdog` is called in a coroutine, so its calls stop when the loop stops. `set_fastwatchdog` is a
part of the engine's watchdog, whose threads need neither the loop nor, for a heartbeat, the interpreter. The engine's
watchdog also reports a loop that is blocked (option `block_warning`), whether a function is set or not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from .. import error_log
from ..coroutine import sleep, spawn
from ..option_kinds import Count, Seconds

if TYPE_CHECKING:
    from .. import _rmeinheld

__all__ = ["INTERVAL_SECONDS", "ParentWatch", "Watchdog"]

INTERVAL_SECONDS: Final = 1.0
"""Time between two calls, as in Meinheld."""


class ParentWatch(NamedTuple):
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

    def start(self, engine: _rmeinheld.Server, stop: Callable[[float], None]) -> None:
        """Have the engine's watchdog send the beats, and stop the server after its parent.

        Raises OSError naming a bad descriptor.
        """

        def orphaned() -> None:
            logging.getLogger(error_log.LOGGER_NAME).warning(
                "the parent process %d is gone: the server stops, and requests in progress have %g s",
                self.parent,
                self.timeout,
            )
            stop(self.timeout)

        engine.watch_parent(self.descriptor, self.parent, orphaned)


class Watchdog:
    """The watchdog and the fast watchdog. Unless one is set, nothing runs and nothing wakes the process."""

    def __init__(self) -> None:
        self.callback: Callable[[], object] | None = None
        self.parent: ParentWatch | None = None

    def start(self, engine: _rmeinheld.Server, stop: Callable[[float], None]) -> None:
        """Watch until the server ends, if a watchdog is set. Raises OSError for a bad descriptor."""
        if self.parent is not None:
            self.parent.start(engine, stop)
        if self.callback is not None:
            spawn(self._call)

    def _call(self) -> None:
        # CoroutineExit ends it, at the end of the server.
        while True:
            try:
                if self.callback is not None:
                    self.callback()
            except Exception:
                logging.getLogger(error_log.LOGGER_NAME).exception("Error in the function of set_watchdog")
            sleep(INTERVAL_SECONDS)
