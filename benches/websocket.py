"""The cost of WebSockets: messages to and fro, one message to many, and connections on which nothing happens.

One message to many is measured in one worker and, by a channel, in one and four workers of a service.

`python benches/websocket.py`, or with other numbers: see --help. The peers are gevent-websocket under gevent, the
`websockets` library on asyncio, uWSGI in its gevent mode, and Granian with ASGI. The floor (websocket_floor.c) is what
the kernel alone costs. Server and client have a core each.
Writes the rounds and the ratios to results/websocket.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from core_distance import CoreDistance
from load import LoadError
from machine import choose_cores, facts, pinned_to, raise_open_files_limit
from measure import cpu_seconds, memory
from servers import BACKLOG, Contender, Running, StartError, Task, running_server
from toolchain import BENCHES, PROGRAMS, MissingTool, compile_program, install_peers, peers_python, versions

ECHO_CONNECTIONS = 64
BROADCAST_CLIENTS = 2000
IDLE_CLIENTS = 5000
IDLE_SECONDS = 3.0
SETTLE_SECONDS = 5.0
"""Connections that wait for so long count as idle: rmeinheld returns unused memory within two seconds."""
READY_SECONDS = 0.5
WARM_UP_SECONDS = 1.0
CLIENT_SECONDS = 120.0
MOST_ATTEMPTS = 4
"""Measurements for one figure: it is taken again if the cores have moved apart meanwhile."""

WANTED_RATIOS = {"uwsgi": 2.0, "websockets": 4.0}
"""Messages of the echo per CPU second, over those of each peer."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement (default 4)")
    parser.add_argument("--only", default="echo,broadcast,publish,idle", help="some of echo,broadcast,publish,idle")
    parser.add_argument("--output", type=Path, default=BENCHES / "results" / "websocket.json", help="not with --quick")
    parser.add_argument("--quick", action="store_true", help="prove that it runs: 1 round of 1 s, without peers")
    return parser.parse_args()


# --- servers ---------------------------------------------------------------------------------------------------------


def _floor(port: int, task: Task) -> list[str]:
    return [str(PROGRAMS / "websocket_floor"), str(port)]


def _rmeinheld(port: int, task: Task) -> list[str]:
    options = ["--bind", f"127.0.0.1:{port}", "--backlog", str(BACKLOG), "--worker-connections", str(4 * IDLE_CLIENTS)]
    return [sys.executable, "-m", "rmeinheld", *options, "--chdir", str(BENCHES), "websocket_apps:app"]


def _gevent(port: int, task: Task) -> list[str]:
    return [str(peers_python()), str(BENCHES / "websocket_apps.py"), "gevent", str(port)]


def _websockets(port: int, task: Task) -> list[str]:
    return [str(peers_python()), str(BENCHES / "websocket_apps.py"), "websockets", str(port)]


def _uwsgi(port: int, task: Task) -> list[str]:
    options = ["--http-socket", f"127.0.0.1:{port}", "--gevent", "10000", "--disable-logging", "--master"]
    options += ["--socket-timeout", "120", "--listen", "1024", "--die-on-term"]
    return [str(peers_python().with_name("uwsgi")), *options, "--wsgi", "websocket_apps:uwsgi_app"]


