"""A service with several workers: start, waits while workers are replaced, spread of load, scaling, probes, memory.

    make bench-service
    make bench-service BENCH="--only start --rounds 21"

Writes every round to results/service.json. A target that is missed is a figure, no failure.

The scenarios:

- start: the time from the start of the command to the first answer, with four workers.
- waits: the longest wait for /short while workers are recycled, and at SIGHUP. The import takes 1 s.
- spread: requests of the busier of two workers, as a multiple of the mean, over 64 and 512 connections.
- scaling: requests per second of two workers, as a multiple of one. The application computes for 1 ms, so that the
  client on the same cores costs little in comparison. 64 connections; one and two take turns.
- ready: the time of a probe of /ready while every worker runs `while True: pass`.
- memory: KiB of the master and of one worker that has answered once, resident, and its own part (PSS).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from load import LoadError, run_wrk
from machine import facts, raise_open_files_limit
from measure import memory, process_tree
from mixed_load import MixedLoad
from services import CONTENDERS, WORKERS, Contender, Service
from toolchain import BENCHES, PROGRAMS, MissingTool, compile_program, find_wrk, versions

START_WORKERS = 4
CONNECTIONS = (64, 512)
IMPORT_SECONDS = 1.0
WAIT_SECONDS = 12.0
REQUESTS_PER_SECOND = 2450
RELOADS = 3
RECYCLE_REQUESTS = 5000
SCALING_CONNECTIONS = 64
WARM_UP_SECONDS = 1
SETTLE_SECONDS = 0.5
PROBES = 200
PROBE_PAUSE_SECONDS = 0.005

WANTED = {"start_behind_gthread_ms": 50, "longest_wait_ms": 50, "spread": 1.2, "scaling": 1.9, "ready_ms": 5}
"""At most; scaling at least."""


BY_NAME = {contender.name: contender for contender in CONTENDERS}
OURS, UNDER_GUNICORN, GTHREAD = (BY_NAME[name] for name in ("rmeinheld", "gunicorn -k rmeinheld", "gthread"))
COMPARED = (OURS, UNDER_GUNICORN, GTHREAD)
LOG = PROGRAMS / "service.log"

# --- measurements ----------------------------------------------------------------------------------------------------

Figures = dict[str, Any]


def start(contender: Contender, client: Path, seconds: float) -> Figures:
    """The time to the first answer."""
    service = Service(contender, LOG, workers=START_WORKERS)
    try:
        seconds = service.wait_for_start()
    finally:
        service.kill()
    return {"first_answer_ms": round(seconds * 1e3, 1)}


def _settings(rate: float) -> dict[str, float]:
    return {"kept": 64, "kept_rate": rate * 0.8, "cold_rate": rate * 0.2}


def waits(contender: Contender, client: Path, seconds: float) -> Figures:
    """The longest wait while workers are recycled, and at reloads."""
    figures: Figures = {}
    environment = {"SERVICE_IMPORT_SECONDS": str(IMPORT_SECONDS)}
    settings = _settings(REQUESTS_PER_SECOND)
    recycling = ["--max-requests", str(RECYCLE_REQUESTS), "--max-requests-jitter", "1000"]
    for name, options in (("recycles", recycling), ("reloads", [])):
        with (
            Service(contender, LOG, options, environment=environment) as service,
            MixedLoad(client, service.port, settings) as load,
        ):
            load.wait_for_answers_of(WORKERS, set())
            load.report()
            end = time.monotonic() + seconds
            for _ in range(RELOADS if name == "reloads" else 0):
                seen = set(load.seen)
                service.signal(signal.SIGHUP)
                load.wait_for_answers_of(WORKERS, seen)
                time.sleep(0.3)
            time.sleep(max(0.0, end - time.monotonic()))
            report = load.stop()
            figures[name] = {
                "longest_ms": report["waits_ms"]["longest"],
                "p99_ms": report["waits_ms"]["p99"],
                "client_lag_ms": report["client_lag_ms"],
                "failed": {how: count for how, count in report["failures"].items() if count},
                "answers": sum(report["answers"].values()),
                "workers": len(load.seen),
            }
    return figures


def spread(contender: Contender, client: Path, seconds: float) -> Figures:
    """The share of the busier worker: as fast as it goes, at a steady rate, and on new connections."""
    figures: Figures = {}
    for connections in CONNECTIONS:
        loads: dict[str, dict[str, float]] = {
            f"{connections} kept": {"kept": connections},
            f"{connections} kept, steady": {"kept": connections, "kept_rate": REQUESTS_PER_SECOND},
        }
        for name, settings in loads.items():
            figures[name] = _share(contender, client, settings, seconds)
    figures["new connections"] = _share(contender, client, {"cold_rate": REQUESTS_PER_SECOND / 2}, seconds)
    return figures


def _share(contender: Contender, client: Path, settings: dict[str, float], seconds: float) -> float:
    with Service(contender, LOG) as service:
        # The load does not find the second worker still importing.
        with MixedLoad(client, service.port, {"cold_rate": 200}) as load:
            load.wait_for_answers_of(WORKERS, set())
        with MixedLoad(client, service.port, settings) as load:
            time.sleep(seconds)
            load.stop()
            counts = load.seen.values()
            return round(max(counts) / (sum(counts) / WORKERS), 3)


def idle(contender: Contender, client: Path, seconds: float) -> Figures:
    """The memory of the processes."""
    with Service(contender, LOG) as service:
        with MixedLoad(client, service.port, {"cold_rate": 100}) as load:
            load.wait_for_answers_of(WORKERS, set())
            load.stop()
        master, *workers = process_tree(service.master)
        each = [memory(pid) for pid in workers]
        whole = memory(master)
        return {
            "master_resident_kib": whole.resident - sum(one.resident for one in each),
            "master_pss_kib": whole.proportional - sum(one.proportional for one in each),
            "worker_resident_kib": max(one.resident for one in each),
            "worker_pss_kib": max(one.proportional for one in each),
            "processes": 1 + len(workers),
        }


def scaling(contender: Contender, client: Path, seconds: float) -> Figures:
    """Requests per second of one worker and of two."""
    figures = {}
    for name, workers in (("one", 1), ("two", 2)):
        with Service(contender, LOG, workers=workers) as service:
            if workers > 1:
                with MixedLoad(client, service.port, {"cold_rate": 200}) as load:
                    load.wait_for_answers_of(workers, set())

            def run(length: int, port: int = service.port) -> float:
                return run_wrk(find_wrk(), port, SCALING_CONNECTIONS, length, None, path="/compute").requests_per_second

            run(WARM_UP_SECONDS)
            # wrk leaves a request on each connection, and the service still answers it.
            time.sleep(SETTLE_SECONDS)
            figures[f"{name}_per_second"] = run(max(1, round(seconds)))
    return figures


def ready(contender: Contender, client: Path, seconds: float) -> Figures:
    """The times of probes while no worker's loop turns."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        admin: int = place.getsockname()[1]
    service = Service(contender, LOG, ["--admin-bind", f"127.0.0.1:{admin}"])
    spinning = []
    try:
        service.wait_for_start()
        with MixedLoad(client, service.port, {"cold_rate": 200}) as load:
            load.wait_for_answers_of(WORKERS, set())
            load.stop()
        skipped = LOG.stat().st_size
        for count in range(1, WORKERS + 1):
            # A worker that spins accepts nothing.
            spinning.append(socket.create_connection(("127.0.0.1", service.port)))
            spinning[-1].sendall(b"GET /spin HTTP/1.1\r\nHost: x\r\n\r\n")
            _wait_until_spinning(count, skipped)
        with _before_others():
            times = [_probe(admin) for _ in range(PROBES)]
    finally:
        for connection in spinning:
            connection.close()
        service.kill()
    return {"median_ms": round(statistics.median(times), 2), "worst_ms": round(max(times), 2), "probes": len(times)}


