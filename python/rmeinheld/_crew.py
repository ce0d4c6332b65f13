"""The crew of this process: its end of the messages between the workers of one service.

Private: applications use `rmeinheld.channel`, which stands on it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from . import _rmeinheld

if TYPE_CHECKING:
    from .crew_directory import Place

__all__ = [
    "counter",
    "current",
    "enter",
    "entering",
    "identity",
    "is_master",
    "join",
    "leave",
    "leaving",
    "note_master",
]

SEND_SECONDS: Final = 1.0
"""Time that a worker gives its siblings to take its last messages."""

leaving: Final[list[Callable[[], object]]] = []
"""Functions that `leave` calls first. From then on nothing is sent any more."""

entering: Final[list[Callable[[], object]]] = []
"""Functions that a worker calls when it begins, before its application is used."""

_master = 0
_has_entered = False
_current: _rmeinheld.Crew | None = None
_scoreboard: _rmeinheld.Scoreboard | None = None
_process = 0
_identity: tuple[str, int, int] | None = None


def note_master() -> None:
    """Note that this process is the master of a service, of which workers are forked."""
    global _master
    if not _has_entered:
        _master = os.getpid()
        _rmeinheld.defer_spawned()


def is_master() -> bool:
    """Whether this process only makes workers. The coroutines that it spawns run in these."""
    return _master == os.getpid()


def enter() -> None:
    """Begin as a worker, after `join` if it belongs to a crew."""
    global _master, _has_entered
    _master, _has_entered = 0, True
    for call in entering:
        call()
    # These may use subscriptions of the master, which the calls above have taken over.
    _rmeinheld.start_spawned()


def join(place: Place, slot: int, scoreboard: _rmeinheld.Scoreboard) -> None:
    """Make this process, which has claimed the slot, a member of the crew. It opens no socket yet."""
    global _current, _scoreboard, _process, _identity
    _current, _scoreboard, _process = _rmeinheld.Crew(str(place), slot, scoreboard), scoreboard, os.getpid()
    _identity = str(place), slot, scoreboard.generation(slot)


def current() -> _rmeinheld.Crew | None:
    """Return the crew of this process; None if the process is no worker of a service, such as a child of one."""
    return _current if _process == os.getpid() else None


def identity() -> tuple[str, int, int] | None:
    """Return the place of the crew, and the slot and generation of this process; None if it is no worker."""
    return _identity if _current is not None else None


def counter() -> Callable[[int, int, int, int], object] | None:
    """Return the function that counts messages of channels in the scoreboard: published, delivered, dropped, gaps.

    None if the process is no worker of a service.
    """
    crew, scoreboard = current(), _scoreboard
    if crew is None or scoreboard is None:
        return None
    slot, count = crew.slot, scoreboard.count_channels
    return lambda published, delivered, dropped, gaps: count(slot, published, delivered, dropped, gaps)


def leave() -> None:
    """Close the sockets of the crew. The process has none afterwards.

    Waits up to a second until the siblings have taken the messages of this process.
    """
    global _current
    crew, _current = current(), None
    if crew is not None:
        for call in leaving:
            call()
        deadline = time.monotonic() + SEND_SECONDS
        while crew.waiting() and time.monotonic() < deadline:
            time.sleep(0.005)
        crew.close()
