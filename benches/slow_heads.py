"""The cost of thousands of clients that send one byte of a head a second and never end it (slowloris).

`python benches/slow_heads.py`, or with other numbers: see --help. Prints the memory of each such connection, the
latency of an ordinary client with and without them, and how many are left after the head deadline. Needs two
descriptors for each connection (`ulimit -n`).
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import socket
import sys
import time
from contextlib import suppress

from machine import pinned_to, raise_open_files_limit
from measure import memory
from rmeinheld.settings import Settings
from servers import RMEINHELD, Task, running_server
from toolchain import PROGRAMS

HEAD = b"GET / HTTP/1.1\r\nHost: test\r\nX-Slow: "
TURN_SECONDS = 1.0
PAUSE_SECONDS = 0.002


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement of the ordinary client")
    return parser.parse_args()


def trickle(port: int, count: int, opened: multiprocessing.Queue[int], until: float) -> None:
    """Open `count` connections and send a byte on each once a second, in small groups, until time is up."""
    os.nice(10)  # the ordinary client shares the core
    slow = []
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.setblocking(False)
        connection.send(HEAD[:1])
        slow.append(connection)
    opened.put(len(slow))
    position = 0
    group = max(1, int(count * PAUSE_SECONDS / TURN_SECONDS))
    while slow and time.monotonic() < until:
        start = time.monotonic()
        for at in range(0, len(slow), group):
            for connection in slow[at : at + group]:
                with suppress(OSError):
                    connection.send(HEAD[position : position + 1] or b"x")
            time.sleep(PAUSE_SECONDS)
        position += 1
        slow = [connection for connection in slow if not has_ended(connection)]
        time.sleep(max(0.0, TURN_SECONDS - (time.monotonic() - start)))
    opened.put(len(slow))


def has_ended(connection: socket.socket) -> bool:
    """Whether the server has ended the connection, after whatever it has answered."""
    try:
        while data := connection.recv(4096):
            if not data.startswith(b"HTTP/1.1 408 "):
                raise AssertionError(f"not the answer to a slow head: {data!r}")
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def latencies(port: int, seconds: float) -> list[float]:
    """Milliseconds of requests on one connection, one after the other."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    measured = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        start = time.perf_counter()
        client.request("GET", "/")
        client.getresponse().read()
        measured.append((time.perf_counter() - start) * 1000)
        time.sleep(0.001)
    client.close()
    return sorted(measured)


def percentile(values: list[float], percent: float) -> float:
    """The value below which `percent` of the sorted values are."""
    return values[min(len(values) - 1, int(len(values) * percent / 100))]


def main() -> int:
    """Measure, print, and say by the exit status whether everything is as it should be."""
    options = arguments()
    raise_open_files_limit()
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    header_timeout = Settings().client_header_timeout
    task = Task(idle_connections=options.connections)
    with running_server(RMEINHELD, task, 0) as server, pinned_to(1):
        alone = latencies(server.port, options.seconds)
        before = memory(server.pid).resident
        began = time.monotonic()
        counts: multiprocessing.Queue[int] = multiprocessing.Queue()
        until = began + header_timeout + 30
        sender = multiprocessing.Process(target=trickle, args=(server.port, options.connections, counts, until))
        sender.start()
        opened = counts.get(timeout=60)
        beside = latencies(server.port, options.seconds)
        grown = memory(server.pid).resident - before
        left = counts.get(timeout=header_timeout + 60)
        sender.join()
    figures = {
        "connections": opened,
        "KiB of each": round(grown / opened, 2),
        "p50 ms alone": round(percentile(alone, 50), 3),
        "p50 ms beside": round(percentile(beside, 50), 3),
        "p99 ms alone": round(percentile(alone, 99), 3),
        "p99 ms beside": round(percentile(beside, 99), 3),
        "p99 ratio": round(percentile(beside, 99) / percentile(alone, 99), 2),
        "requests beside": len(beside),
        "left after the deadline": left,
    }
    print(json.dumps(figures, indent=1))
    return 0 if figures["KiB of each"] <= 2 and figures["p99 ratio"] <= 2 and left == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
