"""The inspect socket: its protocol, its limits, and clients that flood it, stall or send garbage."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rmeinheld._rmeinheld import Inspector, Scoreboard
from rmeinheld.inspect_socket import Host, open_inspect_socket
from serving import TIMEOUT, run_script

LINE_TIME = 5.0
"""Seconds for the rest of a question that has begun."""

VISITORS = 32
"""Clients at once."""

WORKERS = b'{"rmeinheld": 1, "ask": "workers"}\n'


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """The inspect socket of this process, whose service has one worker."""
    board = Scoreboard(2)
    slot = board.reserve()
    board.claim(slot)
    place = str(tmp_path / "inspect.sock")
    listener = open_inspect_socket(place)
    inspector = Inspector(listener.socket.fileno(), board, slot, None, None, os.geteuid(), HOST)
    inspector.start()
    yield place
    inspector.stop()
    listener.close()


class NotingHost(Host):
    """Notes levels of the log."""

    def __init__(self) -> None:
        self.levels: list[str] = []

    def set_level(self, level: str) -> None:
        self.levels.append(level)


HOST = NotingHost()


class Client:
    """A raw client."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        # With a time limit the call would not wait for room in a full queue.
        self.socket.connect(path)
        self.socket.settimeout(TIMEOUT)
        self.file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def answer(self) -> dict[str, Any]:
        line = self.file.readline()
        assert line.endswith(b"\n"), line
        answer: dict[str, Any] = json.loads(line)
        assert answer["rmeinheld"] == 1
        return answer

    def ask(self, data: bytes) -> dict[str, Any]:
        self.send(data)
        return self.answer()

    def is_ended(self) -> bool:
        """Wait (bounded) for the end of the connection."""
        try:
            return self.file.readline() == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.file.close()
        self.socket.close()


def ask(path: str, **question: object) -> dict[str, Any]:
    client = Client(path)
    try:
        return client.ask(json.dumps({"rmeinheld": 1, **question}).encode() + b"\n")
    finally:
        client.close()


def test_the_socket_belongs_to_its_user_alone(path: str) -> None:
    assert os.stat(path).st_mode & 0o777 == 0o600


def test_a_live_socket_stays_and_a_stale_one_is_replaced(path: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="another process listens there"):
        open_inspect_socket(path)
    assert ask(path, ask="workers")["ok"]
    stale = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stale))
    open_inspect_socket(str(stale)).close()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="is not a socket"):
        open_inspect_socket(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "kept"


def test_the_state_of_the_worker_is_known_without_its_interpreter(path: str) -> None:
    answer = ask(path, ask="workers")
    (worker,) = answer["workers"]
    assert (worker["slot"], worker["generation"], worker["pid"]) == (0, 1, os.getpid())
    assert worker["state"] == "booting" and worker["memory_bytes"] > 1 << 20 and worker["age"] > 0
    assert answer["service"]["worker_starts"] == 1 and answer["service"]["master"] is None
    assert ask(path, ask="requests")["requests"] == []


def test_several_questions_in_one_packet_are_answered_in_order(path: str) -> None:
    client = Client(path)
    client.send(WORKERS * 20 + b'{"rmeinheld": 1, "ask": "reload"}\n')
    client.socket.shutdown(socket.SHUT_WR)
    assert all(client.answer()["ok"] for _ in range(20))
    assert "--workers 2" in client.answer()["error"]
    assert client.is_ended()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\n", "one JSON object"),
        (b"GET / HTTP/1.1\r\n", "one JSON object"),
        (b"\xff\x00\x80\n", "one JSON object"),
        (b"[" * 4000 + b"\n", "one JSON object"),
        (b'{"ask": "workers"}\n', '"rmeinheld" is missing'),
        (b'{"rmeinheld": 9, "ask": "workers"}\n', "speaks version 1"),
        (b'{"rmeinheld": 1, "ask": "sing"}\n', "it knows workers"),
        (b'{"rmeinheld": 1, "ask": "kill", "id": "0-1"}\n', "slot, generation and work"),
        (b'{"rmeinheld": 1, "ask": "log-level", "level": "loud"}\n', "debug, info"),
    ],
)
def test_a_line_that_is_no_question_is_refused_and_the_next_one_is_answered(path: str, line: bytes, error: str) -> None:
    client = Client(path)
    answer = client.ask(line)
    assert not answer["ok"] and error in answer["error"]
    assert client.ask(WORKERS)["ok"]


