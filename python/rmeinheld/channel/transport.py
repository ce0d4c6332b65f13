"""Transports: the ways by which the messages of channels reach other processes.

A `Hub` opens one transport for each URL in a process, and gives it a `Receiver`. The crew's transport needs no URL. The
transport of Redis is for `redis://`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .. import _rmeinheld

__all__ = ["LocalTransport", "Pending", "Receiver", "Transport"]


class Receiver(Protocol):
    """Takes what a transport receives. Each call returns soon: it only fills queues. Any thread or coroutine may call.

    A `peer` names another process and one life of it, and is never used again for a later process.
    """

    lock: _rmeinheld.RLock
    """Held during each call of the transport, apart from `open` and `close`."""

    def message(self, peer: Hashable, channel: bytes, kind: int, payload: bytes | memoryview, missed: int = 0) -> None:
        """Take a message of `channel`, in the order in which `peer` sent its messages.

        `missed` is the number of messages of `peer` on this channel that were lost directly before this one.
        """

    def gap(self, channel: bytes | None, missed: int | None) -> None:
        """Note that messages are lost: `missed` is their number (None: unknown), `channel` the name (None: any)."""

    def appeared(self, peer: Hashable) -> None:
        """Note that the presence of `peer` is not known here, or not for certain. It is asked for it."""

    def left(self) -> None:
        """Note that this process cannot send any more, since it is about to end."""

    def gone(self, peer: Hashable) -> None:
        """Note that `peer` has ended. Its presence ends."""


class Pending(Protocol):
    """A message or a subscription that is on its way. The hub waits for it without its lock."""

    def wait(self) -> int | None:
        """Wait for its end. Returns the number of processes that a message went to. Raises OSError with the setting."""


class Transport(ABC):
    """Carries messages to the other processes of a service. No call but `open` waits for another process.

    Calls come one at a time, in the order of the messages, with `Receiver.lock`. A transport takes this lock for work
    of its own, and no other: a second one could be interrupted when a message has reached only some subscribers.
    """

    @abstractmethod
    def open(self, receiver: Receiver) -> None:
        """Begin, before any other call. `receiver` gets what arrives. Raises RuntimeError or OSError if it cannot."""

    @abstractmethod
    def publish(self, channel: bytes, kind: int, payload: bytes, to: Hashable | None = None) -> int | Pending:
        """Send a message to all other processes that listen to `channel`, and return their number.

        The number of an application's message may be `Pending`; that of the presence never is.

        `channel` is the name in UTF-8. With `to` the message is for one peer. A transport that cannot address one peer
        sends to all. Of a transport that does not know who listens, the number is that of the processes it sent to.
        """

    @abstractmethod
    def listen(self, channel: bytes) -> Pending | None:
        """Receive the messages of `channel` from now on, or from the end of what it returns."""

    @abstractmethod
    def unlisten(self, channel: bytes) -> None:
        """Receive the messages of `channel` no longer."""

    @abstractmethod
    def close(self) -> None:
        """End. Messages that are under way may be lost."""


class LocalTransport(Transport):
    """The transport of a process without siblings. It carries nothing."""

    def open(self, receiver: Receiver) -> None:
        """Do nothing."""

    def publish(self, channel: bytes, kind: int, payload: bytes, to: Hashable | None = None) -> int:
        """Return 0."""
        return 0

    def listen(self, channel: bytes) -> None:
        """Do nothing."""

    def unlisten(self, channel: bytes) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
