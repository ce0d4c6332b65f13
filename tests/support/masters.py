"""Masters of Gunicorn as subprocesses, and clients that ask one again and again and check every answer."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gunicorn.config import make_settings

from load_app import text_of
from serving import TIMEOUT, Connection, Process, environment_of_child, request

LISTENING = r"Listening at: https?://127\.0\.0\.1:(\d+)\S* \((\d+)\)"


def wait_until(what: Callable[[], bool], said: Callable[[], str]) -> None:
    """Wait (bounded) until the condition holds. AssertionError with the text of `said` otherwise."""
    deadline = time.monotonic() + TIMEOUT
    while not what():
        assert time.monotonic() < deadline, said()
        time.sleep(0.01)


def is_stopped(pid: int) -> bool:
    """Have all threads of the process been stopped by a signal?"""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


class Gunicorn(Process):
    """A master of Gunicorn and its workers."""

    def __init__(
        self, directory: Path, options: tuple[str, ...], app: str = "gunicorn_app:app", *, new_session: bool = False
    ) -> None:
        command = [*(["setsid"] if new_session else []), *self.command(options, app)]
        super().__init__(command, directory, environment_of_child(directory))
        self.directory = directory.resolve()
        self.port = 0

    @staticmethod
    def command(options: tuple[str, ...], app: str) -> list[str]:
        """Return the command with the options that all tests share."""
        command = [sys.executable, "-m", "gunicorn", "--worker-class", "rmeinheld.gunicorn_worker.Worker"]
        # Gunicorn has a control socket since 25.
        quiet = ["--no-control-socket"] if "control_socket_disable" in make_settings() else []
        # A worker that is still booting when the master stops misses the signal: until then the handlers are the
        # master's. This limits how long the master waits for it.
        return [*command, "--bind", "127.0.0.1:0", *quiet, "--graceful-timeout", "8", *options, app]

    def await_start(self) -> None:
        """Wait until a worker answers."""
        self.await_socket()
        self.get("/")

    def await_socket(self) -> None:
        """Wait until the socket is open."""
        self.port = int(self.wait_for_log(LISTENING)[1])

    def connect(self, receive_buffer: int | None = None) -> Connection:
        return Connection(("127.0.0.1", self.port), receive_buffer=receive_buffer)

    def get(self, target: str, *fields: str) -> dict[str, Any]:
        with self.connect() as connection:
            response = connection.request(request("GET", target, "Connection: close", *fields))
            assert response.status == 200, response
            seen: dict[str, Any] = json.loads(response.body)
            return seen

    def status(self, data: bytes) -> int:
        with self.connect() as connection:
            return connection.request(data).status

    def masters(self) -> list[int]:
        """Ids of all masters so far: SIGUSR2 makes another, and `--daemon` one that is no child of ours."""
        return [int(found[2]) for found in re.finditer(LISTENING, self.log())]

    def end(self) -> None:
        """Have the master that came last end in order."""
        if not (running := [pid for pid in self.masters() if self.has(pid)]):
            assert self.wait() == 0
            return
        os.kill(running[-1], signal.SIGTERM)
        wait_until(lambda: self.popen.poll() is not None and not self.has(running[-1]), self.log)
        assert self.wait() == 0

    def has(self, pid: int) -> bool:
        """Does this process, one of ours by its directory, still run?"""
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return False
            return Path(f"/proc/{pid}/cwd").resolve() == self.directory
        except OSError:
            return False

    def kill(self) -> None:
        """End all masters without ceremony; their workers notice it."""
        for pid in self.masters():
            if self.has(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        super().kill()


class Service(Gunicorn):
    """A master of `rmeinheld --workers` and its workers."""

    @staticmethod
    def command(options: tuple[str, ...], app: str) -> list[str]:
        patience = [] if "--graceful-timeout" in options else ["--graceful-timeout", "8"]
        return [sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", *patience, *options, app]

    def await_ready(self, times: int = 1) -> None:
        """Wait until a master has said this number of times that all of its workers are ready."""
        wait_until(lambda: len(re.findall("Workers ready: ", self.log())) >= times, self.log)

    def workers(self) -> list[int]:
        """Ids of all worker processes so far."""
        return [int(found) for found in re.findall(r"Booting worker with pid: (\d+)", self.log())]

    def running(self) -> list[int]:
        """Ids of the worker processes that run."""
        return [pid for pid in self.workers() if self.has(pid)]


class Masters[Kind: Gunicorn]:
    """Starts masters, and checks when it stops them that each ends in order. The `start` fixtures return one."""

    def __init__(self, directory: Path, kind: Callable[[Path, tuple[str, ...], str], Kind]) -> None:
        self._directory, self._kind = directory, kind
        self._started: list[Kind] = []

    def __call__(self, *options: str, conf: str = "", app: str = "gunicorn_app:app") -> Kind:
        """A running master whose gunicorn.conf.py is `conf`, and of which a worker answers."""
        (self._directory / "gunicorn.conf.py").write_text(conf)
        self._started.append(self._kind(self._directory, options, app))
        self._started[-1].await_start()
        return self._started[-1]

    def forget(self) -> None:
        """Expect no order at the end of the masters so far, which have ended."""
        for master in self._started:
            master.kill()
            print(master.log())
        self._started.clear()

    def stop(self) -> None:
        """Stop what still runs; AssertionError if a master does not end in order."""
        faults = []
        for master in self._started:
            try:
                master.end()
            except AssertionError as fault:
                faults.append(str(fault))
            finally:
                master.kill()
                print(master.log())
        assert not faults, "\n".join(faults)


@dataclass(frozen=True)
class Break:
    """A request without its whole answer. `pid` is the worker that the connection had, if it is known."""

    pid: int | None
    what: str


class Client:
    """Asks again and again in a thread, for the texts of load_app, and checks every byte."""

    def __init__(self, server: Gunicorn, keep_alive: bool, over: threading.Event) -> None:
        self.answers = 0
        self.pids: list[int] = []
        """Of the answers' workers, in order; not twice one after the other."""
        self.resent = 0
        """Requests sent again since the connection had ended, idle, before (RFC 9112 9.3.1)."""
        self.breaks: list[Break] = []
        self._server, self._keep_alive, self._over = server, keep_alive, over
        self._numbers = itertools.count()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        number = next(self._numbers)
        while not self._over.is_set():
            pid: int | None = None
            try:
                with self._server.connect() as connection:
                    for pid in self._answers(connection, number):
                        number = next(self._numbers)
                        self.answers += 1
                        if self.pids[-1:] != [pid]:
                            self.pids.append(pid)
            except (OSError, AssertionError) as fault:
                self.breaks.append(Break(pid, repr(fault)))

    def _answers(self, connection: Connection, number: int) -> Iterator[int]:
        """Ask for texts from `number` on while the connection lasts; the worker's id for each."""
        is_kept, is_used = True, False
        while is_kept and not self._over.is_set():
            data = request("GET", f"/{number}", *([] if self._keep_alive else ["Connection: close"]))
            if is_used and not self._sent(connection, data):
                self.resent += 1
                return
            response = connection.read_response() if is_used else connection.request(data)
            pid, _, text = response.body.partition(b"\n")
            assert (response.status, text) == (200, text_of(number)), (response.status, number, response.body[:100])
            is_used, is_kept, number = True, not response.ends_connection, number + 1
            yield int(pid)
        if not is_kept:
            connection.expect_end()

    @staticmethod
    def _sent(connection: Connection, data: bytes) -> bool:
        """Send a request; false if the connection has ended before the first byte of an answer."""
        try:
            connection.send(data)
            return connection.receive()
        except OSError:
            return False


