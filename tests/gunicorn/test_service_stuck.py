"""A worker whose request nothing can end is replaced, the new one first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from masters import Masters, Service, wait_until
from serving import request


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Masters[Service]]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def test_a_worker_that_c_code_holds_is_replaced(start: Masters[Service]) -> None:
    service = start("--request-timeout", "0.3", "--workers", "2", "--graceful-timeout", "2", app="service_app:app")

    def hold() -> None:
        with suppress(OSError, AssertionError), service.connect() as connection:
            connection.send(request("GET", "/hold"))
            connection.read_to_end()

    holding = threading.Thread(target=hold)
    holding.start()
    service.wait_for_log(r'the request or coroutine "GET /hold" goes on 3 s after it was ended: .* The master replaces')
    service.wait_for_log(r"Worker \(pid:\d+\) leaves: a request that nothing can end holds it up")
    service.wait_for_log(r"Worker \(pid:\d+\) has not ended within graceful_timeout: it is killed")
    wait_until(lambda: service.get("/")["pid"] > 0, service.log)
    holding.join()
