"""Debuggers, and programs that look into a running server. docs/tools.md has the table."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from serving import TIMEOUT, Connection, Serve, Server, request

APPLICATION = """
import time

def first_wait():
    time.sleep(5)

def second_wait():
    time.sleep(5)

def computes():
    end = time.monotonic() + 5
    while time.monotonic() < end:
        pass

CALLS = {"/first": first_wait, "/second": second_wait, "/computes": computes}

def app(environ, start_response):
    CALLS.get(environ["PATH_INFO"], dict)()
    start_response("200 OK", [])
    return [b"ok"]
"""


def looked_into(server: Server, paths: Sequence[str], command: Sequence[str]) -> str:
    """Return what a command prints about a server, one of whose requests for each path is in progress."""
    connections = [server.connect() for _ in paths]
    try:
        for connection, path in zip(connections, paths, strict=True):
            connection.send(request("GET", path))
            connection.has_input(0.2)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    finally:
        for connection in connections:
            connection.abort()
        server.kill()
    if re.search("(?i)permission|not permitted|ptrace", done.stdout):
        pytest.skip("needs the right to trace another process (root, or CAP_SYS_PTRACE)")
    return done.stdout


def test_py_spy_shows_each_request_where_it_waits(serve: Serve) -> None:
    places = [str(Path(sys.executable).parent), *(f"{entry}/bin" for entry in sys.path)]
    found = shutil.which("py-spy", path=os.pathsep.join(places))
    if found is None:
        pytest.skip("pip install py-spy")
    server = serve(APPLICATION)
    output = looked_into(server, ["/first", "/second"], [found, "dump", "--pid", str(server.pid)])
    threads = re.split(r"^Thread ", output, flags=re.M)
    assert any("first_wait" in text and "second_wait" not in text for text in threads), output
    assert any("second_wait" in text and "first_wait" not in text for text in threads), output


def test_gdb_shows_the_python_stack_of_the_request_that_computes(serve: Serve) -> None:
    if shutil.which("gdb") is None:
        pytest.skip("gdb is not installed (Debian: apt-get install gdb)")
    library = Path(f"{Path(sys.executable).resolve()}-gdb.py")
    if not library.exists():
        pytest.skip(f"{library} is missing, the commands of CPython for gdb (Debian: apt-get install python3-dbg)")
    server = serve(APPLICATION)
    command = ["gdb", "-p", str(server.pid), "-batch", "-x", str(library), "-ex", "thread apply all py-bt"]
    output = looked_into(server, ["/first", "/computes"], command)
    # The frames of one coroutine are on the stack of the loop's thread. The other one is parked.
    assert re.search(r'File ".*", line \d+, in computes', output), output
    assert "first_wait" not in output, output


BREAKPOINT = """
def stops():
    secret = 6 * 7
    breakpoint()
    return secret

def app(environ, start_response):
    text = b"ok" if environ["PATH_INFO"] == "/" else str(stops()).encode()
    start_response("200 OK", [])
    return [text]
"""


def test_other_requests_are_answered_while_pdb_waits_for_the_terminal(tmp_path: Path) -> None:
    """Under the command, as a developer runs it: the prompt of pdb reads from the patched standard input."""
    (tmp_path / "stops_app.py").write_text(BREAKPOINT)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", "--chdir", str(tmp_path), "stops_app:app"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    output = ""

    def until(pattern: str) -> re.Match[str]:
        nonlocal output
        end = time.monotonic() + TIMEOUT
        while not (found := re.search(pattern, output)):
            assert time.monotonic() < end, output
            output += os.read(master, 65536).decode(errors="replace")
        return found

    try:
        port = int(until(r"listening at http://127\.0\.0\.1:(\d+)")[1])
        with Connection(("127.0.0.1", port)) as stopped, Connection(("127.0.0.1", port)) as other:
            stopped.send(request("GET", "/stops"))
            until(r"\(Pdb\) ")
            assert other.request(request()).body == b"ok"
            os.write(master, b"p secret * 10\n")
            until(r"\n420\r\n(.|\n)*\(Pdb\) ")
            assert other.request(request()).body == b"ok"
            os.write(master, b"continue\n")
            assert stopped.read_response().body == b"42"
    finally:
        process.terminate()
        try:
            assert process.wait(TIMEOUT) == 0, output
        finally:
            process.kill()
            process.wait()
            os.close(master)
