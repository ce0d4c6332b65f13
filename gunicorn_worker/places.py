"""The places of sessions: which worker holds which.

A session of `sticky` belongs to a place. A worker that becomes ready takes the place of the one that leaves, or that
has died, so that no other session moves. The master writes the table into the scoreboard, where every worker reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rmeinheld._rmeinheld import Scoreboard

__all__ = ["assign", "keep"]

type Holders = Sequence[int | None]
"""The slot of the worker at each place. None: the place is empty."""


def keep(scoreboard: Scoreboard, wanted: int) -> None:
    """Write the places of all workers of the service into the scoreboard. `wanted` is their number in the end.

    During an upgrade both masters do this. Workers of the new one take places as those of the old one leave.
    """
    before = scoreboard.places()
    after = assign(before, dict(scoreboard.workers()), wanted)
    if after != before:
        scoreboard.assign_places(after)


def assign(places: Holders, workers: Mapping[int, str], wanted: int) -> list[int | None]:
    """Return the holders of all places, from those of before and the states of the workers by their slots.

    A worker keeps its place until it has ended or another one is ready to take it. Workers without a place take those
    of workers that drain first, then empty ones, the lowest first, while fewer than `wanted` stay.
    """
    held: list[int | None] = []
    for slot in places:
        # Two masters may have written at once.
        is_known = slot is not None and workers.get(slot) in ("ready", "draining") and slot not in held
        held.append(slot if is_known else None)
    staying = sum(1 for slot in held if slot is not None and workers[slot] == "ready")
    for newcomer in [slot for slot, state in workers.items() if state == "ready" and slot not in held]:
        if staying >= wanted:
            break
        leaving = [place for place, slot in enumerate(held) if slot is not None and workers[slot] == "draining"]
        empty = [place for place, slot in enumerate(held) if slot is None]
        place = next(iter(leaving + empty), len(held))
        held[place : place + 1] = [newcomer]
        staying += 1
    while held and held[-1] is None:
        held.pop()
    return held
