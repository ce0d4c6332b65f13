"""An application that waits for a Redis GET and an HTTP request of a backend; for `backends.py`.

It uses the patched standard library of its server: gevent's worker patches by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

if os.environ["BENCH_SLEEP_MODULE"].startswith("rmeinheld"):
    from rmeinheld import patch

    patch.patch_all()

import redis
import urllib3

CONNECTIONS = 1000

store = redis.Redis(port=int(os.environ["BENCH_REDIS_PORT"]), max_connections=CONNECTIONS)
backend = urllib3.HTTPConnectionPool("127.0.0.1", int(os.environ["BENCH_BACKEND_PORT"]), maxsize=CONNECTIONS)


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer with what Redis has, if that is what the backend says."""
    value: Any = store.get("greeting")
    answer = backend.request("GET", "/").data
    if value != answer:
        raise ValueError(f"Redis has {value!r}, the backend says {answer!r}")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
