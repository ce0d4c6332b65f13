"""The health of a service: the admin listener with `/live` and `/ready`, and the notes to systemd.

`/live` and `/ready` are answered by an OS thread that needs neither the loop nor the interpreter, so they are answered
while Python computes. It starts before the application is imported. The engine notes its work in a scoreboard, from
which the thread takes its answers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from . import _rmeinheld
from .addresses import parse_address
from .coroutine import sleep, spawn
from .listeners import Listener, open_listener
from .option_kinds import YEAR_SECONDS
from .systemd import STATUS_SECONDS, Notifier

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["Health", "answer_probes", "measures", "open_admin_socket", "watched"]

START_LOOK = 0.01
"""Seconds between two looks for the start of the service, by the coroutine that reports it to systemd."""


class Health:
    """The health of a single process: a scoreboard with one slot, and the notes to systemd.

    `ends_process` says that the process ends with its server, so that systemd is notified of the stop.
    """

    def __init__(self, *, ends_process: bool) -> None:
        self.notifier = Notifier()
        self.scoreboard = _rmeinheld.Scoreboard(1)
        self.slot = self.scoreboard.reserve()
        self.scoreboard.claim(self.slot)
        self._ends_process = ends_process
        self._grace = 0.0

    def begin(self, graceful_timeout: float) -> None:
        """Report to systemd from a coroutine, so that the watchdog gets beats only while the loop turns.

        Called after the start of the engine was prepared. READY is sent once the engine accepts connections.
        """
        self._grace = graceful_timeout
        if self.notifier.is_on:
            spawn(self._report)

    def stop(self, timeout: float | None) -> None:
        """Report the stop to systemd. May be called from a signal handler, and more than once."""
        self.scoreboard.set_state(self.slot, "draining")
        if self._ends_process:
            self.notifier.stopping(self._grace if timeout is None else timeout, "stopping")

    def reloads(self, work: Callable[[], object]) -> Callable[[], None]:
        """Return a function that does `work`, and reports it to systemd as a reload, whose end it waits for."""

        def reload() -> None:
            self.notifier.reloading()
            try:
                work()
            finally:
                self.notifier.ready()

        return reload

    def _report(self) -> None:
        while self.scoreboard.state(self.slot) == "booting":
            sleep(START_LOOK)
        if self.scoreboard.state(self.slot) == "ready":
            self.notifier.ready(self._status())
        interval = min(self.notifier.watchdog_interval or STATUS_SECONDS, STATUS_SECONDS)
        while True:
            # This coroutine runs, so the loop turns.
            self.notifier.beat(self._status())
            sleep(interval)

    def _status(self) -> str:
        counters = self.scoreboard.counters()
        state = "stopping" if self.scoreboard.state(self.slot) == "draining" else "serving"
        return (
            f"{state}: {counters['requests']} requests answered, {counters['in_progress']} in progress, "
            f"{counters['open_connections']} connections"
        )


def measures(settings: Settings) -> bool:
    """Return whether the engine measures: for the inspect socket, for `/metrics`, for statsd, or for a collector."""
    if settings.inspect_socket is not None:
        return True
    readers = (settings.admin_bind, settings.statsd_host, settings.otlp_endpoint)
    return settings.metrics and any(reader is not None for reader in readers)


@contextmanager
def watched(settings: Settings) -> Iterator[Health | None]:
    """Answer probes at `admin_bind`, if it is set, while the block runs. For the command line and a single process.

    Yields None without an admin listener, systemd, an inspect socket and a collector of metrics: then nothing is noted.
    Raises ValueError for a bad address, and OSError naming an address that it cannot listen on.
    """
    if settings.admin_bind is None:
        is_noted = "NOTIFY_SOCKET" in os.environ or (settings.inspect_socket, settings.otlp_endpoint) != (None, None)
        yield Health(ends_process=True) if is_noted else None
        return
    health = Health(ends_process=True)
    listener = open_admin_socket(settings.admin_bind)
    try:
        admin = answer_probes(listener, health.scoreboard, settings)
        try:
            yield health
        finally:
            admin.stop()
    finally:
        listener.close()


def open_admin_socket(address: str) -> Listener:
    """Open the listening socket of `admin_bind`.

    Raises ValueError for a bad address, and OSError naming an address that it cannot listen on.
    """
    return open_listener(parse_address(address), backlog=128)


def answer_probes(
    listener: Listener, scoreboard: _rmeinheld.Scoreboard, settings: Settings
) -> _rmeinheld.AdminListener:
    """Start the thread that answers probes on `listener`, and `/metrics` where they are on, in this process."""
    admin = _rmeinheld.AdminListener(
        listener.socket.fileno(),
        scoreboard,
        settings.ready_workers,
        settings.ready_turn_limit or YEAR_SECONDS,
        metrics=settings.metrics,
    )
    admin.start()
    return admin
