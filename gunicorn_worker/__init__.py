"""The Gunicorn worker class: `gunicorn --worker-class rmeinheld.gunicorn_worker.Worker`."""

from __future__ import annotations

from .worker import MeinheldWorker, Worker

__all__ = ["MeinheldWorker", "Worker"]
