"""The metrics of a service for an OpenTelemetry collector: the master sends them for all workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters import Masters, Service, wait_until
from otlp_collector import Collector

type Start = Masters[Service]

APP = "service_app:app"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def test_one_sender_has_the_totals_of_all_workers_over_a_kill_an_upgrade_and_the_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    with Collector() as collector:
        service = start("--workers", "2", "--otlp-endpoint", collector.url, app=APP)
        service.await_ready()
        collector.wait_for(1)
        os.kill(service.get("/")["pid"], signal.SIGKILL)
        wait_until(lambda: len(service.workers()) == 3, service.log)
        service.await_ready(2)
        service.signal(signal.SIGUSR2)
        service.await_ready(3)
        asked = 2
        for _ in range(8):
            service.get("/")
            asked += 1
        # The old master sends until its end. The new one goes on, as the same service.
        assert len(collector.exports) == 1
        service.signal(signal.SIGTERM)
        wait_until(lambda: service.popen.poll() is not None, service.log)
        old = collector.wait_for(2)
        collector.wait_for(3)
        service.end()
        wait_until(lambda: not service.has(service.masters()[-1]), service.log)
        last = collector.wait_for(4)
        assert len(collector.exports) == 4
    # The fixture has asked once. The killed worker may not have counted its last answer.
    assert asked - 1 <= last.requests() <= asked
    assert last("rmeinheld.worker_starts") == 5
    assert last("rmeinheld.worker_exits", reason="killed") == 1
    assert (old("rmeinheld.worker_exits", reason="stop"), last("rmeinheld.worker_exits", reason="stop")) == (2, 4)
    assert last("rmeinheld.workers", state="ready") == 0


def test_a_reload_sends_to_another_collector(start: Start, tmp_path: Path) -> None:
    def configure(url: str) -> None:
        (tmp_path / "rmeinheld.toml").write_text(f'workers = 2\notlp_endpoint = "{url}"\n')

    with Collector() as before, Collector() as after:
        configure(before.url)
        service = start("--config", "rmeinheld.toml", app=APP)
        service.await_ready()
        before.wait_for(1)
        configure(after.url)
        service.signal(signal.SIGHUP)
        after.wait_for(1)
        assert len(before.exports) == 2
        service.await_ready(2)
