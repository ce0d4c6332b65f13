"""`rmeinheld --workers`: SIGUSR2 starts a new master, and takes it back if it fails."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters import Load, Masters, Service, wait_until
from serving import TIMEOUT, request

type Start = Masters[Service]

APP = "service_app:app"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def upgrade(service: Service, master: int | None = None) -> int:
    """Have a master (None: the first) start a new one, and wait until its workers are ready; its id."""
    seen = len(service.log())
    os.kill(master or service.pid, signal.SIGUSR2)
    service.wait_for_log("The new master is ready", start=seen)
    return service.masters()[-1]


def test_an_upgrade_that_stays_loses_no_request_and_keeps_the_files(start: Start, tmp_path: Path) -> None:
    pid, path = tmp_path / "service.pid", tmp_path / "service.sock"
    service = start("--workers", "2", "--pid", str(pid), "--bind", f"unix:{path}", app="load_app:app")
    service.await_ready()
    old = set(service.running())
    with Load(service) as load:
        load.wait_for_workers(2, set())
        new = upgrade(service)
        service.wait_for_log(rf"To end the old one: kill -TERM {service.pid}$")
        assert (pid.read_text(), Path(f"{pid}.2").read_text()) == (f"{service.pid}\n", f"{new}\n")
        service.signal(signal.SIGTERM)
        # Process.wait() would wait for the end of the log, which the new master writes, too.
        assert service.popen.wait(TIMEOUT) == 0
        # It is the only master now, and has another one made at once.
        third = upgrade(service, new)
        service.wait_for_log("Master has been promoted")
        assert (pid.read_text(), Path(f"{pid}.2").read_text()) == (f"{new}\n", f"{third}\n")
        os.kill(third, signal.SIGTERM)
        wait_until(lambda: not service.has(third), service.log)
        load.wait_for_answers()
        assert not load.pids - old - set(service.workers())
        # The new master can do everything that the old one could, with the same sockets.
        seen = load.pids
        os.kill(new, signal.SIGHUP)
        load.wait_for_workers(2, seen)
    assert load.breaks == []
    assert path.exists()
    os.kill(new, signal.SIGTERM)
    wait_until(lambda: not service.has(new), service.log)
    assert not path.exists()
    assert not pid.exists()


def test_an_upgrade_that_fails_leaves_the_old_master(start: Start, tmp_path: Path) -> None:
    pid = tmp_path / "service.pid"
    service = start("--workers", "2", "--pid", str(pid), app=APP)
    service.await_ready()
    first = set(service.running())
    (tmp_path / "broken").touch()
    service.signal(signal.SIGUSR2)
    service.wait_for_log(r"The new master \(pid:\d+\) has ended; this one goes on")
    assert set(service.running()) == first
    assert service.get("/")["pid"] in first
    assert pid.read_text() == f"{service.pid}\n"
    assert not Path(f"{pid}.2").exists()
    # The next one is no worse for it.
    (tmp_path / "broken").unlink()
    new = upgrade(service)
    os.kill(new, signal.SIGTERM)
    wait_until(lambda: not service.has(new), service.log)
    assert service.get("/")["pid"] in first


def test_an_upgrade_without_a_program_leaves_the_old_master(start: Start, tmp_path: Path) -> None:
    service = start("--workers", "2", app=APP)
    service.await_ready()
    first = set(service.running())
    # The copy of the master fails where it would become the new program.
    gone = tmp_path.with_name(tmp_path.name + "-gone")
    tmp_path.rename(gone)
    try:
        service.signal(signal.SIGUSR2)
        service.wait_for_log(r"Cannot start a new master: FileNotFoundError")
        service.wait_for_log(r"The new master \(pid:\d+\) has ended; this one goes on")
    finally:
        gone.rename(tmp_path)
    assert set(service.running()) == first
    with service.connect() as connection:
        assert connection.request(request("GET", "/")).status == 200


def test_a_killed_new_master_leaves_no_worker_in_the_scoreboard(start: Start) -> None:
    service = start("--workers", "2", app=APP)
    service.await_ready()
    first = set(service.running())
    new = upgrade(service)
    os.kill(new, signal.SIGKILL)
    service.wait_for_log(r"The new master \(pid:\d+\) has ended; this one goes on")
    wait_until(lambda: set(service.running()) == first, service.log)
    new = upgrade(service)
    os.kill(new, signal.SIGTERM)
    wait_until(lambda: not service.has(new), service.log)
