"""Requests whose client of a database, named by the path, waits for an answer that takes half a minute."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

SECONDS = 30


def ask_postgresql() -> None:
    import psycopg

    with psycopg.connect(os.environ["TEST_POSTGRESQL"]) as connection:
        connection.execute("SELECT pg_sleep(%s)", [SECONDS])


def ask_redis() -> None:
    import redis

    redis.Redis(unix_socket_path=os.environ["TEST_REDIS"]).blpop(["nothing"], timeout=SECONDS)


def ask_redis_without_limit() -> None:
    import redis

    subscription: Any = redis.Redis(unix_socket_path=os.environ["TEST_REDIS"]).pubsub()  # type: ignore[no-untyped-call]
    subscription.subscribe("nothing")
    list(subscription.listen())


WORK: dict[str, Callable[[], Any]] = {
    "psycopg": ask_postgresql,
    "redis": ask_redis,
    "redis-subscription": ask_redis_without_limit,
}

ended: list[str] = []


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"].strip("/")
    begun = time.monotonic()
    if path in WORK:
        try:
            WORK[path]()
        except BaseException as error:
            ended.append(f"{path} {type(error).__name__} {time.monotonic() - begun:.3f}")
            raise
    start_response("200 OK", [("Content-Type", "text/plain")])
    return ["\n".join(ended).encode()]
