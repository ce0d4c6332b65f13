"""An application that publishes to a channel, and subscribes when it is imported: with --preload in the master."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rmeinheld.channel import Channel

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

ROOM = Channel("room")
HEARD: list[Any] = []
ROOM.subscribe(HEARD.append)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the process, what it has heard, and the members. /publish/TEXT and /join/KEY do so."""
    number = -1
    match environ["PATH_INFO"].split("/")[1:]:
        case ["publish", text]:
            number = ROOM.publish(text)
        case ["join", key]:
            ROOM.presence.join(key, os.getpid())
    answer = {"pid": os.getpid(), "heard": HEARD, "number": number, "members": ROOM.presence.members()}
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
