"""Gaps in the messages of a channel, found by their numbers."""

from __future__ import annotations

from typing import Final, Literal

__all__ = ["FORGED", "Count", "Numbers"]

type Count = int | Literal["forged"] | None
"""The number of messages that are missing before one. None: unknown. "forged": this message has come before."""

FORGED: Final = "forged"


class Numbers:
    """The numbers of the messages of one channel, as one process has seen them.

    Redis numbers the messages of a channel, from 1 since an `epoch`. It begins a new epoch if it has lost the number,
    or has had no message for a day. A sender numbers its messages, too, so that none is taken twice.
    """

    def __init__(self) -> None:
        self._epoch = -1
        self._position = 0
        self._senders: dict[bytes, int] = {}
        self._was_away = False
        self._has_heard = False
        """A message has come since messages could last be lost."""

    def disconnected(self) -> None:
        """Note that messages may be missing from now on."""
        self._was_away = True
        self._has_heard = False

    def message(self, peer: bytes, number: int, epoch: int, position: int) -> Count:
        """Note a message, and return how many are missing before it."""
        if number <= self._senders.get(peer, -1):
            return FORGED
        self._senders[peer] = number
        self._has_heard = True
        return self._advance(epoch, position, position - 1)

    def reached(self, epoch: int, position: int) -> int | None:
        """Note the last number in Redis, once all messages up to it have come. Returns how many are missing.

        Both are 0 if Redis has no number.
        """
        was_away, self._was_away = self._was_away, False
        if epoch < self._epoch:
            if self._has_heard or not was_away:
                # Redis has begun to number the channel since it was asked.
                return 0
            # It has lost its data.
            self._epoch, self._position = epoch, position
            return None
        self._was_away = was_away
        missed = self._advance(epoch, position, position)
        self._was_away = False
        return missed

    def forget(self, peer: bytes) -> None:
        """Forget a sender that has ended."""
        self._senders.pop(peer, None)

    def _advance(self, epoch: int, position: int, expected: int) -> int | None:
        """Take a place in the order. `expected` is the last place that must have been seen before."""
        if self._epoch < 0:
            # The first thing that is known of the channel.
            missed: int | None = 0
        elif epoch == self._epoch:
            missed = max(0, expected - self._position)
            position = max(position, self._position)
        elif self._epoch == 0:
            missed = expected
        else:
            missed = None if self._was_away else expected
        self._epoch, self._position = epoch, position
        return missed
