"""`rmeinheld --workers 4 --sticky`: a session stays with its worker, and a replacement moves no other session."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from certificates import make_certificate
from counting_clients import TRANSPORTS, CountingClient
from inspecting import rmeinheld
from masters import Masters, Service, wait_until
from rmeinheld.inspection.client import Client
from serving import request

type Start = Masters[Service]

APP = "sticky_app:app"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()


def started(start: Start, sticky: str, *options: str, app: str = APP) -> Service:
    service = start("--workers", "4", "--sticky", sticky, *options, app=app)
    service.await_ready()
    return service


def pids_of(service: Service, rooms: range, repeat: int = 1) -> dict[int, int]:
    """Return the worker of each room. Every request of a room must come to the same one."""
    found: dict[int, int] = {}
    for room in rooms:
        seen = {service.get("/", f"X-Room: {room}")["pid"] for _ in range(repeat)}
        assert len(seen) == 1, f"room {room} was served by {seen}"
        (found[room],) = seen
    return found


def together(pids: dict[int, int]) -> set[frozenset[int]]:
    """Return the rooms that share a worker, without the worker's number."""
    return {frozenset(room for room, pid in pids.items() if pid == one) for one in pids.values()}


# --- places ----------------------------------------------------------------------------------------------------------


def test_a_crash_and_a_reload_move_no_other_session(start: Start) -> None:
    service = started(start, "header:X-Room")
    rooms = range(24)
    before = pids_of(service, rooms, repeat=4)
    assert len(together(before)) == 4
    victim = before[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(service.workers()) == 5 and victim not in service.running(), service.log)
    wait_until(lambda: service.get("/", "X-Room: 0")["pid"] == service.workers()[-1], service.log)
    after = pids_of(service, rooms)
    assert after == {room: service.workers()[-1] if pid == victim else pid for room, pid in before.items()}

    service.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: len(service.workers()) == 9 and len(service.running()) == 4, service.log)
    reloaded = pids_of(service, rooms)
    assert set(reloaded.values()) == set(service.workers()[5:])
    assert together(reloaded) == together(before)

    service.popen.send_signal(signal.SIGTTOU)
    wait_until(lambda: len(service.running()) == 3, service.log)
    gone = (set(service.workers()[5:]) - set(service.running())).pop()
    fewer = pids_of(service, rooms)
    assert {room for room in rooms if fewer[room] != reloaded[room]} == {
        room for room, pid in reloaded.items() if pid == gone
    }
    service.popen.send_signal(signal.SIGTTIN)
    wait_until(lambda: len(service.running()) == 4, service.log)
    wait_until(lambda: together(pids_of(service, rooms)) == together(before), service.log)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGWINCH])
def test_at_an_upgrade_each_session_moves_once(start: Start, number: signal.Signals) -> None:
    service = started(start, "header:X-Room")
    before = pids_of(service, range(8))
    service.popen.send_signal(signal.SIGUSR2)
    service.wait_for_log("The new master is ready")
    old = set(service.workers()[:4])
    # Workers of both masters accept connections, and the sessions stay where they are.
    seen = {room: [pid] for room, pid in pids_of(service, range(8), repeat=4).items()}
    assert {room: pids[0] for room, pids in seen.items()} == before
    os.kill(service.masters()[0], number)

    def all_have_moved() -> bool:
        for room, pids in seen.items():
            pid = service.get("/", f"X-Room: {room}")["pid"]
            if pid != pids[-1]:
                pids.append(pid)
        return not old & set(service.running())

    wait_until(all_have_moved, service.log)
    assert all_have_moved()
    # One worker of the old master, then one of the new one.
    assert [len(pids) for pids in seen.values()] == [2] * 8, seen
    assert not old & {pids[1] for pids in seen.values()}
    if number == signal.SIGWINCH:
        # The old master goes on.
        service.popen.terminate()
    assert service.wait() == 0


