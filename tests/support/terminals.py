"""Processes on a terminal of their own, where a key sends a signal to the whole group."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from serving import TIMEOUT, environment_of_child

CTRL_C = b"\x03"


class OnTerminal:
    """A command as the first process of a new session, with a pseudo terminal. Use it as a context manager."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        ours, theirs = pty.openpty()
        self._ours: int | None = ours
        self._output = b""

        def take_terminal() -> None:
            # nohup(1) would have children ignore these.
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.setsid()
            fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

        self.popen = subprocess.Popen(
            command,
            cwd=directory,
            env=environment_of_child(directory),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            preexec_fn=take_terminal,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.popen.kill()
        self.popen.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """Close the terminal. May be repeated."""
        if self._ours is not None:
            os.close(self._ours)
            self._ours = None

    def press(self, keys: bytes) -> None:
        """Type on the terminal."""
        assert self._ours is not None
        os.write(self._ours, keys)

    def output(self) -> str:
        """The output so far."""
        return self._output.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait (bounded) for a multi-line regular expression in the output."""
        deadline = time.monotonic() + TIMEOUT
        while (match := re.search(pattern, self.output(), re.M)) is None:
            assert time.monotonic() < deadline, f"no {pattern!r} in:\n{self.output()}"
            assert self._read(0.05), f"the command ended without {pattern!r}:\n{self.output()}"
        return match

    def wait(self) -> int:
        """Wait (bounded) for the end of the command, and return its exit status."""
        deadline = time.monotonic() + TIMEOUT
        while self.popen.poll() is None:
            assert time.monotonic() < deadline, f"the command goes on:\n{self.output()}"
            self._read(0.01)
        while self._has_output(0) and self._read(0):
            pass
        return self.popen.returncode

    def _read(self, seconds: float) -> bool:
        """Take what comes within this time. Returns false once no process has the terminal any more."""
        if self._has_output(seconds):
            assert self._ours is not None
            try:
                self._output += os.read(self._ours, 65536)
            except OSError:
                # EIO.
                return False
        return True

    def _has_output(self, seconds: float) -> bool:
        if self._ours is None:
            time.sleep(seconds)
            return False
        return bool(select.select([self._ours], [], [], seconds)[0])
