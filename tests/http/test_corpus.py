"""The corpus of requests in tests/corpus against a live server: whole, byte by byte, and split at every position.

docs/development/testing.md describes a case; tests/corpus.rs runs the same cases through the parser alone.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from corpus_cases import ALL, CORPUS, SUBJECTS, Case, text_of
from serving import Connection, ConnectionEnded, Response, Serve, Server, request

NEXT = request("GET", "/next")
"""The request that shows whether the connection can still be used."""

FLOCK = 64
"""Number of runs at the same time. All send a piece, the server gets time to read them, and all send the next piece."""

SPLIT_BYTES = 200
"""Longer inputs are not split at every position, nor sent byte by byte."""

STEP_BYTES = 997
"""Size of the pieces of the longer inputs."""

FEWEST_CASES = 400

MARKS = itertools.count()


# --- the data --------------------------------------------------------------------------------------------------------


def repeated(values: Iterator[Any]) -> list[Any]:
    return [value for value, count in Counter(values).items() if count > 1]


def test_there_are_enough_cases_and_none_is_there_twice() -> None:
    cases = [case for cases in ALL.values() for case in cases]
    assert len(cases) >= FEWEST_CASES
    assert repeated(case.name for case in cases) == []
    assert repeated(case.input for case in cases) == []


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_case_names_its_source_and_says_what_is_expected(subject: str) -> None:
    for entry, case in zip(json.loads((CORPUS / f"{subject}.json").read_text()), ALL[subject], strict=True):
        assert set(entry) == {"name", "source", "input", "expect", "then"}, case.name
        assert case.name and case.source and case.input, entry
        assert case.then in ("open", "closed", "incomplete"), case.name
        for seen in case.requests:
            assert {"method", "target", "body"} <= set(seen), case.name
            assert set(seen) <= {"method", "target", "body", "path", "query", "environ"}, case.name
        if case.error is not None:
            # After an error nothing is a request, and the bytes to prove it with have to be there.
            assert case.then == "closed", case.name
            assert 400 <= case.error <= 505, case.name
            assert case.input.endswith(b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"), case.name


# --- one run of a case -----------------------------------------------------------------------------------------------


def read_final(connection: Connection, method: str) -> Response:
    """The next response that is not 100 (Continue)."""
    while (response := connection.read_response(method)).status == 100:
        pass
    return response


def check_seen(expected: dict[str, Any], response: Response) -> None:
    """Check that the application has seen the expected request."""
    method = expected["method"]
    assert response.status == 200, f"{response.status} instead of {expected}"
    seen = json.loads((response.header("X-Seen") or "") if method == "HEAD" else response.body)
    for key, value in expected.items():
        if key == "environ":
            environ = {name: seen["environ"].get(name) for name in value}
            assert environ == value
        elif key != "body" or seen["body"] is not None:
            assert seen[key] == text_of(value), f"{key} is {seen[key]!r}"


class Run:
    """A case on its way: pieces are sent one by one, then the answers are read."""

    def __init__(self, server: Server, case: Case, connections: list[Connection], pieces: Sequence[bytes]) -> None:
        self.case = case
        self.pieces = list(pieces)
        if case.then == "open":
            self.pieces[-1] += NEXT
        self._connections = connections
        self._connection = connections.pop() if connections else server.connect()

    def send(self, number: int) -> None:
        """Send the piece with this number, if there is one and the server still listens."""
        if number < len(self.pieces):
            with suppress(OSError):
                self._connection.send(self.pieces[number])

    def finish(self) -> str | None:
        """Read the answers. Returns their fault, or None."""
        try:
            self._check()
        except AssertionError as fault:
            self._connection.close()
            return f"{self.case.name} ({self.case.source}), in pieces of {[*map(len, self.pieces)][:3]}: {fault}"
        if self.case.then == "open":
            self._connections.append(self._connection)
        else:
            self._connection.close()
        return None

    def _check(self) -> None:
        case, connection = self.case, self._connection
        if case.then == "incomplete":
            connection.finish_sending()
        ends = False
        for expected in case.requests:
            response = read_final(connection, expected["method"])
            check_seen(expected, response)
            ends = response.ends_connection
        if case.error is not None:
            response = read_final(connection, case.refused)
            assert response.status == case.error, f"{response.status} instead of {case.error}"
            ends = response.ends_connection
        assert ends is (case.then == "closed"), f"Connection: close was {'' if ends else 'not '}sent"
        if case.then == "open":
            check_seen({"method": "GET", "target": "/next", "body": ""}, read_final(connection, "GET"))
            assert not connection.buffer, "bytes after the last response"
            return
        if case.then == "incomplete":
            # The server may tell that it has waited for more, or just close.
            with suppress(ConnectionEnded):
                assert read_final(connection, "GET").status in (400, 408)
        connection.expect_end()


def run(server: Server, runs: Iterator[tuple[Case, Sequence[bytes]]]) -> None:
    """Run the cases in these pieces, a flock at a time; AssertionError with all faults."""
    connections: list[Connection] = []
    faults: list[str] = []
    flock: list[Run] = []
    bystander = server.connect()

    def finish() -> None:
        for number in range(max((len(running.pieces) for running in flock), default=0)):
            for running in flock:
                running.send(number)
            # The server takes what is ready in its order: when this is answered, it has read the pieces.
            bystander.request(NEXT)
        faults.extend(fault for running in flock if (fault := running.finish()))
        flock.clear()

    try:
        for case, pieces in runs:
            flock.append(Run(server, case, connections, pieces))
            if len(flock) == FLOCK:
                finish()
        finish()
    finally:
        for connection in (bystander, *connections):
            connection.close()
    assert not faults, f"{len(faults)} runs went wrong:\n" + "\n".join(faults[:40])
    # The log is in order, so what was served before the mark is in it before the mark.
    mark = f"/mark/{next(MARKS)}"
    assert server.get(mark).status == 200
    server.wait_for_log(rf"^served {mark}$")
    assert "served /smuggled" not in server.log()


# --- the cases -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """One server with the default limits for all cases; connections may rest while others are at work."""
    return serve_module("corpus_app:app", keep_alive=60)


def in_steps(data: bytes, step: int) -> list[bytes]:
    return [data[start : start + step] for start in range(0, len(data), step)]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_cases_that_arrive_whole(server: Server, subject: str) -> None:
    run(server, ((case, [case.input]) for case in ALL[subject]))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_cases_that_arrive_byte_by_byte(server: Server, subject: str) -> None:
    steps = ((case, 1 if len(case.input) <= SPLIT_BYTES else STEP_BYTES) for case in ALL[subject])
    run(server, ((case, in_steps(case.input, step)) for case, step in steps))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_cases_that_are_split_at_every_position(server: Server, subject: str) -> None:
    run(
        server,
        (
            (case, [case.input[:cut], case.input[cut:]])
            for case in ALL[subject]
            if len(case.input) <= SPLIT_BYTES
            for cut in range(1, len(case.input))
        ),
    )


def test_a_smuggled_request_would_be_noticed(serve: Serve) -> None:
    server = serve("corpus_app:app")
    assert server.get("/smuggled").status == 200
    server.wait_for_log(r"^served /smuggled$")
