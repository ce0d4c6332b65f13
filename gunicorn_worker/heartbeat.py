"""The heartbeat of a worker of a service: a file in memory, which needs no writable directory and waits for no disk."""

from __future__ import annotations

import os
from typing import Any

from gunicorn.workers import base
from gunicorn.workers.workertmp import WorkerTmp

__all__ = ["use_memory"]


class _Heartbeat(WorkerTmp):  # type: ignore[misc]
    def __init__(self, cfg: Any) -> None:
        if cfg.worker_tmp_dir:
            super().__init__(cfg)
            return
        self._tmp = os.fdopen(os.memfd_create("heartbeat"), "w+b", 0)
        if (cfg.uid, cfg.gid) != (os.geteuid(), os.getegid()):
            os.fchown(self._tmp.fileno(), cfg.uid, cfg.gid)


def use_memory() -> None:
    """Have the workers of this process keep their heartbeats in memory, unless `worker_tmp_dir` names a directory."""
    base.WorkerTmp = _Heartbeat
