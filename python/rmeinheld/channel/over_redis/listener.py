"""The connection on which a process receives messages from Redis, whatever the number of channels."""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from ... import _rmeinheld
from .link import BackOff, Connection, Link, in_background

__all__ = ["Confirmation", "Listener", "Target"]

CONFIRM_SECONDS: Final = 10.0
"""The longest wait of a subscriber for Redis to confirm its subscription."""

_SILENCE_SECONDS: Final = 5.0
"""After this time without a message the connection is tested. After twice this time it counts as lost."""

_MOST_CHANNELS: Final = 500
"""Channels in one command."""


class Target(Protocol):
    """Takes what the listener receives. No call may wait."""

    def message(self, channel: bytes, data: bytes) -> None:
        """Take a message of a channel of Redis."""

    def disconnected(self) -> None:
        """Note that messages may be lost from now on."""

    def confirmed(self, channels: list[bytes]) -> None:
        """Note that all messages of these channels come from now on."""


class Confirmation:
    """The wait for Redis to confirm a subscription."""

    def __init__(self, channel: bytes, link: Link) -> None:
        self._channel = channel
        self._link = link
        self.event = _rmeinheld.Event()

    def wait(self) -> None:
        """Wait until messages of the channel arrive. Raises TimeoutError after 10 s, naming the URL.

        # Parks
        """
        if not self.event.wait(CONFIRM_SECONDS):
            raise TimeoutError(
                f"{self._link.origin} {self._link.title}: Redis has not confirmed a subscription within "
                f"{CONFIRM_SECONDS:g} s"
            )


