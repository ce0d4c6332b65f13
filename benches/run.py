"""Measure rmeinheld against a bare epoll loop and its peers: `make bench`, or `python benches/run.py`.

Servers run on one core and the client on another, in turn within one run, each round in a rotated order. Every round is
written to a JSON file; the tables are made of medians. See README.md in this directory.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

import machine
import report
import toolchain
from core_distance import CoreDistance
from load import LoadError, run_wrk
from loads import write_arena_data
from postgresql import Missing, running_postgresql
from results import Measurement, Results, load, merge
from scenarios import WARM_UP_SECONDS, Scenario, Setup, all_scenarios, run_load
from servers import (
    ALONE,
    AT_ONCE,
    FLOOR,
    PEERS,
    RMEINHELD,
    UNPATCHED,
    Contender,
    StartError,
    rmeinheld_problem,
    running_server,
)

GROUPS = (
    "hello", "nolength", "parked", "memory", "idle", "burst", "bodies", "cold", "held", "arena", "frameworks",
    "database", "latency",
)  # fmt: skip
# The most time for a measurement of an application alone, its import included.
ALONE_SECONDS = 120.0
# Descriptors that a server and the client need in addition to the connections.
SPARE_OPEN_FILES = 256


def _names(allowed: tuple[str, ...], text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in allowed:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
    return names


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line; ends the process with status 2 at a bad one."""
    peers = tuple(peer.name for peer in PEERS)
    parser = argparse.ArgumentParser(description="Measure rmeinheld against a bare epoll loop and its peers.")
    parser.add_argument("--rounds", type=_at_least_one, default=3, help="rounds of each scenario (default 3)")
    parser.add_argument("--seconds", type=_at_least_one, default=2, help="of each measurement (default 2)")
    parser.add_argument(
        "--only",
        type=lambda text: _names(GROUPS, text),
        default=list(GROUPS),
        metavar="NAME,...",
        help=f"scenarios to run, of {', '.join(GROUPS)} (default all)",
    )
    parser.add_argument(
        "--peers",
        type=lambda text: _names(peers, text),
        default=list(peers),
        metavar="NAME,...",
        help=f"peers to compare with, of {', '.join(peers)}; empty for none (default all)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="prove that everything runs: 1 round, 1 s, small, without peers"
    )
    parser.add_argument(
        "--merge", action="store_true", help="put the rows of this run into results.json, with their date and commit"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=None,
        help="directory of the results (default benches/results, with --quick .build/bench/results)",
    )
    parsed = parser.parse_args(arguments)
    if parsed.merge and parsed.quick:
        parser.error("--quick measures nothing that could be merged")
    if parsed.quick:
        parsed.rounds, parsed.seconds, parsed.peers = 1, 1, []
    if parsed.output is None:
        parsed.output = toolchain.PROGRAMS / "results" if parsed.quick else toolchain.BENCHES / "results"
    return parsed


def say(text: str) -> None:
    """Tell the person at the terminal how far it is."""
    print(text, file=sys.stderr, flush=True)


def _choose_contenders(peers: list[str], results: Results) -> list[Contender]:
    """Those that can be measured; who cannot goes to `results.left_out` with the reason."""
    contenders = [FLOOR, ALONE]
    problem = rmeinheld_problem(figures_count=not results.quick)
    if problem is None:
        contenders += [RMEINHELD, UNPATCHED, AT_ONCE]
    else:
        results.left_out[RMEINHELD.name] = problem
    if peers:
        say(f"installing {', '.join(peers)} into {toolchain.PEERS}")
    results.left_out.update(toolchain.install_peers(peers))
    contenders += [peer for peer in PEERS if peer.name in peers and peer.name not in results.left_out]
    for name, reason in results.left_out.items():
        say(f"left out: {name}: {reason}")
    return contenders


