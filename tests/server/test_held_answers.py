"""The setting `hold_answers`: complete answers wait for the other requests of a poll, and for nothing else."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

import held_answers_app
from serving import Serve, Server, request

TIMEOUT = 60.0


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    return serve_module("held_answers_app:app", hold_answers=1000)


def run(server: Server, scenario: str) -> Any:
    with server.connect(timeout=TIMEOUT) as connection:
        return json.loads(connection.request(request("GET", f"/run/{scenario}")).body)


KINDS = {
    "sized": "x" * 10,
    "iterable": "x" * 10,
    "chunked": "64\r\nxxxxxx",
    "empty": "",
    "head": None,
    "large": "x" * 10,
    "writes": "x" * 10,
    "closing": None,
}
"""For each kind of answer the beginning of its body."""

SENT_AT_ONCE = ["large", "writes", "closing"]


def test_complete_answers_are_held_for_other_requests_of_the_poll(server: Server) -> None:
    """The sender may come in between, so an answer need not be held each time."""
    found = run(server, "kinds")
    assert found.keys() == KINDS.keys()
    for kind, (looks, answers) in found.items():
        assert len(looks) == held_answers_app.TRIES
        assert all(looks) if kind in SENT_AT_ONCE else not all(looks), (kind, looks)
        assert kind in ("head", "closing") or answers == [KINDS[kind]], kind


def test_with_0_answers_are_sent_at_once(serve: Serve) -> None:
    assert all(all(looks) for looks, _ in run(serve("held_answers_app:app", hold_answers=0), "kinds").values())


def test_answers_are_held_by_default(serve: Serve) -> None:
    assert not all(run(serve("held_answers_app:app"), "kinds")["sized"][0])


def test_a_held_answer_is_sent_before_a_wait_or_a_fork_and_while_a_turn_goes_on(server: Server) -> None:
    found = run(server, "before_others")
    for path, looks in found.items():
        assert all(after for _, after in looks), (path, looks)
    assert not all(before for looks in found.values() for before, _ in looks)


def test_items_that_their_socket_does_not_take_follow_while_the_turn_goes_on(serve: Serve) -> None:
    server = serve("held_answers_app:app")
    with server.connect(receive_buffer=4096) as connection:
        connection.send(request("GET", "/block"))
        connection.read_exactly(50_000)
        assert "the block is over" not in server.log()
        server.wait_for_log("the block is over")


def test_answers_of_a_pipeline_keep_their_order(server: Server) -> None:
    assert run(server, "pipelines") == [list(range(40))] * held_answers_app.TRIES


def test_a_slow_client_gets_the_rest_of_a_held_answer(server: Server) -> None:
    count, served_before, numbers, size = run(server, "slow")
    assert served_before < count, "the client was too fast"
    assert numbers == list(range(count)) and size == count * held_answers_app.LARGE


def test_a_client_that_resets_its_connection_harms_no_other(server: Server) -> None:
    assert run(server, "resets") == [["xxx", "xxx"]] * held_answers_app.TRIES
    assert "Traceback" not in server.log()


def test_a_held_answer_is_sent_when_the_server_stops(serve: Serve) -> None:
    server = serve("held_answers_app:app", hold_answers=1000)
    assert run(server, "stops") == "xxx"
    # A second signal at its end would be the end of another kind.
    assert server.popen.wait(TIMEOUT) == 0


@pytest.mark.parametrize("end", ["exit", "exec"])
def test_a_held_answer_is_sent_before_the_process_ends(serve: Serve, tmp_path: Path, end: str) -> None:
    server = serve("held_answers_app:app", hold_answers=1000)
    run(server, "raw")
    os.mkfifo(gate := tmp_path / "gate")
    with server.connect() as first, server.connect() as second, server.connect() as third:
        for connection in (first, second):
            connection.request(request("GET", "/sized"))
        third.send(request("GET", f"/gate{gate}"))
        with gate.open("wb") as opened:
            first.send(request("GET", "/sized"))
            second.send(request("GET", f"/{end}"))
            opened.write(b"x")
        assert first.read_response().body == held_answers_app.BODY
    server.popen.wait(TIMEOUT)


def test_the_access_log_has_held_answers(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    form = "%(U)s %(s)s %(B)s"
    server = serve("held_answers_app:app", hold_answers=1000, access_logfile=str(log), access_logformat=form)
    run(server, "pipelines")
    server.stop()
    lines = log.read_text().splitlines()
    numbers = [line for line in lines if line.startswith("/number/")]
    assert len(numbers) == 40 * held_answers_app.TRIES
    for line in numbers:
        number = re.fullmatch(r"/number/(\d+) 200 (\d+)", line)
        assert number and int(number[2]) == len(f"number {number[1]}."), line
