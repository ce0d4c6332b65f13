"""The example of server-sent events in examples/events."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from serving import TIMEOUT, Connection, Serve, request

EVENTS = Path(__file__).parents[2] / "examples" / "events"


def read_event(connection: Connection) -> tuple[int, dict[str, Any]]:
    """Return the next event of a feed, which comes in chunks."""
    found = re.search(rb"id: (\d+)\ndata: (.*)", connection.read_until(b"}\n\n") + b"}")
    assert found
    return int(found[1]), json.loads(found[2])


def test_events_resume_after_the_last_one_that_the_client_received(serve: Serve) -> None:
    server = serve("app:app", chdir=str(EVENTS))
    with server.connect() as connection:
        connection.send(request("GET", "/feed"))
        response, _ = connection.read_head()
        assert response.header("Content-Type") == "text/event-stream"
        first, event = read_event(connection)
        assert (event["number"], event["readers"]) == (first, 1)
        assert read_event(connection)[0] == first + 1
    with server.connect() as connection:
        connection.send(request("GET", "/feed", f"Last-Event-ID: {first - 1}"))
        connection.read_head()
        assert [read_event(connection)[0] for _ in range(2)] == [first, first + 1]
        # The reader that has gone no longer counts.
        deadline = time.monotonic() + TIMEOUT
        while read_event(connection)[1]["readers"] != 1:
            assert time.monotonic() < deadline


@pytest.mark.parametrize("last", ["x", "9" * 5000, "\xb2"])
def test_an_invalid_event_number_starts_the_feed_anew(serve: Serve, last: str) -> None:
    server = serve("app:app", chdir=str(EVENTS))
    with server.connect() as connection:
        connection.send(request("GET", "/feed", f"Last-Event-ID: {last}"))
        response, _ = connection.read_head()
        assert response.status == 200
        assert read_event(connection)[0] == 1


def test_the_page_explains_itself_and_leads_back(serve: Serve) -> None:
    page = serve("app:app", chdir=str(EVENTS)).get("/").body.decode()
    assert "six" in page
    assert 'href="../"' in page
    assert 'rel="icon"' in page
