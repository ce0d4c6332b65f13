"""Services with several workers, ours and others': how each is started, its processes, and its end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from load import LoadError
from measure import process_tree
from toolchain import BENCHES, peers_python

WORKERS = 2
START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.001
GRACE_SECONDS = 8

KEEP_ALIVE_SECONDS = 5

GRACE, KEEP_ALIVE, REQUESTS = "{grace}", "{keep_alive}", "{requests}"
"""Words of commands that stand for `graceful_timeout`, `keep_alive` and `max_requests`."""

RECYCLE_MIB = 90
RECYCLE_SECONDS = 2

# --- contenders ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """A server: its command for a socket, and what it can do."""

    name: str
    command: Callable[[str, int, list[str]], list[str]]
    """Arguments: the address, the number of workers, further options."""

    recycles: dict[str, list[str]]
    """The options of each kind of recycling."""
    phases: tuple[str, ...]
    has_websockets: bool = False
    reads_chunks: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    most_recycles: int | None = None
    """Recycles at most, where each takes a minute."""


def _ours(bind: str, workers: int, options: list[str]) -> list[str]:
    command = [sys.executable, "-m", "rmeinheld", "--workers", str(workers), "--bind", bind, "--chdir", str(BENCHES)]
    return [*command, "--graceful-timeout", GRACE, "--keep-alive", KEEP_ALIVE, *options, "service_app:app"]


def _gunicorn(python: str, worker: str) -> Callable[[str, int, list[str]], list[str]]:
    def command(bind: str, workers: int, options: list[str]) -> list[str]:
        given = ["--workers", str(workers), "--worker-class", worker, "--threads", "200", "--bind", bind]
        given += ["--graceful-timeout", GRACE, "--no-control-socket", "--keep-alive", KEEP_ALIVE]
        return [python, "-m", "gunicorn", *given, "--chdir", str(BENCHES), *options, "service_app:app"]

    return command


def _granian(bind: str, workers: int, options: list[str]) -> list[str]:
    host, _, port = bind.rpartition(":")
    given = ["--interface", "wsgi", "--host", host, "--port", port, "--workers", str(workers), "--log-level", "warning"]
    given += ["--blocking-threads", "200", "--workers-kill-timeout", GRACE, "--respawn-failed-workers"]
    return [str(peers_python()), "-m", "granian", *given, *options, "service_app:app"]


def _uwsgi(bind: str, workers: int, options: list[str]) -> list[str]:
    given = ["--http11-socket", bind, "--master", "--processes", str(workers), "--threads", "100", "--lazy-apps"]
    given += ["--die-on-term", "--disable-logging", "--listen", "1024", "--worker-reload-mercy", GRACE]
    return [str(peers_python().with_name("uwsgi")), *given, *options, "--wsgi", "service_app:app"]


BY_REQUESTS = {"requests": ["--max-requests", REQUESTS, "--max-requests-jitter", "20"]}
ALL_PHASES = ("recycles", "reloads", "upgrades", "rollbacks", "scalings", "kills", "combined", "restarts")
GUNICORNS = ("recycles", "reloads", "upgrades", "rollbacks", "scalings", "kills")

CONTENDERS = (
    Contender(
        "rmeinheld",
        _ours,
        BY_REQUESTS
        | {
            "memory": ["--max-worker-memory", str(RECYCLE_MIB), "--max-worker-memory-jitter", "20"],
            "lifetime": ["--max-worker-lifetime", str(RECYCLE_SECONDS), "--max-worker-lifetime-jitter", "1"],
        },
        ALL_PHASES,
        has_websockets=True,
    ),
    Contender(
        "gunicorn -k rmeinheld",
        _gunicorn(sys.executable, "rmeinheld.gunicorn_worker.Worker"),
        BY_REQUESTS,
        GUNICORNS,
        has_websockets=True,
        environment={"RMEINHELD_PATCH": "1"},
    ),
    Contender("gthread", _gunicorn(sys.executable, "gthread"), BY_REQUESTS, GUNICORNS),
    # The shortest lifetime that it permits.
    Contender(
        "granian",
        _granian,
        {"lifetime": ["--workers-lifetime", "60"]},
        ("recycles", "reloads", "kills"),
        most_recycles=20,
    ),
    Contender(
        "uwsgi",
        _uwsgi,
        {"requests": ["--max-requests", REQUESTS, "--max-requests-delta", "20"]},
        ("recycles", "reloads", "kills"),
        reads_chunks=False,
    ),
)


# --- a service -------------------------------------------------------------------------------------------------------


def _fields(path: Path) -> list[str]:
    return path.read_text().rpartition(")")[2].split()


def children(pid: int) -> set[int]:
    """The living children of a process."""
    found = set()
    for child in process_tree(pid)[1:]:
        try:
            state, parent = _fields(Path(f"/proc/{child}/stat"))[:2]
        except (OSError, ValueError):
            continue
        if int(parent) == pid and state != "Z":
            found.add(child)
    return found


def _environment_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """Does this process run?"""
    try:
        return _fields(Path(f"/proc/{pid}/stat"))[0] != "Z"
    except OSError:
        return False


def is_stopped(pid: int) -> bool:
    """Are all threads of this process stopped?"""
    return all(_fields(thread / "stat")[0] == "T" for thread in Path(f"/proc/{pid}/task").iterdir())


def peers_of(pid: int) -> set[str]:
    """The addresses of the clients of a process that is stopped, so that nothing changes meanwhile."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        link = os.readlink(descriptor)
        if link.startswith("socket:["):
            inodes.add(link[8:-1])
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[9] in inodes:
            address, peer_port = words[2].split(":")
            host = socket.inet_ntoa(bytes.fromhex(address)[::-1])
            found.add(f"{host}:{int(peer_port, 16)}")
    return found


