"""Restarts of a service with two workers under load: which requests fail, and how long a short one waits at most.

    make soak-restarts                    1,000 recycles, 100 reloads, 20 upgrades and some of everything else
    make soak-restarts SOAK=--quick       5 of each, as CI does

A client in C (service_client.c) sends about 2,000 requests per second, and checks each answer. Some are short, over
kept and new connections, and some take 1 to 3 s. There are also streamed answers, uploads and WebSockets. Meanwhile
workers are recycled and killed, and the service is reloaded, upgraded, scaled, stopped and started. The exit status is
1 if a request failed: every failure counts, except those of connections that a killed worker had open.

Writes what happened to results/restarts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from load import LoadError
from machine import facts, raise_open_files_limit
from mixed_load import Failure, MixedLoad, mix
from services import (
    ALL_PHASES,
    CONTENDERS,
    REQUESTS,
    WORKERS,
    Contender,
    Service,
    children,
    is_alive,
    is_stopped,
    peers_of,
)
from toolchain import BENCHES, PROGRAMS, MissingTool, compile_program, install_peers, versions

OFTEN, RARELY = 0.2, 2.0
"""Seconds until a worker has had `max_requests`, in the phase of that limit and in the others, which have it too."""

DEFAULT_PHASES = "recycles,reloads,upgrades,rollbacks,scalings,kills,restarts"
QUICK_PHASES = "upgrades,rollbacks,combined,restarts,recycles"

QUICK_SLOW_RECYCLES = 2
"""Recycles with --quick where each takes a minute."""

AT_ONCE = 4
"""Phases that run at once with --quick."""

EXCUSED_SECONDS = 5.0
"""After a worker was killed, its connections fail within this time. On a busy machine the client notices it late."""


@dataclass
class Phase:
    """The events, answers and failures of one phase."""

    name: str
    events: int = 0
    seconds: float = 0.0
    killed: list[tuple[float, set[str]]] = field(default_factory=list)
    """When a worker was killed, and the addresses of its clients."""

    excused: list[Failure] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    master: dict[str, list[int]] = field(default_factory=dict)
    """Descriptors and KiB of the master: at the start and at the end."""

    def judge(self, failures: list[Failure]) -> None:
        """Tell apart the failures of connections that a killed worker had."""
        for failure in failures:
            is_excused = any(
                failure.source in sources and at <= failure.at < at + EXCUSED_SECONDS for at, sources in self.killed
            )
            (self.excused if is_excused else self.failures).append(failure)


# --- actions on a service under load ---------------------------------------------------------------------------------

type Action = Callable[[Service, MixedLoad, Phase, int], None]


def reload(service: Service, load: MixedLoad, phase: Phase, number: int) -> None:
    """SIGHUP; two of three times the next action begins while the workers of before are still ending."""
    before = service.workers()
    service.signal(signal.SIGHUP)
    load.wait_for_answers_of(WORKERS, before | set(load.seen))
    if number % 3 == 0:
        load.wait_for(lambda: not before & service.workers(), "end of the workers of before")


def _successor(service: Service, load: MixedLoad) -> int:
    """SIGUSR2: the new master, once its workers have answered."""
    known = set(load.seen) | service.workers()
    service.signal(signal.SIGUSR2)
    load.wait_for(lambda: service.successor() is not None, "master after SIGUSR2")
    new = service.successor()
    assert new is not None

    def have_answered() -> bool:
        load.workers()
        return len(children(new) & set(load.seen) - known) >= WORKERS

    load.wait_for(have_answered, "answers of the new master's workers")
    return new


def upgrade(service: Service, load: MixedLoad, phase: Phase, number: int) -> None:
    """SIGUSR2, and SIGTERM to the old master."""
    new, old = _successor(service, load), service.master
    os.kill(old, signal.SIGTERM)
    service.follow(new)
    load.wait_for(lambda: not is_alive(old), "end of the old master")


def roll_back(service: Service, load: MixedLoad, phase: Phase, number: int) -> None:
    """SIGUSR2, and SIGTERM to the new master."""
    new = _successor(service, load)
    os.kill(new, signal.SIGTERM)
    load.wait_for(lambda: not is_alive(new), "end of the new master")


def scale(service: Service, load: MixedLoad, phase: Phase, number: int) -> None:
    """SIGTTIN and SIGTTOU; every second time with a SIGHUP in between."""
    service.signal(signal.SIGTTIN)
    load.wait_for_answers_of(1, set(load.seen) | service.workers())
    if number % 2:
        service.signal(signal.SIGHUP)
    service.signal(signal.SIGTTOU)
    time.sleep(0.3)


def kill(service: Service, load: MixedLoad, phase: Phase, number: int) -> None:
    """SIGKILL to a worker. The requests of its connections may fail."""
    known = set(load.seen) | service.workers()
    victims: set[int] = set()

    def is_found() -> bool:
        victims.update(load.workers() & service.workers())
        return bool(victims)

    load.wait_for(is_found, "worker that answers")
    victim = victims.pop()
    # Stopped, so that it takes no further connection after the list is made.
    os.kill(victim, signal.SIGSTOP)
    load.wait_for(lambda: is_stopped(victim), "stop of the worker")
    open_connections = peers_of(victim)
    at = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    load.wait_for(lambda: not is_alive(victim), "end of the killed worker")
    load.wait_for_answers_of(1, known)
    phase.killed.append((at, open_connections))


ACTIONS: dict[str, Action] = {
    "reloads": reload,
    "upgrades": upgrade,
    "rollbacks": roll_back,
    "scalings": scale,
    "kills": kill,
}

# --- phases ----------------------------------------------------------------------------------------------------------


@dataclass
class Soak:
    """The phases of one contender."""

    contender: Contender
    client: Path
    rate: float
    longest: float
    lines: int
    grace: int
    keep_alive: int
    log: Path
    phases: list[Phase] = field(default_factory=list)

    @contextmanager
    def loaded(self, name: str, options: list[str], leak_rate: float = 0) -> Iterator[tuple[Service, MixedLoad, Phase]]:
        """Run a service under load. Its phase is complete after the block."""
        settings = self._mix()
        with (
            self._service(options) as service,
            MixedLoad(self.client, service.port, settings | {"leak_rate": leak_rate}) as load,
        ):
            load.wait_for_answers_of(WORKERS, set())
            phase, begun = Phase(name), time.monotonic()
            self.phases.append(phase)
            self._note_master(phase, service)
            try:
                yield service, load, phase
                self._note_master(phase, service)
                phase.report = load.stop()
            finally:
                phase.seconds = round(time.monotonic() - begun, 1)
                phase.judge(load.failures)
                self._say(phase)

    @staticmethod
    def _note_master(phase: Phase, service: Service) -> None:
        try:
            phase.master.setdefault("descriptors", []).append(len(os.listdir(f"/proc/{service.master}/fd")))
        except OSError:
            return
        # Without its children.
        for line in Path(f"/proc/{service.master}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss_Anon:"):
                phase.master.setdefault("anonymous_kib", []).append(int(line.split()[1]))

    def _say(self, phase: Phase) -> None:
        waits = phase.report.get("waits_ms", {})
        told = {
            "phase": phase.name,
            "events": phase.events,
            "seconds": phase.seconds,
            "answers": sum(phase.report.get("answers", {}).values()),
            "failed": len(phase.failures),
            "excused": len(phase.excused),
            **{key: phase.report.get(key) for key in ("crossed", "closed_idle", "told_to_close", "closes")},
            "p99_ms": waits.get("p99"),
            "longest_ms": waits.get("longest"),
            "master": phase.master,
        }
        print(f"  {self.contender.name:12} {json.dumps(told)}", file=sys.stderr, flush=True)
        for failure in phase.failures[:20]:
            print(f"    {failure}", file=sys.stderr)

    def recycles(self, kind: str, count: int) -> None:
        """Replace workers because of a limit, one after the other."""
        leak_rate = 40 if kind == "memory" else 0
        with self.loaded(f"recycles ({kind})", self._limits(kind, OFTEN), leak_rate) as (service, load, phase):
            seen = service.workers()
            first = len(seen)

            def is_enough() -> bool:
                seen.update(service.workers())
                phase.events = len(seen) - first
                return phase.events >= count

            load.wait_for(is_enough, f"{count} recycles", 30 + 60 * count)
            load.wait_for_answers_of(WORKERS, set())

    def actions(self, name: str, actions: Sequence[Action], count: int) -> None:
        """Do each of the actions `count` times, in turn, while workers are recycled now and then."""
        with self.loaded(name, self._limits("requests", RARELY)) as (service, load, phase):
            for number in range(count):
                for action in actions:
                    action(service, load, phase, number)
                    phase.events += 1

    def restarts(self, count: int) -> None:
        """SIGTERM, and a start when all is over. The listening socket is ours, as with socket activation."""
        settings = self._mix()
        with socket.create_server(("127.0.0.1", 0), backlog=2048) as bind:
            service = self._service(self._limits("requests", RARELY), bind)
            try:
                service.wait_for_start()
                with MixedLoad(self.client, service.port, settings) as load:
                    phase, begun = Phase("restarts"), time.monotonic()
                    self.phases.append(phase)
                    try:
                        for phase.events in range(1, count + 1):
                            load.wait_for_answers_of(WORKERS, set())
                            service.stop()
                            service = self._service(self._limits("requests", RARELY), bind)
                            service.wait_for_start()
                        load.wait_for_answers_of(WORKERS, set())
                        phase.report = load.stop()
                    finally:
                        phase.seconds = round(time.monotonic() - begun, 1)
                        phase.judge(load.failures)
                        self._say(phase)
                service.stop()
            finally:
                service.kill()

    def _service(self, options: list[str], bind: socket.socket | None = None) -> Service:
        return Service(self.contender, self.log, options, bind=bind, grace=self.grace, keep_alive=self.keep_alive)

    def _mix(self) -> dict[str, float]:
        return mix(
            self.rate,
            longest=self.longest,
            lines=self.lines,
            websockets=self.contender.has_websockets,
            plain=not self.contender.reads_chunks,
        )

    def _limits(self, kind: str, seconds: float) -> list[str]:
        """The options of a kind of recycling. `max_requests` is about what a worker has in that time."""
        requests = max(10, int(self.rate / WORKERS * seconds))
        return [word.replace(REQUESTS, str(requests)) for word in self.contender.recycles.get(kind, [])]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--contenders", default="rmeinheld", help=f"some of {','.join(names)} (default rmeinheld)")
    parser.add_argument("--recycles", type=int, default=1000, help="of all kinds together (default 1000)")
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--upgrades", type=int, default=20)
    parser.add_argument("--others", type=int, default=20, help="all others, of each")
    phases = ",".join(ALL_PHASES)
    parser.add_argument("--only", help=f"some of {phases}; combined: all actions that are not in this list, in turn")
    parser.add_argument("--rate", type=float, default=2000, help="requests per second (default 2000)")
    parser.add_argument("--longest", type=float, default=3, help="seconds of the longest request (default 3)")
    parser.add_argument("--lines", type=int, default=20, help="of a streamed answer, one every 50 ms (default 20)")
    parser.add_argument("--grace", type=int, default=8, help="graceful_timeout in seconds (default 8)")
    parser.add_argument("--keep-alive", type=int, default=5, help="seconds (default 5)")
    parser.add_argument("--output", type=Path, default=BENCHES / "results" / "restarts.json", help="not with --quick")
    parser.add_argument("--log", type=Path, default=PROGRAMS / "restarts.log", help="what the services print")
    parser.add_argument("--quick", action="store_true", help="5 of each, all phases at once")
    return parser.parse_args()


def phases_of(contender: Contender, options: argparse.Namespace) -> list[str]:
    """The phases of a contender: those of the command line, as far as it has them."""
    if options.only is None and options.quick and "combined" not in contender.phases:
        return list(contender.phases)
    chosen = options.only or (QUICK_PHASES if options.quick else DEFAULT_PHASES)
    return [name for name in chosen.split(",") if name in contender.phases]


def soak(contender: Contender, client: Path, options: argparse.Namespace) -> Soak:
    """All phases of one contender; the first fault of the harness ends it."""
    run = Soak(
        contender, client, options.rate, options.longest, options.lines, options.grace, options.keep_alive, options.log
    )
    kinds = list(contender.recycles)
    recycles = options.recycles
    if contender.most_recycles is not None:
        recycles = min(recycles, QUICK_SLOW_RECYCLES if options.quick else contender.most_recycles)
    share = max(min(5, recycles), recycles // max(1, 3 * len(kinds)))
    tasks: list[Callable[[], None]] = []
    chosen = phases_of(contender, options)
    for name in chosen:
        if name == "recycles":
            for kind in kinds:
                count = share if kind != kinds[0] else recycles - share * (len(kinds) - 1)
                tasks.append(partial(run.recycles, kind, count))
        elif name == "combined":
            actions = [ACTIONS[each] for each in contender.phases if each in ACTIONS and each not in chosen]
            tasks.append(partial(run.actions, name, actions, options.others))
        elif name == "restarts":
            tasks.append(partial(run.restarts, options.others))
        else:
            tasks.append(partial(run.actions, name, [ACTIONS[name]], getattr(options, name, options.others)))
    with ThreadPoolExecutor(AT_ONCE if options.quick else 1) as pool:
        for ended in [pool.submit(task) for task in tasks]:
            ended.result()
    return run


def main() -> int:
    """Run, and print; 1 if a request failed that should not."""
    options = arguments()
    if options.quick:
        options.recycles, options.others, options.longest = 15, 5, 0.5
        options.lines, options.grace, options.keep_alive = 5, 4, 1
        options.reloads = options.upgrades = 5
    raise_open_files_limit()
    try:
        client = compile_program("service_client")
    except MissingTool as error:
        sys.exit(str(error))
    options.log.parent.mkdir(parents=True, exist_ok=True)
    options.log.write_text("")
    chosen = [contender for contender in CONTENDERS if contender.name in options.contenders.split(",")]
    peers = [contender.name for contender in chosen if contender.name in ("granian", "uwsgi")]
    left_out = install_peers(peers)
    answer: dict[str, Any] = {"command": sys.argv, "machine": facts(), "left_out": left_out, "phases": {}}
    status = 0
    for contender in chosen:
        if contender.name in left_out:
            continue
        try:
            run = soak(contender, client, options)
        except LoadError as error:
            print(f"{contender.name}: {error}; the log is {options.log}", file=sys.stderr)
            status = 1
            continue
        answer["phases"][contender.name] = [vars(phase) | counted(phase) for phase in run.phases]
        if contender.name == "rmeinheld" and any(phase.failures for phase in run.phases):
            status = 1
    answer["versions"] = versions()
    if not options.quick:
        options.output.write_text(json.dumps(answer, indent=1, default=_plain) + "\n")
    return status


def _plain(value: object) -> object:
    """A value of JSON for an object that is none."""
    return sorted(value) if isinstance(value, set) else vars(value)


def counted(phase: Phase) -> dict[str, Any]:
    """The failures of a phase: their number for each way to fail, and the first few in full."""
    how: dict[str, int] = {}
    for failure in phase.failures:
        how[failure.how] = how.get(failure.how, 0) + 1
    return {"failed": how, "failures": phase.failures[:20], "excused": len(phase.excused)}


if __name__ == "__main__":
    sys.exit(main())
