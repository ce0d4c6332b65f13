"""The inspect socket of a service: any worker answers for all, also while some compute, stop, or are replaced."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inspecting import await_request, requests_of, rmeinheld
from masters import Masters, Service, is_stopped, wait_until
from rmeinheld.inspection.client import Client, InspectError
from serving import TIMEOUT, Connection, request

type Start = Masters[Service]

APP = "inspected_app:app"

FAST = 1.5
"""Seconds for an answer about all workers while some compute. It takes under 10 ms; a busy machine takes its time."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """A client of the socket `inspect.sock`."""
    return Client(str(tmp_path / "inspect.sock"))


def started(start: Start, client: Client, workers: str) -> Service:
    """Start a service whose workers are all ready, and answer at the socket."""
    options = ("--inspect-socket", client.path, "--graceful-timeout", "0.5", "--timeout", "300")
    service = start("--workers", workers, *options, app=APP)
    service.await_ready()
    await_workers(client, set(service.workers()))
    return service


def send(service: Service, target: str) -> Connection:
    connection = service.connect()
    connection.send(request("GET", target))
    return connection


def workers_of(client: Client) -> list[dict[str, Any]]:
    workers: list[dict[str, Any]] = client.ask("workers")["workers"]
    return workers


def await_workers(client: Client, pids: set[int]) -> list[dict[str, Any]]:
    """Wait (bounded) until exactly these workers are ready and answer."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = workers_of(client)
        if {one["pid"] for one in found} == pids and all(
            one["state"] == "ready" and "unanswered" not in one for one in found
        ):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_four_workers_of_which_one_computes_and_one_holds_the_gil(start: Start, client: Client) -> None:
    service = started(start, client, "4")
    connections = [send(service, "/compute/30")]
    service.wait_for_log(r"process \d+ computes")
    connections.append(send(service, "/hold/6"))
    service.wait_for_log(r"process \d+ holds the GIL")
    connections += [send(service, f"/sleep/{60 + number}") for number in range(6)]
    for number in range(6):
        await_request(client, f"GET /sleep/{60 + number}")
    begun = time.monotonic()
    found = requests_of(client)
    took = time.monotonic() - begun
    assert set(found) == {"GET /compute/30", "GET /hold/6"} | {f"GET /sleep/{60 + number}" for number in range(6)}
    assert took < FAST
    busy = {found[label]["id"].rpartition("-")[0] for label in ("GET /compute/30", "GET /hold/6")}
    assert len(busy) == 2
    # The turn of both lasts.
    turns = {f"{one['slot']}-{one['generation']}": one["turn_age"] for one in workers_of(client)}
    assert all(turns[worker] > 0 for worker in busy)
    with pytest.raises(InspectError, match="C code holds the GIL"):
        client.ask("stack", id=found["GET /hold/6"]["id"])
    assert "inspected_app.py" in client.ask("stack", id=found["GET /compute/30"]["id"])["stack"]
    dump = rmeinheld(Path(client.path).parent, "dump", "--inspect-socket", client.path)
    assert len(re.findall("=== worker", dump)) == 4
    # One request is ended, and its worker may be any.
    killed = found["GET /sleep/63"]
    client.ask("kill", id=killed["id"])
    assert connections[5].read_response().status == 504
    assert {f"GET /sleep/{60 + number}" for number in (0, 1, 2, 4, 5)} <= set(requests_of(client))
    assert "GET /sleep/63" not in requests_of(client)
    with pytest.raises(InspectError, match="is over"):
        client.ask("kill", id=killed["id"])
    for one in requests_of(client).values():
        if one["label"].startswith("GET /sleep"):
            client.ask("kill", id=one["id"])
    for pid in service.workers():
        os.kill(pid, signal.SIGKILL)


def test_a_reload_gives_the_workers_new_ids_and_an_old_id_hits_no_request(start: Start, client: Client) -> None:
    service = started(start, client, "2")
    before = set(service.workers())
    connection = send(service, "/sleep/60")
    old = await_request(client, "GET /sleep/60")["id"]
    master = client.ask("reload")["master"]
    assert master == service.pid
    service.await_ready(2)
    connection.close()
    wait_until(lambda: not before & set(service.running()), service.log)
    found = await_workers(client, set(service.workers()) - before)
    assert client.ask("workers")["service"]["worker_starts"] == 4
    following = send(service, "/sleep/60")
    new = await_request(client, "GET /sleep/60")["id"]
    assert old not in (one["id"] for one in client.ask("requests")["requests"])
    with pytest.raises(InspectError, match=f"{old} is over"):
        client.ask("kill", id=old)
    assert {f"{one['slot']}-{one['generation']}" for one in found} >= {new.rpartition("-")[0]}
    client.ask("kill", id=new)
    assert following.read_response().status == 504


def test_a_worker_that_is_stopped_or_killed_holds_up_no_answer(start: Start, client: Client) -> None:
    service = started(start, client, "3")
    stopped, killed, _ = service.workers()
    os.kill(stopped, signal.SIGSTOP)
    try:
        wait_until(lambda: is_stopped(stopped), service.log)
        begun = time.monotonic()
        found = {one["pid"]: one for one in workers_of(client)}
        assert time.monotonic() - begun < 5
        assert "did not answer in time" in found[stopped]["unanswered"]
        assert found[stopped]["memory_bytes"] > 0 and "unanswered" not in found[killed]
        (missing,) = client.ask("requests")["unanswered"]
        assert missing["slot"] == found[stopped]["slot"]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: killed not in [one["pid"] for one in workers_of(client)], service.log)
    finally:
        os.kill(stopped, signal.SIGCONT)
    wait_until(lambda: len(service.running()) == 3, service.log)
    await_workers(client, set(service.running()))


def test_the_socket_goes_on_with_a_new_master_and_is_removed_with_the_last(start: Start, client: Client) -> None:
    service = started(start, client, "2")
    old = set(service.workers())
    service.signal(signal.SIGUSR2)
    service.await_ready(2)
    both = set(service.running())
    await_workers(client, both)
    assert both > old
    service.signal(signal.SIGTERM)
    wait_until(lambda: not old & set(service.running()), service.log)
    service.wait_for_log("Master has been promoted")
    found = await_workers(client, both - old)
    assert {one["generation"] for one in found} == {1}
    assert client.ask("log-level", level="debug")["ok"]
    service.end()
    assert not os.path.exists(client.path)


def test_the_level_of_the_log_is_that_of_all_workers(start: Start, client: Client) -> None:
    started(start, client, "2")
    answer = client.ask("log-level", level="critical")
    assert [one["ok"] for one in answer["workers"]] == [True, True]
    shown = rmeinheld(Path(client.path).parent, "ctl", "--inspect-socket", client.path, "log-level", "debug")
    assert "level debug in 2 workers" in shown


def test_an_unusable_path_is_one_line_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    words = ("--workers", "2", "--bind", "127.0.0.1:0", "--inspect-socket", "file", "--chdir", str(tmp_path))
    said = rmeinheld(tmp_path, *words, APP, status=1)
    assert "unix:" in said and "the path exists and is not a socket" in said
    assert (tmp_path / "file").read_text() == "kept"
