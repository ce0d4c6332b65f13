"""The watchdog of workers: of `rmeinheld --workers N`, and of Gunicorn's own command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters import Gunicorn, Masters, Service


@pytest.fixture(params=[Service, Gunicorn], ids=["rmeinheld", "gunicorn"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Masters[Gunicorn]]:
    """`start(*options) -> Gunicorn`: a running master, which must end in order at the end of the test."""
    masters = Masters[Gunicorn](tmp_path, request.param)
    yield masters
    masters.stop()


def test_a_worker_whose_loop_is_blocked_says_so(start: Masters[Gunicorn], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMEINHELD_BLOCK_WARNING", "0.3")
    service = start("--workers", "2", app="service_app:app")
    worker = service.get("/block/1.2?token=secret")["pid"]
    subject = rf"\[{worker}\] \[WARNING\] request GET /block/1\.2\?token=\*\*\*"
    service.wait_for_log(rf"{subject} had blocked the loop for .* in the end; it turns again", 60)
    assert re.search(rf"{subject} .* has blocked the loop for .*: Python code runs", service.log()), service.log()
    assert re.search(r"service_app\.py\", line \d+, in app", service.log())