def _granian(port: int, task: Task) -> list[str]:
    options = ["--interface", "asgi", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    options += ["--backlog", str(BACKLOG), "--backpressure", str(4 * IDLE_CLIENTS), "--log-level", "warning", "--ws"]
    return [str(peers_python()), "-m", "granian", *options, "websocket_apps:asgi_app"]


def _channel(workers: int) -> Callable[[int, Task], list[str]]:
    def command(port: int, task: Task) -> list[str]:
        return [*_rmeinheld(port, task)[:-1], "--workers", str(workers), "websocket_apps:channel_app"]

    return command


FLOOR = Contender("floor", _floor, serves_while_asleep=True)
RMEINHELD = Contender("rmeinheld", _rmeinheld, serves_while_asleep=True)
PEERS = (
    Contender("gevent-websocket", _gevent, serves_while_asleep=True),
    Contender("websockets", _websockets, serves_while_asleep=True),
    Contender("uwsgi", _uwsgi, serves_while_asleep=True),
    Contender("granian", _granian, serves_while_asleep=True),
)
WITHOUT = (("broadcast", "uwsgi"), ("idle", "floor"))
PUBLISHERS = tuple(
    Contender(f"{workers} worker{'s' * (workers > 1)}", _channel(workers), serves_while_asleep=True)
    for workers in (1, 4)
)

# --- measurements ----------------------------------------------------------------------------------------------------

Figures = dict[str, float]


def run_client(
    client: Path, core: int, words: list[str], while_ready: Callable[[], None] | None = None
) -> dict[str, float]:
    """Run the client to its end; LoadError if it met any error. `while_ready` is called with all connections open."""
    with pinned_to(core):
        process = subprocess.Popen(
            [str(client), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    try:
        assert process.stdout is not None and process.stdin is not None and process.stderr is not None
        if process.stdout.readline() != "ready\n":
            raise LoadError(process.stderr.read().strip() or "the client could not open its connections")
        if while_ready is not None:
            while_ready()
        process.stdin.write("go\n")
        process.stdin.flush()
        output, problem = process.communicate(timeout=CLIENT_SECONDS)
        result: dict[str, float] = json.loads(output or "{}")
        if process.returncode != 0 or result.get("errors", 1):
            raise LoadError(f"errors of the client: {output}{problem}")
        return result
    finally:
        process.kill()
        process.wait()


def echo(server: Running, client: Path, core: int, seconds: float) -> Figures:
    """Messages to and fro."""
    port, connections = str(server.port), str(ECHO_CONNECTIONS)
    run_client(client, core, ["echo", port, connections, str(WARM_UP_SECONDS)])
    before = [0.0]
    result = run_client(
        client, core, ["echo", port, connections, str(seconds)], lambda: before.__setitem__(0, cpu_seconds(server.pid))
    )
    used = cpu_seconds(server.pid) - before[0]
    return {
        "messages_per_cpu_second": round(result["messages"] / used),
        "messages_per_second": round(result["messages"] / result["seconds"]),
    }


def broadcast(server: Running, client: Path, core: int, seconds: float) -> Figures:
    """One message to many."""
    words = ["broadcast", str(server.port), str(BROADCAST_CLIENTS)]
    before = [0.0]

    def look() -> None:
        time.sleep(READY_SECONDS)
        before[0] = cpu_seconds(server.pid)

    result = run_client(client, core, [*words, str(max(3, int(10 * seconds)))], look)
    used = cpu_seconds(server.pid) - before[0]
    return {
        "cpu_us_per_delivery": round(used / result["messages"] * 1e6, 2),
        "ms_to_the_last": round(result["slowest"] * 1e3, 1),
    }


def idle(server: Running, client: Path, core: int, seconds: float) -> Figures:
    """Connections on which nothing happens."""
    run_client(client, core, ["echo", str(server.port), "64", "0.2"])
    before = memory(server.pid).resident
    figures: Figures = {}

    def look() -> None:
        time.sleep(SETTLE_SECONDS)
        figures["kib_per_connection"] = round((memory(server.pid).resident - before) / IDLE_CLIENTS, 2)
        cpu = cpu_seconds(server.pid)
        time.sleep(IDLE_SECONDS)
        figures["cpu_ms_per_second"] = round((cpu_seconds(server.pid) - cpu) / IDLE_SECONDS * 1000, 2)

    run_client(client, core, ["idle", str(server.port), str(IDLE_CLIENTS)], look)
    return figures


MEASUREMENTS: dict[str, Callable[[Running, Path, int, float], Figures]] = {
    "echo": echo,
    "broadcast": broadcast,
    "publish": broadcast,
    "idle": idle,
}


def median_ratios(rounds: dict[str, list[Figures]], key: str) -> dict[str, float]:
    """Ours over each peer's, within each round."""
    ours = rounds[RMEINHELD.name]
    return {
        name: round(statistics.median(one[key] / other[key] for one, other in zip(ours, theirs, strict=True)), 2)
        for name, theirs in rounds.items()
        if name != RMEINHELD.name and len(theirs) == len(ours)
    }


def main() -> int:
    """Measure and print; 1 if ours could not be measured. A ratio that is missed is a figure, no failure."""
    options = arguments()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    raise_open_files_limit()
    try:
        client = compile_program("websocket_client")
        compile_program("websocket_floor")
        distance = CoreDistance(choose_cores())
    except MissingTool as error:
        sys.exit(str(error))
    contenders = [FLOOR, RMEINHELD]
    left_out: dict[str, str] = {}
    if not options.quick:
        left_out = install_peers([peer.name for peer in PEERS])
        contenders += [peer for peer in PEERS if peer.name not in left_out]
    cores = choose_cores()
    answer: dict[str, object] = {"command": sys.argv, "machine": facts(), "left_out": left_out}
    for what in options.only.split(","):
        entrants = list(PUBLISHERS) if what == "publish" else contenders
        rounds: dict[str, list[Figures]] = {contender.name: [] for contender in entrants}
        for number in range(options.rounds if what != "idle" else 1):
            for contender in entrants if number % 2 == 0 else reversed(entrants):
                if (what, contender.name) in WITHOUT or contender.name in left_out:
                    continue
                try:
                    for _ in range(MOST_ATTEMPTS):
                        before = distance.wait()
                        with running_server(contender, Task(), cores[0]) as server:
                            figures = MEASUREMENTS[what](server, client, cores[1], options.seconds)
                        after = distance.measure()
                        figures |= {"core_distance_ns": max(before, after)}
                        if not distance.is_far(after):
                            break
                except (LoadError, StartError) as error:
                    if contender in (FLOOR, RMEINHELD, *PUBLISHERS):
                        sys.exit(f"{what}: {contender.name}: {error}")
                    left_out[contender.name] = f"{what}: {error}"
                    continue
                rounds[contender.name].append(figures)
                print(f"  {what:10} {contender.name:18} {json.dumps(figures)}", file=sys.stderr, flush=True)
        answer[what] = {
            "rounds": rounds,
            "medians": {
                name: {key: statistics.median(each[key] for each in several) for key in several[0]}
                for name, several in rounds.items()
                if several
            },
        }
        if what == "publish":
            one, several = (rounds[contender.name] for contender in PUBLISHERS)
            key = "cpu_us_per_delivery"
            ratios = [after[key] / before[key] for before, after in zip(one, several, strict=True)]
            answer["publish_ratio"] = round(statistics.median(ratios), 2)
        if what == "echo":
            answer["echo_ratios"] = median_ratios(rounds, "messages_per_cpu_second")
            answer["wanted_ratios"] = WANTED_RATIOS
    answer["versions"] = versions()
    text = json.dumps(answer, indent=1) + "\n"
    print(json.dumps({key: value for key, value in answer.items() if key != "versions"}, indent=1))
    if not options.quick:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
