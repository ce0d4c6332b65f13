"""The scenarios: each starts a server for one task and takes one or more cases from it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from core_distance import CoreDistance
from load import Load, LoadError, run_rate_client, run_wrk, running_client
from loads import ARENA, ARENA_BODY, BIMODAL, BODIES, COLD, DATABASE, FRAMEWORKS, LATENCY
from measure import context_switches, cpu_seconds, forget_peaks, memory, peak_memory, switches_between
from postgresql import CLIENTS
from servers import Running, Task, get

# The time for work after one load and before the next measurement: closed connections and sleeping requests come to an
# end.
SETTLE_SECONDS = 0.5
WARM_UP_SECONDS = 1
# How long the requests sleep whose memory is measured, and the part of it they have to be all asleep.
PARKED_SECONDS = 10.0
ALL_ASLEEP_SECONDS = 5.0
# Requests that have slept for so long sleep for long: rmeinheld returns memory that they do not use.
LONG_SECONDS = 3.0
POLL_SECONDS = 0.05
# wrk does not count what is under way when it stops. Of requests that sleep 100 ms that is a noticeable part of a short
# run, so theirs is longer.
PARKED_TIMES_LONGER = 2
# The most rounds of rows that differ little between rounds, or have many cases.
SHORT_ROUNDS = 2


@dataclass(frozen=True)
class Setup:
    """Tools, cores and sizes of a run of the benchmark."""

    wrk: str
    client: Path
    rate_client: Path
    client_core: int
    core_distance: CoreDistance
    seconds: int  # of each measurement with wrk
    rate_seconds: float  # of each measurement with rate_client
    rate_connections: int  # of rate_client at most
    idle_seconds: int
    idle_connections: int
    parked_requests: int


Figures = dict[str, float]
Measure = Callable[[Setup, Running], Figures]


@dataclass(frozen=True)
class Case:
    """One measurement; `name` identifies it in the results."""

    name: str
    measure: Measure
    target: str = ""  # path and query of the request that the application alone answers, too; empty: it does not


@dataclass(frozen=True)
class Scenario:
    """Cases that are taken in turn from one start of a server. `group` is the name that --only knows."""

    group: str
    task: Task
    cases: tuple[Case, ...]
    rounds_at_most: int = 1000
    needs_sleep: bool = False  # only for servers that go on serving while a request sleeps
    has_floor: bool = True
    has_unpatched: bool = False  # whether rmeinheld is measured without its patches, too
    has_at_once: bool = False  # and with hold_answers = 0
    warm_up_connections: int = 0  # of a run of wrk before the first case; 0 for none
    warm_up: Load | None = None  # for rate_client, before the first case


def _throughput(connections: int, times_longer: int, setup: Setup, server: Running) -> Figures:
    """CPU time per request and requests per second under wrk."""
    time.sleep(SETTLE_SECONDS)
    before = cpu_seconds(server.pid)
    result = run_wrk(setup.wrk, server.port, connections, setup.seconds * times_longer, setup.client_core)
    used = cpu_seconds(server.pid) - before
    return {
        "cpu_us": used / result.requests * 1e6,
        "requests_per_second": result.requests_per_second,
        "latency_mean_ms": result.latency_mean_ms,
        "latency_p99_ms": result.latency_p99_ms,
        "requests": float(result.requests),
        "cpu_share": used / result.seconds,
    }


def run_load(load: Load, setup: Setup, server: Running, seconds: float) -> Figures:
    """Run rate_client for this time; raises LoadError if a request failed."""
    bounded = replace(load, connections=min(load.connections, setup.rate_connections))
    return run_rate_client(setup.rate_client, bounded, server.port, seconds, setup.client_core)


def _load(load: Load, setup: Setup, server: Running) -> Figures:
    """CPU time, latency and the most memory under a load of rate_client."""
    time.sleep(SETTLE_SECONDS)
    forget_peaks(server.pid)
    before, resident = cpu_seconds(server.pid), memory(server.pid).resident
    result = run_load(load, setup, server, setup.rate_seconds)
    used = cpu_seconds(server.pid) - before
    return {
        "cpu_us": used / result["requests"] * 1e6,
        "requests_per_second": result["requests"] / result["seconds"],
        "latency_p50_ms": result["p50_ms"],
        "latency_p99_ms": result["p99_ms"],
        "latency_p999_ms": result["p999_ms"],
        "peak_mib_more": (peak_memory(server.pid) - resident) / 1024,
        "requests": result["requests"],
        "unanswered": result["unanswered"],
        "cpu_share": used / result["seconds"],
    }


def _loads(
    group: str,
    task: Task,
    loads: dict[str, Load],
    *,
    rounds_at_most: int = 1000,
    has_unpatched: bool = False,
    has_at_once: bool = False,
    has_alone: bool = False,
) -> Scenario:
    """The loads of one application, one after the other; with `has_alone` each is of one GET."""
    targets = {name: load.requests[0].split()[1].decode() if has_alone else "" for name, load in loads.items()}
    cases = tuple(Case(name, partial(_load, load), targets[name]) for name, load in loads.items())
    warm_up = next(iter(loads.values()))
    return Scenario(
        group,
        task,
        cases,
        rounds_at_most,
        has_floor=False,
        has_unpatched=has_unpatched,
        has_at_once=has_at_once,
        warm_up=warm_up,
    )


def _idle_memory(setup: Setup, server: Running) -> Figures:
    """Memory per connection that had one answer and is kept open."""
    before = memory(server.pid)
    count = setup.idle_connections
    with running_client(setup.client, "idle", server.port, count, setup.client_core) as client:
        client.wait_for("ready")
        time.sleep(SETTLE_SECONDS)
        held = memory(server.pid)
        client.go()
        client.result(count)
    return {
        "resident_kib_each": (held.resident - before.resident) / count,
        "proportional_kib_each": (held.proportional - before.proportional) / count,
        "page_tables_kib_each": (held.page_tables - before.page_tables) / count,
        "resident_kib_before": float(before.resident),
        "connections": float(count),
    }


def _wait_until_asleep(server: Running, count: int) -> None:
    """Wait until the application says that this many requests are asleep; raises LoadError if they never are."""
    deadline = time.monotonic() + ALL_ASLEEP_SECONDS
    asleep = 0
    while time.monotonic() < deadline:
        try:
            asleep = int(get(server.port, "/asleep")[1])
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise LoadError(f"no count of sleeping requests: {error!r}") from error
        if asleep == count:
            return
        time.sleep(POLL_SECONDS)
    raise LoadError(f"{asleep} of {count} requests were asleep after {ALL_ASLEEP_SECONDS:.0f} s")


def _parked_memory(setup: Setup, server: Running) -> Figures:
    """Memory per request that is asleep in the application, its connection included: at once and after a while."""
    before = memory(server.pid)
    count = setup.parked_requests
    with running_client(setup.client, "burst", server.port, count, setup.client_core) as client:
        client.wait_for("ready")
        client.go()
        client.wait_for("sent")
        _wait_until_asleep(server, count)
        held = memory(server.pid)
        time.sleep(LONG_SECONDS)
        long_held = memory(server.pid)
        client.result(count)
    time.sleep(SETTLE_SECONDS)
    after = memory(server.pid)
    return {
        "resident_kib_each": (held.resident - before.resident) / count,
        "resident_kib_each_for_long": (long_held.resident - before.resident) / count,
        "proportional_kib_each": (held.proportional - before.proportional) / count,
        "page_tables_kib_each": (held.page_tables - before.page_tables) / count,
        "kept_afterwards_kib_each": (after.resident - before.resident) / count,
        "resident_kib_before": float(before.resident),
        "requests": float(count),
    }


def _burst(setup: Setup, server: Running) -> Figures:
    """Time from the first request sent to the last answer received, all requests asleep for 1 s."""
    count = setup.parked_requests
    with running_client(setup.client, "burst", server.port, count, setup.client_core) as client:
        client.wait_for("ready")
        before = cpu_seconds(server.pid)
        client.go()
        client.wait_for("sent")
        seconds = client.result(count)
        used = cpu_seconds(server.pid) - before
    return {"seconds": seconds, "cpu_us": used / count * 1e6, "requests": float(count)}


def _idle_switches(setup: Setup, server: Running) -> Figures:
    """Context switches per second of all threads of a server that served a request and has nothing to do."""
    time.sleep(2 * SETTLE_SECONDS)
    started = time.monotonic()
    before = context_switches(server.pid)
    time.sleep(setup.idle_seconds)
    after = context_switches(server.pid)
    elapsed = time.monotonic() - started
    return {"switches_per_second": switches_between(before, after) / elapsed, "threads": float(len(after))}


def all_scenarios(idle_connections: int, parked_requests: int) -> list[Scenario]:
    """Every scenario, in the order of the report."""
    return [
        Scenario(
            "hello",
            Task(),
            tuple(Case(f"hello_c{count}", partial(_throughput, count, 1)) for count in (1, 64, 512)),
            has_unpatched=True,
            has_at_once=True,
            warm_up_connections=64,
        ),
        Scenario(
            "nolength",
            Task(app="no_length"),
            (Case("nolength_c64", partial(_throughput, 64, 1)),),
            has_floor=False,
            warm_up_connections=64,
        ),
        Scenario(
            "parked",
            Task("parked", ("/asleep", b"0"), asleep_at_once=1000),
            (Case("parked100ms_c1000", partial(_throughput, 1000, PARKED_TIMES_LONGER)),),
            needs_sleep=True,
            has_floor=False,
            warm_up_connections=1000,
        ),
        Scenario(
            "memory",
            Task(idle_connections=idle_connections),
            (Case("memory_idle", _idle_memory),),
            rounds_at_most=SHORT_ROUNDS,
            has_floor=False,
        ),
        Scenario(
            "memory",
            Task("parked", ("/asleep", b"0"), sleep_seconds=PARKED_SECONDS, asleep_at_once=parked_requests),
            (Case("memory_parked", _parked_memory),),
            rounds_at_most=SHORT_ROUNDS,
            needs_sleep=True,
            has_floor=False,
        ),
        Scenario(
            "burst",
            Task("parked", ("/asleep", b"0"), sleep_seconds=1.0, asleep_at_once=parked_requests),
            (Case("burst", _burst),),
            rounds_at_most=SHORT_ROUNDS,
            needs_sleep=True,
            has_floor=False,
        ),
        # A window of 5 s is a mean already; a second one shows whether it holds.
        Scenario("idle", Task(), (Case("idle", _idle_switches),), rounds_at_most=SHORT_ROUNDS),
        _loads("bodies", Task("bodies"), BODIES, has_unpatched=True),
        _loads("cold", Task(), COLD, has_unpatched=True),
        _loads("held", Task("bimodal"), BIMODAL, has_at_once=True),
        _loads(
            "arena",
            Task("arena.app:app", ("/pipeline", b"ok"), longest_body=ARENA_BODY),
            ARENA,
            rounds_at_most=SHORT_ROUNDS,
        ),
        *(
            _loads("frameworks", Task(app), loads, has_unpatched=True, has_at_once=True, has_alone=True)
            for app, loads in FRAMEWORKS.items()
        ),
        *(
            _loads("database", Task(app, asleep_at_once=CLIENTS), loads, rounds_at_most=SHORT_ROUNDS, has_alone=True)
            for app, loads in DATABASE.items()
        ),
        *(_loads("latency", Task(app), loads) for app, loads in LATENCY.items()),
    ]
