"""Requests keep the two connections of a pool while they call another service, and the rest waits for a connection."""

import queue
import time
from contextlib import contextmanager

POOL = queue.Queue()
for number in range(2):
    POOL.put(f"connection {number}")


@contextmanager
def connection():
    mine = POOL.get()
    try:
        yield mine
    finally:
        POOL.put(mine)


def ask_the_other_service():
    time.sleep(30)


def app(environ, start_response):
    with connection():
        # The mistake: the connection is not needed during this call.
        ask_the_other_service()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok\n"]
