"""The application of the entry for HttpArena: its endpoints of HTTP/1.1, and the echo over WebSocket.

`DATASET_PATH` (default /data/dataset.json) names the items of `/json`, `STATIC_PATH` (default /data/static) the files
of `/static`. `DATABASE_URL` is that of PostgreSQL; `DATABASE_MAX_CONN` is shared among `WEB_CONCURRENCY` workers.
"""

from __future__ import annotations

import atexit
import json
import mimetypes
import os
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

try:
    from orjson import dumps
except ImportError:

    def dumps(value: Any, /) -> bytes:
        """JSON without spaces, as orjson writes it."""
        return json.dumps(value, separators=(",", ":")).encode()


Environ = dict[str, Any]
Answer = tuple[str, list[tuple[str, str]], Iterable[bytes]]

PIECE_BYTES = 256 * 1024
GZIP_LEVEL, GZIP = 5, 31
OK, BAD_REQUEST, NOT_FOUND = "200 OK", "400 Bad Request", "404 Not Found"
TEXT, JSON = ("Content-Type", "text/plain"), ("Content-Type", "application/json")
LONGEST_LIST = 50
QUERY = """
    SELECT id, name, category, price, quantity, active, tags, rating_score, rating_count
    FROM items WHERE price BETWEEN %s AND %s LIMIT %s
"""

STATIC = Path(os.environ.get("STATIC_PATH", "/data/static"))
ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
mimetypes.add_type("font/woff2", ".woff2")
mimetypes.add_type("image/webp", ".webp")

_dataset = Path(os.environ.get("DATASET_PATH", "/data/dataset.json"))
ITEMS: list[dict[str, Any]] = json.loads(_dataset.read_text()) if _dataset.exists() else []

POOL: Any = None
if address := os.environ.get("DATABASE_URL"):
    import psycopg
    import psycopg_pool

    # Here rather than at the first request: several could come at once. It connects in the background, again and again.
    share = int(os.environ.get("DATABASE_MAX_CONN", "256")) // int(os.environ.get("WEB_CONCURRENCY", "1"))
    POOL = psycopg_pool.ConnectionPool(
        address, kwargs={"autocommit": True}, min_size=1, max_size=max(2, share), timeout=10, open=True
    )
    atexit.register(POOL.close)


def text(body: str, status: str = OK) -> Answer:
    """An answer of plain text."""
    return status, [TEXT, ("Content-Length", str(len(body)))], [body.encode()]


def json_of(value: dict[str, Any], accepted: str = "") -> Answer:
    """An answer of JSON, compressed if gzip is among the accepted encodings."""
    body = dumps(value)
    headers = [JSON]
    if "gzip" in accepted:
        body = zlib.compress(body, GZIP_LEVEL, GZIP)
        headers.append(("Content-Encoding", "gzip"))
    return OK, [*headers, ("Content-Length", str(len(body)))], [body]


def numbers(environ: Environ) -> dict[str, int]:
    """The whole numbers of the query; others are left out."""
    return {name: int(value) for name, value in parse_qsl(environ["QUERY_STRING"]) if value.lstrip("-").isdecimal()}


def baseline(environ: Environ) -> Answer:
    """The sum of the query's numbers and of the one in the body."""
    total = sum(numbers(environ).values())
    if environ["REQUEST_METHOD"] == "POST":
        body = environ["wsgi.input"].read().strip()
        if not body.lstrip(b"-").isdigit():
            return text("the body is not a whole number", BAD_REQUEST)
        total += int(body)
    return text(str(total))


def pipeline(environ: Environ) -> Answer:
    """Two bytes."""
    return text("ok")


def items(environ: Environ) -> Answer:
    """The first items of the dataset, each with its total."""
    count = environ["PATH_INFO"].rpartition("/")[2]
    if not count.isdecimal():
        return text("the number of items is missing", NOT_FOUND)
    factor = numbers(environ).get("m", 1)
    found = [item | {"total": item["price"] * item["quantity"] * factor} for item in ITEMS[: int(count)]]
    return json_of({"items": found, "count": len(found)}, environ.get("HTTP_ACCEPT_ENCODING", ""))


def upload(environ: Environ) -> Answer:
    """The number of bytes that were received."""
    received = environ["wsgi.input"]
    size = 0
    while piece := received.read(PIECE_BYTES):
        size += len(piece)
    return text(str(size))


def static(environ: Environ) -> Answer:
    """A file, or its compressed neighbour if the client accepts that."""
    name = environ["PATH_INFO"].removeprefix("/static/")
    path, headers = STATIC / name, [("Content-Type", mimetypes.guess_type(name)[0] or "application/octet-stream")]
    if "/" in name or not path.is_file():
        return text("no such file", NOT_FOUND)
    for encoding, suffix in ENCODINGS:
        if encoding in environ.get("HTTP_ACCEPT_ENCODING", "") and (STATIC / (name + suffix)).exists():
            path = STATIC / (name + suffix)
            headers.append(("Content-Encoding", encoding))
            break
    file = path.open("rb")
    headers.append(("Content-Length", str(os.fstat(file.fileno()).st_size)))
    if wrapper := environ.get("wsgi.file_wrapper"):
        return OK, headers, wrapper(file, PIECE_BYTES)
    with file:
        return OK, headers, [file.read()]


def database(environ: Environ) -> Answer:
    """Items of a range of prices."""
    wanted = {"min": 10, "max": 50, "limit": LONGEST_LIST} | numbers(environ)
    limit = min(max(wanted["limit"], 1), LONGEST_LIST)
    rows = []
    # Without PostgreSQL the list is empty.
    if POOL is not None:
        with suppress(psycopg.OperationalError), POOL.connection() as connection:
            rows = connection.execute(QUERY, (wanted["min"], wanted["max"], limit)).fetchall()
    names = ("id", "name", "category", "price", "quantity", "active", "tags")
    found = [
        dict(zip(names, row, strict=False)) | {"rating": {"score": score, "count": count}}
        for *row, score, count in rows
    ]
    return json_of({"items": found, "count": len(found)})


ROUTES: dict[str, Callable[[Environ], Answer]] = {
    "baseline11": baseline,
    "pipeline": pipeline,
    "json": items,
    "upload": upload,
    "static": static,
    "async-db": database,
}


def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer a request, or send back each message of a WebSocket."""
    first = environ["PATH_INFO"].split("/", 2)[1]
    if first == "ws" and (websocket := environ.get("wsgi.websocket")) is not None:
        for message in websocket:
            websocket.send(message)
        return []
    if first == "ws":
        status, headers, body = text("a WebSocket is expected here", BAD_REQUEST)
    elif route := ROUTES.get(first):
        status, headers, body = route(environ)
    else:
        status, headers, body = text("no such path", NOT_FOUND)
    start_response(status, headers)
    return body
