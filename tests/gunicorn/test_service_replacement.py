"""`rmeinheld --workers`: a replacement is ready before a worker leaves, at limits, reloads and crashes."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from masters import Load, Masters, Service, wait_until
from serving import request

type Start = Masters[Service]

APP = "service_app:app"

SLOW_IMPORT = ("--env", "IMPORT_SECONDS=1.5")
"""An import that a request would notice: it waits that long if no worker is ready."""

MOST_SECONDS = 1.3
"""Longest wait of a request while a worker is ready, on a busy machine."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


class Probe:
    """Asks again and again, with a connection for each request, and measures the longest wait."""

    def __init__(self, service: Service) -> None:
        self.longest = 0.0
        self.pids: set[int] = set()
        self.faults: list[str] = []
        self._service, self._over = service, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        print(f"longest wait {self.longest * 1000:.0f} ms, {len(self.pids)} workers")

    def _run(self) -> None:
        while not self._over.wait(0.005):
            begun = time.monotonic()
            try:
                self.pids.add(self._service.get("/")["pid"])
            except (OSError, AssertionError) as fault:
                self.faults.append(repr(fault))
            self.longest = max(self.longest, time.monotonic() - begun)


# --- limits ----------------------------------------------------------------------------------------------------------


def test_recycling_by_requests_loses_none_and_has_a_replacement_first(start: Start) -> None:
    service = start("--max-requests", "30", "--max-requests-jitter", "10", *SLOW_IMPORT, app=APP)
    with Probe(service) as probe:
        wait_until(lambda: len(probe.pids) >= 3, service.log)
    assert probe.faults == []
    assert probe.longest < MOST_SECONDS
    service.wait_for_log(r"asks to be replaced: it has had (3\d|40) requests, which is max_requests with its jitter")
    service.wait_for_log(r"leaves: max_requests is reached")


def test_a_worker_above_max_worker_memory_is_replaced(start: Start) -> None:
    service = start("--max-worker-memory", "150", "--max-worker-memory-jitter", "1", app=APP)
    first = service.get("/")["pid"]
    assert service.get("/eat/70")["pid"] == first
    assert service.get("/eat/70")["pid"] == first
    wait_until(lambda: service.get("/")["pid"] != first, service.log)
    service.wait_for_log(r"RSS is \d+ MiB, and max_worker_memory with its jitter 15[01] MiB")
    service.wait_for_log(rf"\(pid:{first}\) leaves: max_worker_memory is exceeded")


def test_workers_of_max_worker_lifetime_are_replaced_one_at_a_time(start: Start) -> None:
    service = start("--workers", "2", "--max-worker-lifetime", "1", app=APP)
    service.await_ready()
    wait_until(lambda: service.log().count("leaves: max_worker_lifetime is over") >= 2, service.log)
    # The second leaves when the first has ended.
    ends = [found[0] for found in re.finditer(r"leaves: max_worker|Worker exiting", service.log())]
    assert ends[:3] == ["leaves: max_worker", "Worker exiting", "leaves: max_worker"]


def test_without_replace_first_a_worker_leaves_before_its_replacement_starts(start: Start) -> None:
    service = start("--workers", "2", "--no-replace-first", app=APP)
    service.await_ready()
    most = 0

    def are_replaced() -> bool:
        nonlocal most
        most = max(most, len(service.running()))
        return len(service.workers()) >= 4

    service.signal(signal.SIGHUP)
    wait_until(are_replaced, service.log)
    assert most == 2


# --- reload ----------------------------------------------------------------------------------------------------------


def test_a_reload_loses_no_request(start: Start) -> None:
    service = start("--workers", "2", app="load_app:app")
    with Load(service) as load:
        for _ in range(2):
            seen = load.pids
            service.signal(signal.SIGHUP)
            load.wait_for_workers(2, seen)
    assert load.breaks == []


def test_a_reload_has_the_replacement_first(start: Start) -> None:
    service = start("--workers", "2", *SLOW_IMPORT, app=APP)
    service.await_ready()
    first = set(service.running())
    with Probe(service) as probe:
        service.signal(signal.SIGHUP)
        wait_until(lambda: len(probe.pids - first) >= 2, service.log)
    assert probe.faults == []
    assert probe.longest < MOST_SECONDS


def test_code_that_does_not_import_leaves_the_old_workers_and_is_tried_again(start: Start, tmp_path: Path) -> None:
    service = start("--workers", "2", app=APP)
    service.await_ready()
    first = set(service.running())
    (tmp_path / "broken").touch()
    service.signal(signal.SIGHUP)
    service.wait_for_log(r"\[ERROR\] Worker \(pid:\d+\) could not start; 2 workers go on")
    service.wait_for_log("RuntimeError: the file 'broken' exists")
    assert service.get("/")["pid"] in first
    (tmp_path / "broken").unlink()
    wait_until(lambda: not first & set(service.running()), service.log)
    assert service.get("/")["pid"] not in first