def _takes_part(scenario: Scenario, contender: Contender) -> bool:
    if contender is FLOOR:
        return scenario.has_floor
    if contender is ALONE:
        return any(case.target for case in scenario.cases)
    if contender is UNPATCHED:
        return scenario.has_unpatched
    if contender is AT_ONCE:
        return scenario.has_at_once
    return contender.serves_while_asleep or not scenario.needs_sleep


def _run_alone(command: list[str], core: int) -> tuple[dict[str, float], str | None]:
    """The figures that `alone.py` prints, or why there are none."""
    try:
        with machine.pinned_to(core):
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ALONE_SECONDS)
    except subprocess.TimeoutExpired:
        return {}, f"no figure after {ALONE_SECONDS:.0f} s"
    except subprocess.CalledProcessError as error:
        return {}, (error.stderr.strip().splitlines() or [str(error)])[-1]
    return json.loads(done.stdout), None


def _measure_alone(scenario: Scenario, number: int, setup: Setup, results: Results) -> bool:
    """All cases of one scenario, of its application without a server, up to the first one that fails.

    Returns whether none failed.
    """
    for case in scenario.cases:
        command = [*ALONE.command(0, scenario.task), case.target, str(setup.rate_seconds)]
        results.commands.setdefault(
            f"{case.name}: {ALONE.name}", shlex.join(command).replace(f"{toolchain.BENCHES.parent}/", "")
        )
        figures, problem = _run_alone(command, int(results.machine["server_core"]))
        results.measurements.append(Measurement(case.name, ALONE.name, number, figures, problem))
        say(f"  {ALONE.name:16} {case.name:18} {problem or report.brief(figures)}")
        if problem:
            return False
    return True


def _measure(scenario: Scenario, contender: Contender, number: int, setup: Setup, results: Results) -> bool:
    """All cases of one scenario from one start of one server. A failure is recorded and does not end the run.

    Returns whether the server came up.
    """
    if contender is ALONE:
        return _measure_alone(scenario, number, setup, results)
    server_core = int(results.machine["server_core"])
    names = [case.name for case in scenario.cases]
    apart = {"core_distance_ns": setup.core_distance.wait()}
    try:
        with running_server(contender, scenario.task, server_core) as server:
            command = shlex.join(server.command).replace(f"{toolchain.BENCHES.parent}/", "")
            results.commands.setdefault(f"{scenario.cases[0].name}: {contender.name}", command)
            results.answer_heads.setdefault(contender.name, server.answer_head)
            # A failure while warming up comes again while measuring, and is reported then.
            try:
                if scenario.warm_up_connections:
                    run_wrk(setup.wrk, server.port, scenario.warm_up_connections, WARM_UP_SECONDS, setup.client_core)
                if scenario.warm_up:
                    run_load(scenario.warm_up, setup, server, min(WARM_UP_SECONDS, setup.rate_seconds))
            except LoadError as error:
                say(f"  {contender.name}: warming up: {error}")
            for case in scenario.cases:
                names.remove(case.name)
                try:
                    figures, problem = case.measure(setup, server) | apart, None
                except LoadError as error:
                    figures, problem = {}, str(error)
                results.measurements.append(Measurement(case.name, contender.name, number, figures, problem))
                say(f"  {contender.name:16} {case.name:18} {problem or report.brief(figures)}")
    except StartError as error:
        say(f"  {error}")
        for name in names:
            results.measurements.append(Measurement(name, contender.name, number, {}, str(error)))
        return False
    return True


def run_scenarios(
    scenarios: list[Scenario], contenders: list[Contender], rounds: int, setup: Setup, results: Results
) -> None:
    """Every scenario in every round, with another server first each time."""
    for scenario in scenarios:
        taking_part = [contender for contender in contenders if _takes_part(scenario, contender)]
        failed: list[Contender] = []
        for number in range(min(rounds, scenario.rounds_at_most)):
            say(f"{scenario.cases[0].name}: round {number + 1}")
            first = number % len(taking_part) if taking_part else 0
            for contender in taking_part[first:] + taking_part[:first]:
                # A server that does not come up is not waited for in each round.
                if contender not in failed and not _measure(scenario, contender, number, setup, results):
                    failed.append(contender)


