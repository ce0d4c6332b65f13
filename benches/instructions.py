"""Count the instructions that the server process executes for one request, in ten rows, and compare them with a file.

    python benches/instructions.py               # compare with results/instructions.json
    python benches/instructions.py --write       # count, and write that file
    python benches/instructions.py --only hello --profile /tmp/hello    # where they go, for callgrind_annotate
    python benches/instructions.py --only hello --server='--access-logfile access'    # dearer: this has to fail
    python benches/instructions.py --features             # the cost of what watches a request, in rows of hello world

Unlike time, the number hardly depends on other processes: all rows but one differ by less than 0.5 % between runs.
Each row serves `REQUESTS` requests on one connection under valgrind's callgrind, after some to warm up. Instructions of
the kernel are not counted. A row that differs from the file by more than its tolerance fails, in either direction: a
gain is written into the file by the change that brings it.

The number depends on the compilers, Python, the C library and Flask. The file names them. On another combination there
is nothing to compare: the script says so and ends with status 0. The model of the processor does not matter.
Valgrind shows every program the same one, with AVX2 if the real one has it, and the C library chooses by that.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "instructions.json"

WARM_UP = 100
"""Requests before the counting begins: caches are filled, and the interpreter has specialised the code."""

REQUESTS = 200
"""Requests that are counted for each row."""

TOLERANCE = 0.02
"""The difference, as a share, that a row may have, unless it has its own."""

PATIENCE = 600.0
"""Seconds for the server's start under valgrind, and for any answer."""

MARK = "getloadavg"
"""The function that `/mark` calls; see instructions_apps.py."""

BROWSER = (
    "Host: localhost:8000\r\nConnection: keep-alive\r\nCache-Control: max-age=0\r\n"
    'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24"\r\nsec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: "Linux"\r\n'
    "Upgrade-Insecure-Requests: 1\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
    "(KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\nAccept: text/html,application/xhtml+xml,application/xml,"
    "image/avif,image/webp,*/*;q=0.8\r\nSec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\n"
    "Sec-Fetch-Dest: document\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
)


@dataclass(frozen=True)
class Row:
    """The request that is sent again and again, and the end of each answer."""

    path: str
    end: bytes
    method: str = "GET"
    fields: str = "Host: 127.0.0.1\r\nUser-Agent: wrk\r\nAccept: */*\r\n"
    body: bytes = b""
    tolerance: float = TOLERANCE

    def request(self, number: int) -> bytes:
        """The bytes of one request."""
        return f"{self.method} {self.path} HTTP/1.1\r\n{self.fields}\r\n".encode() + self.body


@dataclass(frozen=True)
class OtherTargets(Row):
    """Each request has another target."""

    def request(self, number: int) -> bytes:
        return f"{self.method} {self.path}?{number % 10} HTTP/1.1\r\n{self.fields}\r\n".encode() + self.body


ECHOED = b"x" * 10_234 + b"world!"
ROWS: dict[str, Row] = {
    "hello": Row("/hello", b"world!"),
    "20 response headers": Row("/headers", b"world!"),
    "no Content-Length": Row("/no-length", b"world!"),
    # A thread sends the items that have been held for half a millisecond of real time. On a busy machine, under
    # valgrind, some are held so long, which costs up to 2 % more.
    "generator, 10 x 1 kB": Row("/generator", b"\r\n0\r\n\r\n", tolerance=0.04),
    "100 kB": Row("/large", b"world!"),
    "POST, 10 kB echoed": Row(
        "/echo", b"world!", "POST", f"Host: 127.0.0.1\r\nUser-Agent: wrk\r\nContent-Length: {len(ECHOED)}\r\n", ECHOED
    ),
    "Flask, JSON": Row("/flask", b"}\n"),
    "file_wrapper, 1 kB": Row("/file", b"world!"),
    "hello, fields of a browser": OtherTargets("/hello", b"world!", fields=BROWSER),
    "WebSocket, 64 bytes echoed": Row("/websocket", b""),
}


