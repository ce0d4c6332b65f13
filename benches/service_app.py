"""The application of the service benchmarks: the paths that service_client.c asks for, and two more.

/compute computes for about a millisecond, and /spin for ever. `SERVICE_IMPORT_SECONDS` says how long the import
takes, 0 by default; it waits, as for a database.
"""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

if seconds := float(os.environ.get("SERVICE_IMPORT_SECONDS", "0")):
    time.sleep(seconds)

LINE_SECONDS = 0.05
LEAK_BYTES = 4 << 20
COMPUTE_STEPS = 10_000

leaked: list[bytes] = []


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    """Answer with the number of the request; X-Worker names the process."""
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if websocket := environ.get("wsgi.websocket"):
        for message in websocket:
            websocket.send(message)
        return []
    if path == "/short":
        # The most frequent request by far: its query has the number alone.
        text = f"short {query.removeprefix('number=')}\n"
    elif path == "/compute":
        text = f"computed {computed(COMPUTE_STEPS)}\n"
    elif path == "/spin":
        os.write(2, b"process %d spins\n" % os.getpid())
        while True:
            pass
    else:
        query = {name: values[0] for name, values in parse_qs(query).items()}
        number = query["number"]
        text = f"{path[1:]} {number}\n"
        if path == "/long":
            time.sleep(float(query["seconds"]))
        elif path == "/upload":
            text = f"upload {number} {sum_of(environ['wsgi.input'])}\n"
        elif path == "/leak":
            leaked.append(b"x" * LEAK_BYTES)
        elif path == "/stream":
            parts = [f"stream {number} {index}\n".encode() for index in range(int(query["lines"]))]
            fields = [("X-Worker", str(os.getpid()))]
            if int(number) % 2:
                fields.append(("Content-Length", str(sum(map(len, parts)))))
            start_response("200 OK", fields)
            return slowly(parts)
    body = text.encode()
    start_response("200 OK", [("Content-Length", str(len(body))), ("X-Worker", str(os.getpid()))])
    return [body]


def computed(steps: int) -> int:
    """A number that takes `steps` steps of Python code."""
    number = 0
    for step in range(steps):
        number = (31 * number + step) & 0xFFFFFFFF
    return number


def sum_of(source: Any) -> str:
    """Length and CRC-32 of a body."""
    length = crc = 0
    while part := source.read(8192):
        length, crc = length + len(part), zlib.crc32(part, crc)
    return f"{length} {crc}"


def slowly(parts: list[bytes]) -> Iterator[bytes]:
    """Yield with a pause before each part."""
    for part in parts:
        time.sleep(LINE_SECONDS)
        yield part
