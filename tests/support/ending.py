"""Source text and helpers for the tests of how things end."""

from __future__ import annotations

from serving import START_LINE

PATCHED = """
from rmeinheld.patch import patch_all
patch_all()
"""

RUN = """
import atexit, signal, sys, threading, time
import http.client, socket
import rmeinheld
from rmeinheld.coroutine import CoroutineExit, sleep, spawn
from rmeinheld.meinheld import server
from concurrent.futures import ThreadPoolExecutor

def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]

def serve(app, path="/", **options):
    "Run a server that stops itself after one request, from which the client need not have an answer."
    # Another one each time: a server that cannot end still has its socket.
    port = free_port()
    def ask():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            try:
                connection.request("GET", path, headers={"Connection": "close"})
                connection.getresponse().read()
                return
            except ConnectionRefusedError:
                time.sleep(0.01)
            except (OSError, http.client.HTTPException):
                return
            finally:
                connection.close()
    client = threading.Thread(target=ask, daemon=True)
    client.start()
    rmeinheld.run(app, port=port, **options)

def answer(start_response):
    server.stop()
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""


def printed(log: str) -> list[str]:
    """Lines of a script's log but for those that say where a server listens."""
    return [line for line in log.splitlines() if not START_LINE.match(line)]
