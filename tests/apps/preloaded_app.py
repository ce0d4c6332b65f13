"""An application for --preload, which starts coroutines at its import."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse

from rmeinheld.coroutine import sleep, spawn

importer = os.getpid()
ran: list[tuple[str, int]] = []


def note(name: str) -> str:
    """Note the process, after a wait."""
    sleep(0.01)
    ran.append((name, os.getpid()))
    return name


first = spawn(note, "first")
killed = spawn(note, "killed")
killed.kill()
try:
    refusal = f"joined: {first.join(5)}"
except RuntimeError as error:
    refusal = str(error)


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Says what has run where."""
    is_over = first.join(5) and killed.join(5)
    seen = {
        "pid": os.getpid(),
        "importer": importer,
        "ran": ran,
        "is_over": is_over,
        "result": first.result,
        "refusal": refusal,
        "later": spawn(note, "later").join(5),
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]
