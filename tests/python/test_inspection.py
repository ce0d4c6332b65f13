"""`rmeinheld top`, `ctl` and `dump` without a server: what is derived from answers, drawn, and done by a key."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rmeinheld.application import StartError
from rmeinheld.inspection.client import Client, InspectError
from rmeinheld.inspection.command import main
from rmeinheld.inspection.model import Key, Top, measures, percentile
from rmeinheld.inspection.tables import clean, duration, memory, table
from rmeinheld.inspection.view import draw


def worker(slot: int, **members: object) -> dict[str, Any]:
    return {
        "slot": slot,
        "generation": 1,
        "pid": 100 + slot,
        "state": "ready",
        "asks": "",
        "turn_age": 0.0,
        "busy": 0.25,
        "age": 75.0,
        "memory_bytes": 50 << 20,
        "requests": 7,
        "connections": 3,
        "open_connections": 2,
        "in_progress": 1,
        "websockets": 0,
        "coroutines": {"sleep": 2, "lock": 1},
        **members,
    }


def waiting(number: int, **members: object) -> dict[str, Any]:
    return {
        "id": f"0-1-{number}",
        "kind": "request",
        "label": f"GET /{number}",
        "age": 100.0 - number,
        "waits": 2.0,
        "state": "waits",
        "reason": "sleep",
        **members,
    }


class Server:
    """Answers as a server with two workers."""

    def __init__(self) -> None:
        self.requests = [waiting(number) for number in range(1, 6)]
        self.workers = [worker(0), worker(1, turn_age=4.5, unanswered="it is stopped")]
        self.service: dict[str, Any] = {"requests": 100, "in_progress": 5, "worker_starts": 3, "master": 99}
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.fault: str | None = None

    def ask(self, question: str, **members: object) -> dict[str, Any]:
        self.asked.append((question, members))
        if self.fault is not None:
            raise InspectError(self.fault)
        if question == "workers":
            return {"workers": self.workers, "service": dict(self.service)}
        if question == "requests":
            return {"requests": list(self.requests), "unanswered": []}
        if question == "stack":
            return {"stack": "\n".join(f"line {number}" for number in range(50))}
        return {}


def text(top: Top, width: int = 140, height: int = 30) -> str:
    lines = draw(top, width, height)
    assert len(lines) == height and all(len(line.text) == width for line in lines)
    return "\n".join(line.text.rstrip() for line in lines)


def selection(top: Top) -> tuple[str | None, int]:
    return top.selected, top.place


def press(top: Top, *keys: Key) -> bool:
    pressed = [top.press(key) for key in keys]
    return all(pressed)


def test_the_overview_has_rates_workers_and_requests() -> None:
    server = Server()
    top = Top(server)
    top.refresh(10.0)
    server.service["requests"] = 350
    top.refresh(12.0)
    shown = text(top)
    assert "2 of 2 workers ready   master 99   restarts 1   memory 100M" in shown
    assert "requests/s 125.0" in shown and "longest turn 4.5s" in shown
    assert "coroutines 6: 4 sleep, 2 lock" in shown
    assert "it is stopped" in shown and "1m15s" in shown
    assert "0-1-1" in shown and "GET /5" in shown
    styles = {line.text.strip(): line.style for line in draw(top, 140, 30)}
    assert [style for line, style in styles.items() if line.startswith("1-1")] == ["bad"]
    assert [line.split()[0] for line, style in styles.items() if style == "selected"] == ["0-1-1"]


def test_with_sticky_sessions_the_workers_have_places_and_moves() -> None:
    server = Server()
    top = Top(server)
    top.refresh(10.0)
    assert "PLACE" not in text(top)
    server.workers = [
        worker(0, place=1, moved_out=12, moved_in=34, moves_refused=5),
        worker(1, place=None, moved_out=0, moved_in=0, moves_refused=0, asks="memory"),
    ]
    top.refresh(12.0)
    titles, first, second = text(top).splitlines()[4:7]
    assert titles.split()[-5:] == ["PLACE", "OUT", "IN", "REFUSED", "NOTE"]
    assert first.split()[-4:] == ["1", "12", "34", "5"]
    assert re.search(r" -    0   0        0  asks to be replaced: memory$", second)


def test_a_selected_request_stays_selected_while_others_come_and_go() -> None:
    server = Server()
    top = Top(server)
    top.refresh(1.0)
    press(top, "down", "down")
    assert selection(top) == ("0-1-3", 2)
    server.requests = [waiting(9), *server.requests[2:]]
    top.refresh(2.0)
    assert selection(top) == ("0-1-3", 1)
    server.requests = [waiting(9), waiting(4)]
    top.refresh(3.0)
    assert selection(top) == ("0-1-4", 1)
    server.requests = []
    top.refresh(4.0)
    assert selection(top) == (None, -1)
    press(top, "enter", "k", "up", "down", "page down")
    assert (top.message, top.mode) == ("", "list")
    assert [question for question, _ in server.asked if question in ("kill", "stack")] == []


def test_a_request_is_ended_only_after_a_confirmation() -> None:
    server = Server()
    top = Top(server)
    top.refresh(1.0)
    press(top, "down", "k")
    assert "End 0-1-2 GET /2? It is answered with 504. (y/n)" in text(top)
    # Meanwhile the request is over, and the confirmation is still for that one.
    server.requests = server.requests[2:]
    top.refresh(2.0)
    press(top, "other")
    assert top.message == "nothing was ended" and "kill" not in [question for question, _ in server.asked]
    press(top, "k", "y")
    assert server.asked[-1] == ("kill", {"id": "0-1-4"}) or server.asked[-1] == ("kill", {"id": "0-1-3"})
    assert top.message.endswith("is ended")
    server.fault = "0-1-3 is over: it has ended"
    press(top, "k", "y")
    assert "0-1-3 is over" in text(top)


def test_enter_shows_a_stack_that_scrolls() -> None:
    server = Server()
    top = Top(server)
    top.refresh(1.0)
    press(top, "enter")
    assert server.asked[-1] == ("stack", {"id": "0-1-1"})
    shown = text(top, height=10)
    assert "line 0" in shown and "line 9" not in shown
    press(top, "page down", "down", "up")
    assert "line 10" in text(top, height=10)
    press(top, "k", "y")
    assert "kill" in [question for question, _ in server.asked]
    assert press(top, "enter", "escape")
    assert top.mode == "list"
    assert not press(top, "q")


def test_a_server_that_is_gone_is_a_line_and_the_last_state_stays() -> None:
    server = Server()
    top = Top(server)
    top.refresh(1.0)
    server.fault = "no server listens at 'x' any more"
    top.refresh(2.0)
    assert "no server listens" in text(top) and "GET /1" in text(top)


def test_every_size_of_a_screen_can_be_drawn() -> None:
    server = Server()
    server.requests = [waiting(number) for number in range(1, 400)]
    top = Top(server)
    top.refresh(1.0)
    for _ in range(30):
        press(top, "page down")
    for width, height in ((1, 1), (1, 50), (10, 3), (80, 24), (300, 100), (0, 5), (5, 0)):
        for mode in ("list", "stack", "confirm"):
            top.mode = mode
            assert len(draw(top, width, height)) == (height if width else 0)
    top.mode = "list"
    assert "0-1-301" in text(top, height=24)


def test_text_from_clients_moves_no_cursor() -> None:
    server = Server()
    server.requests = [waiting(1, label="GET /\x1b[2J\x07\u202e\r\n\x9b")]
    top = Top(server)
    top.refresh(1.0)
    assert "GET /?[2J????" in text(top)
    assert clean("a\tb\u2028") == "a?b?"


def test_percentiles_are_those_of_the_time_between_two_looks() -> None:
    bounds = [0.1, 1.0, 10.0]
    assert percentile(bounds, [0, 0, 0, 0], 50) is None
    assert percentile(bounds, [10, 0, 0, 0], 50) == pytest.approx(0.05)
    assert percentile(bounds, [0, 100, 0, 0], 90) == pytest.approx(0.91)
    assert percentile(bounds, [1, 0, 0, 9], 99) == 10.0
    before = {"requests": 0, "durations": [1000, 0, 0, 0], "duration_bounds": bounds}
    now = {"requests": 10, "durations": [1000, 0, 10, 0], "duration_bounds": bounds}
    derived = measures(now, [], (1.0, before), 3.0)
    assert derived["requests_per_second"] == 5 and derived["p50"] == pytest.approx(5.5)
    assert measures(before, [], None, 1.0)["p50"] == pytest.approx(0.05)
    # A master of another version counts from zero.
    assert measures(before, [], (1.0, now), 3.0)["requests_per_second"] == 0


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0.0ms"),
        (0.0123, "12.3ms"),
        (0.25, "250ms"),
        (59.94, "59.9s"),
        (61, "1m01s"),
        (7260, "2h01m"),
        (200000, "2d07h"),
        (None, "-"),
    ],
)
def test_a_time_is_short(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown and len(shown) <= 6


def test_tables_align_numbers_at_the_right() -> None:
    assert table(("A", "NAME"), [("1", "x"), ("100", "yy")]) == ["  A  NAME", "  1  x", "100  yy"]
    assert table(("A", "B"), []) == ["A  B"]
    assert (memory(None), memory(3 << 30)) == ("-", "3.0G")


# --- the client ------------------------------------------------------------------------------------------------------


def answering(tmp_path: Path, answers: list[bytes]) -> tuple[str, list[bytes], threading.Thread]:
    """Listen, and answer one connection after the other."""
    path = str(tmp_path / "socket")
    heard: list[bytes] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        with listener:
            for answer in answers:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as file:
                    heard.append(file.readline())
                    connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    return path, heard, thread


def test_a_question_is_asked_again_if_its_worker_ends_but_an_order_is_not(tmp_path: Path) -> None:
    good = b'{"rmeinheld": 1, "ok": true, "workers": [], "service": {}}\n'
    path, heard, thread = answering(tmp_path, [b"", b'{"rmein', good, b""])
    assert Client(path).ask("workers")["workers"] == []
    with pytest.raises(InspectError, match="ended the connection before it answered"):
        Client(path).ask("kill", id="0-1-2")
    thread.join()
    assert [json.loads(line)["ask"] for line in heard] == ["workers"] * 3 + ["kill"]


def test_a_foreign_server_and_a_refusal_are_errors(tmp_path: Path) -> None:
    refusal = b'{"rmeinheld": 1, "ok": false, "error": "no"}\n'
    path, _, thread = answering(tmp_path, [b"HTTP/1.1 400\n", b'{"ok": true}\n', refusal])
    for match in ("is no rmeinheld", "is no rmeinheld", "^no$"):
        with pytest.raises(InspectError, match=match):
            Client(path).ask("workers")
    thread.join()
    with pytest.raises(InspectError, match="no server listens"):
        Client(path).ask("workers")
    with pytest.raises(InspectError, match="a server makes it with --inspect-socket"):
        Client(str(tmp_path / "nothing")).ask("workers")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["ctl"], "COMMAND"),
        (["ctl", "sing"], "sing"),
        (["ctl", "kill"], "ID"),
        (["ctl", "log-level", "loud"], "loud"),
        (["top", "--interval", "0"], "0.1 to 3600"),
        (["top", "--interval", "nan"], "0.1 to 3600"),
        (["top", "--json"], "--once"),
        (["dump", "--frames"], "--frames"),
        (["ctl", "workers"], "there is no socket"),
        (["top", "--once"], "there is no socket"),
    ],
)
def test_a_fault_of_the_command_line_is_one_line(
    words: list[str], error: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RMEINHELD_INSPECT_SOCKET", str(tmp_path / "nothing"))
    with pytest.raises(StartError, match=error):
        main(words)


@pytest.mark.parametrize("command", ["top", "ctl", "dump"])
def test_help_explains_ids(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0 and "0-1-42" in capsys.readouterr().out


def test_the_socket_is_found_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RMEINHELD_INSPECT_SOCKET", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartError, match="Name its socket"):
        main(["ctl", "workers"])
    good = b'{"rmeinheld": 1, "ok": true, "workers": [], "service": {}}\n'
    path, _, thread = answering(tmp_path, [good])
    (tmp_path / "rmeinheld.toml").write_text(f'inspect_socket = "{path}"\n')
    assert main(["ctl", "workers"]) == 0
    thread.join()
    assert capsys.readouterr().out.startswith("WORKER  PID  STATE")


# --- the terminal ----------------------------------------------------------------------------------------------------


class Screen:
    """A screen of curses with the keys that are pressed one after the other."""

    def __init__(self, keys: list[int]) -> None:
        self.keys = keys
        self.lines: dict[int, str] = {}
        self.shown: list[str] = []

    def keypad(self, flag: bool) -> None:
        pass

    def timeout(self, milliseconds: int) -> None:
        assert 0 < milliseconds <= 60_000

    def erase(self) -> None:
        self.lines = {}

    def getmaxyx(self) -> tuple[int, int]:
        return 20, 100

    def insnstr(self, row: int, column: int, line: str, width: int, style: int) -> None:
        self.lines[row] = line

    def refresh(self) -> None:
        self.shown.append("\n".join(self.lines[row] for row in sorted(self.lines)))

    def getch(self) -> int:
        return self.keys.pop(0)


def test_keys_of_a_terminal_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    curses = pytest.importorskip("curses")
    from rmeinheld.inspection import terminal

    screen = Screen([-1, curses.KEY_RESIZE, curses.KEY_DOWN, 10, ord("z"), ord("k"), ord("y"), ord("a"), ord("q")])
    wrapper: Callable[[Callable[[Any], object]], object] = lambda run: run(screen)  # noqa: E731
    monkeypatch.setattr(curses, "wrapper", wrapper)
    monkeypatch.setattr(curses, "curs_set", lambda visibility: 0)
    monkeypatch.setattr(curses, "has_colors", lambda: False)
    server = Server()
    terminal.run(Top(server), 60.0)
    orders = [(question, members) for question, members in server.asked if question in ("stack", "kill")]
    assert orders == [("stack", {"id": "0-1-2"}), ("kill", {"id": "0-1-2"})]
    assert server.asked[-1] == ("requests", {"all": True})
    assert "line 0" in screen.shown[4] and "(y/n)" in screen.shown[6]
