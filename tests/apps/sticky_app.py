"""An application with sessions in the memory of its worker: it counts the requests of each `?session=`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse

counts: Counter[str] = Counter()


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """Says which process answers, and for which time the session."""
    session = parse_qs(environ["QUERY_STRING"]).get("session", ["none"])[0]
    counts[session] += 1
    body = json.dumps({"pid": os.getpid(), "count": counts[session], "client": environ["REMOTE_ADDR"]}).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
