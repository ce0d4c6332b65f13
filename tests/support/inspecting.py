"""Questions of tests at the inspect socket of a server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmeinheld.inspection.client import Client
from serving import TIMEOUT, Process, environment_of_child


def inspect_command(*words: str) -> list[str]:
    """Return the command line of `rmeinheld` with these words."""
    return [sys.executable, "-m", "rmeinheld", *words]


def rmeinheld(directory: Path, *words: str, status: int = 0) -> str:
    """Run the command `rmeinheld` with these words, check its exit status, and return all that it printed."""
    process = Process(inspect_command(*words), directory, environment_of_child(directory))
    try:
        ended = process.wait()
    finally:
        process.kill()
    assert ended == status, process.log()
    return process.log()


def requests_of(client: Client) -> dict[str, dict[str, Any]]:
    """Return the requests in progress by their labels."""
    return {request["label"]: request for request in client.ask("requests")["requests"]}


def await_request(client: Client, label: str, holds: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
    """Wait (bounded) until a request with this label is in progress, for which `holds` is true."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        found = requests_of(client)
        if label in found and holds(found[label]):
            return found[label]
        assert time.monotonic() < deadline, found
        time.sleep(0.01)
