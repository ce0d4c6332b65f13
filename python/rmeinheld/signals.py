"""Signals of a running server: SIGINT, SIGTERM, SIGQUIT, SIGUSR1, that of a dump, and in some cases SIGHUP.

The previous handlers return when the server ends.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from . import _rmeinheld, error_log, inspecting
from .process_state import End

__all__ = ["Signals", "has_terminal"]

HURRIED_EXIT: Final = 0.8
"""Seconds from a second SIGINT until the process ends, in order or not."""


def has_terminal() -> bool:
    """Does this process have a controlling terminal, whose end sends SIGHUP?"""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Signals:
    """The signal handlers of a running server. SIGHUP calls `hang_up`, in a coroutine; None leaves SIGHUP alone."""

    current: Signals | None = None
    """The handlers that are installed."""

    def __init__(
        self,
        engine: _rmeinheld.Server,
        end: End,
        hang_up: Callable[[], object] | None = None,
        *,
        drain_delay: float = 0.0,
        exit_status: int | None = None,
        dump_signal: str = "none",
    ) -> None:
        self._engine = engine
        self._end = end
        self._hang_up = hang_up
        self._drain_delay = drain_delay
        self._exit_status = exit_status
        self._dump_signal = dump_signal
        self._previous: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._previous_fd = -1
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._is_ending = False
        self._is_hurried = False
        self.interrupted = False
        """Has SIGINT arrived?"""
        self.wakeup_fd = -1
        """Descriptor that becomes readable when a signal arrives; -1 outside the main thread."""

    def install(self) -> None:
        """Install the handlers. `put_back` undoes it, even if an exception interrupts it."""
        # Python runs signal handlers in the main thread, and lets only that thread set them.
        if threading.current_thread() is not threading.main_thread():
            return
        Signals.current = self
        self._pair = reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self.wakeup_fd = reader.fileno()
        # A full pair loses nothing: it is readable, which is all that the engine needs.
        self._previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        handlers: list[tuple[signal.Signals, Callable[[int, FrameType | None], Any]]] = [
            (signal.SIGINT, self._interrupt),
            (signal.SIGTERM, self._terminate),
            (signal.SIGQUIT, self._quit),
            (signal.SIGUSR1, self._reopen),
        ]
        if self._hang_up is not None:
            handlers.append((signal.SIGHUP, self._reload))
        dump_number = inspecting.number_of(self._dump_signal)
        if dump_number is not None:
            handlers.append((signal.Signals(dump_number), inspecting.handle))
        for number, handler in handlers:
            self._previous[number] = signal.getsignal(number)
            signal.signal(number, handler)
        if self._exit_status is not None and self._previous[signal.SIGINT] is signal.default_int_handler:
            # The process ends with the server, and a traceback of its end helps no user.
            self._previous[signal.SIGINT] = signal.SIG_DFL

    @staticmethod
    def put_back() -> None:
        """Restore the previous handlers. If an exception interrupts it, another call does the rest.

        SIGINT comes last: once its previous handler is back, Ctrl-C may raise anywhere.
        """
        self = Signals.current
        if self is None:
            return
        if self._pair is not None:
            try:
                signal.set_wakeup_fd(self._previous_fd)
            except (OSError, ValueError):
                # The owner of the previous descriptor has closed it.
                signal.set_wakeup_fd(-1)
            for end in self._pair:
                end.close()
            self._pair = None
        while self._previous:
            number = next(reversed(self._previous))
            handler = self._previous[number]
            # None is a handler that was not set from Python, which Python cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
            del self._previous[number]
        Signals.current = None

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.interrupted = True
        if self._is_ending:
            if self._exit_status is not None and not self._is_hurried:
                _rmeinheld.arm_exit(HURRIED_EXIT, self._exit_status)
            self._is_hurried = True
            self._end(0, 0, interrupted=True, hurries=True)
            return
        self._is_ending = True
        # A person waits, and a browser may keep connections open.
        self._end(None, 0, interrupted=True)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True
        self._end(None, delay=self._drain_delay)

    def _quit(self, number: int, frame: FrameType | None) -> None:
        self._is_ending = True
        self._end(0)

    def _reload(self, number: int, frame: FrameType | None) -> None:
        if self._hang_up is not None:
            # In a coroutine, since a hook of the application may wait. The loop may have ended.
            with suppress(RuntimeError):
                _rmeinheld.spawn(self._hang_up)

    def _reopen(self, number: int, frame: FrameType | None) -> None:
        # An exception of a handler would end the server.
        for reopen in (error_log.reopen, self._engine.reopen_logs):
            try:
                reopen()
            except OSError as error:
                logging.getLogger(error_log.LOGGER_NAME).error("cannot reopen a log file: %s", error)
