"""`rmeinheld top`, `ctl` and `dump` with a single process."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inspecting import await_request, inspect_command, requests_of, rmeinheld
from rmeinheld.inspection.client import Client, InspectError
from serving import APPLICATIONS, Connection, Process, environment_of_child, request
from terminals import OnTerminal

START = r"listening at http://127\.0\.0\.1:(\d+)"


class Inspected:
    """A server with an inspect socket."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.path = str(directory / "inspect.sock")
        words = ("--bind", "127.0.0.1:0", "--inspect-socket", self.path, "--patch", *options, "inspected_app:app")
        environment = environment_of_child(directory)
        self.process = Process(inspect_command("--pythonpath", str(APPLICATIONS), *words), directory, environment)
        self.port = int(self.process.wait_for_log(START)[1])
        self.client = Client(self.path)

    def send(self, target: str) -> Connection:
        connection = Connection(("127.0.0.1", self.port))
        connection.send(request("GET", target))
        return connection

    def ctl(self, *words: str, status: int = 0) -> str:
        return rmeinheld(self.directory, "ctl", "--inspect-socket", self.path, *words, status=status)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Inspected]:
    server = Inspected(tmp_path)
    yield server
    server.process.kill()


def test_an_order_ends_exactly_that_request_with_504(server: Inspected) -> None:
    connections = {target: server.send(target) for target in ("/sleep/60", "/sleep/61", "/sleep/62")}
    found = {target: await_request(server.client, f"GET {target}") for target in connections}
    assert len({one["id"] for one in found.values()}) == 3
    killed = found["/sleep/61"]["id"]
    assert "is ended" in server.ctl("kill", killed)
    assert connections["/sleep/61"].read_response().status == 504
    assert set(requests_of(server.client)) == {"GET /sleep/60", "GET /sleep/62"}
    # It is over, and the next request of the same coroutine has another number.
    connections["/sleep/61"].send(request("GET", "/sleep/63"))
    following = await_request(server.client, "GET /sleep/63")
    assert following["id"] != killed
    with pytest.raises(InspectError, match=f"{killed} is over") as refused:
        server.client.ask("kill", id=killed)
    assert refused.value.answer["gone"]
    assert f"{killed} is over" in server.ctl("kill", killed, status=1)
    assert set(requests_of(server.client)) == {"GET /sleep/60", "GET /sleep/62", "GET /sleep/63"}


def test_a_request_that_computes_is_listed_with_its_stack_and_ended(server: Inspected) -> None:
    connection = server.send("/compute/20")
    found = await_request(server.client, "GET /compute/20")
    assert found["state"] == "runs" and found["waits"] is None
    assert "inspected_app.py" in server.ctl("stack", found["id"])
    assert found["id"] in server.ctl("requests")
    assert "is ended" in server.ctl("kill", found["id"])
    assert connection.read_response().status == 504


def test_while_c_code_holds_the_gil_what_is_known_without_it_is_answered_in_time(server: Inspected) -> None:
    waiting = server.send("/sleep/60")
    known = await_request(server.client, "GET /sleep/60")
    server.send("/hold/8")
    await_request(server.client, "GET /hold/8")
    with pytest.raises(InspectError, match="was not free for 2 s: C code holds the GIL"):
        # The C code may only be about to begin.
        while True:
            server.client.ask("stack", id=known["id"])
    assert server.client.ask("workers")["workers"][0]["state"] == "ready"
    # An order that came too late is not carried out when the GIL is free again.
    with pytest.raises(InspectError, match="was not free for 2 s: C code holds the GIL"):
        server.client.ask("kill", id=known["id"])
    dump = rmeinheld(server.directory, "dump", "--inspect-socket", server.path)
    assert "GET /sleep/60" in dump
    await_request(server.client, "GET /sleep/60", lambda one: one["state"] == "waits")
    assert "is ended" in server.ctl("kill", known["id"])
    assert waiting.read_response().status == 504


