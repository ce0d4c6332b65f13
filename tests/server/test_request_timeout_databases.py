"""`request_timeout` of requests that wait for a database: they end there, and the server serves others."""

from __future__ import annotations

import time

import pytest

from databases import PostgreSQL, Redis, running
from serving import Serve, request

LIMIT = 0.5
"""`request_timeout`, in seconds."""

SLACK = 2.0
"""Time that a busy machine may add. The queries take 30 s, or for ever."""


def test_a_request_that_waits_for_postgresql_is_answered_504(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    with running(PostgreSQL) as server:
        monkeypatch.setenv("TEST_POSTGRESQL", server.dsn)
        assert_each_ends(serve, ["psycopg"])


def test_a_request_that_waits_for_redis_is_answered_504(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis")
    with running(Redis) as server:
        monkeypatch.setenv("TEST_REDIS", server.socket)
        assert_each_ends(serve, ["redis", "redis-subscription"])


def assert_each_ends(serve: Serve, paths: list[str]) -> None:
    """AssertionError unless each of these requests ends in time by a RequestTimeout, and others are served then."""
    server = serve("slow_queries_app:app", request_timeout=LIMIT)
    for path in paths:
        begun = time.monotonic()
        with server.connect() as connection:
            assert connection.request(request("GET", f"/{path}")).status == 504
        assert LIMIT <= time.monotonic() - begun < LIMIT + SLACK
    with server.connect() as connection:
        ended = connection.request(request("GET", "/ended")).body.decode().splitlines()
    assert [line.split()[:2] for line in ended] == [[path, "RequestTimeout"] for path in paths]
