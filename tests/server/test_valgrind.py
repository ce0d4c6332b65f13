"""The server under valgrind: it reads its auxiliary vector, switches stacks and ends as it does without."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from serving import START_LINE, Connection, Process, command_of_server, environment_of_child

PATIENCE = 180.0
"""Seconds that anything may take here. Valgrind interprets every instruction: a quiet machine needs five."""

APPLICATION = """
from rmeinheld.coroutine import sleep

def app(environ, start_response):
    sleep(0.01)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]
"""


@pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="valgrind is not installed (Debian: apt-get install valgrind)"
)
def test_ten_requests_are_served_under_valgrind(tmp_path: Path) -> None:
    # Memcheck takes five times longer. With PYTHONMALLOC=malloc it reports no error.
    command = ["valgrind", "--tool=none", *command_of_server("application:app", [])]
    (tmp_path / "application.py").write_text(APPLICATION)
    server = Process(command, tmp_path, environment_of_child(tmp_path))
    try:
        address = ("127.0.0.1", int(server.wait_for_log(START_LINE, PATIENCE)["port"]))
        for number in range(10):
            with Connection(address, PATIENCE) as connection:
                response = connection.request(f"GET /{number} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                assert (response.status, response.body) == (200, f"/{number}".encode())
        server.signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0, server.log()
    finally:
        server.kill()
    assert "valgrind: " not in server.log(), server.log()
