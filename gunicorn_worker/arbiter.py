"""Gunicorn's arbiter with our rules: a replacement is ready before a worker leaves, and a service stops without loss.

It changes what Gunicorn does at SIGHUP, SIGTERM, SIGINT, SIGUSR2 and SIGWINCH, and when workers ask to be replaced or
fail. `replacement.plan` decides who starts and who leaves. The states of the workers are in the scoreboard.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

from gunicorn.errors import HaltServer

from rmeinheld import _crew, collector, crew_directory, otlp
from rmeinheld._rmeinheld import Scoreboard
from rmeinheld.health import open_admin_socket
from rmeinheld.inspect_socket import open_inspect_socket
from rmeinheld.patch import get_original
from rmeinheld.privileges import ROOT_WARNING
from rmeinheld.settings.sticky import WITHOUT_EFFECT
from rmeinheld.signals import has_terminal

from .exits import exit_reason, is_killed
from .forking import signals_kept
from .handing_on import HandedOn, hand_on
from .heartbeat import use_memory
from .places import keep
from .probing import probed_import
from .refreshing import Refreshing
from .replacement import GrowingPause, Member, plan
from .reporting import Reporter
from .sockets import ServiceSocket, close_sockets, open_sockets, opened_again, passed_by_systemd, taken_over
from .statsd import StatsdReporter
from .stopping import KILL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rmeinheld.listeners import Listener

    from .application import Service

__all__ = ["ServiceArbiter"]

SLOTS: Final = 256
"""Workers at a time that every service has room for, those of another master and those that leave included."""

SLOTS_OF_A_WORKER: Final = 4
"""Room for each configured worker: itself, its replacement, and both of another master."""

HEAD_START_SECONDS: Final = 0.05
"""Most time between the first worker and the second one. Gunicorn waits for up to 0.1 s after each."""

YOUNG_SECONDS: Final = 2.0
"""Time after its readiness in which the end of a worker counts as a crash in a loop."""

REASONS: Final = {
    "requests": "max_requests is reached",
    "memory": "max_worker_memory is exceeded",
    "lifetime": "max_worker_lifetime is over",
    "reload": "its code has changed",
    "stuck": "a request that nothing can end holds it up",
}
"""Reasons for which a worker asks to be replaced, as the log names them."""


class ServiceArbiter(Refreshing):
    """The master process of a service."""

    worker_class: Any
    _last_logged_active_worker_count: int | None
    _admin: list[ServiceSocket]

    def __init__(self, app: Service) -> None:
        use_memory()
        _crew.note_master()
        self._inherited = HandedOn.from_environment(os.environ)
        slots = max(SLOTS, SLOTS_OF_A_WORKER * app.resolved.settings.workers)
        self.scoreboard = self._inherited.scoreboard() if self._inherited else Scoreboard(slots)
        # The key of the first master stays.
        self.scoreboard.set_service_key(os.urandom(32))
        self._is_complete = False
        self._crashes = GrowingPause()
        self._refusals = GrowingPause()
        self._inspect: list[ServiceSocket] = []
        self._reporter = Reporter(self.scoreboard)
        self._place: crew_directory.Place | None = None
        self._statsd: StatsdReporter | None = None
        self._identity = otlp.Identity.take_over(os.environ)
        self._otlp: otlp.Sender | None = None
        self._otlp_endpoint: str | None = None
        if self._inherited:
            # The workers of the old master answer probes.
            self._admin = []
            super().__init__(app)
        else:
            with probed_import(app.resolved.settings, self.scoreboard) as self._admin:
                super().__init__(app)
        # Handlers of signals put into it while the main loop takes from it, for which the original is made.
        self.SIG_QUEUE = get_original("queue", "SimpleQueue")()
        # Gunicorn takes sys.argv, which `python -m` changes.
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        # Gunicorn takes the directory after chdir, in which a relative path of the command line means another one.
        self.START_CTX["cwd"] = app.directory

    # --- start ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the sockets, and start as Gunicorn does. systemd gets no READY before the workers are ready."""
        if self.settings.metrics and self.cfg.statsd_host and hasattr(self.log, "increment"):
            self._statsd = StatsdReporter(self.log, self.scoreboard)
        try:
            if self._inherited:
                # Gunicorn reads it only a little later.
                self.master_pid = int(os.environ.get("GUNICORN_PID", "0"))
                passed = taken_over(self._inherited.listeners, self.settings)
                self.LISTENERS = opened_again(passed, self._binds(passed), self.settings, self._owner())
                close_sockets(one for one in passed if one not in self.LISTENERS)
                self._admin = taken_over(self._inherited.admin, self.settings)
                self._inspect = taken_over(self._inherited.inspect, self.settings)
                os.environ.pop("GUNICORN_FD", None)
            else:
                self.LISTENERS = self._sockets()
            self._change_admin()
            user, group = self._owner() or (None, None)
            self._place = crew_directory.take_over(os.environ, user) or crew_directory.make(
                user, group, workers=self.cfg.workers
            )
            if self._place.reason:
                why = self._place.reason
                self.log.info("No directory takes the sockets of the crew, so their names are abstract. %s", why)
            with self._reporter.notifier.hidden():
                super().start()
        except BaseException:
            self._close_all()
            raise
        if self.cfg.uid == 0:
            self.log.warning(ROOT_WARNING)
        if self.settings.sticky is not None and self.settings.workers == 1:
            self.log.info(WITHOUT_EFFECT, self.settings.sticky)

    def _sockets(self) -> list[ServiceSocket]:
        """Open the sockets of the configuration; those from systemd count if no address is configured."""
        if "bind" not in self.app.resolved.given and (passed := passed_by_systemd(self.settings)):
            return passed
        return open_sockets(self.settings.bind, self.settings, self._owner())

    def _binds(self, passed: list[ServiceSocket]) -> list[str]:
        """Return the configured addresses, or those of sockets that systemd has passed."""
        activated = [one.bind for one in passed if one.bind.startswith("fd://")]
        return activated or list(self.settings.bind)

    def _owner(self) -> tuple[int, int] | None:
        """Return the user and group of the workers, if they are not those of the master."""
        wanted = self.cfg.uid, self.cfg.gid
        return None if wanted == (os.geteuid(), os.getegid()) else wanted

    def _change_admin(self) -> None:
        """Open the sockets of `admin_bind` and `inspect_socket`, unless they are open, and send to `otlp_endpoint`.

        Raises OSError or ValueError naming the address, and StartError without the library of `otlp_endpoint`.
        """
        if self.settings.otlp_endpoint != self._otlp_endpoint:
            sender = otlp.sender_of(self.settings, self.scoreboard, self._identity, self.log)
            self._end_reports()
            self._otlp, self._otlp_endpoint = sender, self.settings.otlp_endpoint
        wanted, path = self.settings.admin_bind, self.settings.inspect_socket
        self._admin = self._changed(self._admin, wanted, open_admin_socket)
        bind = None if path is None else f"unix:{os.path.abspath(path)}"
        self._inspect = self._changed(self._inspect, bind, lambda bind: open_inspect_socket(bind.removeprefix("unix:")))

    def _changed(
        self, before: list[ServiceSocket], bind: str | None, opened: Callable[[str], Listener]
    ) -> list[ServiceSocket]:
        """Return the socket of `bind`: that of `before`, or a new one. Closes `before` if it is another one."""
        if bind == (before[0].bind if before else None):
            return before
        after = [] if bind is None else [ServiceSocket(opened(bind), bind)]
        close_sockets(before, unlink=self._is_alone)
        return after

    def _end_reports(self) -> None:
        if self._otlp is not None:
            self._otlp.stop()

    def _close_all(self) -> None:
        """Send the last report, close the sockets, and remove their paths if no other master uses them."""
        self._end_reports()
        close_sockets([*self.LISTENERS, *self._admin, *self._inspect], unlink=self._is_alone)
        self.LISTENERS, self._admin, self._inspect = [], [], []
        if self._place is not None:
            crew_directory.remove(self._place)

    # --- workers --------------------------------------------------------------------------------------------------

    def spawn_worker(self) -> int | None:
        """Start a worker with a slot in the scoreboard. If that fails, the log says so and the next try comes later."""
        try:
            slot = self.scoreboard.reserve()
        except RuntimeError as error:
            self._release_slots_of_the_dead()
            self._cannot_spawn(error)
            return None
        made = self.worker_class

        def make(*arguments: Any) -> Any:
            worker = made(*arguments)
            worker.scoreboard, worker.slot = self.scoreboard, slot
            worker.ready_at, worker.ends_by, worker.leaves_for = None, None, ""
            worker.admin = self._admin[0].listener if self._admin else None
            worker.place = self._place
            worker.inspect = self._inspect[0].listener if self._inspect else None
            worker.master_user = os.geteuid()
            return worker

        self.worker_class = make
        pid = os.getpid()
        try:
            with signals_kept(), self._otlp.paused() if self._otlp is not None else nullcontext():
                started: int = super().spawn_worker()
            return started
        except OSError as error:
            if os.getpid() != pid:
                raise
            self.scoreboard.release(slot)
            self._cannot_spawn(error)
            return None
        finally:
            self.worker_class = made

    def _cannot_spawn(self, error: Exception) -> None:
        if not self._was_ready and not self.WORKERS:
            raise HaltServer(f"Cannot start a worker: {error}", 1)
        pause = self._crashes.fail(time.monotonic())
        self.log.error("Cannot start a worker: %s. The next try is in %g s", error, pause)

    def manage_workers(self) -> None:
        """Start and stop workers as `plan` says."""
        now = time.monotonic()
        if self._refused and self._refusals.is_over(now) and not self._is_ending:
            self.reload()
        self._note_states(now)
        step = plan(self._members(), self.num_workers, replace_first=self.settings.replace_first)
        if self._crashes.is_over(now):
            for number in range(step.start):
                if number == 1 and not self._was_ready:
                    self._give_a_head_start()
                self.spawn_worker()
        leaving = [worker for worker in self.WORKERS.values() if worker.age in step.leave]
        for worker in leaving:
            self._retire(worker, now)
        # A worker may end at once. Its place has its next holder before, or a third worker would have the sessions.
        self._keep_places()
        for worker in leaving:
            self.kill_worker(worker.pid, signal.SIGTERM)
        self._is_changing = bool(step.start) or any(self._state(one) != "ready" for one in self.WORKERS.values())
        self._report_number()
        collector.resume()
        # While two masters serve, the first one reports.
        if self._statsd is not None and not self.master_pid:
            self._statsd.turn(now)
        if self._otlp is not None and not self.master_pid:
            self._otlp.start()

    def _keep_places(self) -> None:
        """Have each place held by the right worker. Those of a master that leaves go to workers of its successor."""
        wanted = self.num_workers
        if self.reexec_pid:
            wanted = max(wanted, len(self.scoreboard.places()))
        keep(self.scoreboard, wanted)

    def _give_a_head_start(self) -> None:
        """Leave the first worker of a service alone for a moment: the service answers as soon as one is ready."""
        deadline = time.monotonic() + HEAD_START_SECONDS
        while time.monotonic() < deadline and not self._ready():
            time.sleep(HEAD_START_SECONDS / 20)

    def _members(self) -> Iterator[Member]:
        for worker in self.WORKERS.values():
            asks = self.scoreboard.asks(worker.slot)
            yield Member(worker.age, self._state(worker), worker.age <= self._stale, asks)

    def _state(self, worker: Any) -> str:
        return "draining" if worker.ends_by is not None else self.scoreboard.state(worker.slot)

    def _note_states(self, now: float) -> None:
        """Note which workers have become ready, and kill those that do not end."""
        for pid, worker in list(self.WORKERS.items()):
            if worker.ready_at is None and self.scoreboard.state(worker.slot) == "ready":
                worker.ready_at, self._was_ready = now, True
            if worker.ends_by is not None and now > worker.ends_by:
                self.log.error("Worker (pid:%s) has not ended within graceful_timeout: it is killed", pid)
                worker.ends_by = now + KILL_SECONDS
                self.kill_worker(pid, signal.SIGKILL)
        was_complete, self._is_complete = self._is_complete, self._ready(self._stale) >= self.num_workers
        # The places are complete before the log says so.
        self._keep_places()
        if self._is_complete and not was_complete:
            self.log.info("Workers ready: %d", self.num_workers)
            self._reporter.settle()
            if self.master_pid:
                self.log.info("The new master is ready. To end the old one: kill -TERM %d", self.master_pid)

    def _ready(self, stale: int = 0) -> int:
        """Count the workers that are ready, without those up to the age `stale`."""
        states = [self._state(worker) for worker in self.WORKERS.values() if worker.age > stale]
        return states.count("ready")

    def _retire(self, worker: Any, now: float) -> None:
        """Note that a worker leaves."""
        reason = self.scoreboard.asks(worker.slot)
        why = "reload" if worker.age <= self._stale else REASONS.get(reason, reason) or "there are workers enough"
        self.log.info("Worker (pid:%s) leaves: %s", worker.pid, why)
        worker.leaves_for = "reload" if worker.age <= self._stale else reason or "scale_down"
        worker.ends_by = now + self.cfg.graceful_timeout + KILL_SECONDS
        self.scoreboard.set_state(worker.slot, "draining")

    def _report_number(self) -> None:
        """Log the number of workers for statsd, as Gunicorn does."""
        number = len(self.WORKERS)
        if self._last_logged_active_worker_count != number:
            self._last_logged_active_worker_count = number
            extra = {"metric": "gunicorn.workers", "value": number, "mtype": "gauge"}
            self.log.debug("%d workers", number, extra=extra)

    def reap_workers(self) -> None:
        """Take note of workers that have ended. One that cannot start ends the service only at its first start."""
        known = dict(self.WORKERS)
        killed = {pid for pid in known if is_killed(pid)}
        upgrade = self.reexec_pid
        halts: dict[int, HaltServer] = {}
        while True:
            try:
                super().reap_workers()
                break
            except HaltServer as halt:
                # Gunicorn has left it half reaped.
                for pid in [pid for pid, worker in known.items() if pid not in halts and _is_half_reaped(pid, worker)]:
                    halts[pid] = halt
                    self.WORKERS.pop(pid, None)
                    known[pid].tmp.close()
                    self.cfg.child_exit(self, known[pid])
        for pid in known.keys() - self.WORKERS.keys():
            reason = exit_reason(known[pid], is_stopping=self._is_stopping, was_killed=pid in killed)
            self.scoreboard.count_exit(reason)
            self._note_end(known[pid], halts.get(pid))
        if upgrade and not self.reexec_pid:
            self._release_slots_of_the_dead()
            self.log.warning("The new master (pid:%s) has ended; this one goes on", upgrade)

    def _note_end(self, worker: Any, halt: HaltServer | None) -> None:
        state, now = self._state(worker), time.monotonic()
        is_outdated = worker.ready_at is None and self.scoreboard.asks(worker.slot) == "reload"
        self.scoreboard.release(worker.slot)
        if state == "draining" or self._is_stopping:
            return
        if is_outdated:
            # With --reload it has made room for the code of the last edit.
            self._crashes.reset()
            return
        if halt is not None and not self._was_ready:
            raise halt
        if worker.ready_at is None or now - worker.ready_at < YOUNG_SECONDS:
            pause = self._crashes.fail(now, is_free=worker.ready_at is not None)
            what = "could not start" if worker.ready_at is None else "has crashed"
            if pause:
                self.log.error(
                    "Worker (pid:%s) %s; %d workers go on, and the next try is in %g s",
                    worker.pid,
                    what,
                    self._ready(),
                    pause,
                )
                if self._ready() >= self.settings.ready_workers:
                    self._reporter.settle(f"a worker {what}")

    def _release_slots_of_the_dead(self) -> None:
        """Release the slots of workers whose master has died, too."""
        ours = {worker.slot for worker in self.WORKERS.values()}
        for slot in range(self.scoreboard.slots):
            if slot not in ours and self.scoreboard.state(slot) != "free" and (pid := self.scoreboard.pid(slot)):
                if not _exists(pid):
                    self.scoreboard.count_exit("killed")
                    self.scoreboard.release(slot)

    # --- signals --------------------------------------------------------------------------------------------------

    def handle_hup(self) -> None:
        """SIGHUP: load the configuration and the application anew."""
        self._refused = ""
        self._refusals.reset()
        super().handle_hup()

    def handle_winch(self) -> None:
        """SIGWINCH: stop the workers, unless it comes from the size of a terminal's window."""
        if self.cfg.daemon or not has_terminal():
            self.log.info("The workers leave; SIGHUP starts others")
            self.num_workers = 0
        else:
            self.log.debug("SIGWINCH is ignored: this process has a terminal")

    def maybe_promote_master(self) -> None:
        """Become the only master if the old one has ended."""
        is_promoted = self.master_pid not in (0, os.getppid())
        try:
            super().maybe_promote_master()
        except RuntimeError as error:
            self.log.error("pidfile: %s", error)
        if is_promoted:
            self._release_slots_of_the_dead()

    # --- upgrade --------------------------------------------------------------------------------------------------

    def reexec(self) -> None:
        """Start a new master with the same sockets and scoreboard. If that fails, this one goes on."""
        if self.reexec_pid or self.master_pid:
            super().reexec()
            return
        pid = os.getpid()
        further = self._identity.environment() | ({} if self._place is None else self._place.environment())
        with hand_on(self.cfg.env_orig, self.scoreboard, self.LISTENERS, self._admin, self._inspect, further):
            try:
                super().reexec()
            except BaseException as error:
                self.log.error("Cannot start a new master: %s: %s. This one goes on", type(error).__name__, error)
                if os.getpid() != pid:
                    # The copy of this process, which must not touch the workers.
                    os._exit(1)


def _is_half_reaped(pid: int, worker: Any) -> bool:
    try:
        worker.tmp.fileno()
    except ValueError:
        # Its heartbeat file is closed, as the last step of reaping.
        return False
    return not _exists(pid)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
