"""The scoreboard: memory that the workers of a service share, written by the engine."""

from __future__ import annotations

import json
import os
import tempfile

import pytest

from rmeinheld._rmeinheld import Scoreboard
from serving import RunScript, Serve, request

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
    with pytest.raises(ValueError, match=r"requests, memory, lifetime, reload, stuck, or empty, not .age."):
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


KILLED = """
import http.client, os, signal, threading, time
from rmeinheld import _rmeinheld
from rmeinheld.addresses import parse_address
from rmeinheld.running import open_listeners
from rmeinheld.settings import Settings

board = _rmeinheld.Scoreboard(4)
(listener,) = open_listeners([parse_address("127.0.0.1:0")], Settings())
port = int(listener.server_port)

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []

def ask(ready):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    while True:
        connection.request("GET", "/")
        connection.getresponse().read()
        os.write(ready, b"1")

def work(slot, ready):
    "A worker that serves itself requests until it is killed."
    sockets = [(listener.socket.fileno(), "localhost", str(port))]
    server = _rmeinheld.Server(app, sockets, Settings(), scoreboard=board, slot=slot)
    threading.Thread(target=ask, args=[ready], daemon=True).start()
    server.run()

seen = requests = 0
for _ in range(8):
    slot = board.reserve()
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        work(slot, writer)
    os.close(writer)
    assert os.read(reader, 1) == b"1"
    until = time.monotonic() + 0.02
    while time.monotonic() < until:
        now = board.counters()["requests"]
        assert now >= seen, (now, seen)
        seen = now
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    own = board.counters(slot)["requests"]
    assert own > 0
    requests += own
    board.release(slot)
    after = board.counters()
    assert after["requests"] == requests >= seen, (after, requests, seen)
    assert after["in_progress"] == after["open_connections"] == 0, after
print("done")
"""


def test_counters_never_go_backwards_when_workers_are_killed(script: RunScript) -> None:
    assert script(KILLED) == "done\n"


FORKED = """
import http.client, os, threading
from rmeinheld import _rmeinheld
from rmeinheld.addresses import parse_address
from rmeinheld.running import open_listeners
from rmeinheld.settings import Settings

(listener,) = open_listeners([parse_address("127.0.0.1:0")], Settings())
port = int(listener.server_port)

def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []

if child := os.fork():
    assert os.waitpid(child, 0) == (child, 0)
else:
    server = _rmeinheld.Server(app, [(listener.socket.fileno(), "localhost", str(port))], Settings())

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(3):
            connection.request("GET", "/")
            connection.getresponse().read()
        connection.close()
        server.stop()

    threading.Thread(target=ask).start()
    server.run()
    os.write(1, b"%d requests\\n" % server.requests)
"""


def test_a_server_in_a_forked_process_counts_without_a_scoreboard_too(script: RunScript) -> None:
    assert script(FORKED) == "3 requests\n"


WATCHED = """
import json, os, threading, time
from rmeinheld import _rmeinheld, running
from rmeinheld.coroutine import sleep
from rmeinheld.websocket import ConnectionClosed

board = _rmeinheld.Scoreboard(2)
slot = board.reserve()

watching = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if not watching:
        # Not before the start line is printed.
        watching.append(threading.Thread(target=watch, daemon=True))
        watching[0].start()
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
    "Print the numbers of now, and the length of the running turn, each time that one changes."
    seen = None
    while True:
        counters = board.counters(slot)
        age = board.turn_age(slot)
        turn = "none" if age == 0 else "long" if age > 0.2 else "short"
        now = counters["in_progress"], counters["websockets"], board.state(slot), turn
        if now != seen:
            os.write(1, b"now %d %d %s %s\\n" % (now[0], now[1], now[2].encode(), now[3].encode()))
            seen = now
        time.sleep(0.002)

original = _rmeinheld.Server
def server(*arguments, **others):
    return original(*arguments, **others | {"scoreboard": board, "slot": slot})
_rmeinheld.Server = server
import rmeinheld
rmeinheld.run(app, port=0)
os.write(1, f"at last {board.state(slot)} {board.counters()}\\n".encode())
"""


def test_the_engine_counts_requests_connections_and_websockets(serve: Serve) -> None:
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
        server.wait_for_log(r"^now 1 1 ready none$")
    server.wait_for_log(r"^now 1 1 ready none\n(now .*\n)*now 0 0 ready none$")
    server.stop()
    last = server.wait_for_log(r"^at last draining (.*)$")[1]
    assert "'requests': 4, 'connections': 2, 'open_connections': 0, 'in_progress': 0, 'websockets': 0" in last


def test_the_age_of_a_turn_grows_while_python_computes_only(serve: Serve) -> None:
    server = serve.script(WATCHED)
    server.get("/park")
    server.wait_for_log(r"^now 1 0 ready none$")
    seen = len(server.log())
    server.get("/compute")
    server.wait_for_log(r"^now 1 0 ready long\n(now .*\n)*now 0 0 ready none$", start=seen)
