"""The crew of this process: its end of the messages between the workers of one service.

Private for now: what applications use will stand on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _rmeinheld

if TYPE_CHECKING:
    from collections.abc import Callable

    from .crew_directory import Place

__all__ = ["counter", "current", "identity", "join", "leave"]

_current: _rmeinheld.Crew | None = None
_identity: tuple[str, int, int] | None = None


def join(place: Place, slot: int, scoreboard: _rmeinheld.Scoreboard) -> None:
    """Make this process, which has claimed the slot, a member of the crew. It opens no socket yet."""
    global _current, _identity
    _current = _rmeinheld.Crew(str(place), slot, scoreboard)
    _identity = str(place), slot, scoreboard.generation(slot)


def current() -> _rmeinheld.Crew | None:
    """Return the crew of this process; None if the process is no worker of a service."""
    return _current


def identity() -> tuple[str, int, int] | None:
    """Return the place of the crew, and the slot and generation of this process; None if it is no worker."""
    return _identity if _current is not None else None


def counter() -> Callable[[int, int, int, int], object] | None:
    """Return the function that counts messages of channels in the scoreboard: published, delivered, dropped, gaps.

    None if the process is no worker of a service.
    """
    return None


def leave() -> None:
    """Close the sockets of the crew. The process has none afterwards."""
    global _current
    crew, _current = _current, None
    if crew is not None:
        crew.close()
