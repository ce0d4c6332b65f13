"""Notes to the service manager systemd, by its socket NOTIFY_SOCKET (sd_notify(3)).

One `Notifier` for a service, in the process that systemd knows: the single process, or the master of several workers
(`NotifyAccess=main`). Without NOTIFY_SOCKET every method does nothing. No method waits: a note that the manager cannot
take at once is lost, and the next beat of the watchdog repeats what lasts.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Final

from . import error_log
from ._rmeinheld import Scoreboard

__all__ = ["Notifier", "is_turning", "status_of"]

MARGIN_SECONDS: Final = 10.0
"""Seconds that a request for more time adds to the time that the end may take."""

STATUS_SECONDS: Final = 5.0
"""Most seconds between two lines of status, if the line changes."""

TURN_LIMIT: Final = 5.0
"""Seconds that a turn of a worker's loop may last until the worker counts as stuck."""

_SOCKET: Final = "NOTIFY_SOCKET"
_TIME: Final = "WATCHDOG_USEC"
_PROCESS: Final = "WATCHDOG_PID"

_logger: Final = logging.getLogger(error_log.LOGGER_NAME)


class Notifier:
    """Sends the states of this service to systemd.

    `environ` (None: `os.environ`) has NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID. They are read once, and stay in
    the environment: a master that USR2 starts finds them there.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._address = _address(self._environ.get(_SOCKET, ""))
        self._status = ""
        self._has_complained = False
        self._next_beat = 0.0
        self._watchdog_interval = self._find_interval() if self._address is not None else None

    @property
    def is_on(self) -> bool:
        """Has systemd started this service with a socket for its states?"""
        return self._address is not None

    @property
    def watchdog_interval(self) -> float | None:
        """Seconds between two beats of the watchdog, half of WATCHDOG_USEC; None if systemd expects none."""
        return self._watchdog_interval

    def ready(self, status: str | None = None) -> None:
        """READY=1: the service has started, or has reloaded."""
        self._send("READY=1", *self._new_status(status))

    def reloading(self, status: str | None = None) -> None:
        """RELOADING=1: the service reloads. `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", *self._new_status(status))

    def stopping(self, seconds: float = 0.0, status: str | None = None) -> None:
        """STOPPING=1: the service ends, which may take `seconds`."""
        self._send("STOPPING=1", *self._new_status(status), *_more_time(seconds))

    def extend_timeout(self, seconds: float) -> None:
        """EXTEND_TIMEOUT_USEC: the start, reload or stop that goes on may take `seconds` more from now."""
        self._send(*_more_time(seconds))

    def status(self, text: str) -> None:
        """STATUS: one line for people, shown by `systemctl status`. The same line is sent once."""
        self._send(*self._new_status(text))

    def beat(self, status: str | None = None) -> None:
        """WATCHDOG=1, if systemd expects it: the service works."""
        beats = ["WATCHDOG=1"] if self._watchdog_interval is not None else []
        self._send(*beats, *self._new_status(status))

    def beat_if_due(self, scoreboard: Scoreboard) -> None:
        """Send the beat of the watchdog and a new STATUS if it is time. A master calls it whenever its loop turns.

        The watchdog gets no beat while no worker's loop turns. A single stuck worker is the business of `timeout`.
        """
        now = time.monotonic()
        if not self.is_on or now < self._next_beat:
            return
        self._next_beat = now + min(self._watchdog_interval or STATUS_SECONDS, STATUS_SECONDS)
        status = status_of(scoreboard)
        if is_turning(scoreboard):
            self.beat(status)
        else:
            self.status(status)

    def main_pid(self, pid: int) -> None:
        """MAINPID: the process `pid` is the service's main process from now on."""
        self._send(f"MAINPID={pid}")

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Hide NOTIFY_SOCKET from code of other packages that would send READY=1 too early."""
        name = self._environ.pop(_SOCKET, None)
        try:
            yield
        finally:
            if name is not None:
                self._environ[_SOCKET] = name

    def _find_interval(self) -> float | None:
        text = self._environ.get(_TIME, "")
        # With WATCHDOG_PID the watchdog is meant for that process alone (sd_watchdog_enabled(3)). The process that USR2
        # starts takes the service over, and the watchdog with it.
        owner = self._environ.get(_PROCESS, "")
        if not text or (owner and owner not in (str(os.getpid()), str(os.getppid()))):
            return None
        if not (text.isascii() and text.isdigit()) or int(text) == 0:
            _logger.warning("%s=%r is no number of microseconds: the watchdog of systemd gets no beats", _TIME, text)
            return None
        return int(text) / 2_000_000

    def _new_status(self, text: str | None) -> list[str]:
        if text is None:
            return []
        line = " ".join(text.split())
        if line == self._status:
            return []
        self._status = line
        return [f"STATUS={line}"]

    def _send(self, *assignments: str) -> None:
        if self._address is None or not assignments:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                # Never waits, so it may be called from a signal handler, too.
                sender.sendto("\n".join(assignments).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
        except OSError as error:
            if not self._has_complained:
                self._has_complained = True
                name = self._environ.get(_SOCKET)
                _logger.warning("systemd was not notified (%s) by %s=%r: %s", assignments[0], _SOCKET, name, error)


def status_of(scoreboard: Scoreboard) -> str:
    """Return a line for people about the workers and requests of a service."""
    states = [scoreboard.state(slot) for slot in range(scoreboard.slots)]
    workers = len(states) - states.count("free")
    counters = scoreboard.counters()
    return (
        f"{scoreboard.ready_workers()} of {workers} workers ready, {counters['requests']} requests answered, "
        f"{counters['in_progress']} in progress, {counters['open_connections']} connections"
    )


def is_turning(scoreboard: Scoreboard) -> bool:
    """Does the loop of at least one worker turn?"""
    return any(
        scoreboard.state(slot) in ("ready", "draining") and scoreboard.turn_age(slot) <= TURN_LIMIT
        for slot in range(scoreboard.slots)
    )


def _address(name: str) -> str | None:
    """The address of NOTIFY_SOCKET. A name that begins with @ is abstract."""
    if not name:
        return None
    if name.startswith("@") and len(name) > 1:
        return "\0" + name[1:]
    if name.startswith("/"):
        return name
    _logger.warning("%s=%r is neither an absolute path nor @name: systemd gets no notes", _SOCKET, name)
    return None


def _more_time(seconds: float) -> list[str]:
    return [f"EXTEND_TIMEOUT_USEC={int((seconds + MARGIN_SECONDS) * 1_000_000)}"] if seconds > 0 else []
