"""Latency of other clients while 100 requests that wait are ended with 504 by `request_timeout`.

    python benches/timeouts.py              # ten rounds: quiet, 504s one after the other, quiet, 504s all at once
    python benches/timeouts.py --rounds 2   # shorter

The server has one core and the client the other. In each window one client asks for hello world about once a
millisecond. Prints the 50th and 99th percentile of each kind of window, and the ratio to the quiet ones. The exit
status is 1 if a request was not ended, or if the ratio of the 99th percentiles is above 1.5.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from rmeinheld.coroutine import sleep

LIMIT_SECONDS = 1.0
ENDED = 100
"""Requests that are ended in a window."""

WINDOW_SECONDS = 1.0
PAUSE_SECONDS = 0.001
MOST = 1.5
"""The largest ratio of the 99th percentiles."""

HELLO = b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: test\r\n\r\n"


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer at once, or wait for longer than the limit."""
    if environ["PATH_INFO"] == "/wait":
        sleep(60 * LIMIT_SECONDS)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]


def latencies(port: int, seconds: float) -> list[float]:
    """Milliseconds of requests on one connection, one after the other."""
    measured = []
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.settimeout(30)
        until = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < until:
            client.sendall(HELLO)
            answer = b""
            while not answer.endswith(b"Hello, world!"):
                received = client.recv(4096)
                if not received:
                    raise ConnectionError(answer)
                answer += received
            measured.append((time.perf_counter() - begun) * 1000)
            time.sleep(PAUSE_SECONDS)
    return measured


def during_ends(port: int, spread: float) -> list[float]:
    """Latencies while requests are ended that were sent over `spread` seconds."""
    waiting = []
    begun = time.perf_counter()
    for number in range(ENDED):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.settimeout(30)
        connection.sendall(WAIT)
        waiting.append(connection)
        time.sleep(max(0.0, begun + (number + 1) * spread / ENDED - time.perf_counter()))
    # The window has the first end and the last one in it.
    early = (WINDOW_SECONDS - spread) / 2
    time.sleep(max(0.0, begun + LIMIT_SECONDS - early - time.perf_counter()))
    measured = latencies(port, WINDOW_SECONDS)
    for connection in waiting:
        status = connection.recv(4096)[:12]
        connection.close()
        if status != b"HTTP/1.1 504":
            message = f"a request was not ended, but answered {status!r}"
            raise ValueError(message)
    return measured


def percentile(values: list[float], percent: float) -> float:
    """The value below which `percent` of the values are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def free_port() -> int:
    """The number of a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def start(directory: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server on the first core, and wait until it listens."""
    port = free_port()
    command = [sys.executable, "-m", "rmeinheld", "--bind", f"127.0.0.1:{port}", "--keep-alive", "60",
               "--request-timeout", str(LIMIT_SECONDS), "timeouts:app"]  # fmt: skip
    here = str(Path(__file__).resolve().parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, cwd=directory, stdout=log, stderr=log,
            preexec_fn=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
        )  # fmt: skip
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.05)
        else:
            return process, port
    process.kill()
    sys.exit((directory / "log").read_text(errors="replace"))


def main() -> int:
    """Measure, print, and say by the exit status whether everything is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    windows: dict[str, list[list[float]]] = {"quiet": [], "one after the other": [], "all at once": []}
    with tempfile.TemporaryDirectory() as directory:
        process, port = start(Path(directory))
        try:
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
            latencies(port, WINDOW_SECONDS)
            for _ in range(rounds):
                for name, spread in (("one after the other", 0.9 * WINDOW_SECONDS), ("all at once", 0.0)):
                    windows["quiet"].append(latencies(port, WINDOW_SECONDS))
                    windows[name].append(during_ends(port, spread))
        finally:
            process.terminate()
            process.wait(60)
    quiet = median(percentile(window, 99) for window in windows["quiet"])
    figures = {
        name: {
            "windows": len(measured),
            "p50 ms": round(median(percentile(window, 50) for window in measured), 3),
            "p99 ms": round(median(percentile(window, 99) for window in measured), 3),
            "p99 of all ms": round(percentile([one for window in measured for one in window], 99), 3),
            "longest ms": round(median(max(window) for window in measured), 2),
            "p99 ratio": round(median(percentile(window, 99) for window in measured) / quiet, 2),
        }
        for name, measured in windows.items()
    }
    print(json.dumps({"ended in a window": ENDED, "load average": os.getloadavg()[0], **figures}, indent=1))
    return 0 if all(one["p99 ratio"] <= MOST for one in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
