"""`--preload`: coroutines that the application starts at its import run in each worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from chat_guests import CHAT, Guest
from masters import Gunicorn, Masters, Service, wait_until


@pytest.fixture(params=[Service, Gunicorn], ids=["rmeinheld", "gunicorn"])
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Masters[Gunicorn]]:
    """`start(*options)`: a running master of our command and of Gunicorn's, which must end in order."""
    masters: Masters[Gunicorn] = Masters(tmp_path, request.param)
    yield masters
    masters.stop()


def ask_workers(server: Gunicorn, found: dict[int, Any], number: int) -> None:
    """Add the first answer of each worker to those that are known, until there are `number`."""

    def ask() -> bool:
        answer = server.get("/")
        found.setdefault(answer["pid"], answer)
        return len(found) == number

    wait_until(ask, server.log)


def test_coroutines_of_the_import_run_once_in_each_worker(start: Masters[Gunicorn]) -> None:
    server = start("--workers", "2", "--preload", app="preloaded_app:app")
    found: dict[int, Any] = {}
    ask_workers(server, found, 2)
    victim = next(iter(found))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not server.has(victim), server.log)
    ask_workers(server, found, 3)
    for pid, answer in found.items():
        assert answer["importer"] == server.masters()[0]
        assert [one for one in answer["ran"] if one[0] != "later"] == [["first", pid]]
        assert (answer["is_over"], answer["result"], answer["later"]) == (True, "first", True)
        assert "the master of a service runs no coroutines" in answer["refusal"]


@pytest.mark.parametrize("kind", [Service, Gunicorn])
def test_the_chat_of_the_examples_works_with_preload(kind: type[Gunicorn], tmp_path: Path) -> None:
    server = kind(tmp_path, ("--workers", "2", "--preload", "--pythonpath", str(CHAT)), "app:app")
    try:
        server.await_socket()
        with ExitStack() as opened:
            guests = [
                opened.enter_context(Guest(server, f"guest {number}"))  # type: ignore[arg-type]
                for number in range(6)
            ]
            for guest in guests:
                guest.enter()
            guests[0].await_members(*(guest.name for guest in guests))
            guests[0].say_and_wait("hello")
            for guest in guests[1:]:
                assert guest.messages(1) == ["hello"]
        server.end()
        assert "Traceback" not in server.log()
    finally:
        server.kill()
