"""For scripts that test waiting: functions that run in coroutines or OS threads."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmeinheld.coroutine import spawn, wait_readable

KINDS = ("coroutine", "thread")
PAIRS = [(one, other) for one in KINDS for other in KINDS]

PATIENCE = 10.0
"""Seconds after which something that has not happened is taken to hang."""


class Signal:
    """Something that happens once. Made of a pipe, since everything else is what is tested."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def give(self) -> None:
        """Let it happen."""
        os.write(self._write, b"!")

    def wait(self) -> None:
        """Wait until it has happened."""
        assert wait_readable(self._read, PATIENCE), "a signal never came"


class Strand:
    """A function that runs in a coroutine or an OS thread (`kind`)."""

    def __init__(self, kind: str, func: Callable[..., Any], *args: Any) -> None:
        self.kind = kind
        self.outcome: Any = None
        self._native_id = 0
        self._begun = Signal()
        self._ended = threading.Event()
        self._call: Callable[[], Any] = lambda: func(*args)
        if kind == "coroutine":
            self.coroutine = spawn(self._run)
        else:
            threading.Thread(target=self._run, daemon=True).start()
        self._begun.wait()

    def _run(self) -> None:
        self._native_id = threading.get_native_id()
        self._begun.give()
        try:
            self.outcome = self._call()
        except BaseException as error:
            self.outcome = type(error).__name__
        self._ended.set()

    def until_it_waits(self) -> Strand:
        """Return when the function waits for another one, or has ended."""
        if self.kind == "coroutine":
            # It had its turn before this one.
            assert spawn(int).join(PATIENCE)
            return self
        status = Path(f"/proc/self/task/{self._native_id}/status")
        quiet, switches, deadline = 0, "", time.monotonic() + PATIENCE
        while quiet < 5 and not self._ended.is_set():
            assert time.monotonic() < deadline, "a thread never waits"
            time.sleep(0.001)
            try:
                lines = status.read_text().splitlines()
            except OSError:
                break
            now = "".join(line for line in lines if "ctxt_switches" in line)
            sleeps = any(line.startswith("State:\tS") for line in lines)
            quiet = quiet + 1 if sleeps and now == switches else 0
            switches = now
        return self

    def result(self) -> Any:
        """The function's result, or the name of the exception that it raised. Waits for its end."""
        assert self._ended.wait(PATIENCE), f"the {self.kind} hangs"
        return self.outcome
