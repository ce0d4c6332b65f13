"""The inspect socket under Gunicorn's own command, where no arbiter of ours opens it."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspecting import await_request, requests_of, rmeinheld
from masters import Gunicorn, Masters, wait_until
from rmeinheld.inspection.client import Client, InspectError
from serving import TIMEOUT, request

type Start = Masters[Gunicorn]

APP = "inspected_app:app"

LONG = 4 * TIMEOUT
"""Seconds that a request computes until it is ended."""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """A client of the socket that RMEINHELD_INSPECT_SOCKET names."""
    path = str(tmp_path / "inspect.sock")
    monkeypatch.setenv("RMEINHELD_INSPECT_SOCKET", path)
    return Client(path)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Gunicorn`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Gunicorn)
    yield masters
    masters.stop()


def pids_of(client: Client) -> set[int]:
    try:
        return {one["pid"] for one in client.ask("workers")["workers"] if one["state"] == "ready"}
    except InspectError:
        return set()


def started(start: Start, client: Client, workers: int) -> Gunicorn:
    """Start a service, and wait until as many workers are ready."""
    service = start("--workers", str(workers), "--graceful-timeout", "1", "--timeout", "300", app=APP)
    wait_until(lambda: len(pids_of(client)) == workers, service.log)
    return service


def test_one_worker_answers_for_all_also_while_it_computes(start: Start, client: Client) -> None:
    service = started(start, client, 2)
    assert stat.S_IMODE(os.stat(client.path).st_mode) == 0o600
    sleeping, computing = service.connect(), service.connect()
    sleeping.send(request("GET", "/sleep/60"))
    slept = await_request(client, "GET /sleep/60")
    computing.send(request("GET", f"/compute/{LONG}"))
    service.wait_for_log(r"process \d+ computes")
    assert set(requests_of(client)) == {"GET /sleep/60", f"GET /compute/{LONG}"}
    assert "inspected_app.py" in client.ask("stack", id=slept["id"])["stack"]
    workers = client.ask("workers")["workers"]
    assert sum(one["in_progress"] for one in workers) == 2
    # The same worker may have both, and the one that waits can go on only after the one that computes.
    client.ask("kill", id=requests_of(client)[f"GET /compute/{LONG}"]["id"])
    assert computing.read_response().status == 504
    client.ask("kill", id=slept["id"])
    assert sleeping.read_response().status == 504
    dump = rmeinheld(Path(client.path).parent, "dump", "--inspect-socket", client.path)
    assert len(re.findall("=== worker", dump)) == 2


def test_a_reload_by_order_replaces_the_workers_and_keeps_the_socket(start: Start, client: Client) -> None:
    service = started(start, client, 2)
    before = pids_of(client)
    assert client.ask("reload")["master"] == service.pid
    wait_until(lambda: len(after := pids_of(client)) == 2 and not after & before, service.log)
    killed = min(pids_of(client))
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(after := pids_of(client)) == 2 and killed not in after, service.log)
    service.end()
    assert not os.path.exists(client.path)


def test_the_master_of_an_upgrade_takes_the_path_over(start: Start, client: Client) -> None:
    service = started(start, client, 1)
    old = pids_of(client)
    os.kill(service.pid, signal.SIGUSR2)
    wait_until(lambda: len(new := pids_of(client)) == 1 and not new & old, service.log)
    os.kill(service.pid, signal.SIGTERM)
    wait_until(lambda: service.popen.poll() is not None, service.log)
    assert len(pids_of(client)) == 1


def test_a_path_that_cannot_be_used_ends_the_start_with_its_name(tmp_path: Path, client: Client) -> None:
    Path(client.path).write_text("")
    service = Gunicorn(tmp_path, ("--workers", "1"), APP)
    try:
        assert service.wait() != 0
        assert f"inspect_socket is {client.path!r}: " in service.log()
    finally:
        service.kill()
