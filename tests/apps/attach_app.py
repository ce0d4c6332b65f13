"""WebSockets that are attached to a channel; a plain request publishes a message."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from rmeinheld.channel import Channel

news = Channel("news")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """`/?KIND=MESSAGE` publishes. `/close` and `/skip` attach a WebSocket with this treatment if it is too slow."""
    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        kind, _, message = environ["QUERY_STRING"].partition("=")
        if kind:
            long = "x" * int(message) if kind == "long" else ""
            news.publish({"text": message, "bytes": message.encode(), "json": {"say": message}, "long": long}[kind])
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b"0"]
    if environ["PATH_INFO"] == "/close":
        assert news.attach(websocket, slow="skip")
    assert news.attach(websocket, slow="skip" if environ["PATH_INFO"] == "/skip" else "close")
    websocket.send(str(os.getpid()))
    for message in websocket:
        if message == "leave":
            news.detach(websocket)
            websocket.send("left")
    assert not news.attach(websocket)
    return []
