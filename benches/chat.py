"""The chat at scale: many WebSockets that say nothing, and many members that join one room.

`python benches/chat.py`, or with other numbers: see --help. Two workers hold the WebSockets, first of an echo, then of
the chat in rooms of 50. The clients connect from several addresses of loopback, since one has some 28,000 ports. Each
is pinged. The joins are those of the members of one room, one worker. Writes results/chat.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load import LoadError
from machine import facts
from measure import cpu_seconds, memory
from servers import get
from services import children
from toolchain import BENCHES, MissingTool, compile_program, versions

ROOT = BENCHES.parent
SPARE_FILES = 1100
"""Descriptors of a process that are no WebSockets. The server keeps 1,000 for the application."""

PORTS_OF_AN_ADDRESS = 10_000
"""The kernel looks for a free port among the odd or the even ones first. When half are taken, it looks for long."""

START_SECONDS = 30.0
STOP_SECONDS = 30.0
BACKLOG = 4096


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50_000, help="WebSockets that say nothing (default 50,000)")
    parser.add_argument("--joins", type=int, default=1000, help="members of the one room (default 1,000)")
    parser.add_argument("--workers", type=int, default=2, help="more, if a process may not open as many files")
    parser.add_argument("--ping-interval", type=float, default=20, help="of websocket_ping_interval (default 20 s)")
    parser.add_argument("--seconds", type=float, default=300, help="the longest time of each measurement")
    parser.add_argument("--only", default="joins,echo,chat", help="some of joins,echo,chat")
    parser.add_argument("--output", type=Path, default=BENCHES / "results" / "chat.json", help="not with --quick")
    parser.add_argument("--quick", action="store_true", help="prove that it runs: few clients, pinged each second")
    return parser.parse_args()


# --- the service -----------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """A running service."""

    process: subprocess.Popen[bytes]
    port: int

    def cpu(self) -> float:
        """CPU seconds of the master and its workers."""
        return cpu_seconds(self.process.pid)

    def resident_kib(self) -> int:
        """Memory of all processes; what they share counts once."""
        return memory(self.process.pid).proportional


def open_files() -> int:
    """Raise the limit of open files, which children inherit, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        # Only a privileged process can raise the hard limit.
        resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20))
        return 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


@contextlib.contextmanager
def service(app: str, directory: Path, workers: int, options: list[str]) -> Iterator[Service]:
    """Run a service until the block ends."""
    command = [sys.executable, "-m", "rmeinheld", "--workers", str(workers), "--bind", "127.0.0.1:0"]
    command += ["--backlog", str(BACKLOG), "--worker-connections", "60000", "--graceful-timeout", "5"]
    process = subprocess.Popen(
        [*command, *options, "--chdir", str(directory), app],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(BENCHES), os.environ.get("PYTHONPATH", "")])},
    )
    try:
        running = Service(process, _port(process))
        deadline = time.monotonic() + START_SECONDS
        while workers > 1 and len(children(process.pid)) < workers:
            if time.monotonic() > deadline:
                raise LoadError(f"not {workers} workers after {START_SECONDS:.0f} s")
            time.sleep(0.05)
        get(running.port, "/")
        time.sleep(0.5)
        yield running
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes]) -> int:
    """Read the log until it has the port. The rest of the log is few lines, for which the pipe has room."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line.decode(errors="replace"))
        _, _, rest = said[-1].partition("http://127.0.0.1:")
        if rest:
            return int(rest.split()[0].rstrip("/"))
    raise LoadError(f"the service has not started: {''.join(said[-5:])}")


# --- the clients -----------------------------------------------------------------------------------------------------


class Clients:
    """Processes with WebSockets, each from an address of its own."""

    def __init__(self, program: Path, service: Service, count: int, most: int, path: str, seconds: float) -> None:
        shares = -(-count // min(most, PORTS_OF_AN_ADDRESS))
        counts = [count // shares + (number < count % shares) for number in range(shares)]
        self.processes = [
            subprocess.Popen(
                [str(program), str(service.port), str(share), str(2 + number), path, str(seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, share in enumerate(counts)
        ]

    def read(self) -> dict[str, float]:
        """Return the sums of the next reports."""
        total: dict[str, float] = {}
        for process in self.processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise LoadError("a client has given up")
            for key, value in json.loads(line).items():
                total[key] = max(total.get(key, 0), value) if key == "seconds" else total.get(key, 0) + value
        return total

    def ask(self) -> dict[str, float]:
        """Return the sums of now."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        return self.read()

    def end(self) -> None:
        """Close all connections."""
        for process in self.processes:
            process.kill()
            process.wait()