@contextmanager
def _before_others() -> Iterator[None]:
    """Let this thread run before all others of the machine: a probe comes from another machine, as a rule.

    Without the privilege to do so, the times include the waits of the probe for a processor.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _wait_until_spinning(count: int, skipped: int) -> None:
    deadline = time.monotonic() + 30
    while LOG.read_bytes()[skipped:].count(b" spins\n") < count:
        if time.monotonic() > deadline:
            raise LoadError(f"after 30 s fewer than {count} workers spin; the log is {LOG}")
        time.sleep(0.01)


def _probe(port: int) -> float:
    """The milliseconds of a probe, from its connection to the end of the answer."""
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    taken = time.perf_counter() - begun
    # 503 once the loops have not turned for too long.
    if not answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 503")):
        raise LoadError(f"/ready: {answer[:100]!r}")
    time.sleep(PROBE_PAUSE_SECONDS)
    return taken * 1e3


MEASUREMENTS: dict[str, Callable[[Contender, Path, float], Figures]] = {
    "start": start,
    "waits": waits,
    "spread": spread,
    "scaling": scaling,
    "ready": ready,
    "memory": idle,
}

REPEATED = ("start", "spread", "scaling")

ONLY_OURS = ("ready",)
"""Other servers have no such thing."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of each of some (default 7); the others have one")
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement of spread and scaling (default 3)")
    parser.add_argument("--only", default=",".join(MEASUREMENTS), help="some of " + ",".join(MEASUREMENTS))
    parser.add_argument("--contenders", default=",".join(contender.name for contender in COMPARED))
    parser.add_argument("--output", type=Path, default=BENCHES / "results" / "service.json", help="not with --quick")
    parser.add_argument("--quick", action="store_true", help="prove that it runs: 1 short round of ours")
    return parser.parse_args()


