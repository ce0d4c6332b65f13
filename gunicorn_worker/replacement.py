"""Decides which workers of a service are started and which leave: the replacement is ready before a worker leaves.

It is a pure function of the workers' states. The arbiter calls it after each signal and once a second, and acts on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = ["FIRST_PAUSE_SECONDS", "LONGEST_PAUSE_SECONDS", "GrowingPause", "Member", "Plan", "plan"]

FIRST_PAUSE_SECONDS: Final = 0.5
"""Pause after the first failure that costs time."""

LONGEST_PAUSE_SECONDS: Final = 30.0

FORGET_SECONDS: Final = 30.0
"""Time without a failure after which the pause is short again."""


class Member(NamedTuple):
    """A worker of the service. `age` counts the workers of the master, so that a higher age is a younger worker.

    `is_stale`: a reload came after its start. `asks` is the reason why it wants to be replaced, or empty.
    """

    age: int
    state: str
    is_stale: bool = False
    asks: str = ""

    @property
    def is_to_be_replaced(self) -> bool:
        return self.is_stale or bool(self.asks)


class Plan(NamedTuple):
    """The number of workers to start now, and the ages of the workers to stop."""

    start: int = 0
    leave: tuple[int, ...] = ()


def plan(members: Iterable[Member], wanted: int, *, replace_first: bool) -> Plan:
    """Return the next step towards `wanted` ready workers, none of which is to be replaced.

    With `replace_first` a worker that is ready leaves only if `wanted` others are ready. Otherwise a worker leaves
    before its replacement starts. Either way one worker is replaced at a time: the next one that asks waits until the
    last one has ended. A reload does not wait for that.
    """
    everyone = sorted(members, key=lambda member: member.age)
    leaving = [member for member in everyone if member.state == "draining"]
    # A worker that still imports old code is of no use.
    useless = [member for member in everyone if member.state == "booting" and member.is_stale]
    staying = [member for member in everyone if member not in leaving and member not in useless]
    ready = [member for member in staying if member.state == "ready"]
    booting = [member for member in staying if member.state != "ready"]
    old = [member for member in ready if member.is_to_be_replaced]
    is_full = len(staying) == wanted and not booting
    is_turn = bool(old) and is_full and (not leaving or any(member.is_stale for member in old))
    if replace_first:
        start = max(wanted - len(staying), 0) + (1 if is_turn and wanted else 0)
        surplus = _surplus(ready, booting, wanted, extra=1 if wanted else 0)
    else:
        start = max(wanted - len(staying) - len(leaving) - len(useless), 0)
        surplus = _surplus(ready, booting, wanted, extra=0)
        if is_turn and not leaving:
            surplus = [*surplus, *_oldest_first(old)[:1]]
    return Plan(start, tuple(member.age for member in [*useless, *surplus]))


def _surplus(ready: Sequence[Member], booting: Sequence[Member], wanted: int, extra: int) -> list[Member]:
    """Workers beyond the wanted number: the ready ones to be replaced, the oldest ones, and the last that boot.

    `extra` workers more may boot while others are to be replaced.
    """
    others = [member for member in ready if not member.is_to_be_replaced]
    replaced = _oldest_first(member for member in ready if member.is_to_be_replaced)
    number = max(len(ready) - wanted, 0)
    leave = [*replaced, *others][:number]
    most = wanted + (extra if len(replaced) > number else 0)
    too_many = len(ready) - number + len(booting) - most
    return [*leave, *booting[::-1][: max(too_many, 0)]]


def _oldest_first(members: Iterable[Member]) -> list[Member]:
    """Sort the workers to be replaced: those from before a reload, then those that have asked, each by age."""
    return sorted(members, key=lambda member: (not member.is_stale, member.age))


class GrowingPause:
    """The time until the next try: it doubles with each failure, up to a bound, and starts again after a quiet time."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._not_before = 0.0
        self._failed_at: float | None = None

    def fail(self, now: float, *, is_free: bool = False) -> float:
        """Record a failure and return the seconds until the next try. `is_free`: the first failure costs no time."""
        is_first = self._failed_at is None or now - self._failed_at > FORGET_SECONDS + self._pause
        if is_first:
            self._pause = 0.0
        self._failed_at = now
        if not (is_first and is_free):
            self._pause = min(max(2 * self._pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._not_before = now + self._pause
        return self._pause

    def reset(self) -> None:
        """Allow the next try at once."""
        self._pause, self._not_before, self._failed_at = 0.0, 0.0, None

    def is_over(self, now: float) -> bool:
        """Is it time for the next try?"""
        return now >= self._not_before
