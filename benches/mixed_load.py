"""The client of service_client.c, driven from Python: counts, waits and failures of a mix of requests."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from load import LoadError

ANSWER_SECONDS = 90.0
POLL_SECONDS = 0.02
WHOLE_RATE = 2000
"""Requests per second of the whole mix; other rates scale it."""

SCALED = {"kept_rate": 1400, "cold_rate": 500}
CONNECTIONS = {"kept": 64, "idle": 40, "long": 16, "streams": 16, "uploads": 10, "websockets": 30}
FEWEST = 4


def mix(
    rate: float, *, longest: float = 3, lines: int = 20, websockets: bool = True, plain: bool = False
) -> dict[str, float]:
    """The settings of the client for about `rate` requests per second, and half as many messages of WebSockets."""
    part = rate / WHOLE_RATE
    settings: dict[str, float] = {name: value * part for name, value in SCALED.items()}
    settings |= {name: max(FEWEST, round(value * min(1, 2 * part))) for name, value in CONNECTIONS.items()}
    settings |= {"longest": longest, "lines": lines}
    if not websockets:
        settings["websockets"] = 0
    if plain:
        settings["plain"] = 1
    return settings


@dataclass(frozen=True)
class Failure:
    """A request that failed: how (see service_client.c), of which kind, from which address, at which time."""

    how: str
    kind: str
    source: str
    worker: int
    number: int
    at: float
    after: float
    what: str


@dataclass
class MixedLoad:
    """A running client. Use it as a context manager; `stop` awaits what is in progress."""

    program: Path
    port: int
    settings: dict[str, float]
    failures: list[Failure] = field(default_factory=list)
    seen: Counter[int] = field(default_factory=Counter)
    """Answers of each worker so far."""

    def __enter__(self) -> Self:
        words = [f"{name}={value:g}" for name, value in self.settings.items()]
        self._process = subprocess.Popen(
            [str(self.program), str(self.port), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            if answer.pop("event") == "failure":
                self.failures.append(Failure(how=answer.pop("class"), **answer))
            else:
                self._answers.put(answer)
        self._answers.put(None)

    def _ask(self, word: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=ANSWER_SECONDS)
        except queue.Empty:
            raise LoadError(f"the client said nothing for {ANSWER_SECONDS:.0f} s") from None
        if answer is None:
            raise LoadError("the client ended early")
        self.seen.update({int(pid): count for pid, count in answer["workers"].items()})
        return answer

    def report(self) -> dict[str, Any]:
        """The counts so far, and the waits for /short since the last report."""
        return self._ask("report")

    def stop(self) -> dict[str, Any]:
        """Begin no further request, await the others, and return the last report."""
        return self._ask("stop")

    def workers(self) -> set[int]:
        """The workers that have answered since this was last asked."""
        return {int(pid) for pid in self._ask("workers")["workers"]}

    def wait_for(self, what: Callable[[], bool], named: str, seconds: float = ANSWER_SECONDS) -> None:
        """Wait until the condition holds; LoadError with the name of it after `seconds`."""
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                raise LoadError(f"after {seconds:.0f} s still no {named}")
            time.sleep(POLL_SECONDS)

    def wait_for_answers_of(self, count: int, other_than: set[int], seconds: float = ANSWER_SECONDS) -> set[int]:
        """Wait until `count` workers apart from these have answered, and return them."""
        found: set[int] = set()

        def is_enough() -> bool:
            found.update(self.workers() - other_than)
            return len(found) >= count

        self.wait_for(is_enough, f"answers of {count} workers apart from {sorted(other_than)[-4:]}", seconds)
        return found
