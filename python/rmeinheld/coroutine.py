"""Coroutines: plain blocking functions, thousands of which run side by side on one OS thread.

Every request runs in a coroutine, and an application can start more of them. Each has its own Python thread state, so
context variables, `threading.local` and the exception being handled are its own, as in a thread. One that waits (here,
in `sleep`) lets the others run; one that computes does not.

    from rmeinheld.coroutine import sleep, spawn

    def fetch(key):
        sleep(0.1)
        return key.upper()

    def app(environ, start_response):
        fetches = [spawn(fetch, key) for key in ("a", "b", "c")]
        for each in fetches:
            each.join()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [" ".join(each.result for each in fetches).encode()]

The three fetches take a tenth of a second together.
"""

from __future__ import annotations

from ._rmeinheld import Coroutine, CoroutineExit, current, sleep, spawn, wait_readable, wait_writable

__all__ = ["Coroutine", "CoroutineExit", "current", "sleep", "spawn", "wait_readable", "wait_writable"]