class Service:
    """A master and its workers, started by this script."""

    def __init__(
        self,
        contender: Contender,
        log: Path,
        options: Sequence[str] = (),
        *,
        workers: int = WORKERS,
        environment: Mapping[str, str] | None = None,
        bind: socket.socket | None = None,
        grace: int = GRACE_SECONDS,
        keep_alive: int = KEEP_ALIVE_SECONDS,
    ) -> None:
        """Start the command. With `bind` the service takes over that socket by its descriptor."""
        if bind is None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port: int = probe.getsockname()[1]
            address = f"127.0.0.1:{self.port}"
        else:
            self.port, address = bind.getsockname()[1], f"fd://{bind.fileno()}"
        self.contender, self._log = contender, log
        self._begun = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    word.replace(GRACE, str(grace)).replace(KEEP_ALIVE, str(keep_alive))
                    for word in contender.command(address, workers, list(options))
                ],
                cwd=BENCHES,
                env={**os.environ, **contender.environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=() if bind is None else (bind.fileno(),),
            )
        self.master = self._process.pid
        self._masters = [self.master]

    def __enter__(self) -> Self:
        """Wait for the start. The block ends with `stop`, or without ceremony after a failure."""
        try:
            self.wait_for_start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None:
                self.stop()
        finally:
            self.kill()

    def wait_for_start(self) -> float:
        """Wait until the service answers, and return the seconds since its command was started.

        LoadError with the end of its log if it ends instead.
        """
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > self._begun + START_SECONDS:
                raise LoadError(f"{self.contender.name} did not start: {self._log.read_text()[-600:]}")
            time.sleep(POLL_SECONDS)
        return time.monotonic() - self._begun

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as connection:
                connection.sendall(b"GET /short?number=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                return connection.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def workers(self) -> set[int]:
        """The children of the master that are workers of it, and no master of their own."""
        successor = f"GUNICORN_PID={self.master}"
        return {pid for pid in children(self.master) if successor not in _environment_of(pid)}

    def successor(self) -> int | None:
        """The master that an upgrade has made."""
        successor = f"GUNICORN_PID={self.master}"
        found = [pid for pid in children(self.master) if successor in _environment_of(pid)]
        # Its workers have the same environment.
        return min(found) if found else None

    def follow(self, master: int) -> None:
        """From now on this is the master."""
        self.master = master
        self._masters.append(master)

    def signal(self, number: int) -> None:
        """Send the master a signal."""
        os.kill(self.master, number)

    def stop(self) -> None:
        """SIGTERM to the master; LoadError if it does not end in time, or one of its workers goes on."""
        pids = process_tree(self.master)
        self.signal(signal.SIGTERM)
        self.wait_for_end(pids)

    def wait_for_end(self, pids: list[int]) -> None:
        """Wait until these processes have ended."""
        deadline = time.monotonic() + STOP_SECONDS
        while left := [pid for pid in pids if is_alive(pid)]:
            if time.monotonic() > deadline:
                raise LoadError(f"{left} did not end within {STOP_SECONDS:.0f} s of SIGTERM")
            self._process.poll()
            time.sleep(0.02)
        self._process.wait()

    def kill(self) -> None:
        """End without ceremony what is left, each by its id."""
        for master in self._masters:
            for pid in reversed(process_tree(master)) if is_alive(master) else []:
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait()
