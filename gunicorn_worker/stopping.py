"""The end of a service, as a part of its arbiter: it drains, waits for the requests in progress, and heeds Ctrl-C."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any, Final

from gunicorn.arbiter import Arbiter

from .sockets import close_sockets

if TYPE_CHECKING:
    from rmeinheld._rmeinheld import Scoreboard
    from rmeinheld.settings import Settings

    from .application import Service
    from .reporting import Reporter
    from .sockets import ServiceSocket

__all__ = ["KILL_SECONDS", "Stopping"]

BRISK_SECONDS: Final = 0.1
"""Most time between two looks at the workers while a worker starts or leaves, or there is an older master.

Its workers end if it is killed, and their sessions need others."""

KILL_SECONDS: Final = 2.0
"""Time after graceful_timeout, in which a worker answers what is left, until the master kills it."""

QUICK_SECONDS: Final = 0.7
"""Time that workers have to end after a second Ctrl-C."""


class Stopping(Arbiter):  # type: ignore[misc]
    """The part of the arbiter that stops the service."""

    app: Service
    cfg: Any
    reexec_pid: int
    master_pid: int
    scoreboard: Scoreboard
    LISTENERS: list[ServiceSocket]
    _reporter: Reporter
    _was_ready = False
    """Has a worker ever been ready?"""
    _is_changing = True
    """Does a worker start or leave?"""
    _is_interrupted = False
    """Has SIGINT stopped the service?"""
    _is_ending = False
    _is_quick = False
    """Has a further SIGINT, or SIGQUIT, asked to end the requests?"""
    _is_stopping = False
    """Are the workers asked to end?"""

    @property
    def settings(self) -> Settings:
        return self.app.resolved.settings

    @property
    def _is_alone(self) -> bool:
        """Is there no other master, of before or after SIGUSR2, that goes on serving?"""
        return self.reexec_pid == 0 == self.master_pid

    def _close_all(self) -> None:
        raise NotImplementedError

    def _keep_places(self) -> None:
        raise NotImplementedError

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        """Wait for signals, more briefly while workers start or leave: they may not be allowed to send one."""
        self._reporter.turn()
        longest = self._reporter.limit(min(timeout, BRISK_SECONDS) if self._is_changing or self.master_pid else timeout)
        signals: list[int] = super().wait_for_signals(longest)
        if not self._is_ending:
            # The signal may come just after the end of the old master.
            self.maybe_promote_master()
        interrupts = signals.count(signal.SIGINT)
        self._is_quick |= interrupts > (0 if self._is_ending else 1)
        return signals

    def handle_int(self) -> None:
        """SIGINT: stop, and finish the requests in progress. A second one ends them."""
        self._is_interrupted = True
        raise StopIteration

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers. With `graceful`, accept for `drain_delay` more, and wait for the requests in progress."""
        if self._is_ending:
            return
        self._is_ending = self._is_changing = True
        if self._is_alone:
            self.scoreboard.is_stopping = True
            self._reporter.stop(self.settings.drain_delay + self.cfg.graceful_timeout if graceful else 0)
        elif self.reexec_pid:
            self._reporter.hand_over(self.reexec_pid)
        if graceful and self._is_alone and self._was_ready and not self._is_interrupted and self.settings.drain_delay:
            self._drain()
        self._is_stopping = True
        close_sockets(self.LISTENERS, unlink=self._is_alone)
        self.LISTENERS = []
        number = signal.SIGTERM if graceful else signal.SIGQUIT
        for worker in self.WORKERS.values():
            self.scoreboard.set_state(worker.slot, "draining")
        # Workers of another master take the places now, instead of when that master looks next.
        self._keep_places()
        if self._is_interrupted:
            # Only a terminal has sent it to the workers, too. They say then what they wait for.
            self.kill_workers(signal.SIGINT)
        self._signal_all(number)
        self._await_workers(graceful)
        self._signal_all(signal.SIGKILL)
        deadline = time.monotonic() + KILL_SECONDS
        while self.WORKERS and time.monotonic() < deadline:
            self.reap_workers()
            time.sleep(0.001)
        # Probes are answered until the last worker has ended.
        self._close_all()

    def _signal_all(self, number: int) -> None:
        self.kill_workers(number)
        self._signal_dirty_arbiter(number)

    def _signal_dirty_arbiter(self, number: int) -> None:
        if getattr(self, "dirty_arbiter_pid", 0):
            self.kill_dirty_arbiter(number)

    def _drain(self) -> None:
        """Go on for `drain_delay` while readiness fails. SIGINT or SIGQUIT ends it."""
        self.log.info("Not ready any more; accepting goes on for %g s (drain_delay)", self.settings.drain_delay)
        deadline = time.monotonic() + self.settings.drain_delay
        while (left := deadline - time.monotonic()) > 0 and not self._is_quick:
            self._handle_while_stopping(left)
            self.murder_workers()
            self.manage_workers()

    def _await_workers(self, graceful: bool) -> None:
        """Wait until the workers have ended, for `graceful_timeout` at most; for less after a further Ctrl-C."""
        deadline = time.monotonic() + self.cfg.graceful_timeout + KILL_SECONDS
        is_quick = not graceful
        while self.WORKERS or getattr(self, "dirty_arbiter_pid", 0):
            now = time.monotonic()
            if self._is_quick and not is_quick:
                is_quick, deadline = True, now + QUICK_SECONDS
                self._signal_all(signal.SIGQUIT)
            if now >= deadline:
                return
            self._handle_while_stopping(max(deadline - now, 0.001))
            self.murder_workers()

    def _handle_while_stopping(self, timeout: float) -> None:
        for number in self.wait_for_signals(timeout):
            if number == signal.SIGQUIT:
                self._is_quick = True
            elif number == signal.SIGCHLD:
                self.handle_chld()
            elif number == signal.SIGUSR1:
                self.handle_usr1()
