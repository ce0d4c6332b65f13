"""`rmeinheld --workers`: `/live` and `/ready` of all workers, and the master's notes to systemd."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from health_probes import ServiceManager, await_status, connect, free_port, probe, service_manager
from masters import Masters, Service, wait_until
from serving import Connection, request

type Start = Masters[Service]

APP = "service_app:app"

FAST = 0.25
"""Seconds for one answer while all workers compute. It takes under 5 ms; a busy machine takes its time."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


@pytest.fixture
def unready(tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """`unready(*options) -> Service`: a master whose workers are not waited for."""
    started: list[Service] = []

    def start(*options: str) -> Service:
        started.append(Service(tmp_path, options, APP))
        return started[-1]

    yield start
    for service in started:
        service.kill()


def test_while_every_worker_computes_any_answers_for_all_and_the_watchdog_gets_no_beats(start: Start) -> None:
    address = ("127.0.0.1", free_port())
    admin = ("--admin-bind", f"127.0.0.1:{address[1]}")
    connections: list[Connection] = []
    with service_manager(400_000) as manager:
        service = start("--workers", "2", *admin, "--timeout", "300", "--graceful-timeout", "0.5", app=APP)
        manager.read_until("READY")
        first = manager.read_until("WATCHDOG")
        assert manager.read_until("WATCHDOG").at - first.at < 5
        assert probe(address).body == b"ready: 2 of 2 workers\n"
        compute(service, connections)
        manager.read_all()
        # One worker goes on.
        manager.read_until("WATCHDOG")
        compute(service, connections)
        times = []
        for _ in range(40):
            begun = time.perf_counter()
            # On a busy machine the limit of a turn may have passed already.
            assert probe(address).status in (200, 503)
            times.append(time.perf_counter() - begun)
        times.sort()
        print(f"/ready while 2 workers compute: median {times[20] * 1000:.2f} ms, longest {times[-1] * 1000:.2f} ms")
        assert times[20] < FAST
        body = await_status(address, 503).body.decode()
        assert len(re.findall(r"its loop has not turned for \d+\.\d s \(the limit is 5 s\)", body)) == 2, body
        assert probe(address, "/live").status == 200
        _await_silence(manager)
    for connection in connections:
        connection.close()


def compute(service: Service, connections: list[Connection]) -> None:
    """Have another worker compute for ever. One that computes does not accept this connection."""
    connections.append(service.connect())
    connections[-1].send(request("GET", "/compute"))
    service.wait_for_log("process \\d+ computes(\n.*)*" * len(connections))


def test_a_service_lives_from_before_the_import_and_is_ready_with_ready_workers(
    unready: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMPORT_SECONDS", "0.5")
    path = str(tmp_path / "admin.sock")
    service = unready("--workers", "2", "--ready-workers", "2", "--admin-bind", path)
    assert await_status(path, 200, "/live").body.startswith(b"live: process ")
    response = probe(path)
    assert response.status == 503
    assert b"it starts and imports the application" in response.body
    assert await_status(path, 200).body == b"ready: 2 of 2 workers\n"
    victim = service.running()[0]
    os.kill(victim, signal.SIGKILL)
    assert b"ready_workers is 2" in await_status(path, 503).body
    await_status(path, 200)
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    assert not Path(path).exists()


def test_the_master_answers_probes_while_it_imports_the_application(
    unready: Callable[..., Service], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("IMPORT_SECONDS", "1")
    path = str(tmp_path / "admin.sock")
    service = unready("--workers", "2", "--preload", "--admin-bind", path)
    assert await_status(path, 200, "/live").body == b"live: process %d\n" % service.pid
    assert b"not ready: 0 of 0 workers are ready" in probe(path).body
    await_status(path, 200)
    assert b"process %d\n" % service.pid not in probe(path, "/live").body
    service.signal(signal.SIGTERM)
    assert service.wait() == 0
    assert not Path(path).exists()


def test_the_path_of_the_probes_goes_with_a_master_that_cannot_import(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    service = Service(tmp_path, ("--workers", "2", "--preload", "--admin-bind", str(tmp_path / "admin.sock")), APP)
    try:
        assert service.wait() != 0
        assert "the file 'broken' exists" in service.log()
        assert not (tmp_path / "admin.sock").exists()
    finally:
        service.kill()


def test_the_limit_of_a_turn_is_a_setting(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    service = start("--workers", "2", "--ready-turn-limit", "0.3", "--admin-bind", path, app=APP)
    service.await_ready()
    connections: list[Connection] = []
    compute(service, connections)
    compute(service, connections)
    body = await_status(path, 503).body.decode()
    assert len(re.findall(r"its loop has not turned for \d+\.\d s \(the limit is 0\.3 s\)", body)) == 2, body
    for connection in connections:
        connection.close()
    service.signal(signal.SIGQUIT)
    assert service.wait() == 0


def test_readiness_fails_during_drain_delay_and_the_reload_keeps_it(start: Start) -> None:
    address = ("127.0.0.1", free_port())
    admin = ("--admin-bind", f"127.0.0.1:{address[1]}")
    service = start("--workers", "2", "--drain-delay", "30", *admin, app=APP)
    service.await_ready()
    service.signal(signal.SIGHUP)
    while len(re.findall("Workers ready: ", service.log())) < 2:
        assert probe(address).status == 200
    service.signal(signal.SIGTERM)
    assert await_status(address, 503).body == b"not ready: the service stops\n"
    assert service.get("/")["pid"] in service.workers()
    assert probe(address, "/live").status == 200
    service.signal(signal.SIGQUIT)
    assert service.wait() == 0
    with pytest.raises(ConnectionRefusedError):
        connect(address)


def test_a_new_master_takes_the_admin_listener_over(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "admin.sock")
    service = start("--workers", "1", "--max-requests", "1000000", "--admin-bind", path, app=APP)
    service.await_ready()
    service.signal(signal.SIGUSR2)
    service.wait_for_log("The new master is ready")
    assert probe(path).body == b"ready: 2 of 2 workers\n"
    service.signal(signal.SIGTERM)
    service.wait_for_log("Master has been promoted")
    wait_until(lambda: probe(path).body == b"ready: 1 of 1 workers\n", service.log)


# --- systemd ---------------------------------------------------------------------------------------------------------


def test_systemd_hears_of_readiness_reload_and_stop(start: Start) -> None:
    with service_manager() as manager:
        service = start("--workers", "2", "--drain-delay", "0.2", "--graceful-timeout", "20", app=APP)
        ready = manager.read_until("READY")
        assert ready.fields["STATUS"].startswith("2 of 2 workers ready, ")
        assert len([note for note in manager.notes if "READY" in note.fields]) == 1, "Gunicorn's own note came first"
        service.signal(signal.SIGHUP)
        reloading = manager.read_until("RELOADING")
        assert int(reloading.fields["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        manager.read_until("READY")
        service.await_ready(2)
        service.signal(signal.SIGTERM)
        stopping = manager.read_until("STOPPING")
        assert stopping.fields["EXTEND_TIMEOUT_USEC"] == str(int((0.2 + 20 + 10) * 1_000_000))
        assert service.wait() == 0
        assert "Traceback" not in service.log()


def test_ready_comes_after_the_import_of_every_worker(
    unready: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMPORT_SECONDS", "0.5")
    with service_manager() as manager:
        begun = time.monotonic()
        service = unready("--workers", "2")
        assert manager.read_until("READY").at - begun > 0.5
        service.wait_for_log("Workers ready: 2")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0


def test_a_reload_that_fails_ends_with_ready_too(start: Start, tmp_path: Path) -> None:
    with service_manager(is_abstract=True) as manager:
        service = start("--workers", "2", app=APP)
        manager.read_until("READY")
        (tmp_path / "broken").touch()
        service.signal(signal.SIGHUP)
        manager.read_until("RELOADING")
        assert "could not start" in manager.read_until("READY").fields["STATUS"]
        (tmp_path / "broken").unlink()


def _await_silence(manager: ServiceManager) -> None:
    """Wait until no beat has come for a second. AssertionError if they go on."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            manager.read(1)
        except AssertionError:
            return
    raise AssertionError("the beats go on")


def test_the_old_master_names_the_new_one_before_it_ends(start: Start) -> None:
    with service_manager() as manager:
        service = start("--workers", "1", "--max-requests", "1000000", app=APP)
        manager.read_until("READY")
        service.signal(signal.SIGUSR2)
        service.wait_for_log("The new master is ready")
        new = service.masters()[-1]
        manager.read_all()
        service.signal(signal.SIGTERM)
        assert manager.read_until("MAINPID").fields["MAINPID"] == str(new)
        service.wait_for_log("Master has been promoted")
        assert [note for note in manager.notes if "STOPPING" in note.fields] == []
        os.kill(new, signal.SIGTERM)
        manager.read_until("STOPPING")
        wait_until(lambda: not service.has(new), service.log)
