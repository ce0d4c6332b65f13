"""How far apart the servers' core and the client's are, which the host of a virtual machine decides and changes.

Every message over loopback moves cache lines of the kernel from one core to the other. A virtual machine with two
cores of an AMD EPYC was measured. A cache line took 50 to 110 ns there and back, or 350 ns when the host had moved a
core away. An echo of the floor (websocket_floor.c) then cost 6.8 us instead of 5.1. Servers that are measured at
different distances cannot be compared.
"""

from __future__ import annotations

import subprocess
import time

from toolchain import compile_program

FAR = 2.5
"""Cores are far apart at this multiple of the shortest distance of the run."""
POLL_SECONDS = 0.5
MOST_SECONDS = 20.0
"""The longest wait before one measurement."""
MOST_SECONDS_IN_ALL = 600.0


class CoreDistance:
    """Measures the distance of two cores, and waits while they are far apart."""

    def __init__(self, cores: tuple[int, int]) -> None:
        """Compile the program; raises MissingTool without a compiler."""
        self._command = [str(compile_program("core_distance")), *map(str, cores)]
        self._has_two = cores[0] != cores[1]
        self._shortest = float("inf")
        self._left = MOST_SECONDS_IN_ALL

    def measure(self) -> float:
        """Nanoseconds that a cache line takes to the other core and back; 0 where there is only one core."""
        if not self._has_two:
            return 0.0
        result = subprocess.run(self._command, capture_output=True, text=True, timeout=60, check=True)
        distance = float(result.stdout)
        self._shortest = min(self._shortest, distance)
        return distance

    def is_far(self, distance: float) -> bool:
        """Whether this is far, as compared with the shortest distance so far."""
        return distance > FAR * self._shortest

    def wait(self) -> float:
        """Wait until the cores are near, as compared with the shortest distance so far, and return their distance.

        It waits for MOST_SECONDS at most, and for MOST_SECONDS_IN_ALL in all: a host may never move them back.
        """
        end = time.monotonic() + min(MOST_SECONDS, self._left)
        while self.is_far(distance := self.measure()) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
            self._left -= POLL_SECONDS
        return distance
