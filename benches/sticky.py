"""Flask-SocketIO in four workers with `--sticky socketio`: does each client get every event while workers are replaced?

    python benches/sticky.py            200 clients, 8 recycles and a reload
    python benches/sticky.py --quick    24 clients, a recycle and a reload

A third of the clients uses long polling, a third upgrades to WebSocket, and a third begins with WebSocket. Each client
counts in sessions of its own, and in a room whose members are in all workers (`rmeinheld.socketio.CrewManager`). In
each session:

- the worker knows the number before, acknowledges each number, and sends it back: once, and in order;
- each member of the room hears the numbers of each other session once and in order. It hears them from 1, if it was
  there before, and up to the last acknowledged one, if it stays to the end.

A session may end only because its worker has. Its client then connects anew, which is counted. The exit status is 1 if
anything else happens.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services import children, is_alive
from toolchain import BENCHES

# Instead of this directory, whose websocket.py is not the module of the clients.
sys.path[0] = str(BENCHES.parent / "tests" / "support")

from counting_clients import TRANSPORTS, CountingClient, Session  # noqa: E402

PATIENCE_SECONDS = 120.0

MEMBERS = 5
"""Clients in each room. With three transports and five members, each room has all transports."""


class Speaker:
    """The numbers of one session, as a member has heard them."""

    def __init__(self, first: int) -> None:
        self.first = self.last = first


class Member(Session):
    """A session in a room, and the numbers that it hears there."""

    def __init__(self, room: str) -> None:
        super().__init__()
        self.room, self.sid = room, ""
        self.joined_at = 0.0
        """The time at which it is in the room, before its first number."""
        self.speakers: dict[str, Speaker] = {}
        self.faults: list[str] = []
        self.deliveries = 0

    def hear(self, sid: str, number: int) -> None:
        """Note a number of a session in the room."""
        self.deliveries += 1
        speaker = self.speakers.get(sid)
        if speaker is None:
            self.speakers[sid] = Speaker(number)
            return
        if number != speaker.last + 1:
            self.faults.append(f"{self.sid} hears {number} of {sid} after {speaker.last}")
        speaker.last = number


class RoomClient(CountingClient):
    """A client that counts in a room."""

    def __init__(self, url: str, transports: list[str], pause: float, room: str) -> None:
        super().__init__(url, transports, pause)
        self.room, self.members = room, list[Member]()
        self.released = threading.Event()
        self.is_lingering = False

    def new_session(self) -> Session:
        member = Member(self.room)
        member.client.on("told", member.hear)
        return member

    def connected(self, session: Session) -> None:
        assert isinstance(session, Member)
        session.sid = session.call("join", self.room) or ""
        if session.sid:
            session.joined_at = time.monotonic()
            self.members.append(session)

    def counting(self, number: int) -> tuple[Any, ...]:
        return number, self.room

    def linger(self, session: Session) -> None:
        self.is_lingering = True
        self.released.wait()


class Run:
    """A service, and its clients."""

    def __init__(self, log: Path, wanted: argparse.Namespace) -> None:
        self.log = log
        command = [sys.executable, "-m", "rmeinheld", "--workers", str(wanted.workers), "--bind", "127.0.0.1:0"]
        command += ["--max-requests", str(wanted.max_requests), "--max-requests-jitter", str(wanted.max_requests // 2)]
        command += ["--sticky", "socketio"]
        # On a busy machine the end of an interpreter alone takes seconds, and a killed worker loses requests.
        command += ["--graceful-timeout", "10"]
        # A request that crosses the end of an idle connection is lost, and with it the session of the client in Python.
        command += ["--keep-alive", "75"]
        self._workers_wanted = wanted.workers
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "sticky_app:app"], cwd=BENCHES, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.clients: list[RoomClient] = []

    def start(self, clients: int, pause: float) -> None:
        """Wait for the service, and start the clients."""
        self.wait_until(lambda: "Workers ready" in self.log.read_text(), "the service does not start")
        url = self._url()
        rooms = max(1, clients // MEMBERS)
        for number in range(clients):
            client = RoomClient(url, TRANSPORTS[number % 3], pause, str(number % rooms))
            self.clients.append(client)
            client.start()

    def _url(self) -> str:
        text = self.log.read_text()
        begin = text.index("http://127.0.0.1:")
        return text[begin:].split()[0]

    def workers(self) -> set[int]:
        """Return the ids of the running workers."""
        return {pid for pid in children(self.process.pid) if is_alive(pid)}

    def wait_until(self, condition: Callable[[], bool], reason: str) -> None:
        """Wait, and raise TimeoutError with the reason after two minutes."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise TimeoutError(reason)
            time.sleep(0.02)

    def let_count(self, numbers: int) -> None:
        """Wait until each client has counted on, by `numbers`."""
        goals = [(client, client.acknowledged + numbers) for client in self.clients]
        self.wait_until(lambda: all(client.acknowledged >= goal for client, goal in goals), "a client does not count")

    def replace(self, number: int, pid: int, leaving: set[int]) -> None:
        """Send a signal to a worker or the master, and wait until the workers `leaving` have been replaced."""
        os.kill(pid, number)
        self.wait_until(
            lambda: not leaving & self.workers() and len(self.workers()) >= self._workers_wanted,
            "no worker replaces another",
        )

    def settle(self) -> list[str]:
        """Have the clients stop, wait until each room has heard everything, and return what is wrong."""
        for client in self.clients:
            client.stop()
        self.wait_until(lambda: all(client.is_lingering for client in self.clients), "a client does not stop")
        present = [client.members[-1] for client in self.clients]
        deadline = time.monotonic() + PATIENCE_SECONDS / 4
        while (missing := self._missing(present)) and time.monotonic() < deadline:
            time.sleep(0.05)
        running = self.workers()
        found = missing + [fault for client in self.clients for fault in client.faults]
        for client in self.clients:
            for member in client.members:
                found += member.faults
                has_ended = member.ended.is_set() or member is not client.members[-1]
                if has_ended and member.pid in running:
                    transports = "+".join(client.transports)
                    found.append(f"{member.sid} ({transports}, {member.reason}) has ended, but {member.pid} runs")
        for client in self.clients:
            client.released.set()
        for client in self.clients:
            client.finish(PATIENCE_SECONDS)
        return found

    def _missing(self, present: list[Member]) -> list[str]:
        """Return a line for each number that a member should have heard and has not."""
        found = []
        for member in present:
            if member.ended.is_set():
                # A worker may be replaced even now.
                continue
            for client in self.clients:
                for other in client.members if client.room == member.room else ():
                    if member.joined_at >= other.joined_at or not other.acknowledged:
                        continue
                    known = member.speakers.get(other.sid)
                    first, last = (known.first, known.last) if known else (0, 0)
                    if first != 1 or last < other.acknowledged:
                        found.append(f"{member.sid} has heard {first}-{last} of {other.sid}'s {other.acknowledged}")
        return found

    def kill(self) -> None:
        """End what is left."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_SECONDS / 4)
        except subprocess.TimeoutExpired:
            for pid in (self.process.pid, *children(self.process.pid)):
                if is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 clients and 1 recycle")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--recycles", type=int, default=8, help="workers that are sent SIGTERM")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--max-requests", type=int, default=3000, help="requests after which a worker is replaced, too")
    parser.add_argument("--log", type=Path, help="file for the log of the service")
    parser.add_argument("--numbers", type=int, default=4, help="numbers of each client between two recycles")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two numbers of a client")
    found = parser.parse_args()
    if found.quick:
        found.clients, found.recycles, found.numbers, found.pause = 24, 1, 3, 0.05
    return found


def report(run: Run, wanted: argparse.Namespace, workers: set[int], seconds: float) -> None:
    """Print what has happened."""
    members = [member for client in run.clients for member in client.members]
    acknowledged = sum(client.acknowledged for client in run.clients)
    told = sum(member.deliveries for member in members)
    print(
        f"{wanted.clients} clients, {wanted.workers} workers, {len(workers)} of them in {seconds:.0f} s; "
        f"{acknowledged} numbers, {told} events in rooms"
    )
    for transports in TRANSPORTS:
        group = [client for client in run.clients if client.transports == transports]
        print(
            f"  {'+'.join(transports):18} {sum(client.acknowledged for client in group)} numbers, "
            f"{sum(client.sessions for client in group) - len(group)} reconnects, "
            f"{sum(len(client.refusals) for client in group)} failed attempts to connect"
        )
    reasons = Counter(reason for client in run.clients for reason in client.refusals)
    for reason, number in reasons.most_common(8):
        print(f"  {number} x {reason[:200]}")


def main() -> int:
    """Run, print, and return the exit status."""
    wanted = arguments()
    # Clients say that their sessions have ended.
    logging.getLogger("engineio.client").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="sticky") as directory:
        run = Run(wanted.log or Path(directory, "log"), wanted)
        try:
            begun = time.monotonic()
            run.start(wanted.clients, wanted.pause)
            run.let_count(wanted.numbers)
            workers = run.workers()
            for number in range(wanted.recycles):
                if number == wanted.recycles // 2:
                    run.replace(signal.SIGHUP, run.process.pid, run.workers())
                    run.let_count(wanted.numbers)
                    workers |= run.workers()
                oldest = min(run.workers())
                run.replace(signal.SIGTERM, oldest, {oldest})
                run.let_count(wanted.numbers)
                workers |= run.workers()
            found = run.settle()
            seconds = time.monotonic() - begun
        except BaseException:
            print(run.log.read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            run.kill()
        report(run, wanted, workers, seconds)
        print("\n".join(found[:40]) or "every event once and in order")
        if found:
            print(f"{len(found)} faults", run.log.read_text()[-2000:], sep="\n", file=sys.stderr)
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