def medians(rounds: list[Figures]) -> Figures:
    """The median of each figure that is a number."""
    return {
        key: round(statistics.median(one[key] for one in rounds), 3)
        for key, value in rounds[0].items()
        if isinstance(value, int | float)
    }


def main() -> int:
    """Measure and print; 1 if something could not be measured."""
    options = arguments()
    if options.quick:
        options.rounds, options.seconds, options.contenders = 1, 0.5, OURS.name
    raise_open_files_limit()
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    try:
        client = compile_program("service_client")
        find_wrk()
    except MissingTool as error:
        sys.exit(str(error))
    contenders = [contender for contender in COMPARED if contender.name in options.contenders.split(",")]
    answer: dict[str, Any] = {"command": sys.argv, "machine": facts(), "wanted": WANTED, "rounds": {}, "medians": {}}
    for what in options.only.split(","):
        able = [contender for contender in contenders if contender is OURS or what not in ONLY_OURS]
        rounds: dict[str, list[Figures]] = {contender.name: [] for contender in able}
        for number in range(options.rounds if what in REPEATED else 1):
            for contender in able if number % 2 == 0 else reversed(able):
                length = options.seconds if what in REPEATED or options.quick else WAIT_SECONDS
                try:
                    figures = MEASUREMENTS[what](contender, client, length)
                except LoadError as error:
                    sys.exit(f"{what}: {contender.name}: {error}")
                rounds[contender.name].append(figures)
                print(f"  {what:8} {contender.name:22} {json.dumps(figures)}", file=sys.stderr, flush=True)
        answer["rounds"][what] = rounds
        answer["medians"][what] = {name: medians(several) for name, several in rounds.items() if several}
        if what == "scaling" and OURS.name in rounds:
            ours = answer["medians"][what][OURS.name]
            answer["scaling"] = round(ours["two_per_second"] / ours["one_per_second"], 3)
        if what == "start" and {OURS.name, GTHREAD.name} <= rounds.keys():
            behind = [
                ours["first_answer_ms"] - theirs["first_answer_ms"]
                for ours, theirs in zip(rounds[OURS.name], rounds[GTHREAD.name], strict=True)
            ]
            answer["start_behind_gthread_ms"] = round(statistics.median(behind), 1)
    answer["versions"] = versions()
    print(json.dumps({key: value for key, value in answer.items() if key not in ("versions", "rounds")}, indent=1))
    if not options.quick:
        options.output.write_text(json.dumps(answer, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