# --- measurements ----------------------------------------------------------------------------------------------------


def joins(program: Path, options: argparse.Namespace, most: int) -> dict[str, float]:
    """CPU of the members of one room that join as fast as the server lets them."""
    with service("app:app", ROOT / "examples" / "chat", 1, []) as running:
        before = running.cpu()
        clients = Clients(program, running, options.joins, most, "/socket?room=lobby&name=n#", options.seconds)
        try:
            result = clients.read()
            used = running.cpu() - before
        finally:
            clients.end()
    if result["open"] != options.joins:
        raise LoadError(f"not all have joined: {result}")
    return {
        "joins": options.joins,
        "cpu_seconds": round(used, 2),
        "seconds": result["seconds"],
        "frames": result["frames"],
        "mib": round(result["bytes"] / 2**20, 1),
    }


def idle(program: Path, options: argparse.Namespace, most: int, app: str, directory: Path, path: str) -> dict[str, Any]:
    """Connect, hold and ping WebSockets that say nothing."""
    workers = max(options.workers, -(-options.clients // most))
    given = ["--websocket-ping-interval", str(options.ping_interval)]
    with service(app, directory, workers, given) as running:
        memory_before, cpu_before, kernel_before = running.resident_kib(), running.cpu(), kernel_mib()
        clients = Clients(program, running, options.clients, most, path, options.seconds)
        try:
            connected = clients.read()
            cpu_connected = running.cpu()
            # One whole round of pings, and its answers.
            time.sleep(options.ping_interval)
            start, cpu_start = clients.ask(), running.cpu()
            time.sleep(options.ping_interval)
            end, cpu_end = clients.ask(), running.cpu()
            resident, kernel = running.resident_kib(), kernel_mib()
            of_workers = [memory(child).resident for child in sorted(children(running.process.pid))]
        finally:
            clients.end()
    if end["open"] != options.clients:
        raise LoadError(f"not all are open: {end}")
    pings = end["pings"] - start["pings"]
    return {
        "clients": options.clients,
        "workers": workers,
        "connected_seconds": connected["seconds"],
        "cpu_us_of_a_handshake": round((cpu_connected - cpu_before) / options.clients * 1e6),
        "kib_a_client": round((resident - memory_before) / options.clients, 1),
        "mib_in_all": round(resident / 1024),
        "mib_of_each_worker": [round(one / 1024) for one in of_workers],
        "kernel_mib": kernel - kernel_before,
        "pings": pings,
        "cpu_us_of_a_ping": round((cpu_end - cpu_start) / max(pings, 1) * 1e6, 1),
        "cpu_share_while_idle": round((cpu_end - cpu_start) / options.ping_interval, 3),
        "lost": end["lost"],
    }


def kernel_mib() -> int:
    """Memory of the kernel's own structures, those of sockets among them, for server and clients together."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return (fields["Slab"] + fields["PageTables"]) // 1024


def main() -> int:
    """Measure and print; 1 if something could not be measured."""
    options = arguments()
    if options.quick:
        options.clients, options.joins, options.ping_interval, options.seconds = 300, 50, 1, 60
    most = open_files() - SPARE_FILES
    try:
        program = compile_program("chat_client")
    except MissingTool as error:
        sys.exit(str(error))
    answer: dict[str, Any] = {"command": sys.argv, "machine": facts(), "open_files": most + SPARE_FILES}
    chat = ROOT / "examples" / "chat"
    for what in options.only.split(","):
        try:
            if what == "joins":
                answer[what] = joins(program, options, most)
            elif what == "echo":
                answer[what] = idle(program, options, most, "websocket_apps:app", BENCHES, "/echo")
            else:
                answer[what] = idle(program, options, most, "app:app", chat, "/socket?room=r@&name=n#")
        except LoadError as error:
            sys.exit(f"{what}: {error}")
        print(f"  {what:6} {json.dumps(answer[what])}", file=sys.stderr, flush=True)
    answer["versions"] = versions()
    if not options.quick:
        options.output.write_text(json.dumps(answer, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
