"""Channels: messages between all workers of a service, without a message broker.

    from rmeinheld.channel import Channel

    news = Channel("news")

    def app(environ, start_response):
        websocket = environ["wsgi.websocket"]
        websocket.accept()
        with news.subscribe(websocket.send):
            for message in websocket:
                news.publish(message)
        return []

A message that one worker publishes reaches the subscribers in all workers. Messages of one worker arrive in the
order in which it published them. In one process nothing is copied. The messages that wait for a slow subscriber are
bounded, and each lost one is counted. docs/channels.md has the guarantees.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from .. import _rmeinheld, channel_options
from .hub import Hub, SlowClient, hub_of
from .messages import MAX_MESSAGE_BYTES, MAX_NAME_BYTES, checked_name, encode
from .presence import Change, Presence
from .subscriptions import Slow, Subscription, SubscriptionEnded, feed_of

if TYPE_CHECKING:
    from .._rmeinheld import WebSocket
    from .subscriptions import AnyQueue

__all__ = [
    "MAX_MESSAGE_BYTES",
    "MAX_NAME_BYTES",
    "Change",
    "Channel",
    "Presence",
    "Slow",
    "Subscription",
    "SubscriptionEnded",
]


class Channel:
    """A channel by its name. All objects of the same name and URL, in all workers, are the same channel.

    `name` has 1 to 255 bytes in UTF-8. `url` names a transport to other machines, such as `redis://localhost`. None
    (the default) takes the setting `channel_url`, or without a server the environment variable `RMEINHELD_CHANNEL_URL`.
    Without either, messages stay within the workers of the service.

    A channel opens nothing until it is used, so it may be made at import, also in the master of a service.

    Raises TypeError, and ValueError naming the limit.
    """

    def __init__(self, name: str, *, url: str | None = None) -> None:
        self._name = checked_name(name)
        self._url = url
        self._hub: Hub | None = None
        self._hub_process = 0
        self.name = name
        """Name of the channel."""
        self.presence = Presence(self._name, self._bound)
        """The members of the channel in all workers."""

    def _bound(self) -> Hub:
        """Return the hub of this process. A channel that was made before a fork finds that of the child."""
        if self._hub is None or self._hub_process != os.getpid():
            self._hub = hub_of(channel_options.url() if self._url is None else self._url)
            self._hub_process = os.getpid()
        return self._hub

    def publish(self, message: str | bytes | Any) -> int:
        """Send a message to all subscribers. Never waits for a subscriber.

        `message` is text, bytes, or an object that JSON knows. Subscribers get such an object as `json.loads` makes it.
        A message has at most 1,048,064 bytes; text and JSON count in UTF-8.

        Returns the number of subscriptions in this process that it was queued for, plus the number of other processes
        that it was sent to. A process for which too many messages wait is not counted: its subscribers see a gap.

        Raises ValueError naming the limit, or for text that is not Unicode, and TypeError for what JSON does not know.
        """
        kind, local, data = encode(message)
        hub = self._hub if self._hub is not None and self._hub_process == os.getpid() else self._bound()
        number = hub.publish(self._name, kind, local, data)
        _rmeinheld.give_way_quietly()
        return number

    def subscribe(
        self,
        subscriber: Callable[[Any], object] | AnyQueue | None = None,
        *,
        max_queue: int = 1000,
        slow: Slow = "drop_oldest",
        on_gap: Callable[[int | None], object] | None = None,
    ) -> Subscription:
        """Subscribe to the messages that are published from now on, by any worker.

        `subscriber` is a function, a queue with `put_nowait`, or None (the default). A coroutine of the subscription
        calls the function with one message after the other. An exception of the function is logged, and the next
        message follows. Without a subscriber, iterate the subscription, or call its `get`.

        At most `max_queue` messages wait (1,000 by default). `slow` is the treatment of the next one. "drop_oldest"
        (the default) drops the oldest message that waits, and "drop_newest" drops the new one. "end" ends the
        subscription. Each dropped message is counted in `Subscription.dropped`.

        `on_gap` is called where messages of another process were lost, with their number or None if it is unknown. It
        runs where messages are handled: in the coroutine of the function, or in `get`.

        Raises ValueError and TypeError that name the argument.
        """
        hub = self._bound()
        feed = hub.subscribe(self._name, lambda room: feed_of(room, subscriber, max_queue, slow, on_gap))
        return Subscription(feed)

    def attach(self, websocket: WebSocket, *, slow: SlowClient = "close") -> bool:
        """Send all messages that are published from now on to a WebSocket, until it closes. Returns whether it is open.

        No Python code runs for a single WebSocket: the worker encodes a message once for all that are attached. Text
        and JSON are sent as text, bytes as binary. A WebSocket for which `websocket_max_queue_size` bytes wait already
        is slow: "close" (the default) closes it with 1013, and "skip" leaves out the message.

        Accepts the connection if it is not accepted yet. Raises ValueError for another `slow`, and RuntimeError if the
        request was answered in another way.
        """
        if slow not in ("close", "skip"):
            raise ValueError(f"slow is close or skip, not {slow!r}")
        return self._bound().attach(self._name, websocket, slow)

    def detach(self, websocket: WebSocket) -> None:
        """Send no more messages to a WebSocket. Does nothing if it is not attached."""
        self._bound().detach(self._name, websocket)

    def __iter__(self) -> Iterator[Any]:
        """Subscribe, and iterate over the messages for ever. The end of the loop ends the subscription."""
        with self.subscribe() as subscription:
            yield from subscription

    def __repr__(self) -> str:
        return f"Channel({self.name!r})"