def _write(results: Results, output: Path, *, is_whole: bool, is_merged: bool) -> None:
    """The raw file always; the published pair, `results.json` and `table.md`, after a whole run and with --merge."""
    output.mkdir(parents=True, exist_ok=True)
    raw = json.dumps(results.as_json(), indent=1) + "\n"
    stamp = results.date.replace("-", "").replace(":", "").replace("+0000", "Z")
    raw_file = output / f"raw-{stamp}.json"
    raw_file.write_text(raw)
    if is_merged:
        results = merge(load(output / "results.json"), results)
        raw = json.dumps(results.as_json(), indent=1) + "\n"
    table = report.markdown(results)
    if is_whole or is_merged:
        (output / "results.json").write_text(raw)
        (output / "table.md").write_text(table)
    print(table)
    say(f"every round: {raw_file}")


def _end_on_signal(number: int, frame: FrameType | None) -> NoReturn:
    """Leave by an exception, so that every server that was started is ended on the way."""
    sys.exit(128 + number)


def main() -> int:
    """Run the benchmark; 1 if rmeinheld or the floor was not measured in full, else 0, also when targets are missed."""
    arguments = parse_arguments()
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _end_on_signal)
    idle_connections, parked_requests = (1000, 200) if arguments.quick else (10_000, 2000)
    open_files = machine.raise_open_files_limit()
    if open_files < idle_connections + SPARE_OPEN_FILES:
        say(f"{idle_connections} connections need a higher limit of open files than {open_files} (ulimit -n)")
        return 1
    try:
        toolchain.compile_program("floor")
        client = toolchain.compile_program("client")
        rate_client = toolchain.compile_program("rate_client")
        core_distance = CoreDistance(machine.choose_cores())
        wrk = toolchain.find_wrk()
    except toolchain.MissingTool as error:
        say(str(error))
        return 1

    facts = machine.facts()
    results = Results(
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=shlex.join(["python", *sys.argv]),
        quick=arguments.quick,
        rounds=arguments.rounds,
        seconds=arguments.seconds,
        machine=facts,
        commit=machine.commit(),
    )
    contenders = _choose_contenders(arguments.peers, results)
    results.versions = toolchain.versions()
    client_core = int(facts["client_core"])
    os.sched_setaffinity(0, {client_core})  # this script waits on the client's core, never on the server's
    setup = Setup(
        wrk=wrk,
        client=client,
        rate_client=rate_client,
        client_core=client_core,
        core_distance=core_distance,
        seconds=arguments.seconds,
        rate_seconds=0.3 if arguments.quick else arguments.seconds,
        rate_connections=8 if arguments.quick else 10_000,
        idle_seconds=2 if arguments.quick else 5,
        idle_connections=idle_connections,
        parked_requests=parked_requests,
    )
    scenarios = [item for item in all_scenarios(idle_connections, parked_requests) if item.group in arguments.only]
    write_arena_data(toolchain.PROGRAMS / "arena")
    with contextlib.ExitStack() as stack:
        if "database" in arguments.only:
            try:
                os.environ["BENCH_DATABASE"] = stack.enter_context(running_postgresql())
            except Missing as error:
                results.left_out["database"] = str(error)
                say(f"left out: the rows of a database: {error}")
                scenarios = [item for item in scenarios if item.group != "database"]
        run_scenarios(scenarios, contenders, arguments.rounds, setup, results)

    everything = set(arguments.only) == set(GROUPS) and len(arguments.peers) == len(PEERS)
    say(f"took {(time.monotonic() - started) / 60:.0f} minutes")
    is_whole = everything and RMEINHELD.name not in results.left_out
    _write(results, arguments.output, is_whole=is_whole, is_merged=arguments.merge)
    failed = [m for m in results.measurements if m.problem and m.server in (FLOOR.name, RMEINHELD.name)]
    return 1 if failed or RMEINHELD.name in results.left_out else 0


if __name__ == "__main__":
    sys.exit(main())
