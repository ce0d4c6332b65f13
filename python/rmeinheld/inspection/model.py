"""The state of `rmeinheld top`: the answers of the server, what is derived from them, and what a key does.

It knows no screen, and asks the server through an `Asker`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from .client import Asker, InspectError
from .tables import outcome_of_kill

__all__ = ["Key", "Mode", "Top", "measures", "percentile"]

type Key = Literal["up", "down", "page up", "page down", "enter", "escape", "k", "y", "a", "q", "other"]

type Mode = Literal["list", "stack", "confirm"]

PAGE: Final = 10
"""Lines of one page up or down."""

PERCENTILES: Final = (50, 90, 99)


class Top:
    """The state of `rmeinheld top`."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self.workers: list[dict[str, Any]] = []
        self.service: dict[str, Any] = {}
        self.requests: list[dict[str, Any]] = []
        self.unanswered: list[dict[str, Any]] = []
        self.measures: dict[str, Any] = {}
        self.error = ""
        """Why there is no new answer; empty if there is one."""
        self.message = ""
        """The outcome of the last key."""
        self.mode: Mode = "list"
        self.shows_all = False
        self.selected: str | None = None
        """The id of the selected request. It stays selected when others come and go."""
        self.subject: dict[str, Any] = {}
        """The request that is shown or about to be ended."""
        self.text: list[str] = []
        """The stack that is shown."""
        self.scroll = 0
        self._before: tuple[float, Mapping[str, Any]] | None = None

    def refresh(self, now: float) -> None:
        """Ask the server for its state. `now` is the time on a clock that only grows, in seconds."""
        try:
            state = self._asker.ask("workers")
            listed = self._asker.ask("requests", all=self.shows_all)
        except InspectError as error:
            self.error = str(error)
            return
        self.error = ""
        self.workers, self.service = list(state.get("workers", ())), dict(state.get("service", {}))
        self.requests, self.unanswered = list(listed.get("requests", ())), list(listed.get("unanswered", ()))
        self.measures = measures(self.service, self.workers, self._before, now)
        self._before = now, self.service
        if self.selected not in self._ids():
            self._select(min(self._place, len(self.requests) - 1))

    _place = 0

    @property
    def place(self) -> int:
        """The number of the selected line; -1 without requests."""
        ids = self._ids()
        return ids.index(self.selected) if self.selected in ids else -1

    def press(self, key: Key) -> bool:
        """Act on a key. Returns False if it leaves."""
        if self.mode == "confirm":
            self.mode = "list"
            if key == "y":
                self._end()
            else:
                self.message = "nothing was ended"
            return True
        self.message = ""
        if self.mode == "stack":
            return self._press_in_stack(key)
        steps = {"up": -1, "down": 1, "page up": -PAGE, "page down": PAGE}
        if key in steps:
            self._select(max(0, min(self.place + steps[key], len(self.requests) - 1)))
        elif key == "a":
            self.shows_all = not self.shows_all
        elif key in ("enter", "k"):
            self._open(key)
        return key not in ("q", "escape")

    def _press_in_stack(self, key: Key) -> bool:
        steps = {"up": -1, "down": 1, "page up": -PAGE, "page down": PAGE}
        if key in steps:
            self.scroll = max(0, min(self.scroll + steps[key], len(self.text) - 1))
        elif key == "k":
            self.mode = "confirm"
        else:
            self.mode = "list"
        return True

    def _open(self, key: Key) -> None:
        if (place := self.place) < 0:
            self.message = "no request is selected"
            return
        self.subject = self.requests[place]
        if key == "k":
            self.mode = "confirm"
            return
        self.mode, self.scroll = "stack", 0
        try:
            answer = self._asker.ask("stack", id=self.subject["id"])
            self.text = str(answer.get("stack", "")).splitlines()
        except InspectError as error:
            self.text = [str(error)]

    def _end(self) -> None:
        try:
            answer = self._asker.ask("kill", id=self.subject["id"])
        except InspectError as error:
            self.message = str(error)
        else:
            self.message = outcome_of_kill(self.subject["id"], answer)

    def _ids(self) -> list[Any]:
        return [request.get("id") for request in self.requests]

    def _select(self, place: int) -> None:
        self._place = max(place, 0)
        ids = self._ids()
        self.selected = ids[self._place] if ids else None


def measures(
    service: Mapping[str, Any],
    workers: Sequence[Mapping[str, Any]],
    before: tuple[float, Mapping[str, Any]] | None,
    now: float,
) -> dict[str, Any]:
    """Return what is derived from two answers: requests per second, percentiles of latency, coroutines by reason.

    Without an earlier answer, the rate is None, and the percentiles are those since the start of the service.
    """
    earlier: Mapping[str, Any] = {} if before is None else before[1]
    found: dict[str, Any] = {"requests_per_second": None}
    if before is not None and now > before[0]:
        grown = service.get("requests", 0) - earlier.get("requests", 0)
        found["requests_per_second"] = max(grown, 0) / (now - before[0])
    counts = [*service.get("durations", ())]
    past = [*earlier.get("durations", ())] or [0] * len(counts)
    recent = [max(count - then, 0) for count, then in zip(counts, past, strict=False)]
    bounds = [*service.get("duration_bounds", ())]
    for percent in PERCENTILES:
        found[f"p{percent}"] = percentile(bounds, recent if sum(recent) else counts, percent)
    coroutines: Counter[str] = Counter()
    for worker in workers:
        coroutines.update(worker.get("coroutines") or {})
    found["coroutines"] = dict(coroutines.most_common())
    return found


def percentile(bounds: Sequence[float], counts: Sequence[int], percent: float) -> float | None:
    """Return a percentile of a histogram, by a straight line within its bucket; None if it is empty.

    `counts[i]` values lie between `bounds[i - 1]` and `bounds[i]`; the last count has no upper bound, and counts as its
    lower one.
    """
    total = sum(counts)
    if not total or not bounds:
        return None
    wanted, below = total * percent / 100, 0
    for index, count in enumerate(counts):
        if count and below + count >= wanted:
            if index >= len(bounds):
                break
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * (wanted - below) / count
        below += count
    return bounds[-1]
