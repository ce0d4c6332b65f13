"""`time.sleep`, which parks the coroutine."""

from __future__ import annotations

import operator
import time
from typing import Any

from ..coroutine import can_park, sleep
from . import _state

LONGEST = 100 * 365 * 86_400.0
"""Seconds that one park may take; a longer sleep consists of several."""


TOO_LONG = 9_223_372_036.854_776
"""Seconds (2^63 nanoseconds) that are too many for CPython, which raises OverflowError."""


def number(value: Any) -> Any:
    """Convert integers of other types (such as numpy.int64) to int, as functions in C do. Return other values as is."""
    if isinstance(value, int | float) or not hasattr(value, "__index__"):
        return value
    return operator.index(value)


def cooperative_sleep(seconds: float, /) -> None:
    """`time.sleep`: park the coroutine for `seconds`. Outside a coroutine the OS thread sleeps.

    Raises the errors of `time.sleep`, and exceptions that are thrown into the coroutine.
    """
    seconds = number(seconds)
    if not can_park() or not isinstance(seconds, int | float) or not 0 <= seconds < TOO_LONG:
        _state.get_original("time", "sleep")(seconds)
    else:
        sleep(min(seconds, LONGEST))


def patch() -> None:
    """Replace `time.sleep`."""
    _state.replace(time, "sleep", cooperative_sleep)