def test_the_commands_show_places_and_moved_connections(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "inspect.sock")
    service = started(start, "header:X-Room", "--inspect-socket", path)
    with service.connect() as connection:
        owners = [json.loads(connection.request(request("GET", "/", f"X-Room: {n}")).body)["pid"] for n in range(12)]
    (first, second) = list(dict.fromkeys(owners))[:2]
    moved_to = [other for one, other in pairwise(owners) if one != other]
    workers: list[dict[str, Any]] = []

    def are_counted() -> bool:
        # A worker counts a connection that it has handed over while the other one may have answered.
        workers[:] = Client(path).ask("workers")["workers"]
        sums = {sum(one[name] for one in workers) for name in ("moved_out", "moved_in")}
        # The first request may have moved, too.
        return len(sums) == 1 and sums <= {len(moved_to), len(moved_to) + 1}

    wait_until(are_counted, service.log)
    assert sorted(one["place"] for one in workers) == [0, 1, 2, 3]
    assert all(one["moved_in"] for one in workers if one["pid"] in moved_to)
    assert [one["moves_refused"] for one in workers] == [0] * 4
    titles, *rows = rmeinheld(tmp_path, "ctl", "--inspect-socket", path, "workers").splitlines()
    assert titles.split()[-5:] == ["PLACE", "OUT", "IN", "REFUSED", "NOTE"]
    expected = [[str(one[name]) for name in ("place", "moved_out", "moved_in", "moves_refused")] for one in workers]
    assert [row.split()[-4:] for row in rows] == expected
    # A replacement counts from 0.
    os.kill(first, signal.SIGTERM)
    wait_until(lambda: len(service.workers()) == 5 and len(service.running()) == 4, service.log)
    wait_until(lambda: all(one["place"] is not None for one in Client(path).ask("workers")["workers"]), service.log)
    look = json.loads(rmeinheld(tmp_path, "top", "--inspect-socket", path, "--once", "--json", "--interval", "0.1"))
    moved = {one["pid"]: (one["moved_out"], one["moved_in"]) for one in look["workers"]}
    assert moved[service.workers()[-1]] == (0, 0)
    before = next((one["moved_out"], one["moved_in"]) for one in workers if one["pid"] == second)
    assert moved[second] == before


def test_pipelined_requests_of_other_workers_are_answered_in_order(start: Start) -> None:
    service = started(start, "header:X-Room")
    expected = pids_of(service, range(8))
    with service.connect() as connection:
        for room in range(8):
            response = connection.request(request("GET", "/", f"X-Room: {room}"))
            assert json.loads(response.body)["pid"] == expected[room]


# --- modes -----------------------------------------------------------------------------------------------------------


def test_a_cookie_of_ours_keeps_a_session_and_a_forged_one_is_replaced(start: Start) -> None:
    service = started(start, "cookie:worker", "--forwarded-allow-ips", "127.0.0.1")

    def ask(*fields: str) -> tuple[dict[str, Any], str | None]:
        with service.connect() as connection:
            response = connection.request(request("GET", "/", *fields))
            answer: dict[str, Any] = json.loads(response.body)
            return answer, next(iter(response.all("set-cookie")), None)

    first, given = ask()
    assert given is not None
    assert re.fullmatch(r"worker=[0-3]\.[\w-]{22}; Path=/; HttpOnly; SameSite=Lax", given)
    value = given.partition(";")[0]
    for _ in range(8):
        again, cookie = ask(f"Cookie: a=b; {value}")
        assert (again["pid"], cookie) == (first["pid"], None)
    place = int(value[len("worker=")])
    for forged in (
        f"worker={(place + 1) % 4}{value[8:]}",
        f"worker={place}.{'A' * 22}",
        "worker=",
        "worker=" + "x" * 4000,
    ):
        _, cookie = ask(f"Cookie: {forged}")
        assert cookie is not None and cookie.startswith("worker="), forged[:50]
    _, secure = ask("X-Forwarded-Proto: https")
    assert secure is not None and secure.endswith("; Secure")
    # The place outlives the process.
    os.kill(first["pid"], signal.SIGTERM)
    wait_until(lambda: len(service.workers()) == 5 and first["pid"] not in service.running(), service.log)
    wait_until(lambda: ask(f"Cookie: {value}")[0]["pid"] == service.workers()[-1], service.log)
    # The new master of an upgrade has the key of the old one.
    service.popen.send_signal(signal.SIGUSR2)
    service.wait_for_log("The new master is ready")
    old = set(service.workers()[:5])
    os.kill(service.masters()[0], signal.SIGTERM)
    wait_until(lambda: not old & set(service.running()), service.log)
    answers = [ask(f"Cookie: {value}") for _ in range(8)]
    assert {cookie for _, cookie in answers} == {None}
    assert len({answer["pid"] for answer, _ in answers}) == 1


