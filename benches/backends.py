"""The cost of a request that waits for Redis and for a backend, under Gunicorn's workers: ours and gevent's.

`python benches/backends.py`, or with other numbers: see --help. Each request is a GET with redis-py and a request with
urllib3 that the backend answers after 20 ms; 500 clients send one after the other. The worker has a core of its own;
the clients, Redis and the backend share another. Writes the rounds and the ratio to results/backends.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from load import LoadError, run_wrk
from machine import choose_cores, facts, pinned_to, raise_open_files_limit
from measure import cpu_seconds
from servers import GEVENT, OUR_WORKER, RMEINHELD, Contender, Task, gunicorn, running_server
from toolchain import BENCHES, PROGRAMS, find_wrk, install_peers, versions

CLIENTS = 500
BACKEND_SECONDS = 0.02
WANTED_RATIO = 1.5
WARM_UP_SECONDS = 2
READY_SECONDS = 10.0
# A worker that is overloaded lets some of its clients wait long, which is a figure and no failure.
PATIENCE_SECONDS = 15


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement (default 5)")
    parser.add_argument("--output", type=Path, default=BENCHES / "results" / "backends.json", help="not with --quick")
    parser.add_argument(
        "--quick", action="store_true", help="prove that it runs: 1 round of 1 s with 20 clients, without gevent"
    )
    return parser.parse_args()


OURS = Contender(
    "gunicorn-rmeinheld",
    gunicorn(sys.executable, OUR_WORKER),
    serves_while_asleep=True,
    sleep_module="rmeinheld.coroutine",
)


@contextlib.contextmanager
def running_redis(core: int) -> Iterator[int]:
    """A Redis with a greeting in it; its port."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("redis-server is missing: install it (apt install redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = int(reserved.getsockname()[1])
    with pinned_to(core):
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        process = subprocess.Popen(command, cwd=PROGRAMS, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=READY_SECONDS) as connection:
                    connection.sendall(b"SET greeting 'Hello, world!'\r\n")
                    assert connection.recv(100) == b"+OK\r\n"
                break
            except ConnectionError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(READY_SECONDS)


def measure(contender: Contender, seconds: int, clients: int, cores: tuple[int, int]) -> dict[str, float]:
    """One round of one worker."""
    wrk = find_wrk()
    with running_server(contender, Task(app="backends_app:app", asleep_at_once=CLIENTS), cores[0]) as server:
        run_wrk(wrk, server.port, clients, WARM_UP_SECONDS, cores[1], PATIENCE_SECONDS)
        before = cpu_seconds(server.pid)
        result = run_wrk(wrk, server.port, clients, seconds, cores[1], PATIENCE_SECONDS)
        used = cpu_seconds(server.pid) - before
    return {
        "requests_per_cpu_second": round(result.requests / used, 1),
        "requests_per_second": result.requests_per_second,
        "cpu_share": round(used / result.seconds, 3),
        "latency_p99_ms": result.latency_p99_ms,
    }


def main() -> int:
    """Measure and print; 1 if something could not be measured. A ratio that is missed is a figure, no failure."""
    options = arguments()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    raise_open_files_limit()
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    contenders = [OURS]
    if not options.quick:
        if left_out := install_peers([GEVENT.name]):
            sys.exit(left_out[GEVENT.name])
        contenders.append(GEVENT)
    cores = choose_cores()
    known = facts()
    backend = Task("parked", ("/asleep", b"0"), sleep_seconds=BACKEND_SECONDS, asleep_at_once=2 * CLIENTS)
    rounds: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in contenders}
    with running_redis(cores[1]) as port, running_server(RMEINHELD, backend, cores[1]) as backend_server:
        os.environ["BENCH_REDIS_PORT"] = str(port)
        os.environ["BENCH_BACKEND_PORT"] = str(backend_server.port)
        for number in range(options.rounds):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                try:
                    figures = measure(contender, options.seconds, 20 if options.quick else CLIENTS, cores)
                except LoadError as error:
                    sys.exit(f"{contender.name}: {error}")
                rounds[contender.name].append(figures)
                print(f"  {contender.name:20} {json.dumps(figures)}", file=sys.stderr, flush=True)
    answer: dict[str, object] = {"command": sys.argv, "machine": known, "rounds": rounds}
    if len(contenders) > 1:
        each = zip(rounds[OURS.name], rounds[GEVENT.name], strict=True)
        key = "requests_per_cpu_second"
        answer["ratio"] = round(statistics.median(ours[key] / theirs[key] for ours, theirs in each), 2)
        answer["wanted_ratio"] = WANTED_RATIO
        answer["versions"] = versions()
    text = json.dumps(answer, indent=1) + "\n"
    print(text, end="")
    if not options.quick:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
