"""The metrics of a service for statsd, with Gunicorn's setting `statsd_host`: those of `/metrics` without buckets."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rmeinheld._rmeinheld import Scoreboard

__all__ = ["StatsdReporter", "samples_of"]

INTERVAL_SECONDS: Final = 10.0
"""Time between two reports, which is the interval of statsd's own flush."""

_SAMPLE: Final = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_VALUE: Final = re.compile(r'="([^"]*)"')


def samples_of(text: str) -> Iterator[tuple[str, bool, float]]:
    """Yield the samples of a scrape in the format of Prometheus: name, whether it only grows, number.

    The name ends with the values of the labels, since statsd has none. Buckets and versions are left out.
    """
    kind = ""
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            kind = line.rpartition(" ")[2]
        match = _SAMPLE.match(line)
        if match is None or match[1].endswith(("_bucket", "_info")):
            continue
        name = ".".join([match[1], *_VALUE.findall(match[2] or "")])
        yield name, kind in ("counter", "histogram"), float(match[3])


class StatsdReporter:
    """Sends the metrics of all workers through Gunicorn's logger, from the master alone."""

    def __init__(self, log: Any, scoreboard: Scoreboard) -> None:
        self._log = log
        self._scoreboard = scoreboard
        self._next = 0.0
        self._sent: dict[str, float] = {}

    def turn(self, now: float | None = None) -> None:
        """Send a report if it is due. Counters are sent as differences to the last report."""
        now = time.monotonic() if now is None else now
        if now < self._next:
            return
        is_first, self._next = not self._next, now + INTERVAL_SECONDS
        for name, grows, number in samples_of(self._scoreboard.scrape()):
            if not grows:
                self._log.gauge(name, _text(number))
                continue
            before = self._sent.get(name, number if is_first else 0.0)
            self._sent[name] = number
            if number > before:
                self._log.increment(name, _text(number - before))


def _text(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")
