"""The scoreboard: memory that the workers of a service share, written by the engine."""

from __future__ import annotations

import os
import signal
import tempfile
import time

import pytest

from rmeinheld._rmeinheld import Scoreboard
from serving import Serve, request

FULL = {"requests", "connections", "open_connections", "in_progress", "websockets"}


def test_a_slot_goes_from_free_to_draining_and_back() -> None:
    board = Scoreboard(2)
    assert [board.state(slot) for slot in range(board.slots)] == ["free", "free"]
    slot = board.reserve()
    assert (slot, board.state(slot), board.generation(slot), board.pid(slot)) == (0, "booting", 1, 0)
    board.claim(slot)
    assert board.pid(slot) == os.getpid()
    assert board.turn_age(slot) < 60
    board.set_state(slot, "ready")
    assert board.ready_workers() == 1
    board.ask(slot, "memory")
    assert board.asks(slot) == "memory"
    board.set_state(slot, "draining")
    board.set_state(slot, "ready")
    assert (board.state(slot), board.ready_workers()) == ("draining", 0)
    board.release(slot)
    assert (board.state(slot), board.asks(slot), board.pid(slot)) == ("free", "", 0)
    assert (board.reserve(), board.generation(slot)) == (0, 2)
    assert set(board.counters()) == set(board.counters(slot)) == FULL


def test_bad_values_are_refused_with_the_right_ones() -> None:
    board = Scoreboard(1)
    with pytest.raises(ValueError, match="slots 0 to 0, not 1"):
        board.state(1)
    with pytest.raises(ValueError, match=r"free, booting, ready, draining, not .busy."):
        board.set_state(0, "busy")
    with pytest.raises(ValueError, match=r"requests, memory, lifetime, reload, or empty, not .age."):
        board.ask(0, "age")
    with pytest.raises(ValueError, match="1 to 65536 slots, not 0"):
        Scoreboard(0)
    board.reserve()
    with pytest.raises(RuntimeError, match="all 1 slots of the scoreboard are taken"):
        board.reserve()


def test_more_workers_than_the_default_have_room_in_a_larger_scoreboard() -> None:
    board = Scoreboard(300)
    assert [board.reserve() for _ in range(300)] == list(range(300))
    assert Scoreboard().slots == 256


def test_a_descriptor_opens_the_same_memory_and_foreign_files_are_refused() -> None:
    board = Scoreboard(3)
    other = Scoreboard.from_descriptor(board.descriptor)
    slot = other.reserve()
    other.is_stopping = True
    assert (board.state(slot), board.is_stopping, other.descriptor != board.descriptor) == ("booting", True, True)
    assert not os.get_inheritable(board.descriptor)
    with tempfile.TemporaryFile() as file:
        file.truncate(1 << 20)
        with pytest.raises(ValueError, match="is no scoreboard: its size is 1048576 bytes"):
            Scoreboard.from_descriptor(file.fileno())
    with pytest.raises(OSError, match="cannot be used as a scoreboard"):
        Scoreboard.from_descriptor(-1)


def test_counters_never_go_backwards_when_workers_are_killed() -> None:
    """Workers that count without a pause are killed with SIGKILL and replaced. Another process reads all the while."""
    board = Scoreboard(4)
    seen = requests = 0
    for _ in range(8):
        slot = board.reserve()
        ready, worker = os.pipe()
        pid = os.fork()
        if pid == 0:
            _work_for_ever(board, slot, worker)
        os.close(worker)
        assert os.read(ready, 1) == b"1"
        os.close(ready)
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            now = board.counters()["requests"]
            assert now >= seen
            seen = now
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        own = board.counters(slot)
        assert own["requests"] > 0
        requests += own["requests"]
        board.release(slot)
        assert board.counters()["requests"] == requests >= seen
        assert board.counters()["in_progress"] == board.counters()["open_connections"] == 0


def _work_for_ever(board: Scoreboard, slot: int, ready: int) -> None:
    """A worker that serves itself requests until it is killed."""
    import http.client
    import threading

    from rmeinheld import _rmeinheld
    from rmeinheld.addresses import parse_address
    from rmeinheld.running import open_listeners
    from rmeinheld.settings import Settings

    try:
        settings = Settings()
        (listener,) = open_listeners([parse_address("127.0.0.1:0")], settings)

        def app(environ: object, start_response: object) -> list[bytes]:
            start_response("200 OK", [("Content-Length", "0")])  # type: ignore[operator]
            return []

        server = _rmeinheld.Server(
            app,  # type: ignore[arg-type]
            [(listener.socket.fileno(), "localhost", listener.server_port)],
            settings,
            scoreboard=board,
            slot=slot,
        )

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", int(listener.server_port))
            while True:
                connection.request("GET", "/")
                connection.getresponse().read()
                os.write(ready, b"1")

        threading.Thread(target=ask, daemon=True).start()
        server.run()
    finally:
        os._exit(1)


WATCHED = """
import json, os, threading, time
from rmeinheld import _rmeinheld, running
from rmeinheld.coroutine import sleep
from rmeinheld.websocket import ConnectionClosed

board = _rmeinheld.Scoreboard(2)
slot = board.reserve()

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/compute":
        until = time.monotonic() + 0.6
        while time.monotonic() < until:
            pass
    if path == "/park":
        sleep(0.6)
    if path == "/echo":
        try:
            environ["wsgi.websocket"].receive()
        except ConnectionClosed:
            pass
        return []
    body = json.dumps([board.counters(slot), board.state(slot), board.turn_age(slot)]).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]

def watch():
    "Print the largest age of a turn, and the numbers of now, each time that it changes."
    seen = None
    while True:
        counters = board.counters(slot)
        now = counters["in_progress"], counters["websockets"], board.state(slot), board.turn_age(slot) > 0.2
        if now != seen:
            print("now", *now, flush=True)
            seen = now
        time.sleep(0.002)

original = _rmeinheld.Server
def server(*arguments):
    return original(*arguments, scoreboard=board, slot=slot)
_rmeinheld.Server = server
threading.Thread(target=watch, daemon=True).start()
import rmeinheld
rmeinheld.run(app, port=0)
print("at last", board.state(slot), board.counters())
"""


def test_the_engine_counts_requests_connections_and_websockets(serve: Serve) -> None:
    import json

    server = serve.script(WATCHED)
    with server.connect() as connection:
        for number in range(3):
            counters, state, _ = json.loads(connection.request(request("GET", "/")).body)
            assert (counters["requests"], counters["in_progress"], state) == (number, 1, "ready")
            assert (counters["connections"], counters["open_connections"]) == (1, 1)
    with server.connect() as connection:
        connection.send(
            request("GET", "/echo", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")[:-2]
            + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        server.wait_for_log(r"^now 1 1 ready False$")
    server.wait_for_log(r"^now 1 1 ready False\n(now .*\n)*now 0 0 ready False$")
    server.stop()
    last = server.wait_for_log(r"^at last draining (.*)$")[1]
    assert "'requests': 4, 'connections': 2, 'open_connections': 0, 'in_progress': 0, 'websockets': 0" in last


def test_the_age_of_a_turn_grows_while_python_computes_only(serve: Serve) -> None:
    server = serve.script(WATCHED)
    server.get("/park")
    assert "True" not in server.log()
    server.get("/compute")
    server.wait_for_log(r"^now 1 0 ready True$")
    server.wait_for_log(r"^now 1 0 ready True\n(now .*\n)*now 0 0 ready False$")