class Load:
    """Clients at work, half with one connection for each request."""

    def __init__(self, server: Gunicorn, clients: int = 8) -> None:
        self._server = server
        self._over = threading.Event()
        self.clients = [Client(server, index % 2 == 0, self._over) for index in range(clients)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for client in self.clients:
            client.thread.join()
        print(self)

    def __str__(self) -> str:
        return (
            f"{self.answers} answers of {len(self.pids)} workers; {self.resent} idle connections ended, "
            f"and the request was sent again; {len(self.breaks)} connections broke"
        )

    @property
    def answers(self) -> int:
        return sum(client.answers for client in self.clients)

    @property
    def pids(self) -> set[int]:
        """All workers that have answered."""
        return {pid for client in self.clients for pid in list(client.pids)}

    @property
    def resent(self) -> int:
        return sum(client.resent for client in self.clients)

    @property
    def breaks(self) -> list[Break]:
        return [each for client in self.clients for each in list(client.breaks)]

    def wait_for(self, what: Callable[[], bool]) -> None:
        wait_until(what, lambda: f"{self}: {self.breaks}\n{self._server.log()}")

    def wait_for_answers(self, number: int = 50) -> None:
        """Wait until this number of further requests is answered."""
        until = self.answers + number
        self.wait_for(lambda: self.answers >= until)

    def wait_for_workers(self, number: int, seen: set[int]) -> set[int]:
        """Wait until this number of workers, apart from those in `seen`, has answered. Returns their ids."""
        self.wait_for(lambda: len(self.pids - seen) >= number)
        return self.pids - seen
