"""Memory: the modules that a server imports by itself, a burst of requests, and WebSockets that are idle."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from frames import Client, text
from serving import RunScript, Serve

COSTLY = """
    _multiprocessing ast asyncio concurrent.futures dataclasses email http.client importlib.resources inspect ipaddress
    json multiprocessing shutil ssl subprocess tempfile tomllib urllib.parse uuid
"""
"""Modules of the standard library that take up to 4 MB each. A server without TLS or proxies needs no such module."""

NEEDED = """
from __future__ import annotations

import argparse, logging, queue, selectors, signal, socket, sys, threading
from contextlib import ExitStack
from typing import NamedTuple

class Row(NamedTuple):
    number: int

with ExitStack() as stack:
    stack.enter_context(open("/dev/null"))
print(*sys.modules)
"""
"""The needs of every server. In some versions of Python it imports costly modules: on 3.15, ast for a named tuple."""

MODULES = """
import sys

def app(environ, start_response):
    start_response("200 OK", [])
    return [" ".join(sys.modules).encode()]
"""

HELD = """
import os, time

def app(environ, start_response):
    body = environ["wsgi.input"].read()
    while body and not os.path.exists("released"):
        time.sleep(0.1)
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""

ECHO = """
def app(environ, start_response):
    websocket = environ["wsgi.websocket"]
    for message in websocket:
        websocket.send(message)
    return []
"""

REQUESTS = 400

WEBSOCKET_KIB = 16
"""The most for an idle WebSocket. A release build keeps one page of the stack, 10 KiB in all. Other builds have larger
frames, and keep two."""

BODY_KIB = 64


def test_a_server_imports_no_costly_module_that_its_application_does_not_need(script: RunScript, serve: Serve) -> None:
    needed = script(NEEDED).split()
    modules = serve(MODULES).get("/").body.decode().split()
    assert "rmeinheld" in modules
    assert sorted(set(COSTLY.split()) & set(modules) - set(needed)) == []


def test_the_memory_of_a_burst_returns_to_the_kernel(serve: Serve) -> None:
    server = serve(HELD)
    server.get("/")
    before = server.resident_kib()
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(REQUESTS)]
        for connection in connections:
            head = f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_KIB * 1024}\r\n\r\n"
            connection.send(head.encode() + bytes(BODY_KIB * 1024))
        _wait_until(lambda: server.resident_kib() - before > REQUESTS * BODY_KIB, 30)
        server.release()
        for connection in connections:
            connection.read_response("POST")
        # The connections stay open. Without the return nearly all of it would stay for good.
        _wait_until(lambda: server.resident_kib() - before < REQUESTS * BODY_KIB / 3, 30)


@pytest.mark.skipif(hasattr(sys, "gettotalrefcount"), reason="a debug build of Python has large frames and objects")
def test_an_idle_websocket_keeps_little_of_its_stack(serve: Serve) -> None:
    server = serve(ECHO)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(20)]
        _exchange(clients)
        before = server.resident_kib()
        clients += [stack.enter_context(Client(server)) for _ in range(REQUESTS)]
        _exchange(clients)
        _wait_until(lambda: server.resident_kib() - before < REQUESTS * WEBSOCKET_KIB, 30)
        _exchange(clients)


def _exchange(clients: list[Client]) -> None:
    """Has each client get its message back."""
    for client in clients:
        client.send(text("hello"))
    assert [client.text() for client in clients] == ["hello"] * len(clients)


def _wait_until(is_true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.1)
