"""slowhttptest against a live server: a client that takes too long is given up, and others are served meanwhile."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving import TIMEOUT, Process, Serve, Server, request

LIMIT = 2
"""Seconds of each time limit of the server."""


@dataclass(frozen=True)
class Attack:
    """Options of slowhttptest, the path of its requests, and the log's line for each of its connections."""

    options: list[str]
    path: str
    line_of_log: str
    connections: int = 200


ATTACKS = {
    # A new field line every second, so that the head never ends.
    "slow head": Attack(["-H", "-i", "1"], "/slow", "408 from 127.0.0.1: the request did not arrive in time"),
    # A body that pauses for longer than the limit.
    "slow body": Attack(
        ["-B", "-i", "60", "-s", "8192"], "/digest", "408 from 127.0.0.1: the request did not arrive in time"
    ),
    # A body that never pauses for so long, and comes at some ten bytes a second: far below client_body_min_rate.
    "body in drops": Attack(
        ["-B", "-i", "1", "-s", "8192", "-x", "10"], "/digest", "408 from 127.0.0.1: the request did not arrive in time"
    ),
    # A window of 10 to 20 bytes. The kernel takes megabytes of a response before the limit counts.
    "slow read": Attack(["-X", "-w", "10", "-y", "20", "-n", "60", "-z", "32"], "/endless", "closed /endless$", 40),
    # Thousands of ranges in one field line (CVE-2011-3192).
    "ranges": Attack(["-R", "-a", "1", "-b", "3000"], "/slow", "431 from 127.0.0.1: field line over the limit"),
}


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest) -> Attack:
    """Each of the attacks."""
    return ATTACKS[request.param]


def descriptors(server: Server) -> int:
    """The number of the server's open descriptors."""
    return len(os.listdir(f"/proc/{server.pid}/fd"))


def test_others_are_served_while_slow_clients_are_given_up(serve: Serve, tmp_path: Path, attack: Attack) -> None:
    program = shutil.which("slowhttptest")
    if program is None:
        pytest.skip("slowhttptest is not installed (Debian: apt-get install slowhttptest)")
    # Without held answers no thread starts later, whose timer is a descriptor.
    limits = {"client_header_timeout": LIMIT, "client_body_timeout": LIMIT, "send_timeout": LIMIT}
    server = serve("transfer_app:app", **limits, hold_answers=0)
    assert server.get("/before").status == 200
    at_rest = descriptors(server)
    count = str(attack.connections)
    # At most 6 s of attack; sooner if the server has closed all connections. The client also checks by itself that it
    # is answered within 10 s.
    bounds = ["-c", count, "-r", count, "-l", "6", "-p", "10"]
    command = [program, *attack.options, *bounds, "-u", server.url + attack.path]
    process = Process(command, tmp_path, dict(os.environ))
    try:
        asked = 0
        with server.connect() as connection:
            while process.popen.poll() is None:
                assert connection.request(request("GET", "/other")).body == b"hello from /other"
                asked += 1
        process.wait(2 * TIMEOUT)
    finally:
        process.kill()
    assert asked > 10
    assert not re.search(r"service available:[^A-Z]*NO", process.log()), process.log()
    start = 0
    for _ in range(attack.connections):
        start = server.wait_for_log(attack.line_of_log, start=start).end()
    deadline = time.monotonic() + TIMEOUT
    with server.connect() as connection:
        while descriptors(server) > at_rest + 1:
            assert time.monotonic() < deadline, "connections of the attack are still open"
            connection.request(request("GET", "/after"))
    assert "Traceback" not in server.log()
