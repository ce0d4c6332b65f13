"""Growing pauses between two attempts at something that no event reports."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from ..coroutine import sleep

SHORTEST_PAUSE = 0.0005
"""Seconds after the first attempt; each further pause is twice as long."""

LONGEST_PAUSE = 0.02
"""Seconds between two attempts at most, unless the caller gives another limit."""


class Pauses:
    """The pauses of one wait, of at most `longest` seconds each."""

    def __init__(self, longest: float = LONGEST_PAUSE) -> None:
        self._longest = longest
        self._next = SHORTEST_PAUSE

    def pause(self, left: float | None = None) -> None:
        """Pause, for at most `left` seconds. Parks."""
        sleep(self._next if left is None else max(0.0, min(self._next, left)))
        self._next = min(2 * self._next, self._longest)


def poll(happened: Callable[[], bool], timeout: float | None, longest: float = LONGEST_PAUSE) -> bool:
    """Ask `happened` repeatedly until it returns true. Parks.

    Returns false after `timeout` seconds (None: waits for ever). There are at most `longest` seconds between two calls.
    """
    deadline = None if timeout is None else monotonic() + timeout
    pauses = Pauses(longest)
    while not happened():
        left = None if deadline is None else deadline - monotonic()
        if left is not None and left <= 0:
            return False
        pauses.pause(left)
    return True
