"""Answers of a server as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

__all__ = [
    "REQUEST_COLUMNS",
    "clean",
    "duration",
    "memory",
    "outcome_of_kill",
    "request_row",
    "table",
    "waits",
    "worker_table",
]

WORKER_COLUMNS: Final = (
    "WORKER",
    "PID",
    "STATE",
    "AGE",
    "REQUESTS",
    "BUSY",
    "CONN",
    "WS",
    "TURN",
    "LOAD",
    "MEMORY",
)
STICKY_COLUMNS: Final = ("PLACE", "OUT", "IN", "REFUSED")
"""Columns of a service with sticky sessions: the worker's place, then connections that went to siblings, that came from
them, and that a sibling could not take."""

REQUEST_COLUMNS: Final = ("ID", "AGE", "KIND", "WAITS", "FOR", "REQUEST")

_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Characters that would move the cursor, or turn the direction of writing. The target of a request may have any."""


def clean(text: object) -> str:
    """Return `text` without characters that act on a terminal."""
    return _CONTROLS.sub("?", str(text))


def duration(seconds: object) -> str:
    """Return a time in at most six characters: 1.2ms, 45.0s, 12m05s, 3h20m, 2d04h."""
    if not isinstance(seconds, int | float):
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.1f}ms" if seconds < 0.1 else f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, left = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{left:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours < 48 else f"{hours // 24}d{hours % 24:02}h"


def memory(size: object) -> str:
    """Return a number of bytes in MiB or GiB."""
    if not isinstance(size, int | float):
        return "-"
    return f"{size / 2**20:.0f}M" if size < 2**30 else f"{size / 2**30:.1f}G"


def outcome_of_kill(identity: object, answer: Mapping[str, Any]) -> str:
    """Return a sentence about the answer to an order to end a request."""
    name = f"{identity} {answer.get('label') or ''}".strip()
    if answer.get("over", True):
        return f"{name} is ended"
    return f"{name} has its exception, but goes on: it catches it, or C code computes"


def waits(request: Mapping[str, Any]) -> str:
    """Return how long a request has waited; "runs" or "ready" if it does not wait."""
    since = request.get("waits")
    return str(request.get("state", "-")) if since is None else duration(since)


def worker_table(workers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line with the titles, and one for each worker."""
    is_sticky = any("place" in worker for worker in workers)
    columns = (*WORKER_COLUMNS, *(STICKY_COLUMNS if is_sticky else ()), "NOTE")
    return table(columns, (worker_row(worker, is_sticky=is_sticky) for worker in workers))


def worker_row(worker: Mapping[str, Any], *, is_sticky: bool = False) -> tuple[str, ...]:
    """Return the cells of a worker."""
    notes = [str(worker[name]) for name in ("unanswered",) if worker.get(name)]
    if worker.get("asks"):
        notes.append(f"asks to be replaced: {worker['asks']}")
    return (
        f"{worker.get('slot')}-{worker.get('generation')}",
        str(worker.get("pid")),
        str(worker.get("state")),
        duration(worker.get("age")),
        str(worker.get("requests")),
        str(worker.get("in_progress")),
        str(worker.get("open_connections")),
        str(worker.get("websockets")),
        duration(worker.get("turn_age")),
        f"{worker.get('busy') or 0:.0%}",
        memory(worker.get("memory_bytes")),
        *(_moves(worker) if is_sticky else ()),
        clean("; ".join(notes)),
    )


def _moves(worker: Mapping[str, Any]) -> tuple[str, ...]:
    place = worker.get("place")
    counts = (str(worker.get(name, "-")) for name in ("moved_out", "moved_in", "moves_refused"))
    return "-" if place is None else str(place), *counts


def request_row(request: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the cells of a request or another coroutine."""
    return (
        str(request.get("id")),
        duration(request.get("age")),
        str(request.get("kind")),
        waits(request),
        clean(request.get("reason") or ""),
        clean(request.get("label") or ""),
    )


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return lines with the cells of each column below each other. Columns of numbers are aligned at the right."""
    cells = [tuple(columns), *(tuple(row) for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    right = [
        len(cells) > 1 and all(re.match(r"[\d.]+[\w%]*\Z|-\Z|\Z", row[index]) for row in cells[1:])
        for index in range(len(columns))
    ]
    return [
        "  ".join(
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
