"""The load generators: wrk for throughput, and the client of this directory to hold many connections."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import pinned_to

# Time that a load generator gets beyond the run it was asked for.
GRACE_SECONDS = 30.0
# Longer than the client's own deadline for a phase, so that its report is heard first.
CLIENT_PHASE_SECONDS = 75.0

_UNITS_IN_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class LoadError(Exception):
    """The server did not answer everything as it should, so a figure of this run would mean nothing."""


@dataclass(frozen=True)
class WrkResult:
    """The counts of wrk; latencies in milliseconds."""

    requests: int
    seconds: float
    requests_per_second: float
    latency_mean_ms: float
    latency_p99_ms: float


def _in_ms(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if match is None:
        raise LoadError(f"wrk printed a latency that is no time: {text!r}")
    return float(match[1]) * _UNITS_IN_MS[match[2]]


def _find(pattern: str, output: str) -> re.Match[str]:
    match = re.search(pattern, output)
    if match is None:
        raise LoadError(f"wrk printed nothing like {pattern!r}:\n{output}")
    return match


def parse_wrk(output: str) -> WrkResult:
    """Read what `wrk --latency` prints; raises LoadError if it met socket errors or answers other than 2xx and 3xx."""
    for pattern in (r"Non-2xx or 3xx responses: \d+", r"Socket errors: .*"):
        if bad := re.search(pattern, output):
            raise LoadError(bad[0])
    total = _find(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", output)
    requests = int(total[1])
    if requests == 0:
        raise LoadError("no request was answered")
    return WrkResult(
        requests=requests,
        seconds=_in_ms(total[2] + total[3]) / 1000.0,
        requests_per_second=float(_find(r"Requests/sec:\s+([\d.]+)", output)[1]),
        latency_mean_ms=_in_ms(_find(r"Latency\s+([\d.]+(?:us|ms|s|m))", output)[1]),
        latency_p99_ms=_in_ms(_find(r"99%\s+([\d.]+(?:us|ms|s|m))", output)[1]),
    )


def run_wrk(
    wrk: str,
    port: int,
    connections: int,
    seconds: int,
    core: int | None,
    patience_seconds: int = 2,
    threads: int = 1,
    path: str = "/",
    host: str = "127.0.0.1",
    prefix: Sequence[str] = (),
) -> WrkResult:
    """One run of wrk with this number of threads on `core` (None: on any); raises LoadError as `parse_wrk` does.

    An answer that takes more than `patience_seconds` is an error. The `prefix` is a command that runs wrk elsewhere.
    """
    command = [
        *prefix,
        wrk,
        f"-t{threads}",
        f"-c{connections}",
        f"-d{seconds}s",
        "--latency",
        "--timeout",
        f"{patience_seconds}s",
    ]
    command.append(f"http://{host}:{port}{path}")
    with pinned_to(core):
        try:
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise LoadError(f"wrk did not end within {seconds + GRACE_SECONDS:.0f} s") from error
    if result.returncode != 0:
        raise LoadError(f"wrk failed: {(result.stderr or result.stdout).strip()}")
    return parse_wrk(result.stdout)


@dataclass(frozen=True)
class Load:
    """Requests, which each connection sends in rotation.

    `rate` is the number of requests per second of all connections; 0: without pauses. A connection ends after
    `per_connection` answers; 0: never.
    """

    requests: tuple[bytes, ...]
    connections: int
    rate: int = 0
    per_connection: int = 0


def run_rate_client(program: Path, load: Load, port: int, seconds: float, core: int) -> dict[str, float]:
    """One run of rate_client.c on `core`; raises LoadError if a request failed."""
    with tempfile.TemporaryDirectory() as directory:
        files = [Path(directory) / str(number) for number in range(len(load.requests))]
        for file, request in zip(files, load.requests, strict=True):
            file.write_bytes(request)
        numbers = (port, load.connections, seconds, load.rate, load.per_connection)
        with pinned_to(core):
            result = subprocess.run(
                [str(program), *map(str, numbers), *map(str, files)],
                capture_output=True, text=True, timeout=seconds + GRACE_SECONDS, check=False,
            )  # fmt: skip
    if result.returncode != 0:
        raise LoadError(f"rate_client failed: {result.stderr.strip()}")
    figures: dict[str, float] = json.loads(result.stdout)
    if figures["errors"] or not figures["requests"]:
        raise LoadError(f"{figures['errors']} requests failed, {figures['requests']} were answered")
    return figures


class Client:
    """A running `client` program (see client.c), driven line by line."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Drive this process, whose stdin and stdout are unbuffered pipes."""
        self._process = process
        self._unread = b""

    def wait_for(self, word: str) -> None:
        """Wait until it prints this word; raises LoadError if it prints something else or nothing in time."""
        line = self._read_line()
        if line != word:
            raise LoadError(f"the client said {line!r} instead of {word!r}")

    def go(self) -> None:
        """Let it go on after "ready"."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    def result(self, connections: int) -> float:
        """Seconds from the first send to the last answer; raises LoadError unless every connection got its answer."""
        line = self._read_line()
        report = json.loads(line)
        if report["errors"] or report["answers"] != connections:
            raise LoadError(f"{report['answers']} of {connections} answered, {report['errors']} errors")
        return float(report["seconds"])

    def _read_line(self) -> str:
        # Read past Python's buffering: select() must see all that is unread.
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            if not select.select([descriptor], [], [], CLIENT_PHASE_SECONDS)[0]:
                raise LoadError(f"the client said nothing for {CLIENT_PHASE_SECONDS:.0f} s")
            received = os.read(descriptor, 4096)
            if not received:
                raise LoadError("the client ended early")
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()


@contextlib.contextmanager
def running_client(program: Path, mode: str, port: int, connections: int, core: int) -> Iterator[Client]:
    """Run the client in mode "idle" or "burst" on `core`, and end it after the block."""
    with pinned_to(core):
        process = subprocess.Popen(
            [str(program), mode, str(port), str(connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
    with process:
        try:
            yield Client(process)
        finally:
            process.kill()
