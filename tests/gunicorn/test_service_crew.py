"""`rmeinheld --workers`: the workers of a service find each other, also across deaths and upgrades."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from masters import Masters, Service, wait_until
from serving import request

type Start = Masters[Service]

APP = "crew_app:app"


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory that systemd would have made for the service. Its path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="crew") as path:
        monkeypatch.setenv("RUNTIME_DIRECTORY", path)
        yield Path(path)


@pytest.fixture
def start(tmp_path: Path, base: Path) -> Iterator[Start]:
    """`start(*options) -> Service`: a running master, which must end in order at the end of the test."""
    masters = Masters(tmp_path, Service)
    yield masters
    masters.stop()
    # The last master removes the directory of the crew.
    assert list(base.iterdir()) == []


def answer_of(service: Service, pid: int, target: str = "/") -> dict[str, Any]:
    """Ask until the worker `pid` answers. Connections stay open meanwhile, so that the workers take turns."""
    answers: list[dict[str, Any]] = []
    with ExitStack() as kept:

        def is_found() -> bool:
            connection = kept.enter_context(service.connect())
            answers.append(json.loads(connection.request(request("GET", target)).body))
            return bool(answers[-1]["pid"] == pid)

        wait_until(is_found, service.log)
    return answers[-1]


def test_every_worker_hears_every_sibling_also_after_deaths_and_an_upgrade(start: Start, base: Path) -> None:
    service = start("--workers", "2", app=APP)
    service.await_ready()
    (directory,) = base.iterdir()
    first = service.running()
    assert sorted(path.name for path in directory.iterdir()) == ["0-1.v1", "1-1.v1"]

    sender = service.get("/send/one")
    (other,) = sender["siblings"]
    assert sorted([sender["pid"], other]) == sorted(first)
    assert sender["refused"] == []
    wait_until(lambda: answer_of(service, other)["heard"] == ["one"], service.log)

    os.kill(other, signal.SIGKILL)
    wait_until(lambda: len(set(service.running()) - {other}) == 2, service.log)
    (successor,) = set(service.running()) - set(first)
    wait_until(lambda: answer_of(service, sender["pid"])["siblings"] == [successor], service.log)
    wait_until(lambda: answer_of(service, successor)["siblings"] == [sender["pid"]], service.log)
    assert answer_of(service, sender["pid"], "/send/two")["refused"] == []
    wait_until(lambda: "two" in answer_of(service, successor)["heard"], service.log)

    seen = len(service.log())
    service.signal(signal.SIGUSR2)
    service.wait_for_log("The new master is ready", start=seen)
    assert list(base.iterdir()) == [directory]
    old, new = {sender["pid"], successor}, set(service.running()) - {sender["pid"], successor}
    assert len(new) == 2
    one = min(new)
    assert set(answer_of(service, one, "/send/three")["siblings"]) == old | new - {one}
    for pid in old | new - {one}:
        wait_until(lambda pid=pid: "three" in answer_of(service, pid)["heard"], service.log)  # type: ignore[misc]
    service.signal(signal.SIGTERM)
    wait_until(lambda: set(service.running()) == new, service.log)
    assert list(base.iterdir()) == [directory]


def test_the_crew_of_one_worker_has_no_directory(start: Start, base: Path) -> None:
    service = start("--workers", "1", "--max-requests", "100000", app=APP)
    assert service.get("/")["siblings"] == []
    assert list(base.iterdir()) == []
    service.signal(signal.SIGTTIN)

    def takes_a_message() -> bool:
        answer = service.get("/send/on")
        # A message is refused until the second worker has imported the application.
        return len(answer["siblings"]) == 1 and answer["refused"] == []

    wait_until(takes_a_message, service.log)
    assert list(base.iterdir()) == []
