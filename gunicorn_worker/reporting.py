"""The master's notes to systemd: it alone sends them, so `NotifyAccess=main` is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeinheld.systemd import Notifier, status_of

if TYPE_CHECKING:
    from rmeinheld._rmeinheld import Scoreboard

__all__ = ["Reporter"]


class Reporter:
    """Reports the states of a service. Without systemd's socket it does nothing."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self.notifier = Notifier()
        self._scoreboard = scoreboard
        self._is_reloading = False
        self._has_started = False
        self._is_stopping = False

    def limit(self, timeout: float) -> float:
        """Return the longest wait of the master's loop that leaves the watchdog its beats, at most `timeout`."""
        interval = self.notifier.watchdog_interval
        return timeout if interval is None else min(timeout, interval / 2)

    def turn(self) -> None:
        """Note that the master's loop turns: the watchdog gets its beat, if the loop of a worker turns, too."""
        self.notifier.beat_if_due(self._scoreboard)

    def reload(self) -> None:
        """Note that a reload begins."""
        if self._has_started and not self._is_stopping:
            self._is_reloading = True
            self.notifier.reloading("reloading")

    def settle(self, note: str = "") -> None:
        """Note that the service serves: it has started, or a reload has ended. `note` says how."""
        if self._is_stopping or (self._has_started and not self._is_reloading):
            return
        self._has_started, self._is_reloading = True, False
        status = status_of(self._scoreboard)
        self.notifier.ready(f"{note}; {status}" if note else status)

    def fail_reload(self, why: str) -> None:
        """Note that a reload has failed, and the service goes on as before."""
        if self._is_reloading:
            self.settle(why)

    def stop(self, seconds: float) -> None:
        """Note that the service stops, which may take `seconds`."""
        self._is_stopping = True
        self.notifier.stopping(seconds, "stopping")

    def hand_over(self, pid: int) -> None:
        """Note that the master `pid`, which was started to replace this one, is the main process from now on."""
        self.notifier.main_pid(pid)
