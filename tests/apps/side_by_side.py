"""Runs functions in coroutines side by side, for tests of the patched standard library."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rmeinheld.coroutine import sleep, spawn

LONGEST_STANDSTILL = 1.0
"""Seconds for which the loop may stand still while a coroutine waits. Time without a core does not count."""


def together[A, R](function: Callable[[A], R], arguments: Iterable[A], seconds: float = 60) -> list[R]:
    """Call `function` with each of the arguments in a coroutine of its own, and return the results in order."""
    coroutines = [spawn(function, argument) for argument in arguments]
    deadline = time.monotonic() + seconds
    for coroutine in coroutines:
        assert coroutine.join(max(0.0, deadline - time.monotonic())), f"{coroutine} did not end in {seconds} s"
    return [coroutine.result for coroutine in coroutines]


def seconds_without_a_core() -> float:
    """Return the time for which this OS thread was ready to run, and the kernel ran others (proc(5), schedstat)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except FileNotFoundError:
        return 0.0


def main(function: Callable[[], object], standstill: float = LONGEST_STANDSTILL) -> None:
    """Run `function` in a coroutine, print what it returns, and fail if the loop stood still meanwhile."""
    longest = 0.0
    over = False

    def tick() -> None:
        nonlocal longest
        while not over:
            before = time.monotonic() - seconds_without_a_core()
            sleep(0.01)
            longest = max(longest, time.monotonic() - seconds_without_a_core() - before - 0.01)

    ticking = spawn(tick)
    coroutine = spawn(function)
    ended = coroutine.join(100)
    over = True
    ticking.join(1)
    assert ended, "the function did not end"
    print(coroutine.result)
    if longest > standstill:
        sys.exit(f"the loop stood still for {longest:.2f} s")
