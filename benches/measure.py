"""The kernel's figures about a server: CPU time, memory and context switches of a process and all its descendants.

Everything is read from /proc (see proc(5)); a process that ended while it was read counts as nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")

# Positions in /proc/PID/stat counted from the field after the command name, which is field 3.
STAT_PARENT, STAT_USER, STAT_SYSTEM, STAT_START_TIME = 1, 11, 12, 19


@dataclass(frozen=True)
class Memory:
    """Memory of a process tree in KiB; `page_tables` is what the kernel holds besides to map it."""

    resident: int
    proportional: int
    page_tables: int


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty if there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return text[text.rindex(")") + 2 :].split()


def start_time(pid: int) -> int | None:
    """Start of the process in ticks since boot, to tell it from a later one with the same id; None if it is gone."""
    fields = _stat(pid)
    return int(fields[STAT_START_TIME]) if fields else None


def process_tree(root: int) -> list[int]:
    """Ids of `root` and all its living descendants, parents first."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[STAT_PARENT]), []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree.extend(children.get(pid, []))
    return tree


def cpu_seconds(root: int) -> float:
    """User and system time of all threads of the process tree, the ended threads included."""
    ticks = 0
    for pid in process_tree(root):
        if fields := _stat(pid):
            ticks += int(fields[STAT_USER]) + int(fields[STAT_SYSTEM])
    return ticks / TICKS_PER_SECOND


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of `Name:  123 kB` lines."""
    numbers: dict[str, int] = {}
    try:
        lines = path.read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return numbers
    for line in lines:
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            numbers[name] = int(words[0])
    return numbers


def memory(root: int) -> Memory:
    """Memory of the process tree now."""
    resident = proportional = page_tables = 0
    for pid in process_tree(root):
        rollup = _fields(PROC / str(pid) / "smaps_rollup")
        resident += rollup.get("Rss", 0)
        proportional += rollup.get("Pss", 0)
        page_tables += _fields(PROC / str(pid) / "status").get("VmPTE", 0)
    return Memory(resident, proportional, page_tables)


def forget_peaks(root: int) -> None:
    """Let `peak_memory` begin with what is resident now."""
    for pid in process_tree(root):
        (PROC / str(pid) / "clear_refs").write_text("5")


def peak_memory(root: int) -> int:
    """The most KiB that were resident, summed over the processes of the tree."""
    return sum(_fields(PROC / str(pid) / "status").get("VmHWM", 0) for pid in process_tree(root))


def context_switches(root: int) -> dict[tuple[int, int], int]:
    """Voluntary and involuntary context switches so far, of each thread (process id, thread id) of the process tree."""
    switches: dict[tuple[int, int], int] = {}
    for pid in process_tree(root):
        try:
            threads = [int(entry.name) for entry in (PROC / str(pid) / "task").iterdir()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        for thread in threads:
            status = _fields(PROC / str(pid) / "task" / str(thread) / "status")
            switches[pid, thread] = status.get("voluntary_ctxt_switches", 0) + status.get(
                "nonvoluntary_ctxt_switches", 0
            )
    return switches


def switches_between(before: dict[tuple[int, int], int], after: dict[tuple[int, int], int]) -> int:
    """Context switches from `before` to `after`; a thread that is new in between counts from its start."""
    return sum(max(0, count - before.get(thread, 0)) for thread, count in after.items())
