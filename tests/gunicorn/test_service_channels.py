"""Channels between the workers of `rmeinheld --workers` and of Gunicorn: recycles, deaths, and --preload."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from masters import Gunicorn, Masters, Service, wait_until
from serving import request

APP = "channel_app:app"
BENCHES = Path(__file__).resolve().parents[2] / "benches"
SECONDS = 150

type Start = Callable[..., Gunicorn]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(kind, *options) -> Service`: a running master, which must end in order at the end of the test."""
    started: list[Masters[Any]] = []

    def begin(kind: type[Gunicorn], *options: str) -> Gunicorn:
        started.append(Masters(tmp_path, kind))
        master: Gunicorn = started[-1](*options, app=APP)
        return master

    yield begin
    for masters in started:
        masters.stop()


def answers(service: Gunicorn, number: int) -> dict[int, dict[str, Any]]:
    """Return an answer of each of `number` workers. Connections stay open meanwhile, so that the workers take turns."""
    found: dict[int, dict[str, Any]] = {}
    with ExitStack() as kept:

        def are_all_found() -> bool:
            connection = kept.enter_context(service.connect())
            answer = json.loads(connection.request(request("GET", "/")).body)
            found[answer["pid"]] = answer
            return len(found) >= number

        wait_until(are_all_found, service.log)
    return found


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Service, ()), (Service, ("--preload",)), (Gunicorn, ("--preload",))],
    ids=["rmeinheld", "rmeinheld preloaded", "gunicorn preloaded"],
)
def test_messages_and_members_reach_all_workers_also_after_one_is_killed(
    start: Start, kind: type[Gunicorn], options: tuple[str, ...]
) -> None:
    service = start(kind, "--workers", "3", *options)
    pids = set(answers(service, 3))
    assert service.get("/publish/one")["number"] == 3
    wait_until(lambda: all(answer["heard"] == ["one"] for answer in answers(service, 3).values()), service.log)
    owner = service.get("/join/ann")["pid"]
    members = {"ann": owner}
    wait_until(lambda: all(answer["members"] == members for answer in answers(service, 3).values()), service.log)
    os.kill(owner, signal.SIGKILL)
    wait_until(lambda: len(set(answers(service, 2)) - {owner}) >= 2, service.log)
    wait_until(lambda: not service.get("/")["members"], service.log)
    wait_until(lambda: len(set(answers(service, 3)) - pids) == 1, service.log)
    (successor,) = set(answers(service, 3)) - pids
    assert service.get("/publish/two")["number"] == 3
    wait_until(lambda: answers(service, 3)[successor]["heard"] == ["two"], service.log)


@pytest.mark.timeout(SECONDS + 20)
def test_every_message_is_delivered_once_and_in_order_while_workers_are_recycled(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHES / "channels.py"), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
