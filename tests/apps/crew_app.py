"""An application whose workers send each other messages."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rmeinheld import _crew

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

CREW = _crew.current()
assert CREW is not None, "the application runs in no service"
HEARD: list[str] = []
CREW.on(7, lambda slot, generation, payload, descriptors: HEARD.append(payload.decode()))


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the process, its siblings and what it has heard. /send/TEXT sends the text to each sibling."""
    assert CREW is not None
    siblings = CREW.siblings()
    refused = []
    match environ["PATH_INFO"].split("/")[1:]:
        case ["send", text]:
            for slot, _, pid in siblings:
                try:
                    CREW.send(slot, 7, text.encode())
                except OSError as error:
                    refused.append((pid, str(error)))
    pids = [pid for _, _, pid in siblings]
    answer = json.dumps({"pid": os.getpid(), "siblings": pids, "heard": HEARD, "refused": refused}).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
