"""The cost of Gunicorn compared with our server alone and with its gevent worker, and the gain of a second worker.

`python benches/gunicorn_worker.py`, or with other numbers: see --help. Hello world over 64 kept connections, without an
access log. Writes the rounds and the ratios to results/gunicorn_worker.json.

Alone, under Gunicorn with one worker, and with gevent's worker: each on a core of its own, the client on another. Then
one core and two: one worker and one thread of the client with 64 connections on one core, and twice all that on two.
The client has the same share of both, so the ratio of requests per second is that of the workers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from load import LoadError, run_wrk
from machine import choose_cores, facts, raise_open_files_limit
from measure import cpu_seconds
from servers import GEVENT, OUR_WORKER, RMEINHELD, Contender, Task, gunicorn, running_server
from toolchain import BENCHES, PROGRAMS, find_wrk, install_peers, versions

CONNECTIONS = 64
WARM_UP_SECONDS = 1

WANTED = {"of_standalone": 1.05, "of_gevent": 0.1, "two_workers": 1.8}
"""At most, at most, at least."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement (default 4)")
    parser.add_argument("--output", type=Path, default=BENCHES / "results" / "gunicorn_worker.json")
    parser.add_argument("--quick", action="store_true", help="prove that it runs: 1 round of 1 s, without gevent")
    return parser.parse_args()


ONE = Contender("one worker", gunicorn(sys.executable, OUR_WORKER), serves_while_asleep=True)
HALF = Contender("one worker, one core", ONE.command, serves_while_asleep=True)
WHOLE = Contender("two workers, two cores", gunicorn(sys.executable, OUR_WORKER, workers=2), serves_while_asleep=True)


def measure(
    contender: Contender, seconds: int, cores: tuple[int | None, int | None], client_threads: int = 1
) -> dict[str, float]:
    """One round of one server."""
    wrk = find_wrk()
    connections = CONNECTIONS * client_threads
    with running_server(contender, Task(), cores[0]) as server:
        run_wrk(wrk, server.port, connections, WARM_UP_SECONDS, cores[1], threads=client_threads)
        before = cpu_seconds(server.pid)
        result = run_wrk(wrk, server.port, connections, seconds, cores[1], threads=client_threads)
        used = cpu_seconds(server.pid) - before
    return {
        "cpu_us_per_request": round(used / result.requests * 1e6, 2),
        "requests_per_second": result.requests_per_second,
    }


def ratios(rounds: dict[str, list[dict[str, float]]]) -> dict[str, float]:
    """Medians of the ratios within each round."""

    def median_of(ratio: Callable[[dict[str, dict[str, float]]], float]) -> float:
        count = len(rounds[ONE.name])
        each = [{name: figures[number] for name, figures in rounds.items()} for number in range(count)]
        return round(statistics.median(map(ratio, each)), 3)

    key = "cpu_us_per_request"
    found = {"of_standalone": median_of(lambda one: one[ONE.name][key] / one[RMEINHELD.name][key])}
    if GEVENT.name in rounds:
        found["of_gevent"] = median_of(lambda one: one[ONE.name][key] / one[GEVENT.name][key])
    if WHOLE.name in rounds:
        speed = "requests_per_second"
        found["two_workers"] = median_of(lambda one: one[WHOLE.name][speed] / one[HALF.name][speed])
    return found


def main() -> int:
    """Measure and print; 1 if something could not be measured. A ratio that is missed is a figure, no failure."""
    options = arguments()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    raise_open_files_limit()
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    cores = choose_cores()
    contenders = [RMEINHELD, ONE]
    if cores[0] != cores[1]:
        contenders += [HALF, WHOLE]
    if not options.quick:
        if left_out := install_peers([GEVENT.name]):
            sys.exit(left_out[GEVENT.name])
        contenders.append(GEVENT)
    known = facts()
    rounds: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in contenders}
    for number in range(options.rounds):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            try:
                if contender is HALF:
                    figures = measure(contender, options.seconds, (cores[0], cores[0]))
                elif contender is WHOLE:
                    figures = measure(contender, options.seconds, (None, None), client_threads=2)
                else:
                    figures = measure(contender, options.seconds, cores)
            except LoadError as error:
                sys.exit(f"{contender.name}: {error}")
            rounds[contender.name].append(figures)
            print(f"  {contender.name:24} {json.dumps(figures)}", file=sys.stderr, flush=True)
    answer = {"command": sys.argv, "machine": known, "rounds": rounds, "ratios": ratios(rounds), "wanted": WANTED}
    text = json.dumps(answer | {"versions": versions()}, indent=1) + "\n"
    print(text, end="")
    if not options.quick:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
