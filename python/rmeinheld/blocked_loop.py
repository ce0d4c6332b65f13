"""Notices that a wait of an unpatched program blocks the loop, and says so once.

`rmeinheld.run` patches nothing by itself. A thread looks at the loop four times a second, and only at memory and at a
clock of the kernel, until it has something to say. It is made for `run` alone, and only for an unpatched program.
"""

from __future__ import annotations

import _thread
import logging
import os
import sys
import time
from typing import Final

from . import _rmeinheld, error_log
from .patch import is_patched

__all__ = ["BlockedLoop"]

LOOK_SECONDS: Final = 0.25
"""Time between two looks at the loop."""

BLOCKED_SECONDS: Final = 0.2
"""Length of a turn from which it is examined."""

SAMPLE_SECONDS: Final = 0.05
"""Time in which the loop's thread must not compute to count as waiting."""

COMPUTED_SECONDS: Final = 0.001
"""Time on a processor, within SAMPLE_SECONDS, that a thread needs that computes."""

_logger: Final = logging.getLogger(error_log.LOGGER_NAME)


class BlockedLoop:
    """Watches the loop of one server from a thread of its own. `scoreboard` and `slot` are for the engine."""

    def __init__(self, scoreboard: _rmeinheld.Scoreboard, slot: int) -> None:
        self.scoreboard, self.slot = scoreboard, slot
        self._clock: int | None = None
        self._process = os.getpid()
        # The thread waits for it; the end of the server opens it.
        self._end = _thread.allocate_lock()

    @classmethod
    def of_unpatched_program(cls) -> BlockedLoop | None:
        """Return a watch; None if the program is patched, or the system does not have what it takes."""
        if is_patched("time") or not hasattr(time, "pthread_getcpuclockid"):
            return None
        try:
            scoreboard = _rmeinheld.Scoreboard(1)
        except OSError:
            return None
        return cls(scoreboard, scoreboard.reserve())

    def begin(self) -> None:
        """Start to watch. The engine must be about to run."""
        self._end.acquire()
        _rmeinheld.spawn(self._note_clock)
        _thread.start_new_thread(self._watch, ())

    def end(self) -> None:
        """Stop to watch."""
        if self._end.locked():
            self._end.release()

    def _note_clock(self) -> None:
        """Note the clock of the loop's thread, in a coroutine. The kernel refuses a clock whose thread is gone."""
        self._clock = time.pthread_getcpuclockid(_thread.get_ident())

    def _watch(self) -> None:
        while not self._end.acquire(timeout=LOOK_SECONDS):
            if is_patched("time") or os.getpid() != self._process:
                return
            if self._age() >= BLOCKED_SECONDS and self._is_waiting():
                _logger.warning(
                    "a wait%s has blocked the server for %.1f s, and all other requests with it: the standard library "
                    "is not patched. Call rmeinheld.patch.patch_all() before other imports, start the application by "
                    "the command rmeinheld, which patches, or pass the call to rmeinheld.coroutine.offload. (This line "
                    "appears once)",
                    self._place(),
                    self._age(),
                )
                return

    def _age(self) -> float:
        return self.scoreboard.turn_age(self.slot)

    def _is_waiting(self) -> bool:
        """Does the loop's thread wait, instead of computing?"""
        if self._clock is None:
            return False
        try:
            before, age = time.clock_gettime(self._clock), self._age()
            if self._end.acquire(timeout=SAMPLE_SECONDS):
                self._end.release()
                return False
            # A turn that ended has a successor, which is younger.
            is_same = self._age() > age
            return is_same and time.clock_gettime(self._clock) - before < COMPUTED_SECONDS
        except OSError:
            return False

    def _place(self) -> str:
        """Return the line of the application that waits, if only one coroutine has called Python code."""
        # From 3.14 on all coroutines share the number of the loop's thread.
        if sys.version_info >= (3, 14):
            return ""
        threads = {_thread.get_ident(), *_idents_of_threads()}
        frames = [frame for ident, frame in sys._current_frames().items() if ident not in threads]
        if len(frames) != 1:
            return ""
        code = frames[0].f_code
        return f" in {code.co_filename}:{frames[0].f_lineno} ({code.co_qualname})"


def _idents_of_threads() -> set[int]:
    import threading

    # A dummy stands for a coroutine or the loop's own thread.
    known = threading.enumerate()
    return {thread.ident for thread in known if thread.ident and not isinstance(thread, threading._DummyThread)}
