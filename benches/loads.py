"""The loads of the rows that are like HttpArena's and TechEmpower's: requests, connections and rates."""

from __future__ import annotations

import json
import os
from pathlib import Path

from load import Load
from postgresql import CLIENTS

FIELDS = "Host: 127.0.0.1\r\n"
ARENA_BODY = 32 * 1024 * 1024
"""Longest body that the servers have to accept."""
UPLOAD = bytes(20 * 1024 * 1024)
PAGE = b"body { color: black }\n" * 3000
RATE_CONNECTIONS = 64


def get(target: str, fields: str = "") -> bytes:
    """The bytes of a GET."""
    return f"GET {target} HTTP/1.1\r\n{FIELDS}{fields}\r\n".encode()


def post(target: str, fields: str, body: bytes) -> bytes:
    """The bytes of a POST."""
    return f"POST {target} HTTP/1.1\r\n{FIELDS}{fields}\r\n".encode() + body


SUMS = (
    get("/baseline11?a=13&b=42"),
    post("/baseline11?a=13&b=42", "Content-Length: 2\r\n", b"20"),
    post("/baseline11?a=13&b=42", "Transfer-Encoding: chunked\r\n", b"2\r\n20\r\n0\r\n\r\n"),
)
ITEMS = ((1, 3), (5, 7), (10, 2), (15, 5), (25, 4), (40, 8), (50, 6))
ARENA = {
    "arena_baseline": Load(SUMS, 512),
    "arena_limited": Load(SUMS, 512, per_connection=10),
    "arena_json": Load(tuple(get(f"/json/{count}?m={factor}") for count, factor in ITEMS), 512),
    "arena_upload": Load((post("/upload", f"Content-Length: {len(UPLOAD)}\r\n", UPLOAD),), 8),
    "arena_static": Load((get("/static/page.css"),), 512),
}

BODIES = {
    "headers_20": Load((get("/headers"),), 64),
    "generator_10k": Load((get("/generator"),), 64),
    "large_100k": Load((get("/large"),), 64),
    "echo_10k": Load((post("/echo", "Content-Length: 10000\r\n", bytes(10_000)),), 64),
    "file_10m": Load((get("/file"),), 8),
}
COLD = {"cold_c64": Load((get("/"),), 64, per_connection=1)}
BIMODAL = {"bimodal_c64": Load((get("/"),), 64)}

# The application, and its requests.
FRAMEWORKS = {
    "flask_app:app": {"flask_json": Load((get("/json"),), CLIENTS)},
    "django_app:app": {"django_page": Load((get("/page"),), CLIENTS)},
}
TESTS = {"db": "/db", "queries": "/queries?queries=20", "fortunes": "/fortunes", "updates": "/updates?queries=20"}
DATABASE = {
    f"{framework}_app:app": {f"{framework}_{test}": Load((get(target),), CLIENTS) for test, target in TESTS.items()}
    for framework in ("flask", "django")
}
LATENCY = {
    "hello": {"rate_hello": Load((get("/"),), RATE_CONNECTIONS, rate=5000)},
    "flask_app:app": {"rate_flask": Load((get("/json"),), RATE_CONNECTIONS, rate=2000)},
}


def write_arena_data(directory: Path) -> None:
    """Write the dataset and the file of HttpArena's rows, and name them for the servers that start from now on."""
    directory.mkdir(parents=True, exist_ok=True)
    kind = {"name": "Alpha Widget", "category": "electronics", "active": True, "tags": ["fast", "new"]}
    rating = {"rating": {"score": 48, "count": 127}}
    items = [{"id": number, **kind, "price": 300 + number, "quantity": 15, **rating} for number in range(1, 51)]
    (directory / "dataset.json").write_text(json.dumps(items))
    (directory / "page.css").write_bytes(PAGE)
    os.environ |= {"DATASET_PATH": str(directory / "dataset.json"), "STATIC_PATH": str(directory)}
