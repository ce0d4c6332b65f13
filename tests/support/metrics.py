"""Scrapes of the admin listener, read by Prometheus' own parsers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_prometheus

from health_probes import Address, connect
from serving import TIMEOUT, Response, request

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.counters: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        """The samples that may only grow."""
        for family in parse_prometheus(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self._samples, f"{key} is there twice"
                self._samples[key] = sample.value
                if family.type in ("counter", "histogram"):
                    self.counters.add(key)

    def __call__(self, name: str, **labels: str) -> float:
        """The number of the sample with exactly these labels. KeyError if it is missing."""
        return self._samples[name, frozenset(labels.items())]

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples that have at least these labels; 0 without any."""
        wanted = labels.items()
        return sum(number for (key, found), number in self._samples.items() if key == name and wanted <= found)

    def names(self) -> set[str]:
        """The names of all samples."""
        return {name for name, _ in self._samples}

    def check_after(self, earlier: Scrape) -> None:
        """AssertionError if a counter has gone backwards, or is gone, since `earlier`."""
        for key in earlier.counters:
            before, now = earlier._samples[key], self._samples.get(key)
            assert now is not None, f"{key} is gone"
            assert now >= before, f"{key} was {before} and is {now}"


def ask(address: Address, *fields: str) -> Response:
    """The answer to a request for /metrics."""
    with closing(connect(address)) as connection:
        response = connection.request(request("GET", "/metrics", *fields))
        connection.expect_end()
        return response


def scrape(address: Address) -> Scrape:
    """The metrics of now."""
    response = ask(address)
    assert response.status == 200, response
    return Scrape(response.body.decode())


def await_scrape(address: Address, is_expected: Callable[[Scrape], bool]) -> Scrape:
    """Scrape until the samples are as expected. AssertionError with the last text otherwise."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = scrape(address)
        if is_expected(found):
            return found
        assert time.monotonic() < deadline, found.text
        time.sleep(0.02)


def check_openmetrics(text: str) -> dict[str, str]:
    """Parse strictly. Returns the kinds of the families by their names."""
    return {family.name: family.type for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]
