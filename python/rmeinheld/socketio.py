"""Socket.IO in all workers of a service: a client manager for python-socketio and Flask-SocketIO.

    from flask_socketio import SocketIO
    from rmeinheld.socketio import CrewManager

    socketio = SocketIO(app, async_mode="threading", client_manager=CrewManager())

    import socketio
    server = socketio.Server(async_mode="threading", client_manager=CrewManager())

An event that one worker emits reaches the clients of all workers, with no message queue to install. The workers pass it
on by a channel of `rmeinheld.channel`.
"""

from __future__ import annotations

import json as standard_json
import logging
import os
import uuid
from collections.abc import Iterator
from typing import Any, Final

from . import _crew, channel_options
from .channel import Channel, Subscription
from .error_log import LOGGER_NAME

try:
    from socketio.packet import Packet
    from socketio.pubsub_manager import PubSubManager
except ImportError as _missing:
    raise ImportError(
        f"rmeinheld.socketio needs python-socketio, which cannot be imported ({_missing}): pip install python-socketio"
    ) from _missing

__all__ = ["CrewManager"]

MAX_QUEUE: Final = 100_000
"""Events of other workers that wait for a worker which computes. Then the oldest are dropped, and the log says so."""

_logger: Final = logging.getLogger(LOGGER_NAME)


class CrewManager(PubSubManager):  # type: ignore[misc]
    """Keeps the clients of this worker, and shares events with the other workers of the service.

    `channel` is the name of the channel ("socketio" by default). Several servers in one application need one each.
    `url` is that of a `Channel`: None (the default) takes the setting `channel_url`. Without it events stay within the
    service. `write_only` is for processes that emit and have no clients. Processes that are no workers need a URL.

    `logger` and `json` are those of `socketio.PubSubManager`.

    Raises ValueError naming the limit of the channel's name. Raises RuntimeError for `write_only` without a URL in a
    process that is no worker.
    """

    name = "crew"

    def __init__(
        self,
        channel: str = "socketio",
        *,
        url: str | None = None,
        write_only: bool = False,
        logger: Any = None,
        json: Any = None,
    ) -> None:
        self._host_process = 0
        super().__init__(channel=channel, write_only=write_only, logger=logger, json=json)
        if write_only and not (channel_options.url() if url is None else url) and _crew.current() is None:
            raise RuntimeError(
                "CrewManager(write_only=True) reaches no client: this process is no worker of a service. Give it the "
                f"url of a Redis, or set {channel_options.URL_VARIABLE}, and have the service use the same"
            )
        self._channel = Channel(channel, url=url)
        self._subscription: Subscription | None = None
        self._is_listening = False

    @property
    def host_id(self) -> str:
        """The name of this process among those that share events.

        With `preload_app` the manager is made before the fork. Workers of the same name would ignore each other.
        """
        if self._host_process != os.getpid():
            self._host_process, self._host_id = os.getpid(), uuid.uuid4().hex
        return self._host_id

    @host_id.setter
    def host_id(self, value: str) -> None:
        self._host_process, self._host_id = os.getpid(), value

    def initialize(self) -> None:
        """Begin to listen. python-socketio calls it with the first client of a process, and so after any fork."""
        self._start_listening()

    def emit(
        self,
        event: Any,
        data: Any,
        namespace: Any = None,
        room: Any = None,
        skip_sid: Any = None,
        callback: Any = None,
        to: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Emit to a client, a room or all clients, in all workers. The arguments are those of `Server.emit`."""
        if callback is not None:
            # A worker without clients gets the answer of a client, too.
            self._start_listening()
        return super().emit(
            event, data, namespace=namespace, room=room, skip_sid=skip_sid, callback=callback, to=to, **kwargs
        )

    def _start_listening(self) -> None:
        if self.write_only or self._is_listening or self.server is None:
            return
        self._is_listening = True
        try:
            # Before the first client enters a room, so that no event of another worker passes it by.
            self._subscription = self._subscribe()
        except BaseException:
            self._is_listening = False
            raise
        self.thread = self.server.start_background_task(self._thread)
        self._get_logger().info("%s backend initialized.", self.name)

    def _subscribe(self) -> Subscription:
        return self._channel.subscribe(max_queue=MAX_QUEUE, on_gap=self._note_gap)

    def _publish(self, data: dict[str, Any]) -> None:
        """Send a message to the other workers."""
        if data["method"] == "callback" and Packet.data_is_binary(list(data["args"])):
            # JSON has no bytes. PubSubManager takes care of those in events only.
            args, attachments = Packet.deconstruct_binary(list(data["args"]))
            data = {**data, "args": args, "attachments": [attachment.hex() for attachment in attachments]}
        # The sender is in front, so that own messages are dropped without reading their JSON.
        self._channel.publish(f"{self.host_id} {self._codec().dumps(data)}")

    def _listen(self) -> Iterator[dict[str, Any]]:
        """Iterate over the messages of the other workers."""
        while True:
            subscription = self._subscription
            if subscription is None or subscription.is_closed:
                subscription = self._subscription = self._subscribe()
            dropped = 0
            for message in subscription:
                if subscription.dropped > dropped:
                    self._get_logger().error(
                        "%d events of other workers were dropped: this worker computes for so long that more than %d "
                        "wait (channel %r)",
                        subscription.dropped - dropped,
                        MAX_QUEUE,
                        self.channel,
                    )
                    dropped = subscription.dropped
                sender, _, text = message.partition(" ")
                if sender != self.host_id:
                    yield self._decoded(text)

    def _decoded(self, text: str) -> dict[str, Any]:
        data: dict[str, Any] = self._codec().loads(text)
        if data.get("attachments"):
            attachments = [bytes.fromhex(attachment) for attachment in data.pop("attachments")]
            data["args"] = Packet.reconstruct_binary(data["args"], attachments)
        return data

    def _codec(self) -> Any:
        return self.json or standard_json

    def _note_gap(self, missed: int | None) -> None:
        number = "An unknown number of" if missed is None else str(missed)
        self._get_logger().error("%s events of other workers were lost (channel %r)", number, self.channel)
