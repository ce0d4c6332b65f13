"""Held answers with the client on the same machine, and in another network namespace: `python benches/held.py`.

Two servers, one with `hold_answers = 0`, take turns under wrk. A network namespace of its own is reached
through a pair of virtual interfaces, for which the script has to run as root. Prints medians, and writes
results/held.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from load import LoadError, run_wrk
from machine import choose_cores, facts
from measure import cpu_seconds
from results import origin
from servers import AT_ONCE, RMEINHELD, Contender, Task, running_server
from toolchain import BENCHES, MissingTool, find_wrk

CONNECTIONS = 64
LOOPBACK = "127.0.0.1"
SERVER, CLIENT = "10.213.77.1", "10.213.77.2"
APPLICATIONS = {"hello": ("hello", "/"), "Flask, JSON": ("flask_app:app", "/json"), "bimodal": ("bimodal", "/")}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=1, help="of each measurement (default 1)")
    parser.add_argument("--output", type=Path, default=BENCHES / "results" / "held.json", help="not with --quick")
    parser.add_argument("--quick", action="store_true", help="prove that it runs: 1 round")
    return parser.parse_args()


def ip(*words: str) -> None:
    """Run ip(8); raises CalledProcessError or OSError if it fails."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextlib.contextmanager
def network_namespace() -> Iterator[str | None]:
    """The name of a namespace with an interface to this one; None, and the reason, if it cannot be made."""
    name = f"bench{os.getpid()}"
    end, other = f"b{os.getpid()}", f"c{os.getpid()}"
    try:
        try:
            ip("netns", "add", name)
            ip("link", "add", end, "type", "veth", "peer", "name", other, "netns", name)
            ip("address", "add", f"{SERVER}/30", "dev", end)
            ip("link", "set", end, "up")
            ip("-n", name, "address", "add", f"{CLIENT}/30", "dev", other)
            ip("-n", name, "link", "set", other, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"left out: another namespace: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
            yield None
        else:
            yield name
    finally:
        # The interfaces end with the namespace.
        with contextlib.suppress(OSError):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def listening_everywhere(contender: Contender) -> Contender:
    """The same server, also on the address that the other namespace reaches."""

    def command(port: int, task: Task) -> list[str]:
        return [*contender.command(port, task), "--bind", f"{SERVER}:{port}"]

    return Contender(contender.name, command, contender.serves_while_asleep, contender.sleep_module)


def measure(options: argparse.Namespace, namespace: str | None, rounds: dict[str, list[dict[str, float]]]) -> None:
    """All rounds, in turn."""
    wrk = find_wrk()
    core, client_core = choose_cores()
    places: dict[str, tuple[str, list[str]]] = {"same machine": (LOOPBACK, [])}
    if namespace is not None:
        places["namespace"] = (SERVER, ["ip", "netns", "exec", namespace])
    contenders = [RMEINHELD, AT_ONCE]
    if namespace is not None:
        contenders = [listening_everywhere(contender) for contender in contenders]
    for row, (application, path) in APPLICATIONS.items():
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(running_server(each, Task(application), core)) for each in contenders]
            for number in range(options.rounds):
                for place, (host, prefix) in places.items():
                    for server in servers[number % 2 :] + servers[: number % 2]:
                        before = cpu_seconds(server.pid)
                        result = run_wrk(
                            wrk,
                            server.port,
                            CONNECTIONS,
                            options.seconds,
                            client_core,
                            path=path,
                            host=host,
                            prefix=prefix,
                        )
                        figures = {
                            "cpu_us": (cpu_seconds(server.pid) - before) / result.requests * 1e6,
                            "requests_per_second": result.requests_per_second,
                            "latency_p99_ms": result.latency_p99_ms,
                        }
                        rounds.setdefault(f"{row}; {place}; {server.contender.name}", []).append(figures)


def main() -> int:
    """Measure, print, and write the file; 1 if something could not be measured."""
    options = arguments()
    if options.quick:
        options.rounds = 1
    known, rounds = facts(), dict[str, list[dict[str, float]]]()
    os.sched_setaffinity(0, {choose_cores()[1]})
    try:
        with network_namespace() as namespace:
            measure(options, namespace, rounds)
    except (LoadError, MissingTool) as error:
        print(error, file=sys.stderr)
        return 1
    medians = {
        name: {figure: round(statistics.median(each[figure] for each in figures), 2) for figure in figures[0]}
        for name, figures in rounds.items()
    }
    for name, figures in medians.items():
        print(f"{name:50} {figures}")
    if not options.quick:
        result = {
            **origin(known),
            "rounds": rounds,
            "medians": medians,
        }
        options.output.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
