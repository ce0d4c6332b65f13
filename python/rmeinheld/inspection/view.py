"""The state of `rmeinheld top` as lines of text, each with a style. It knows no terminal."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from .model import Top
from .tables import REQUEST_COLUMNS, clean, duration, memory, request_row, table, worker_table

__all__ = ["Line", "Style", "draw", "summary"]

type Style = Literal["plain", "title", "head", "selected", "dim", "bad"]

SLOW_TURN: Final = 1.0
"""Seconds from which a running turn of a loop is shown as bad."""

MOST_REASONS: Final = 6

KEYS: Final = {
    "list": "Up/Down choose   Enter stack   k end the request   a all coroutines   q leave",
    "stack": "Up/Down scroll   k end the request   Enter back",
    "confirm": "y end it   any other key: do nothing",
}


class Line(NamedTuple):
    """A line of the screen."""

    text: str
    style: Style = "plain"


def draw(top: Top, width: int, height: int) -> list[Line]:
    """Return at most `height` lines of at most `width` characters."""
    if width < 1 or height < 1:
        return []
    body = _stack(top, height - 2) if top.mode == "stack" else _overview(top, height - 2)
    body = body[: max(height - 2, 0)]
    body += [Line("")] * (height - 2 - len(body))
    lines = [*body, _status(top), Line(KEYS[top.mode], "dim")]
    return [Line(clean(line.text)[:width].ljust(width), line.style) for line in lines[-height:]]


def _overview(top: Top, height: int) -> list[Line]:
    lines = [Line(text, "title" if number == 0 else "plain") for number, text in enumerate(summary(top))]
    rows = worker_table(top.workers)
    lines += [Line(""), Line(rows[0], "head")]
    lines += [
        Line(row, "bad" if _is_bad(worker) else "plain")
        for row, worker in zip(rows[1 : 1 + max(3, height // 3)], top.workers, strict=False)
    ]
    rows = table(REQUEST_COLUMNS, map(request_row, top.requests))
    lines += [Line(""), Line(rows[0], "head")]
    room = max(height - len(lines), 1)
    # The selected line stays in sight.
    first = max(0, min(top.place - room // 2, len(top.requests) - room))
    for number in range(first, min(first + room, len(top.requests))):
        lines.append(Line(rows[number + 1], "selected" if number == top.place else "plain"))
    return lines


def summary(top: Top) -> list[str]:
    """Return the first lines of the screen: the whole service in numbers."""
    service, derived = top.service, top.measures
    rate = derived.get("requests_per_second")
    ready = sum(worker.get("state") == "ready" for worker in top.workers)
    size = sum(worker.get("memory_bytes") or 0 for worker in top.workers)
    turn = max((worker.get("turn_age") or 0 for worker in top.workers), default=0)
    master = "" if service.get("master") is None else f"   master {service['master']}"
    restarts = max(service.get("worker_starts", 0) - len(top.workers), 0)
    reasons: dict[str, int] = derived.get("coroutines", {})
    named = [f"{count} {reason}" for reason, count in list(reasons.items())[:MOST_REASONS]]
    if len(reasons) > MOST_REASONS:
        named.append(f"{sum(list(reasons.values())[MOST_REASONS:])} others")
    latency = "   ".join(f"{name} {duration(derived.get(name))}" for name in ("p50", "p90", "p99"))
    return [
        f"rmeinheld   {ready} of {len(top.workers)} workers ready{master}   restarts {restarts}   "
        f"memory {memory(size)}",
        f"requests/s {'-' if rate is None else f'{rate:.1f}'}   {latency}   "
        f"in flight {service.get('in_progress', '-')}   "
        f"connections {service.get('open_connections', '-')}   websockets {service.get('websockets', '-')}   "
        f"longest turn {duration(turn)}",
        f"coroutines {sum(reasons.values())}: {', '.join(named)}" if reasons else "coroutines -",
    ]


def _stack(top: Top, height: int) -> list[Line]:
    subject = top.subject
    title = f"{subject.get('id')}   {subject.get('label', '')}   age {duration(subject.get('age'))}"
    return [Line(title, "title"), Line(""), *(Line(text) for text in top.text[top.scroll : top.scroll + height - 2])]


def _status(top: Top) -> Line:
    if top.mode == "confirm":
        subject = top.subject
        what = "answered with 504" if subject.get("kind") == "request" else "ended"
        return Line(f"End {subject.get('id')} {subject.get('label', '')}? It is {what}. (y/n)", "bad")
    if top.error:
        return Line(top.error, "bad")
    if top.message:
        return Line(top.message)
    missing = [f"{one.get('slot')}-{one.get('generation')}: {one.get('error')}" for one in top.unanswered]
    return Line("no answer from " + "; ".join(missing), "bad") if missing else Line("")


def _is_bad(worker: dict[str, Any]) -> bool:
    return bool(worker.get("unanswered")) or (worker.get("turn_age") or 0) >= SLOW_TURN