class Client:
    """One connection to the server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        # Whole answers fit, so that the server never waits.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(("127.0.0.1", port))

    def ask(self, request: bytes, end: bytes) -> bytes:
        """Send a request and read its answer, which ends with `end`."""
        self.socket.sendall(request)
        answer = bytearray()
        while not answer.endswith(end):
            received = self.socket.recv(1 << 20)
            if not received:
                message = f"the server closed the connection after {bytes(answer[-300:])!r}"
                raise ConnectionError(message)
            answer += received
        return bytes(answer)

    def repeat(self, row: Row) -> Callable[[int], None]:
        """A function that does what the row counts, some number of times."""
        if row.path == "/websocket":
            return self.echo(row)
        sent = 0

        def repeat(times: int) -> None:
            nonlocal sent
            for _ in range(times):
                answer = self.ask(row.request(sent), row.end)
                sent += 1
                if not answer.startswith(b"HTTP/1.1 200 OK\r\n"):
                    message = f"{row.path} was answered with {answer[:300]!r}"
                    raise ValueError(message)

        return repeat

    def echo(self, row: Row) -> Callable[[int], None]:
        key = b64encode(b"0123456789abcdef").decode()
        upgrade = (
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        )
        message = b"x" * 64
        # The mask of zeros leaves the message as it is.
        frame, echoed = b"\x81\xc0\0\0\0\0" + message, b"\x81\x40" + message
        is_open = False

        def repeat(times: int) -> None:
            nonlocal is_open
            if not is_open:
                self.socket.sendall(f"GET {row.path} HTTP/1.1\r\n{row.fields}{upgrade}\r\n".encode())
                is_open = True
                self.ask(frame, echoed)
            for _ in range(times):
                if self.ask(frame, echoed) != echoed:
                    message = "the server sent something else than the message"
                    raise ValueError(message)

        return repeat


METRICS = ("--admin-bind", "127.0.0.1:0")
FEATURES: dict[str, tuple[str, ...]] = {
    "block_warning=0": ("--block-warning", "0"),
    "defaults": (),
    "request_timeout": ("--request-timeout", "30"),
    "metrics": METRICS,
    "metrics, request_timeout": (*METRICS, "--request-timeout", "30"),
    "slow_request": ("--slow-request", "30"),
    "request_id": ("--request-id", "on"),
}
"""Options of the server whose cost `--features` counts."""


@contextmanager
def server(directory: Path, options: Sequence[str]) -> Iterator[int]:
    """The server with these further options under callgrind, until the block ends. Yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        "valgrind", "--tool=callgrind", f"--callgrind-out-file={directory}/out", f"--dump-before={MARK}",
        sys.executable, "-m", "rmeinheld", "--bind", f"127.0.0.1:{port}", "--keep-alive", "3600", "--turn-budget", "0",
        *options, "instructions_apps:app",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    environment["PYTHONPATH"] = os.pathsep.join([*os.environ.get("PYTHONPATH", "").split(os.pathsep), str(HERE)])
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=directory, stdout=log, stderr=log)
    try:
        wait_for(port, process, directory / "log")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server listens."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    sys.exit(f"the server did not start under valgrind:\n{log.read_text(errors='replace')[-3000:]}")


