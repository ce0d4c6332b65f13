"""The client of the benchmarks that sends at a constant rate: its latencies, and its connections."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from proxying import program
from serving import Serve, Server, request

SOURCE = Path(__file__).resolve().parents[2] / "benches" / "rate_client.c"
APPLICATION = """
    import time

    ports = []

    def app(environ, start_response):
        ports.append(environ["REMOTE_PORT"])
        if len(ports) == 20 and environ["PATH_INFO"] == "/pause":
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                pass
        if environ["PATH_INFO"] == "/sleep":
            time.sleep(0.1 * len(ports))
        if len(ports) == 1 and environ["PATH_INFO"] == "/starve":
            time.sleep(5)
        body = str(len(set(ports))).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))] if len(ports) % 2 else [])
        return [body]
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("client") / "rate_client"
    command = [program("cc", "gcc"), "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-o", str(path), str(SOURCE)]
    subprocess.run(command, check=True)
    return path


def run(client: Path, server: Server, directory: Path, target: str, *numbers: float) -> dict[str, float]:
    """Run the client: connections, seconds, requests per second, answers for each connection."""
    (directory / "get").write_bytes(request("GET", target))
    (directory / "post").write_bytes(request("POST", target, chunks=[b"x"]))
    files = [str(directory / "get"), str(directory / "post")]
    command = [str(client), str(server.port), *map(str, numbers), *files]
    figures: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert figures["errors"] == 0
    return figures


def test_a_pause_counts_for_every_request_that_was_due(client: Path, serve: Serve, tmp_path: Path) -> None:
    figures = run(client, serve(APPLICATION, turn_budget=0), tmp_path, "/pause", 1, 1.5, 200, 0)
    # One request of 300 met the pause, and 100 were due during it.
    assert figures["p99_ms"] > 300


def test_a_connection_ends_after_its_answers(client: Path, serve: Serve, tmp_path: Path) -> None:
    server = serve(APPLICATION)
    figures = run(client, server, tmp_path, "/", 2, 0.3, 0, 10)
    connections = int(server.get("/").body)
    # The last ones may have fewer answers.
    assert 0.9 < connections * 10 / figures["requests"] < 1.1


def test_requests_on_their_way_at_the_end_are_answered_and_count(client: Path, serve: Serve, tmp_path: Path) -> None:
    figures = run(client, serve(APPLICATION), tmp_path, "/sleep", 4, 0.1, 0, 0)
    assert (figures["requests"], figures["unanswered"]) == (4, 0)
    assert figures["seconds"] >= 0.4


def test_a_connection_without_an_answer_is_not_waited_for(client: Path, serve: Serve, tmp_path: Path) -> None:
    figures = run(client, serve(APPLICATION), tmp_path, "/starve", 2, 0.3, 0, 0)
    assert figures["requests"] > 10
    assert figures["unanswered"] == 1
    assert figures["seconds"] < 1
