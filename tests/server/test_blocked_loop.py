"""An unpatched program under `rmeinheld.run`: the first wait that blocks the loop is said, once."""

from __future__ import annotations

import pytest

from serving import RunScript

PROGRAM = """
{first}
import hashlib, os, threading, time, urllib.request
import rmeinheld
from rmeinheld.meinheld import server
from rmeinheld.process_state import state

def waits():
    time.sleep(0.8)  # here

def computes():
    # C code that lets the interpreter go.
    deadline = time.monotonic() + 0.8
    while time.monotonic() < deadline:
        hashlib.sha256(bytes(2**22)).digest()

def is_short():
    time.sleep(0.01)

def app(environ, start_response):
    {work}()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

def ask():
    for _ in range({times}):
        urllib.request.urlopen(f"http://127.0.0.1:{{port}}/", timeout=30).read()
    server.stop()

server.listen(("127.0.0.1", 0))
port = state.pending[0].server_port
client = threading.Thread(target=ask)
client.start()
rmeinheld.run(app)
client.join()
print("done", flush=True)
"""

SAID = "has blocked the server for "
PATCH = "from rmeinheld.patch import patch_all; patch_all()"


@pytest.mark.parametrize(
    ("first", "work", "times", "lines"),
    [("", "waits", 2, 1), ("", "computes", 1, 0), ("", "is_short", 50, 0), (PATCH, "waits", 1, 0)],
    ids=["a wait", "a computation", "short waits", "a patched wait"],
)
def test_the_first_wait_that_blocks_an_unpatched_server_is_said_once(
    script: RunScript, first: str, work: str, times: int, lines: int
) -> None:
    printed = script(PROGRAM.format(first=first, work=work, times=times))
    assert printed.endswith("done\n")
    assert printed.count(SAID) == lines
    if lines:
        assert "Call rmeinheld.patch.patch_all()" in printed
        assert f"(waits) {SAID}" in printed


def test_a_run_after_another_is_watched_too(script: RunScript) -> None:
    again = PROGRAM.format(first="", work="is_short", times=1).rpartition("print(")[0]
    printed = script(
        again
        + """
def app(environ, start_response):
    waits()
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

server.listen(("127.0.0.1", 0))
port = state.pending[0].server_port
client = threading.Thread(target=ask)
client.start()
rmeinheld.run(app)
client.join()
"""
    )
    assert printed.count(SAID) == 1