class Counter:
    """Counts the instructions between two marks."""

    def __init__(self, port: int, directory: Path) -> None:
        self.client = Client(port)
        self.directory = directory
        self.marks = 0
        for _ in range(20):
            self.mark()
        self.empty = 0
        self.empty = self.count(lambda: None)

    def mark(self) -> int:
        """Instructions since the mark before."""
        self.client.ask(b"GET /mark HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"marked")
        self.marks += 1
        return instructions_of(self.directory / f"out.{self.marks}")

    def count(self, action: Callable[[], None]) -> int:
        """Instructions of `action`, without those of a mark."""
        self.mark()
        action()
        return self.mark() - self.empty


def instructions_of(dump: Path) -> int:
    """The sum in a file of callgrind's."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if dump.exists() and (found := re.search(r"^(?:summary|totals): (\d+)", dump.read_text(), re.MULTILINE)):
            return int(found[1])
        time.sleep(0.01)
    message = f"callgrind wrote no {dump}"
    raise TimeoutError(message)


def measure(names: list[str], options: Sequence[str], profile: Path | None = None) -> dict[str, int]:
    """Instructions for one request of each row, by a server with these further options."""
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        figures = {}
        with server(directory, options) as port:
            counter = Counter(port, directory)
            for name in names:
                repeat = Client(port).repeat(ROWS[name])
                repeat(WARM_UP)
                figures[name] = round(counter.count(lambda: repeat(REQUESTS)) / REQUESTS)  # noqa: B023
                print(f"{name:28} {figures[name]:9,}", flush=True)
                if profile:
                    shutil.copy(directory / f"out.{counter.marks}", f"{profile}.{list(ROWS).index(name)}")
        return figures


def combination() -> dict[str, str]:
    """Everything that the figures depend on, beyond the code."""
    return {
        "python": f"{platform.python_version()} ({platform.python_compiler()})",
        "libc": " ".join(platform.libc_ver()),
        "flask": f"{version('flask')}, werkzeug {version('werkzeug')}",
        "machine": platform.machine() + (" with AVX2" if " avx2 " in Path("/proc/cpuinfo").read_text() else ""),
        "rust": rust(),
        "valgrind": subprocess.run(
            ["valgrind", "--version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
    }


def rust() -> str:
    """The compiler of the extension module, which says so itself."""
    specification = find_spec("rmeinheld._rmeinheld")
    if specification is None or specification.origin is None:
        sys.exit("rmeinheld has no extension module for this interpreter: use `make gauge`")
    found = re.search(rb"rustc version ([\w.-]+)", Path(specification.origin).read_bytes())
    return found[1].decode() if found else "unknown"


def compare(figures: dict[str, int], expected: dict[str, int]) -> list[str]:
    """Complaints about figures that differ from the expected ones."""
    complaints = []
    for name, figure in figures.items():
        before = expected.get(name)
        if before is None:
            complaints.append(f"{name}: no figure in the file")
        elif abs(figure / before - 1) > (allowed := ROWS[name].tolerance):
            change = f"{figure / before - 1:+.1%}, where {allowed:.0%} is allowed"
            complaints.append(f"{name}: {figure:,} instructions instead of {before:,} ({change})")
    return complaints


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", help="the rows to count, each by the beginning of its name, with commas")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} instead of comparing")
    parser.add_argument("--profile", type=Path, help="keep callgrind's file of each row under this name")
    parser.add_argument("--server", default="", help="further options of the server, to plant a regression")
    parser.add_argument("--features", action="store_true", help="count hello world with each of some options")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("nothing is counted: valgrind is not installed (Debian: apt-get install valgrind)")
        return 0
    if arguments.features:
        for name, options in FEATURES.items():
            print(name)
            measure(["hello"], options)
        return 0
    chosen = arguments.only.split(",") if arguments.only else [""]
    names = [name for name in ROWS if name.startswith(tuple(chosen))]
    here = combination()
    recorded: dict[str, Any] = {"combination": here, "instructions": {}}
    if RESULTS.exists():
        recorded = json.loads(RESULTS.read_text())
    if not arguments.write and not arguments.profile and recorded["combination"] != here:
        other = [f"{key} {recorded['combination'].get(key)} there, {here[key]} here" for key in here]
        differing = [
            line for line, key in zip(other, here, strict=True) if recorded["combination"].get(key) != here[key]
        ]
        print(f"nothing is compared, since {RESULTS.name} is of another combination: {'; '.join(differing)}")
        return 0
    figures = measure(names, arguments.server.split(), arguments.profile)
    if arguments.write:
        kept = recorded["instructions"] if recorded["combination"] == here else {}
        rows = {name: {**kept, **figures}[name] for name in ROWS if name in {**kept, **figures}}
        RESULTS.write_text(json.dumps({**recorded, "combination": here, "instructions": rows}, indent=2) + "\n")
        return 0
    if arguments.profile:
        return 0
    complaints = compare(figures, recorded["instructions"])
    for complaint in complaints:
        print(f"FAILED {complaint}")
    if complaints:
        print("To write a change that is meant: make gauge BENCH=--write")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
