"""`Worker`, which Gunicorn's `--worker-class` names. This version has the name only."""

from __future__ import annotations

from typing import Final, NoReturn

__all__ = ["MeinheldWorker", "Worker"]

NOT_READY: Final = (
    "rmeinheld.gunicorn_worker.Worker is not ready in this version of rmeinheld; "
    "serve the application with `rmeinheld MODULE:APP` instead"
)


class Worker:
    """The worker class for Gunicorn. Not ready in this version: making one raises NotImplementedError.

    Gunicorn makes workers in its master process, so the master ends with the message; no worker dies again and again.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise NotImplementedError(NOT_READY)

    def run(self) -> NoReturn:
        """Raise NotImplementedError."""
        raise NotImplementedError(NOT_READY)


MeinheldWorker = Worker
"""The name by which Meinheld's users know the worker (`meinheld.gmeinheld.MeinheldWorker`)."""
