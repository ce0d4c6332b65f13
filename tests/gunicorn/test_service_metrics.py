"""`/metrics` of a service: one list for all workers, whose counters survive every end of a worker."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rmeinheld.gunicorn_worker.statsd import StatsdReporter

from health_probes import Address, free_port
from masters import Masters, Service, wait_until
from metrics import Scrape, await_scrape, check_openmetrics, scrape
from metrics import ask as ask_metrics
from rmeinheld._rmeinheld import Scoreboard
from serving import TIMEOUT, Connection, request

type Start = Masters[Service]

APP = "service_app:app"
METRICS_APP = "metrics_app:app"
COUNT = "http_server_request_duration_seconds_count"
COROUTINES = 1000
"""Coroutines in each of four workers."""

FAST = 0.25
"""Seconds for one scrape. It takes a few ms; a busy machine takes its time."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def admin_address() -> tuple[Address, tuple[str, str]]:
    port = free_port()
    return ("127.0.0.1", port), ("--admin-bind", f"127.0.0.1:{port}")


class Watcher:
    """Scrapes again and again in a thread, and checks that no counter goes backwards."""

    def __init__(self, address: Address) -> None:
        self.scrapes = 0
        self.faults: list[str] = []
        self._address = address
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        assert not self.faults, self.faults
        assert self.scrapes > 10

    def _watch(self) -> None:
        last: Scrape | None = None
        while not self._over.wait(0.01) and not self.faults:
            try:
                found = scrape(self._address)
                if last is not None:
                    found.check_after(last)
            except OSError:
                # The worker that has accepted the connection was killed.
                continue
            except AssertionError as fault:
                self.faults.append(str(fault))
                return
            last = found
            self.scrapes += 1


def test_totals_go_on_over_kills_replacements_reloads_and_upgrades(start: Start) -> None:
    address, admin = admin_address()
    service = start("--workers", "2", *admin, "--max-requests", "40", app=APP)
    service.await_ready()
    # The fixture has asked once.
    answered = 1

    def ask(times: int) -> None:
        nonlocal answered
        for _ in range(times):
            service.get("/")
            answered += 1

    with Watcher(address):
        ask(30)
        victim = service.get("/")["pid"]
        answered += 1
        os.kill(victim, signal.SIGKILL)
        await_scrape(address, lambda found: found("rmeinheld_worker_exits_total", reason="killed") == 1)
        ask(100)
        await_scrape(address, lambda found: found("rmeinheld_worker_exits_total", reason="requests") >= 1)
        service.signal(signal.SIGHUP)
        await_scrape(address, lambda found: found("rmeinheld_worker_exits_total", reason="reload") >= 2)
        ask(10)
        service.signal(signal.SIGUSR2)
        found = await_scrape(address, lambda found: found("rmeinheld_workers", state="ready") == 4)
        ask(10)
        new = next(pid for pid in service.masters() if pid != service.pid)
        os.kill(new, signal.SIGTERM)
        wait_until(lambda: not service.has(new), service.log)
        ask(10)
    found = await_scrape(address, lambda found: found("rmeinheld_workers", state="ready") == 2)
    counted = found(COUNT, http_request_method="GET", http_response_status_class="2xx")
    # The last answers of the killed worker may have left before it counted them.
    assert answered - 2 <= counted <= answered
    exits = found.sum("rmeinheld_worker_exits_total")
    assert found("rmeinheld_worker_starts_total") == exits + 2 >= 8
    assert found("rmeinheld_worker_exits_total", reason="stop") == 2
    check_openmetrics(ask_metrics(address, "Accept: application/openmetrics-text").body.decode())


def test_a_scrape_of_four_workers_is_quick_while_one_of_them_computes(start: Start) -> None:
    address, admin = admin_address()
    options = ("--workers", "4", *admin, "--timeout", "300", "--graceful-timeout", "0.5")
    service = start(*options, app=METRICS_APP)
    service.await_ready()
    crowded: set[int] = set()
    deadline = time.monotonic() + 60
    while len(crowded) < 4:
        assert time.monotonic() < deadline, crowded
        crowded.add(service.get(f"/spawn/{COROUTINES}")["pid"])
    found = await_scrape(address, lambda found: busy(found) >= 4 * COROUTINES)
    connections: list[Connection] = [service.connect()]
    connections[0].send(request("GET", "/compute"))
    service.wait_for_log("computes")
    times = []
    for _ in range(40):
        begun = time.perf_counter()
        found = scrape(address)
        times.append(time.perf_counter() - begun)
    times.sort()
    print(
        f"/metrics of 4 workers with {busy(found):.0f} coroutines, one of which computes: "
        f"median {times[20] * 1000:.1f} ms, longest {times[-1] * 1000:.1f} ms, with the parser of prometheus_client"
    )
    assert busy(found) >= 4 * COROUTINES
    assert times[20] < FAST
    assert found("http_server_active_requests") >= 1
    connections[0].close()


def busy(found: Scrape) -> float:
    return found.sum("rmeinheld_coroutines") - found("rmeinheld_coroutines", state="idle")


def test_a_new_master_with_another_layout_of_the_memory_leaves_the_old_one(start: Start) -> None:
    address, admin = admin_address()
    service = start("--workers", "2", *admin, app=APP)
    service.await_ready()
    board = next(
        path for path in Path(f"/proc/{service.pid}/fd").iterdir() if "rmeinheld-scoreboard" in os.readlink(path)
    )
    with board.open("r+b", buffering=0) as memory:
        memory.seek(8)
        (version,) = struct.unpack("=I", memory.read(4))
        memory.seek(8)
        memory.write(struct.pack("=I", version - 1))
    service.signal(signal.SIGUSR2)
    service.wait_for_log(rf"its version is {version - 1}, and this process knows version {version}")
    service.wait_for_log(r"The new master \(pid:\d+\) has ended; this one goes on")
    assert service.get("/")["pid"] in service.running()
    assert scrape(address)("rmeinheld_workers", state="ready") == 2
    assert re.search("Traceback", service.log()) is None


def test_statsd_gets_the_list_without_buckets_from_the_master(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(TIMEOUT)
        start(
            "--workers",
            "2",
            "--statsd-host",
            f"127.0.0.1:{statsd.getsockname()[1]}",
            "--statsd-prefix",
            "shop",
            app=APP,
        )
        seen = ""
        while "shop.rmeinheld_loop_busy_seconds_total:" not in seen or "shop.rmeinheld_workers.ready:" not in seen:
            seen += statsd.recv(1000).decode() + "\n"
    assert "_bucket" not in seen


def test_statsd_gets_counters_as_differences() -> None:
    class Log:
        def __init__(self) -> None:
            self.sent: list[tuple[str, str]] = []

        def gauge(self, name: str, value: str) -> None:
            self.sent.append((name, value))

        increment = gauge

    board, log = Scoreboard(1), Log()
    reporter = StatsdReporter(log, board)
    reporter.turn(100.0)
    assert ("rmeinheld_workers.ready", "0") in log.sent
    assert not [name for name, _ in log.sent if "exits" in name]
    board.count_exit("crash")
    reporter.turn(105.0)
    log.sent.clear()
    reporter.turn(110.0)
    assert ("rmeinheld_worker_exits_total.crash", "1") in log.sent
    log.sent.clear()
    reporter.turn(120.0)
    assert not [name for name, _ in log.sent if "exits" in name]
