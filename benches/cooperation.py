"""The cost of waiting between coroutines, rmeinheld's and gevent's, in turns, each in fresh processes on one core.

`python benches/cooperation.py`, or with other numbers: see --help. CPU time of the process, user and system; memory is
the resident set's. Writes the medians and the rounds to results/cooperation.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from machine import choose_cores, facts, pinned_to, raise_open_files_limit
from toolchain import BENCHES, install_peers, peers_python, versions

TASKS = {
    "echo": (50_000, "us for a round trip of 64 bytes over a pair of sockets", 0.5),
    "lock": (50_000, "us for two hand-overs of a lock", 1.0),
    "event": (50_000, "us for two hand-overs by events", 1.0),
    "queue": (50_000, "us for two hand-overs by queues", 1.0),
    "spawn": (20_000, "us to spawn and join an empty coroutine", None),
    "waiting": (5_000, "KiB for a coroutine in recv", None),
}
"""How often, what the figure is, and the ratio to gevent's that is wanted."""

TASK_SECONDS = 120


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--output", type=Path, default=BENCHES / "results" / "cooperation.json", help="not with --quick"
    )
    parser.add_argument("--quick", action="store_true", help="prove that it runs: 1 small round, without gevent")
    return parser.parse_args()


def measure(python: str, library: str, task: str, count: int, core: int) -> float:
    """One process."""
    with pinned_to(core):
        command = [python, str(BENCHES / "cooperation_tasks.py"), library, task, str(count)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=TASK_SECONDS, check=False)
    if result.returncode != 0:
        sys.exit(f"{library}, {task}: {result.stderr}")
    return float(result.stdout)


def main() -> int:
    """Measure and print. A ratio that is missed is a figure, no failure."""
    options = arguments()
    raise_open_files_limit()
    contenders = {"rmeinheld": sys.executable}
    if options.quick:
        options.rounds = 1
    else:
        if left_out := install_peers(["gunicorn-gevent"]):
            sys.exit(left_out["gunicorn-gevent"])
        contenders["gevent"] = str(peers_python())
    core = choose_cores()[0]
    answer: dict[str, object] = {"command": sys.argv, "machine": facts(), "versions": versions()}
    for task, (count, meaning, wanted) in TASKS.items():
        rounds: dict[str, list[float]] = {library: [] for library in contenders}
        for number in range(options.rounds):
            for library in list(contenders) if number % 2 == 0 else reversed(list(contenders)):
                figure = measure(contenders[library], library, task, count // 50 if options.quick else count, core)
                rounds[library].append(round(figure, 3))
        medians = {library: round(statistics.median(figures), 2) for library, figures in rounds.items()}
        line: dict[str, object] = {"meaning": meaning, "medians": medians, "rounds": rounds}
        if "gevent" in rounds:
            ratios = [ours / theirs for ours, theirs in zip(rounds["rmeinheld"], rounds["gevent"], strict=True)]
            line |= {"ratio": round(statistics.median(ratios), 3), "wanted_ratio": wanted}
        answer[task] = line
        print(f"{task:8} {json.dumps(medians)} {line.get('ratio', '')}  {meaning}", flush=True)
    if not options.quick:
        options.output.write_text(json.dumps(answer, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
