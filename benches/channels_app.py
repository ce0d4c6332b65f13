"""The workers of channels.py: each one publishes numbered messages, subscribes, and checks what it receives.

`CHANNELS_DIR` is a directory. A worker writes there how many messages it has sent (`sent-PID`, eight bytes), and
what its subscribers have seen (`seen-PID`, JSON). It begins when the file `go` is there, and ends when `stop` is.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rmeinheld.channel import Channel
from rmeinheld.coroutine import sleep, spawn

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

DIRECTORY: Final = Path(os.environ["CHANNELS_DIR"])
RATE: Final = float(os.environ.get("CHANNELS_RATE", "1000"))
"""Messages that a worker publishes in a second."""

SUBSCRIBERS: Final = int(os.environ.get("CHANNELS_SUBSCRIBERS", "1"))
PUBLISHERS: Final = int(os.environ.get("CHANNELS_PUBLISHERS", "1000"))
"""Slots whose workers publish: those below this number."""

BATCH_SECONDS: Final = 0.01

channel: Final = Channel("soak")
seen: dict[str, dict[str, Any]] = {}
counts: Final = {"received": 0, "faults": 0}
subscriptions: Final[list[Any]] = []
begun: Final = time.time()


def check(message: str) -> None:
    """Note a message: a publisher's process and the number of the message."""
    pid, _, text = message.partition(" ")
    number = int(text)
    counts["received"] += 1
    known = seen.get(pid)
    if known is None:
        seen[pid] = {"first": number, "last": number, "at": time.time()}
        return
    if number != known["last"] + 1:
        counts["faults"] += 1
        known.setdefault("wrong", []).append((known["last"], number))
    known["last"] = number


def ignore(message: str) -> None:
    """Receive a message."""
    counts["received"] += 1


def publish() -> None:
    """Publish in small batches until the file `stop` is there."""
    while not (DIRECTORY / "go").exists():
        sleep(0.05)
    path = DIRECTORY / f"sent-{os.getpid()}"
    path.write_bytes(bytes(8))
    pid, number, start = os.getpid(), 0, time.monotonic()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 8) as memory:
        while not (DIRECTORY / "stop").exists():
            due = int((time.monotonic() - start) * RATE)
            while number < due:
                number += 1
                channel.publish(f"{pid} {number}")
                memory[:] = number.to_bytes(8, "little")
            sleep(BATCH_SECONDS)


def record() -> None:
    """Write what the subscribers of this process have seen."""
    gaps, dropped = sum(one.gaps for one in subscriptions), sum(one.dropped for one in subscriptions)
    fields = {"begun": begun, "now": time.time(), "seen": seen, "gaps": gaps, "dropped": dropped, **counts}
    path = DIRECTORY / f"seen-{os.getpid()}"
    path.with_suffix(".new").write_text(json.dumps(fields))
    path.with_suffix(".new").replace(path)


def report() -> None:
    """Record twice a second."""
    while True:
        sleep(0.5)
        record()


def begin() -> None:
    """Subscribe, and publish."""
    subscriptions.append(channel.subscribe(check, max_queue=200_000))
    subscriptions.extend(channel.subscribe(ignore, max_queue=200_000) for _ in range(SUBSCRIBERS - 1))
    atexit.register(record)
    spawn(report)
    spawn(publish)


begin()


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the number of the process."""
    body = str(os.getpid()).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