def test_the_forwarded_client_decides_behind_a_trusted_proxy(start: Start) -> None:
    service = started(start, "ip", "--forwarded-allow-ips", "127.0.0.1")
    seen: dict[str, set[int]] = {}
    for number in range(24):
        client = f"192.0.2.{number % 12}"
        answer = service.get("/", f"X-Forwarded-For: {client}")
        assert answer["client"] == client
        seen.setdefault(client, set()).add(answer["pid"])
    assert all(len(pids) == 1 for pids in seen.values()), seen
    assert len(set.union(*seen.values())) > 1


def test_a_part_of_the_path_decides_and_other_paths_are_served_anywhere(start: Start) -> None:
    service = started(start, "path:^/room/([^/?]+)")
    for room in range(6):
        assert len({service.get(f"/room/{room}/{page}")["pid"] for page in range(6)}) == 1
    assert service.get("/other")["pid"] in service.running()
    assert service.get("/room/" + "x" * 4000)["pid"] in service.running()


def test_a_session_of_socketio_stays_while_workers_are_replaced(start: Start) -> None:
    service = started(start, "socketio", app="sticky_socketio_app:app")
    # The pause leaves the processor to the workers.
    clients = [CountingClient(f"http://127.0.0.1:{service.port}", TRANSPORTS[n % 3], 0.3) for n in range(24)]
    for client in clients:
        client.start()
    try:
        wait_until(lambda: all(client.acknowledged > 3 for client in clients), service.log)
        service.popen.send_signal(signal.SIGHUP)
        wait_until(lambda: len(service.workers()) == 8 and len(service.running()) <= 5, service.log)
        before = [client.acknowledged for client in clients]
        wait_until(
            lambda: all(client.acknowledged > count + 3 for client, count in zip(clients, before, strict=True)),
            service.log,
        )
    finally:
        for client in clients:
            client.finish(30)
    assert [fault for client in clients for fault in client.faults] == []
    assert set.union(*(client.pids for client in clients)) >= set(service.running())


# --- start -----------------------------------------------------------------------------------------------------------


def refusal_of(*options: str) -> str:
    command = [sys.executable, "-m", "rmeinheld", "--check-config", *options, APP]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    return done.stderr


def test_a_mode_that_cannot_work_is_an_error_at_start(tmp_path: Path) -> None:
    assert "--sticky must be socketio, cookie:NAME" in refusal_of("-w", "2", "--sticky", "random")
    assert "'(a' is no regular expression" in refusal_of("-w", "2", "--sticky", "path:(a").replace('"', "'")
    server = make_certificate(tmp_path)
    tls = ("--certfile", str(server.certificate), "--keyfile", str(server.key))
    assert "sticky must be ip with certfile, not 'socketio'" in refusal_of("-w", "2", "--sticky", "socketio", *tls)


def test_the_gunicorn_command_names_ours(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "rmeinheld.gunicorn_worker.Worker", APP]
    variables = {**os.environ, "RMEINHELD_STICKY": "ip"}
    done = subprocess.run(
        [*command, "--bind", "127.0.0.1:0"],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "RMEINHELD_STICKY has no effect under the gunicorn command: start the service by rmeinheld --sticky" in (
        done.stdout + done.stderr
    )


def test_one_worker_needs_no_hand_over(start: Start) -> None:
    service = start("--workers", "1", "--max-requests", "100000", "--sticky", "ip", app=APP)
    assert "sticky = 'ip' has no effect with one worker" in service.log()
