"""The limits after which a worker asks to be replaced: requests, memory and lifetime, each with its jitter."""

from __future__ import annotations

import os
import random
import time
from typing import Final

from rmeinheld.option_kinds import MIB
from rmeinheld.settings import Settings

__all__ = ["Limits", "memory_bytes"]

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Limits:
    """The limits of one worker. Chance adds up to the jitter to each, so that workers are not replaced together."""

    def __init__(self, settings: Settings) -> None:
        self._memory_mib = settings.max_worker_memory + random.randint(0, settings.max_worker_memory_jitter)
        self._lifetime = settings.max_worker_lifetime + random.uniform(0, settings.max_worker_lifetime_jitter)
        self._has_memory, self._has_lifetime = settings.max_worker_memory > 0, settings.max_worker_lifetime > 0
        # With --preload the workers share memory, of which each counts its part.
        self._is_proportional = settings.preload_app
        self._begun = time.monotonic()

    def exceeded(self) -> tuple[str, str] | None:
        """Return the reason for the scoreboard and the line for the log if a limit is exceeded."""
        if self._has_memory and (used := memory_bytes(proportional=self._is_proportional)) > self._memory_mib * MIB:
            kind = "PSS" if self._is_proportional else "RSS"
            return (
                "memory",
                f"{kind} is {used // MIB} MiB, and max_worker_memory with its jitter {self._memory_mib} MiB",
            )
        age = time.monotonic() - self._begun
        if self._has_lifetime and age > self._lifetime:
            return (
                "lifetime",
                f"it is {age:.0f} s old, and max_worker_lifetime with its jitter is {self._lifetime:.0f} s",
            )
        return None


def memory_bytes(*, proportional: bool = False) -> int:
    """Return the resident memory of this process in bytes (RSS). `proportional` divides shared pages (PSS).

    The kernel walks all pages for the proportional size, which takes about a millisecond for each 100 MiB.
    """
    if proportional:
        with open("/proc/self/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE_BYTES
