"""Channels between four workers, with recycles in between: is each message delivered once and in order?

    python benches/channels.py            200,000 deliveries, and 20 recycles
    python benches/channels.py --quick    20,000 deliveries, and 2 recycles

Every worker publishes numbered messages, and has a subscriber that checks them. A subscriber must see the numbers of
each publisher without a hole, a repetition or a change of order. It must see them from 1, if it was there before the
publisher began, and up to the last one, if it outlived the publisher. The exit status is 1 if a subscriber sees
something else. Without recycles, the CPU time of each delivery is printed, too.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services import children, is_alive

BENCHES = Path(__file__).resolve().parent

SETTLE_SECONDS = 1.0
"""The time by which a subscriber outlives a publisher whose last message it must have seen."""

PATIENCE_SECONDS = 60.0


def wait_until(condition: Callable[[], bool], reason: str) -> None:
    """Wait, and raise TimeoutError after a minute."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(reason)
        time.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Soak:
    """A service, and the files that its workers write."""

    def __init__(self, directory: Path, arguments: argparse.Namespace) -> None:
        self.directory = directory
        self.log = directory / "log"
        environment = {
            **os.environ,
            "CHANNELS_DIR": str(directory),
            "CHANNELS_RATE": str(arguments.rate),
            "CHANNELS_SUBSCRIBERS": str(arguments.subscribers),
        }
        command = [sys.executable, "-m", "rmeinheld", "--workers", str(arguments.workers), "--bind", "127.0.0.1:0"]
        self.workers_wanted = arguments.workers
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--max-requests", "1000000", "channels_app:app"],
                cwd=BENCHES,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def workers(self) -> set[int]:
        """Return the ids of the running workers."""
        return {pid for pid in children(self.process.pid) if is_alive(pid)}

    def seen(self) -> dict[int, dict[str, Any]]:
        """Return what the subscribers of all workers have recorded."""
        files = self.directory.glob("seen-*[0-9]")
        return {int(path.name.partition("-")[2]): json.loads(path.read_text()) for path in files}

    def sent(self) -> dict[int, int]:
        """Return the number of messages of all publishers."""
        files = self.directory.glob("sent-*")
        return {int(path.name.partition("-")[2]): int.from_bytes(path.read_bytes(), "little") for path in files}

    def deliveries(self) -> int:
        """Return the number of messages that all subscribers have received."""
        return sum(one["received"] for one in self.seen().values())

    def begin(self) -> None:
        """Wait for the workers, and let them publish."""
        wait_until(lambda: len(self.seen()) >= self.workers_wanted, f"the workers do not start: {self.log.read_text()}")
        (self.directory / "go").touch()

    def recycle(self) -> None:
        """End the oldest worker in order, and wait for the next one."""
        before = self.workers()
        os.kill(min(before), signal.SIGTERM)
        wait_until(
            lambda: bool(self.workers() - before) and min(before) not in self.workers() and bool(self._new(before)),
            f"no worker replaces another: {self.log.read_text()}",
        )

    def _new(self, before: set[int]) -> set[int]:
        return set(self.seen()) & (self.workers() - before)

    def end(self) -> None:
        """Stop publishing, wait until everything is delivered, and stop the service."""
        (self.directory / "stop").touch()
        time.sleep(SETTLE_SECONDS)
        last = -1
        while last != (last := self.deliveries()):
            time.sleep(SETTLE_SECONDS)
        self.process.terminate()
        self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """End what is left."""
        for pid in (self.process.pid, *children(self.process.pid)):
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def faults(seen: dict[int, dict[str, Any]], sent: dict[int, int]) -> list[str]:
    """Return a line for each rule that a subscriber has found broken."""
    found = []
    for subscriber, record in seen.items():
        if record["faults"] or record["gaps"] or record["dropped"]:
            wrong = {pid: one["wrong"][:3] for pid, one in record["seen"].items() if "wrong" in one}
            found.append(
                f"{subscriber}: {record['faults']} wrong numbers {wrong}, {record['gaps']} gaps, "
                f"{record['dropped']} dropped"
            )
        for publisher, number in sent.items():
            known = record["seen"].get(str(publisher))
            begun = seen.get(publisher, {}).get("begun", 0)
            ended = seen.get(publisher, {}).get("now", 0)
            if known is None:
                if number and record["begun"] < begun - SETTLE_SECONDS and record["now"] > ended + SETTLE_SECONDS:
                    found.append(f"{subscriber} has seen none of the {number} messages of {publisher}")
                continue
            if known["first"] != 1 and record["begun"] < begun:
                found.append(f"{subscriber} has seen {publisher} from {known['first']} on instead of 1")
            if known["last"] != number and record["now"] > ended + SETTLE_SECONDS:
                found.append(f"{subscriber} has seen {publisher} up to {known['last']} instead of {number}")
            if known["last"] > number:
                found.append(f"{subscriber} has seen {known['last']} of {publisher}, which has sent {number}")
    return found


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 deliveries and 2 recycles")
    parser.add_argument("--deliveries", type=int, default=200_000)
    parser.add_argument("--recycles", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--subscribers", type=int, default=1, help="subscriptions of each worker")
    parser.add_argument("--rate", type=float, default=1000, help="messages that each worker publishes in a second")
    found = parser.parse_args()
    if found.quick:
        found.deliveries, found.recycles = 20_000, 2
    return found


def main() -> int:
    """Run, print, and return the exit status."""
    wanted = arguments()
    with tempfile.TemporaryDirectory(prefix="channels") as directory:
        soak = Soak(Path(directory), wanted)
        try:
            soak.begin()
            pids, begun, recycles = soak.workers(), time.monotonic(), 0
            before = {pid: cpu_seconds(pid) for pid in pids}
            while soak.deliveries() < wanted.deliveries or recycles < wanted.recycles:
                if recycles < wanted.recycles:
                    soak.recycle()
                    recycles += 1
                time.sleep(0.1)
                if time.monotonic() > begun + 10 * PATIENCE_SECONDS:
                    raise TimeoutError("too few deliveries")
            cpu = sum(cpu_seconds(pid) - before[pid] for pid in pids)
            so_far, seconds = soak.deliveries(), time.monotonic() - begun
            soak.end()
        except BaseException:
            print(soak.log.read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            soak.kill()
        seen, sent = soak.seen(), soak.sent()
        found = faults(seen, sent)
        print(
            f"{sum(sent.values())} messages of {len(sent)} publishers, {sum(one['received'] for one in seen.values())} "
            f"deliveries to {len(seen)} workers with {wanted.subscribers} subscriptions each, {recycles} recycles, "
            f"{seconds:.1f} s"
        )
        if not recycles:
            print(f"CPU: {cpu / so_far * 1e6:.2f} us per delivery, {cpu / sum(sent.values()) * 1e6:.2f} us per message")
        print("\n".join(found) or "every message once and in order")
        if found:
            print(soak.log.read_text()[-2000:], file=sys.stderr)
        return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
