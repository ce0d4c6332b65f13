"""`rmeinheld --reload`: an edit is served soon, and code that cannot be imported stops nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from masters import LISTENING, wait_until
from serving import TIMEOUT, Connection, Process, environment_of_child, request

SLOW_SECONDS = 10.0
"""Longest time from an edit to its first answer. The reload begins within a second; the rest is a busy machine."""

APPLICATION = """
TEXT = b"one"

def app(environ, start_response):
    if environ["PATH_INFO"] == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events()
    if environ["PATH_INFO"] == "/spin":
        print("spins", flush=True)
        while True:
            pass
    start_response("200 OK", [])
    return [TEXT]

def events():
    from rmeinheld.coroutine import sleep
    while True:
        yield b"data: event\\n\\n"
        sleep(0.05)
"""


class Reloader(Process):
    """The command with `--reload` in a directory, whose application is site_app.py."""

    def __init__(self, directory: Path, *options: str) -> None:
        command = [sys.executable, "-m", "rmeinheld", "--reload", "--bind", "127.0.0.1:0", *options, "site_app:app"]
        super().__init__(command, directory, environment_of_child(directory))
        self.directory = directory
        self.port = 0

    def connect(self) -> Connection:
        if not self.port:
            self.port = int(self.wait_for_log(LISTENING)[1])
        return Connection(("127.0.0.1", self.port))

    def get(self) -> str:
        with self.connect() as connection:
            response = connection.request(request("GET", "/", "Connection: close"))
            assert response.status == 200, response
            return response.body.decode()

    def edit(self, text: str, name: str = "site_app.py") -> float:
        """Write a file, and return when it was written."""
        (self.directory / name).write_text(text)
        return time.monotonic()

    def expect(self, text: str) -> None:
        """Wait until the answer is `text`."""
        wait_until(lambda: self.get() == text, self.log)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Reloader]]:
    """`start(*options, source=...) -> Reloader`: it must end in order."""
    started: list[Reloader] = []

    def run(*options: str, source: str = APPLICATION) -> Reloader:
        (tmp_path / "site_app.py").write_text(source)
        started.append(Reloader(tmp_path, *options))
        return started[-1]

    yield run
    for process in started:
        try:
            process.signal(signal.SIGTERM)
            assert process.wait() == 0
        finally:
            print(process.log())
            process.kill()


def changed(text: str) -> str:
    return APPLICATION.replace("one", text)


def test_an_edit_is_served_while_a_page_of_events_is_open(start: Callable[..., Reloader]) -> None:
    server = start()
    assert server.get() == "one"
    with server.connect() as page:
        page.send(request("GET", "/events"))
        page.read_until(b"data: event")
        edited = server.edit(changed("two"))
        server.wait_for_log(r"site_app\.py has changed; a new worker loads the application")
        assert time.monotonic() - edited < 1 + SLOW_SECONDS / 2
        server.expect("two")
        # The stream of the old worker has a proper end.
        page.timeout = TIMEOUT
        assert page.read_to_end().endswith(b"0\r\n\r\n")


def test_a_kept_connection_does_not_reach_the_old_code(start: Callable[..., Reloader]) -> None:
    server = start()
    assert server.get() == "one"
    with server.connect() as browser:
        assert browser.request(request("GET", "/")).body == b"one"
        server.edit(changed("two"))
        browser.expect_end()
    assert server.get() == "two"


def test_the_last_of_many_writes_counts(start: Callable[..., Reloader]) -> None:
    server = start()
    assert server.get() == "one"
    for number in range(8):
        server.edit(changed(f"number {number}"))
        time.sleep(0.05)
    server.expect("number 7")
    assert server.log().count("has changed") <= 3


def test_code_that_raises_leaves_the_old_one_serving(start: Callable[..., Reloader]) -> None:
    server = start()
    assert server.get() == "one"
    server.edit("name_that_is_not_defined\n")
    server.wait_for_log(
        r"The next edit tries again\.\nTraceback \(most recent call last\):\n  File \".*/site_app\.py\""
    )
    server.wait_for_log("NameError: name 'name_that_is_not_defined' is not defined")
    assert server.get() == "one"
    server.edit("def app(:\n")
    server.wait_for_log("SyntaxError: invalid syntax")
    assert server.get() == "one"
    server.edit("import sys; sys.exit('no configuration')\n")
    server.wait_for_log("SystemExit: no configuration")
    assert server.get() == "one"
    server.edit("application = None\n")
    server.wait_for_log("has no attribute 'app'")
    assert server.get() == "one"
    server.edit(changed("repaired"))
    server.expect("repaired")
    assert server.log().count("cannot be imported") == 4


def test_a_file_that_the_failed_import_missed_may_appear(start: Callable[..., Reloader]) -> None:
    server = start()
    assert server.get() == "one"
    server.edit("import part_of_site\n" + changed("with its part"))
    server.wait_for_log("ModuleNotFoundError: No module named 'part_of_site'")
    assert server.get() == "one"
    server.edit("x = 1", "part_of_site.py")
    server.expect("with its part")


def test_a_first_start_that_fails_waits_for_an_edit(start: Callable[..., Reloader]) -> None:
    server = start(source="1 / 0\n")
    server.wait_for_log("ZeroDivisionError: division by zero")
    server.edit(APPLICATION)
    server.expect("one")


def test_an_application_that_patches_itself_is_reloaded(start: Callable[..., Reloader]) -> None:
    patched = "from rmeinheld.patch import patch_all\npatch_all()\n"
    server = start("--no-patch", source=patched + APPLICATION)
    assert server.get() == "one"
    server.edit(patched + changed("two"))
    server.expect("two")
    server.edit(patched + changed("three"))
    server.expect("three")


def test_an_edit_ends_a_request_that_computes(start: Callable[..., Reloader]) -> None:
    server = start("--graceful-timeout", "1")
    assert server.get() == "one"
    with server.connect() as page:
        page.send(request("GET", "/spin"))
        # Later requests are accepted by the new worker alone.
        server.wait_for_log("spins")
        server.edit(changed("two"))
        server.expect("two")
        page.read_to_end()


def test_further_files_are_watched(start: Callable[..., Reloader], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("from a file")
    source = "from pathlib import Path\n" + APPLICATION.replace('b"one"', 'Path("text.txt").read_bytes()')
    server = start("--reload-extra-file", "text.txt", "--reload-extra-file", "pages/*.html", source=source)
    assert server.get() == "from a file"
    (tmp_path / "text.txt").write_text("changed")
    server.expect("changed")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.html").write_text("x")
    server.wait_for_log(r"a\.html has changed")


def test_an_edit_during_the_import_begins_it_again(start: Callable[..., Reloader], tmp_path: Path) -> None:
    server = start()
    assert server.get() == "one"
    # It never gets past the open until there is a writer.
    os.mkfifo(tmp_path / "gate")
    server.edit("print('begun', flush=True)\nopen('gate')\n" + changed("never"))
    server.wait_for_log("begun")
    server.edit(changed("two"))
    server.expect("two")
    assert "cannot be imported" not in server.log()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preload"], "reload and preload_app exclude each other"),
        (["--reload-engine", "inotify"], "--reload-engine must be one of auto, poll, not 'inotify'"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_honoured_is_refused(tmp_path: Path, options: list[str], message: str) -> None:
    (tmp_path / "site_app.py").write_text(APPLICATION)
    process = Reloader(tmp_path, *options)
    try:
        assert process.wait() == 1
        assert message in process.log()
    finally:
        process.kill()
