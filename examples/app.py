"""All examples in one process, each under its own path. `make run` serves them."""

from __future__ import annotations

from rmeinheld import patch

patch.patch_all()

from collections.abc import Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication
from wsgiref.util import shift_path_info

from chat.app import app as chat
from demo.app import app as demo
from events.app import app as events

PARTS: dict[str, WSGIApplication] = {"chat": chat, "events": events}


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Call the example that the first segment of the path names, the demo by default."""
    part = PARTS.get(environ["PATH_INFO"].split("/")[1] if "/" in environ["PATH_INFO"] else "")
    if part is not None:
        shift_path_info(environ)
    return (part or demo)(environ, start_response)
