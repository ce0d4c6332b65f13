"""The reasons for which workers end, for metrics."""

from __future__ import annotations

import contextlib
import os
from typing import Any

__all__ = ["exit_reason", "is_killed"]


def is_killed(pid: int) -> bool:
    """Return whether a child has ended by a signal. It stays to be reaped."""
    with contextlib.suppress(ChildProcessError):
        end = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return end is not None and end.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
    return False


def exit_reason(worker: Any, *, is_stopping: bool, was_killed: bool) -> str:
    """Return the reason for the end of `worker`, as the scoreboard counts it."""
    if worker.aborted:
        return "timeout"
    if worker.leaves_for:
        return str(worker.leaves_for)
    if is_stopping:
        return "stop"
    if was_killed:
        return "killed"
    return "boot" if worker.ready_at is None else "crash"
