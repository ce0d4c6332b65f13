"""Probes of a service whose master imports the application."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rmeinheld.health import answer_probes, open_admin_socket

from .sockets import ServiceSocket, close_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rmeinheld._rmeinheld import Scoreboard
    from rmeinheld.settings import Settings

__all__ = ["probed_import"]


@contextmanager
def probed_import(settings: Settings, scoreboard: Scoreboard) -> Iterator[list[ServiceSocket]]:
    """Answer probes from this process while the block imports the application, with `preload_app`.

    Yields the socket of `admin_bind`, for the workers that answer later, or nothing.

    Raises OSError or ValueError naming the address.
    """
    if settings.admin_bind is None or not settings.preload_app:
        yield []
        return
    opened = ServiceSocket(open_admin_socket(settings.admin_bind), settings.admin_bind)
    answers = answer_probes(opened.listener, scoreboard, settings)
    try:
        yield [opened]
    except BaseException:
        close_sockets([opened], unlink=True)
        raise
    finally:
        # Its thread would be lost at a fork.
        answers.stop()
