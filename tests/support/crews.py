"""Services without a server: workers in processes of their own, which send each other messages."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from rmeinheld import _rmeinheld, crew_directory

WORKER = """
import os, resource, signal, sys, threading, time
from rmeinheld import _rmeinheld
place, slot, descriptor = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
board = _rmeinheld.Scoreboard.from_descriptor(descriptor)
os.close(descriptor)
board.claim(slot)
crew = _rmeinheld.Crew(place, slot, board)
heard, gone = [], []

def hear(slot, generation, payload, descriptors):
    heard.append((slot, payload if len(payload) < 100 else len(payload)))
    for number in descriptors:
        os.write(number, b"from %d" % os.getpid())
        os.close(number)

def open_descriptors():
    return len(os.listdir("/proc/self/fd"))

def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (heard, gone, crew.counts())
        time.sleep(0.002)
    return True

for line in sys.stdin:
    try:
        result = eval(line)
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    print(ascii(result), flush=True)
"""


class Worker:
    """One worker: a process that evaluates expressions."""

    def __init__(self, place: str, slot: int, board: _rmeinheld.Scoreboard, log: Path) -> None:
        self.slot = slot
        command = [sys.executable, "-c", WORKER, place, str(slot), str(board.descriptor)]
        self._log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                pass_fds=[board.descriptor],
                # The sockets of the crew must not depend on the directory.
                cwd="/",
            )
        self.ask("crew.on(7, hear), crew.on_gone(lambda *sibling: gone.append(sibling))")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text()

    def begin(self, expression: str) -> None:
        """Have the worker evaluate an expression. `answer` returns the result."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(expression + "\n")
        stdin.flush()

    def answer(self) -> Any:
        """Return the result of `begin`; an exception is a text with its type."""
        stdout: IO[str] | None = self._process.stdout
        assert stdout is not None
        line = stdout.readline()
        assert line, f"the worker of slot {self.slot} has ended: {self.log}"
        return ast.literal_eval(line)

    def ask(self, expression: str) -> Any:
        """Have the worker evaluate an expression, and return the result."""
        self.begin(expression)
        return self.answer()

    def define(self, source: str) -> None:
        """Have the worker run statements, whose names later expressions know."""
        assert self.ask(f"exec({source!r}, globals())") is None

    def kill(self) -> None:
        """End the worker by SIGKILL, and wait for its end."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class Service:
    """A scoreboard, a place and the workers of a service."""

    def __init__(self, place: str, log: Path) -> None:
        self.place = place
        self.board = _rmeinheld.Scoreboard(8)
        self._log = log
        self._workers: list[Worker] = []

    def worker(self) -> Worker:
        """Start a worker in a free slot. It takes messages of kind 7."""
        worker = Worker(self.place, self.board.reserve(), self.board, self._log)
        self._workers.append(worker)
        return worker

    def reap(self, worker: Worker) -> None:
        """Kill a worker and give its slot free, as a master does."""
        worker.kill()
        self._workers.remove(worker)
        self.board.release(worker.slot)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()


@contextmanager
def service(log: Path, workers: int = 2) -> Iterator[Service]:
    """A service whose sockets are in a directory, or abstract for one worker."""
    with tempfile.TemporaryDirectory(prefix="crew") as base:
        os.chmod(base, 0o755)
        before = os.environ.get("RUNTIME_DIRECTORY")
        os.environ["RUNTIME_DIRECTORY"] = base
        try:
            place = crew_directory.make(workers=workers)
        finally:
            if before is None:
                del os.environ["RUNTIME_DIRECTORY"]
            else:
                os.environ["RUNTIME_DIRECTORY"] = before
        try:
            with Service(str(place), log) as made:
                yield made
        finally:
            crew_directory.remove(place)
