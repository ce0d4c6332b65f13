"""Held answers (`hold_answers`) are sent before a request ends the process, or replaces it by another program.

A fork needs nothing here: `src/net/held.rs` sends what is held before it, also where code in C forks.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from . import _rmeinheld
from .patch import _state

_ENDS = ("_exit", "abort", "execv", "execve")
"""Functions of `os` that leave nothing of the process. The other functions named exec call these."""


def send_before_ends() -> None:
    """Have these functions send held answers first. A second call has no effect."""
    for name in _ENDS:
        _state.replace(os, name, _sending_first(getattr(os, name)))


def _sending_first(end: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(end)
    def end_after_answers(*args: object, **kwargs: object) -> object:
        _rmeinheld.send_held()
        return end(*args, **kwargs)

    return end_after_answers
