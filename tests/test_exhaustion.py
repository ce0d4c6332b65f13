"""What a server does when the kernel has no more to give: address space for stacks, descriptors, places in epoll.

Each test lowers a limit in the server's own process, so that small numbers reach it.
"""

from __future__ import annotations

import time

from serving import RunScript, Serve

LIMITS = """
import pathlib, resource

def limit_address_space(megabytes):
    '''Leave so much to be mapped beyond what is mapped now.'''
    mapped = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + megabytes * 2**20, resource.RLIM_INFINITY))
"""
"""Source text of what applications set their limits with."""


# --- stacks ----------------------------------------------------------------------------------------------------------


def test_without_room_for_a_stack_requests_wait_and_one_line_says_what_to_do(serve: Serve) -> None:
    server = serve(
        LIMITS
        + """
from rmeinheld.coroutine import sleep, spawn

def app(environ, start_response):
    if environ["PATH_INFO"] == "/fill":
        limit_address_space(160)
        for _ in range(40):
            spawn(sleep, 0.6)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
    )
    assert server.get("/fill").status == 200
    server.wait_for_log("^rmeinheld: there is no room for the stack of another coroutine")
    before, began = server.cpu_seconds(), time.monotonic()
    # The kernel keeps these connections for now. A loop that looked at its listener all the time would take a core.
    waiting = [server.connect() for _ in range(5)]
    for connection in waiting:
        connection.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
    for connection in waiting:
        assert connection.read_response().body == b"hello"
        connection.close()
    spent = server.cpu_seconds() - before
    assert spent < 0.3 * (time.monotonic() - began) + 0.2, f"{spent} s of CPU for waiting"
    (line,) = [line for line in server.log().splitlines() if "no room" in line]
    assert "ulimit -v" in line and "--stack-size" in line, line
    assert len(server.log().splitlines()) == 2, server.log()


def test_a_loop_that_cannot_start_for_want_of_memory_is_an_error(script: RunScript) -> None:
    source = (
        LIMITS
        + """
from rmeinheld.coroutine import spawn
limit_address_space(40)
try:
    spawn(print, "started")
except MemoryError as error:
    print(error)
"""
    )
    assert "Raise the limit of memory (ulimit -v" in script(source)