class Listener:
    """Receives the messages of all channels of this process, and subscribes anew after a lost connection."""

    def __init__(self, link: Link, target: Target) -> None:
        self._link = link
        self._target = target
        self._wanted: dict[bytes, Confirmation] = {}
        self._subscribed: set[bytes] = set()
        """Channels for which the last command was SUBSCRIBE."""
        self._outstanding: dict[bytes, int] = {}
        """Commands without an answer."""
        self._changed: deque[bytes] = deque()
        self._marks: deque[Callable[[], object]] = deque()
        self._reached: deque[Callable[[], object]] = deque()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._pid = os.getpid()
        self._heard_at = 0.0
        self._is_testing = False
        self._is_closed = False
        self.back_off = BackOff(link, "receive")

    def start(self) -> None:
        """Begin to receive."""
        in_background(self._run)

    def subscribe(self, channel: bytes) -> Confirmation:
        """Receive the messages of a channel of Redis from now on."""
        confirmation = self._wanted.get(channel)
        if confirmation is None:
            confirmation = self._wanted[channel] = Confirmation(channel, self._link)
            self._changed.append(channel)
            self._ring()
        return confirmation

    def unsubscribe(self, channel: bytes) -> None:
        """Receive the messages of a channel no longer."""
        if self._wanted.pop(channel, None) is not None:
            self._changed.append(channel)
            self._ring()

    def after_arrived(self, call: Callable[[], object]) -> None:
        """Make a call once all messages have arrived that Redis has taken until now.

        It is not made if the connection is lost before.
        """
        self._marks.append(call)
        self._ring()

    def close(self) -> None:
        """End."""
        self._is_closed = True
        self._ring()

    def is_closed(self) -> bool:
        """Whether the listener has ended, or is about to."""
        return self._is_closed

    def _ring(self) -> None:
        if self._bell >= 0 and self._pid == os.getpid():
            os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        try:
            while not self._is_closed:
                connection = None
                try:
                    connection = self._link.connect()
                    self._begin(connection)
                    while not self._is_closed:
                        self._turn(connection)
                        _rmeinheld.give_way()
                except self._link.errors as error:
                    if self.is_closed():
                        return
                    self._target.disconnected()
                    self._wait(self.back_off.failed(error))
                finally:
                    if connection is not None:
                        connection.disconnect()
        finally:
            # The end of the server, if nothing else.
            self._is_closed = True
            bell, self._bell = self._bell, -1
            os.close(bell)

    def _begin(self, connection: Connection) -> None:
        self._subscribed.clear()
        self._outstanding.clear()
        self._marks.clear()
        self._reached.clear()
        self._changed.clear()
        for confirmation in list(self._wanted.values()):
            confirmation.event.clear()
        self._changed.extend(list(self._wanted))
        self._heard()

    def _turn(self, connection: Connection) -> None:
        """Send what is to be sent, and handle what has arrived. Waits if there is nothing."""
        if self._changed:
            self._send_changes(connection)
        while self._marks and self._subscribed:
            self._reached.append(self._marks.popleft())
            connection.send_command(b"PING", b"mark")
        handled = 0
        confirmed: list[bytes] = []
        # Once something has arrived, this makes no system call until the buffer is empty.
        while handled < 256 and connection.can_read(timeout=0):
            self._handle(connection.read_response(), confirmed)
            handled += 1
        if confirmed:
            self._target.confirmed(confirmed)
        if handled:
            self._heard()
        elif not self._changed and not self._marks:
            self._await(connection)

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        self._is_testing = False

    def _await(self, connection: Connection) -> None:
        """Wait for a message or the bell. Tests a connection that is silent."""
        # A redis-py without hiredis and one with it keep their socket in the same place.
        poller = select.poll()
        poller.register(connection._sock, select.POLLIN)
        poller.register(self._bell, select.POLLIN)
        ready = poller.poll(_SILENCE_SECONDS * 1000)
        if any(descriptor == self._bell for descriptor, _ in ready):
            os.eventfd_read(self._bell)
        if ready:
            return
        if self._is_testing and time.monotonic() - self._heard_at > 2 * _SILENCE_SECONDS:
            raise ConnectionError(f"Redis has not answered for {2 * _SILENCE_SECONDS:g} s")
        if self._subscribed:
            self._is_testing = True
            connection.send_command(b"PING", b"")

    def _wait(self, seconds: float) -> None:
        """Wait for the next attempt, or for the end."""
        deadline = time.monotonic() + seconds
        while not self._is_closed and (rest := deadline - time.monotonic()) > 0:
            poller = select.poll()
            poller.register(self._bell, select.POLLIN)
            if poller.poll(rest * 1000):
                os.eventfd_read(self._bell)

    def _send_changes(self, connection: Connection) -> None:
        added: list[bytes] = []
        removed: list[bytes] = []
        while self._changed and len(added) + len(removed) < _MOST_CHANNELS:
            channel = self._changed.popleft()
            if channel in self._wanted:
                if channel not in self._subscribed:
                    added.append(channel)
                    self._subscribed.add(channel)
                elif not self._outstanding.get(channel):
                    # It was unsubscribed and subscribed again before this had been noticed.
                    self._wanted[channel].event.set()
            elif channel in self._subscribed:
                removed.append(channel)
                self._subscribed.discard(channel)
        for command, channels in ((b"SUBSCRIBE", added), (b"UNSUBSCRIBE", removed)):
            for channel in channels:
                self._outstanding[channel] = self._outstanding.get(channel, 0) + 1
            if channels:
                connection.send_command(command, *channels)

    def _handle(self, response: Any, confirmed: list[bytes]) -> None:
        kind = response[0]
        if kind == b"message":
            self._target.message(response[1], response[2])
        elif kind in (b"subscribe", b"unsubscribe"):
            channel = response[1]
            left = self._outstanding.pop(channel, 1) - 1
            if left > 0:
                self._outstanding[channel] = left
            elif kind == b"subscribe" and channel in self._wanted:
                self.back_off.succeeded()
                self._wanted[channel].event.set()
                confirmed.append(channel)
        elif kind == b"pong" and response[1] == b"mark" and self._reached:
            self._reached.popleft()()