def test_a_giant_line_is_refused_before_its_end(path: str) -> None:
    client = Client(path)
    client.send(b"x" * 5000)
    assert "at most 4096 bytes" in client.answer()["error"]
    assert client.is_ended()
    assert ask(path, ask="workers")["ok"]


def test_a_client_that_begins_a_line_and_stalls_is_sent_away(path: str) -> None:
    client = Client(path)
    begun = time.monotonic()
    client.send(b'{"rme')
    assert f"within {LINE_TIME:g} s" in client.answer()["error"]
    assert LINE_TIME - 1 < time.monotonic() - begun
    assert client.is_ended()


def test_clients_that_say_nothing_make_room_for_others(path: str) -> None:
    with ExitStack() as stack:
        silent = [Client(path) for _ in range(3 * VISITORS)]
        for one in silent:
            stack.callback(one.close)
        assert ask(path, ask="workers")["ok"]
        # The oldest ones were disconnected.
        assert silent[0].is_ended()


def test_a_flood_of_questions_leaves_others_their_answers(path: str) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            try:
                client = Client(path)
                client.send(WORKERS * 100)
                client.close()
            except OSError:
                pass

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            begun = time.monotonic()
            assert ask(path, ask="workers")["ok"]
            assert time.monotonic() - begun < 5
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_client_that_takes_no_answers_holds_up_no_other(path: str) -> None:
    greedy = Client(path)
    greedy.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            greedy.socket.send(WORKERS * 100)
    assert ask(path, ask="workers")["ok"]
    greedy.close()


def test_work_of_another_generation_is_over(path: str) -> None:
    for identity in ("0-2-1", "1-1-1", "0-1-18446744073709551615"):
        for question in ("kill", "stack"):
            answer = ask(path, ask=question, id=identity)
            assert answer["gone"] and f"{identity} is over" in answer["error"]


def test_the_level_of_the_error_log_is_set_by_its_name(path: str) -> None:
    HOST.levels.clear()
    answer = ask(path, ask="log-level", level="DEBUG")
    assert answer["ok"], answer
    assert HOST.levels == ["debug"]
    assert [worker["slot"] for worker in answer["workers"]] == [0]


def test_another_user_is_refused(path: str, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.chmod(path, 0o666)
    tmp_path.chmod(0o711)
    script = """
        import os, socket
        os.setuid(12345)
        client = socket.socket(socket.AF_UNIX)
        client.connect("inspect.sock")
        print(client.makefile().readline())
    """
    said = run_script(script, tmp_path)
    assert "user 12345 may not inspect this service" in said


def test_an_inspector_is_started_once_and_stopped_often(tmp_path: Path) -> None:
    board = Scoreboard(1)
    board.claim(board.reserve())
    listener = open_inspect_socket(str(tmp_path / "socket"))
    inspector = Inspector(listener.socket.fileno(), board, 0, None, None, 0, HOST)
    inspector.stop()
    inspector.start()
    with pytest.raises(RuntimeError, match="started already"):
        inspector.start()
    inspector.stop()
    inspector.stop()
    with pytest.raises(ValueError, match="slots 0 to 0, not 1"):
        Inspector(listener.socket.fileno(), board, 1, None, None, 0, HOST)
    with pytest.raises(ValueError, match="a place is an absolute path"):
        Inspector(listener.socket.fileno(), board, 0, "here", None, 0, HOST)
    listener.close()