@pytest.mark.parametrize("options", [(), ("--reload",)], ids=["plain", "reload"])
def test_a_worker_that_imports_ends_at_once_by_the_signal_that_lets_requests_finish(
    start: Start, tmp_path: Path, options: tuple[str, ...]
) -> None:
    # The master cannot know whether a worker still imports when its signal arrives.
    conf = "def worker_int(worker):\n    worker.log.info('asked to end its requests')\n"
    service = start(
        "--config", "gunicorn.conf.py", "--workers", "1", "--max-requests", "100000", *options, conf=conf, app=APP
    )
    service.await_ready()
    (tmp_path / "slow").touch()
    service.signal(signal.SIGTTIN)
    second = int(service.wait_for_log(r"process (\d+) imports")[1])
    service.signal(signal.SIGTTOU)
    service.wait_for_log(rf"Worker exiting \(pid: {second}\)")
    service.signal(signal.SIGTTIN)
    third = int(service.wait_for_log(rf"process (?!{second})(\d+) imports")[1])
    service.signal(signal.SIGTERM)
    service.wait_for_log(rf"Worker exiting \(pid: {third}\)")
    assert service.wait() == 0
    assert "asked to end its requests" not in service.log()
    assert "cannot be imported" not in service.log()


# --- crashes ---------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_at_once(start: Start) -> None:
    service = start("--workers", "2", app=APP)
    service.await_ready()
    os.kill(service.workers()[0], signal.SIGKILL)
    wait_until(lambda: len(service.running()) == 2, service.log)
    service.wait_for_log(r"was sent SIGKILL! Perhaps out of memory\?")


def test_workers_that_crash_in_a_loop_are_started_more_and_more_rarely(start: Start, tmp_path: Path) -> None:
    service = start("--workers", "2", app=APP)
    service.await_ready()
    (tmp_path / "broken").touch()
    os.kill(service.workers()[0], signal.SIGKILL)
    service.wait_for_log(r"could not start; 1 workers go on, and the next try is in 2 s")
    assert len(service.workers()) == 5
    (tmp_path / "broken").unlink()
    # A signal does not wait.
    service.signal(signal.SIGHUP)
    wait_until(lambda: len(service.running()) == 2 and service.get("/")["pid"] in service.workers()[5:], service.log)


def test_a_first_start_whose_application_fails_ends(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    service = Service(tmp_path, ("--workers", "2"), APP)
    try:
        assert service.wait() == 3
        service.wait_for_log("RuntimeError: the file 'broken' exists")
        service.wait_for_log("Reason: Worker failed to boot")
    finally:
        service.kill()


# --- the number of workers -------------------------------------------------------------------------------------------


def test_ttin_and_ttou_change_the_number(start: Start) -> None:
    service = start("--workers", "1", "--max-requests", "100000", app=APP)
    service.await_ready()
    (first,) = service.running()
    service.signal(signal.SIGTTIN)
    service.wait_for_log("Workers ready: 2")
    service.signal(signal.SIGTTOU)
    wait_until(lambda: len(service.running()) == 1, service.log)
    assert not service.has(first)
    service.wait_for_log(rf"Worker \(pid:{first}\) leaves: there are workers enough")


def test_workers_end_when_the_master_is_killed(tmp_path: Path) -> None:
    service = Service(tmp_path, ("--workers", "2"), APP)
    try:
        service.await_socket()
        service.await_ready()
        service.signal(signal.SIGKILL)
        wait_until(lambda: not service.running(), service.log)
        service.wait_for_log("Parent changed, shutting down")
    finally:
        service.kill()


def test_a_worker_that_computes_ends_when_the_master_is_killed(tmp_path: Path) -> None:
    service = Service(tmp_path, ("--workers", "2", "--graceful-timeout", "1"), APP)
    try:
        service.await_socket()
        service.await_ready()
        with service.connect() as connection:
            connection.send(request("GET", "/compute"))
            service.wait_for_log("computes")
            service.signal(signal.SIGKILL)
            wait_until(lambda: not service.running(), service.log)
    finally:
        service.kill()
        for pid in service.running():
            os.kill(pid, signal.SIGKILL)


def test_an_idle_service_answers_on_kept_connections_at_a_reload(start: Start) -> None:
    """A connection that is idle when its worker leaves is answered once more."""
    service = start("--workers", "2", "--keep-alive", "5", app=APP)
    service.await_ready()
    first = set(service.running())
    with service.connect() as connection:
        assert connection.request(request("GET", "/")).status == 200
        service.signal(signal.SIGHUP)
        wait_until(lambda: service.log().count("leaves: reload") == 2, service.log)
        response = connection.request(request("GET", "/"))
        assert (response.status, response.ends_connection) == (200, True)
    wait_until(lambda: not first & set(service.running()), service.log)