def test_one_look_is_json_for_scripts(server: Inspected) -> None:
    server.send("/sleep/60")
    await_request(server.client, "GET /sleep/60")
    words = ("top", "--once", "--json", "--interval", "0.1", "--inspect-socket", server.path)
    look = json.loads(rmeinheld(server.directory, *words))
    assert look["workers"][0]["pid"] == server.process.popen.pid
    assert [one["label"] for one in look["requests"]] == ["GET /sleep/60"]
    assert look["measures"]["requests_per_second"] == 0 and look["unanswered"] == []
    shown = rmeinheld(server.directory, "top", "--once", "--interval", "0.1", "--inspect-socket", server.path)
    assert "1 of 1 workers ready" in shown and "GET /sleep/60" in shown
    # Output that stops being read is no fault.
    rmeinheld(server.directory, "ctl", "workers", "--json", "--inspect-socket", server.path)


def test_a_dump_has_the_stacks_of_all_coroutines(server: Inspected) -> None:
    server.send("/sleep/60")
    await_request(server.client, "GET /sleep/60")
    dump = rmeinheld(server.directory, "dump", "--inspect-socket", server.path)
    assert "=== worker 0-1" in dump and "sleep_for" in dump and "/sleep/60" in dump


def test_the_level_of_the_log_changes_and_a_single_process_refuses_a_reload(server: Inspected) -> None:
    assert "level debug in 1 worker" in server.ctl("log-level", "debug")
    assert "with --workers 2" in server.ctl("reload", status=1)


def test_a_second_server_leaves_the_socket_to_the_first_and_a_killed_one_leaves_it_to_the_next(tmp_path: Path) -> None:
    first = Inspected(tmp_path)
    try:
        words = ("--bind", "127.0.0.1:0", "--inspect-socket", first.path, "--pythonpath", str(APPLICATIONS))
        said = rmeinheld(tmp_path, *words, "inspected_app:app", status=1)
        assert "--inspect-socket: cannot listen on" in said and "another process listens there" in said
        assert first.client.ask("workers")["ok"]
    finally:
        first.process.kill()
    assert os.path.exists(first.path)
    second = Inspected(tmp_path)
    assert second.client.ask("workers")["workers"][0]["pid"] == second.process.popen.pid
    second.process.popen.terminate()
    assert second.process.wait() == 0
    assert not os.path.exists(first.path)


def test_a_forked_child_does_not_keep_the_socket(tmp_path: Path) -> None:
    first = Inspected(tmp_path)
    first.send("/fork").read_response()
    child = int(first.process.wait_for_log(r"forked (\d+)")[1])
    try:
        first.process.popen.kill()
        first.process.popen.wait()
        # The child lives, and no process listens: the path is stale.
        second = Inspected(tmp_path)
        assert second.client.ask("workers")["workers"][0]["pid"] == second.process.popen.pid
        second.process.kill()
    finally:
        os.kill(child, signal.SIGKILL)
        first.process.kill()


def test_an_application_may_have_the_name_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "top.py").write_text("def app(environ, start_response): pass\n")
    assert "top:app and its options are in order" in rmeinheld(tmp_path, "top:app", "--check-config")
    assert "top and its options are in order" in rmeinheld(tmp_path, "--check-config", "top")


@pytest.mark.skipif(
    "curses" not in sys.builtin_module_names and not __import__("importlib").util.find_spec("_curses"),
    reason="this Python has no curses",
)
def test_top_on_a_terminal_shows_a_stack_and_ends_a_request(server: Inspected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    connection = server.send("/sleep/60")
    found = await_request(server.client, "GET /sleep/60")
    command = inspect_command("top", "--inspect-socket", server.path, "--interval", "0.2")
    with OnTerminal(command, server.directory) as terminal:
        terminal.wait_for("1 of 1 workers ready")
        terminal.wait_for(f"{found['id']}.*GET /sleep/60")
        terminal.press(b"\n")
        terminal.wait_for("sleep_for")
        terminal.press(b"k")
        terminal.wait_for(r"answered with 504\. \(y/n\)")
        terminal.press(b"y")
        assert connection.read_response().status == 504
        terminal.press(b"q")
        assert terminal.wait() == 0
