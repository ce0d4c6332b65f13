"""Server-sent events in plain WSGI: a page that follows a count, and resumes after a lost connection.

    rmeinheld --chdir examples/events app:app                     (or: make run, and http://127.0.0.1:8000/events/)
    curl -N http://127.0.0.1:8000/feed

The application yields and the client reads. Where only the server has news, neither a WebSocket nor a library is
needed. Each client costs one coroutine. (https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse

from rmeinheld.coroutine import Condition, sleep, spawn

INTERVAL_SECONDS = 1.0
"""The time between two events."""

KEPT = 100
"""Events kept for clients that come back."""

QUIET_SECONDS = 15.0
"""Time without an event after which a comment is sent, because proxies end silent connections."""


class Feed:
    """Numbered events, and the clients that wait for the next one."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str]] = []
        self.changed = Condition()
        self.is_started = False
        self.readers = 0

    def start(self) -> None:
        """Start the count with the first reader, which comes after any fork."""
        if not self.is_started:
            self.is_started = True
            spawn(self.count)

    def count(self) -> None:
        """Add one event a second, without end."""
        number = 0
        while True:
            number += 1
            data = json.dumps({"number": number, "time": time.strftime("%H:%M:%S"), "readers": self.readers})
            with self.changed:
                self.events = [*self.events[-KEPT:], (number, data)]
                self.changed.notify_all()
            sleep(INTERVAL_SECONDS)

    def follow(self, last: int) -> Iterator[bytes]:
        """Yield the events after `last` as they come. When the client leaves, the server closes the generator."""
        self.start()
        self.readers += 1
        try:
            # Browsers reconnect after two seconds.
            yield b"retry: 2000\n\n"
            while True:
                with self.changed:
                    if not self.events or self.events[-1][0] == last:
                        self.changed.wait(QUIET_SECONDS)
                    newest = self.events[-1][0] if self.events else last
                    # A number from before a restart no longer counts.
                    news = [event for event in self.events if event[0] > last or newest < last]
                if not news:
                    yield b": still here\n\n"
                for number, data in news:
                    last = number
                    yield f"id: {number}\ndata: {data}\n\n".encode()
        finally:
            self.readers -= 1


feed = Feed()


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """The page, and its feed."""
    path = environ["PATH_INFO"]
    if path == "/feed":
        # The last event that the browser received before the connection broke.
        last = re.fullmatch("[0-9]{1,15}", environ.get("HTTP_LAST_EVENT_ID", ""))
        # With X-Accel-Buffering nginx passes each event on at once.
        headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")]
        start_response("200 OK", headers)
        return feed.follow(int(last[0]) if last else 0)
    if path == "/":
        page = Path(__file__).with_name("index.html").read_bytes()
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(page)))])
        return [page]
    if path == "":
        start_response("308 Permanent Redirect", [("Location", environ.get("SCRIPT_NAME", "") + "/")])
        return []
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"404 Not Found\n"]


if __name__ == "__main__":
    import rmeinheld

    rmeinheld.run(app)
