"""The machine that figures were measured on, and its cores."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# 10,000 connections and room for what else a server opens.
WANTED_OPEN_FILES = 16384


def choose_cores() -> tuple[int, int]:
    """Core of the servers and core of the client; the same twice where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[0], cores[1] if len(cores) > 1 else cores[0]


@contextmanager
def pinned_to(core: int | None) -> Iterator[None]:
    """Run on this core inside the block: a process that is started in it inherits the pinning from its first moment.

    None: on any.
    """
    before = os.sched_getaffinity(0)
    if core is not None:
        os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def raise_open_files_limit() -> int:
    """Raise the soft limit of open files, which children inherit, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(WANTED_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return WANTED_OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def _first_line(command: list[str]) -> str:
    """First line that a command prints, on either stream; "not found" without it."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return "not found"
    lines = (result.stdout or result.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def commit() -> str:
    """The short name of the commit of this directory; with "+" if files were changed since."""
    name = _first_line(["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"])
    command = ["git", "-C", str(Path(__file__).parent), "status", "--porcelain", "--untracked-files=no"]
    return name + ("" if _first_line(command) == "unknown" else "+")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def facts() -> dict[str, str | int | float]:
    """Facts that a reader needs to compare figures with those of another machine."""
    server_core, client_core = choose_cores()
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "server_core": server_core,
        "client_core": client_core,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "python_build": " ".join(sys.version.split()),
        "compiler": _first_line(["cc", "--version"]),
        "wrk": _first_line(["wrk", "--version"]).partition(" Copyright")[0],
        "load_average_before": round(os.getloadavg()[0], 2),
    }
