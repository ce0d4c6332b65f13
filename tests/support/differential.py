"""The same bytes read by this server, by h11 and by Gunicorn's parser, and what their differences mean.

A stream is the whole input of a connection and its end. Each reader turns it into the requests that it accepts, and the
reason for which it takes no more. Two readers are compared up to their first difference. Two accepted requests that
differ are always a fault: so requests are smuggled (RFC 9112 11.2). A request that only one reader accepts has to be
among the known differences, with the clause that makes it right.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import h11
from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData, ParseException
from gunicorn.http.parser import RequestParser

from serving import ConnectionEnded, Server

MARKER = b"GET /after HTTP/1.1\r\nHost: after\r\nConnection: close\r\n\r\n"
"""Ends every stream: it shows where a reader believes that a request begins."""


STREAMS_OF_A_SERVER = 10_000


class Request(NamedTuple):
    """A request as an application sees it. `fields` are the keys of the environ that come from fields."""

    method: str
    target: str
    version: str
    fields: dict[str, str]
    body: bytes


class End(NamedTuple):
    """Why there are no more requests: "refused" with a reason, "incomplete", or "closed" as a request asked."""

    kind: str
    reason: str = ""


@dataclass(frozen=True)
class Seen:
    """The requests that a reader saw in a stream, and the reason for its end."""

    requests: list[Request]
    end: End


# --- the readers -----------------------------------------------------------------------------------------------------


class Ours:
    """This server, running `corpus_app`, with a connection for each stream.

    `start` starts one. There is another after every `STREAMS_OF_A_SERVER` streams, as reasons are looked up in its log.
    """

    def __init__(self, start: Callable[[], Server]) -> None:
        self._start = start
        self._server = start()
        self._log_position = 0
        self._streams = 0

    def read(self, stream: bytes) -> Seen:
        """Send the stream and its end, and read all answers."""
        if self._streams == STREAMS_OF_A_SERVER:
            self._server.stop()
            self._server, self._log_position, self._streams = self._start(), 0, 0
        self._streams += 1
        requests: list[Request] = []
        with self._server.connect() as connection:
            connection.send(stream)
            connection.finish_sending()
            while True:
                try:
                    head, length = connection.read_head()
                except ConnectionEnded:
                    assert not connection.buffer, f"half a head: {connection.buffer!r}"
                    return Seen(requests, End("incomplete"))
                if head.status == 100:
                    continue
                if head.header("Content-Type") != "application/json":
                    assert b"HTTP/1." not in connection.read_to_end(), "an answer after an error"
                    return Seen(requests, self._refusal(head.status))
                # Only the answer to HEAD has this field, and no body.
                in_field = head.header("X-Seen")
                requests.append(seen_by_application(json.loads(in_field or connection.read_exactly(length))))
                if head.ends_connection:
                    connection.expect_end()
                    return Seen(requests, End("closed"))

    def _refusal(self, status: int) -> End:
        """The reason of an error, which is in the log. There is one line for each."""
        pattern = r"^\[.*?\] \[\d+\] \[INFO\] (\d{3}) from 127\.0\.0\.1: (.*)$"
        line = self._server.wait_for_log(pattern, start=self._log_position)
        self._log_position = line.end()
        assert int(line[1]) == status, f"{status} was answered, and the log has {line[0]}"
        if line[2] == "the connection ended within the request body":
            return End("incomplete")
        return End("refused", f"{status}: {line[2]}")


def seen_by_application(seen: dict[str, Any]) -> Request:
    """From the JSON of `corpus_app`."""
    environ = seen["environ"]
    fields = {key: value for key, value in environ.items() if key.startswith(("HTTP_", "CONTENT_"))}
    return Request(seen["method"], seen["target"], environ["SERVER_PROTOCOL"], fields, seen["body"].encode("latin-1"))


def read_by_h11(stream: bytes) -> Seen:
    """As a server that answers each request with 200, or CONNECT with 405."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(stream)
    connection.receive_data(b"")
    requests: list[Request] = []
    head: h11.Request | None = None
    body = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            ended = "closed connection" in str(error)
            return Seen(requests, End("incomplete") if ended else End("refused", re.split("[:(]", str(error))[0]))
        match event:
            case h11.Request():
                head, body = event, b""
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                assert head is not None
                requests.append(request_from_h11(head, body))
                status = 405 if head.method == b"CONNECT" else 200
                connection.send(h11.Response(status_code=status, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    return Seen(requests, End("closed"))
                connection.start_next_cycle()
            case _:
                return Seen(requests, End("incomplete"))


def request_from_h11(head: h11.Request, body: bytes) -> Request:
    method, target, version = (text.decode("latin-1") for text in (head.method, head.target, head.http_version))
    fields = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers.raw_items())
    return Request(method, target, f"HTTP/{version}", environ_of(fields, target), body)


GUNICORN = Config()
GUNICORN.set("http_parser", "python")


def read_by_gunicorn(stream: bytes) -> Seen:
    """By Gunicorn's parser in Python with its defaults, for a peer that is no trusted proxy."""
    requests: list[Request] = []
    parser = RequestParser(GUNICORN, iter([stream]), ("192.0.2.1", 1))
    try:
        for message in parser:
            body = message.body.read()
            # Its reader of a sized body takes the end of the stream for the end of the body.
            if len(body) < int(dict(message.headers).get("CONTENT-LENGTH", 0)):
                return Seen(requests, End("incomplete"))
            fields = environ_of(message.headers, message.uri)
            version = "HTTP/{}.{}".format(*message.version)
            requests.append(Request(message.method, message.uri, version, fields, body))
    except NoMoreData:
        return Seen(requests, End("incomplete"))
    except ParseException as error:
        # Where the fault is in a field, its name if that is known.
        name = getattr(error, "hdr", "")
        place = f" {name}" if name in ("CONTENT-LENGTH", "CONTENT-TYPE", "HOST", "TRANSFER-ENCODING") else ""
        return Seen(requests, End("refused", type(error).__name__ + place))
    return Seen(requests, End("closed" if requests else "incomplete"))


def environ_of(fields: Iterable[tuple[str, str]], target: str) -> dict[str, str]:
    """The keys of the environ for a list of fields (PEP 3333), as this server makes them."""
    environ: dict[str, str] = {}
    for name, value in fields:
        name = name.upper()
        # Dropped: what would pass for another field, and what libraries take for their own (httpoxy).
        if "_" in name or name == "PROXY":
            continue
        key = name.replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        separator = "; " if name == "COOKIE" else ","
        environ[key] = f"{environ[key]}{separator}{value}" if key in environ else value
    if authority := re.match(r"https?://([^/?]*)", target, re.I):
        # RFC 9112 3.2.2: the authority of an absolute target replaces Host.
        environ["HTTP_HOST"] = authority[1]
    return environ


# --- the comparison --------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """The place where two readers differ: the request that only one accepts, the one before it, and the stream."""

    accepted: Request
    before: Request | None
    stream: bytes

    @property
    def connection(self) -> str:
        """The Connection field of the request before."""
        return self.before.fields.get("HTTP_CONNECTION", "") if self.before else ""


@dataclass(frozen=True)
class Known:
    """A way in which this server and the peers named may disagree about whether to accept a request.

    `ours` and `theirs` are how what the readers say begins: "accepted", "closed", "incomplete", "refused <reason>".
    `applies` says whether this can be the reason at that place.
    """

    peers: tuple[str, ...]
    ours: str
    theirs: str
    why: str
    applies: Callable[[Place], bool] = lambda place: True


class Difference(AssertionError):
    """Readers disagree in a way that is not known to be right."""


def verdict(seen: Seen, index: int) -> str:
    """The reader's verdict on the request with this index. It has accepted all before."""
    if index < len(seen.requests):
        return "accepted"
    return f"{seen.end.kind} {seen.end.reason}".strip()


def compare(peer: str, ours: Seen, theirs: Seen, stream: bytes, known: Sequence[Known]) -> Known | str:
    """The known reason of the first difference, or the reading on which both agree. Raises `Difference`."""
    for index, (our, their) in enumerate(zip(ours.requests, theirs.requests, strict=False)):
        if not is_same(our, their):
            raise Difference(f"request {index} is\n{our}\nand for {peer}\n{their}\nin {stream!r}")
    index = min(len(ours.requests), len(theirs.requests))
    here, there = verdict(ours, index), verdict(theirs, index)
    if "accepted" not in (here, there):
        return "the first request is refused" if index == 0 else "the same requests, and no more"
    requests = ours.requests if here == "accepted" else theirs.requests
    place = Place(requests[index], requests[index - 1] if index else None, stream)
    for each in known:
        if peer in each.peers and here.startswith(each.ours) and there.startswith(each.theirs) and each.applies(place):
            return each
    raise Difference(f"request {index} here: {here}\nand for {peer}: {there}\nin {stream!r}")


def is_same(our: Request, their: Request) -> bool:
    """Do both see the same request?"""
    return comparable(our) == comparable(their)


def comparable(seen: Request) -> Request:
    """Without what readers may show in their own way."""
    # A minor version above 1 is read as 1 (RFC 9110 2.5), and h11 gives the name of the coding in small letters.
    version = re.sub(r"HTTP/1\.[2-9]", "HTTP/1.1", seen.version)
    fields = {key: value.lower() if key == CODING else value for key, value in seen.fields.items()}
    return seen._replace(version=version, fields=fields)


CODING = "HTTP_TRANSFER_ENCODING"


class Census:
    """How many streams the readers read alike, and how many differently in each known way."""

    def __init__(self, known: Sequence[Known]) -> None:
        self.streams = 0
        self.requests = 0
        self._known = known
        self._counts: Counter[tuple[str, Known | str]] = Counter()

    def compare(self, reader: Ours, stream: bytes) -> None:
        """Give a stream to all readers. Raises `Difference`."""
        ours = reader.read(stream)
        self.streams += 1
        self.requests += len(ours.requests)
        for peer, read in PEERS.items():
            self._counts[peer, compare(peer, ours, read(stream), stream, self._known)] += 1

    def report(self) -> Iterator[str]:
        """Lines that tell the counts."""
        yield f"{self.streams} streams, in which this server saw {self.requests} requests"
        for peer in PEERS:
            counts = {what: count for (of, what), count in self._counts.items() if of == peer}
            alike = {what: count for what, count in counts.items() if isinstance(what, str)}
            differently = [(counts[what], what) for what in self._known if what in counts]
            yield f"{peer}: {sum(alike.values())} read alike, {sum(count for count, _ in differently)} differently"
            for text in sorted(alike):
                yield f"  {alike[text]:6} {text}"
            for count, what in differently:
                yield f"  {count:6} here {what.ours.rstrip(': ')}, there {what.theirs}: {what.why}"


PEERS = {"h11": read_by_h11, "Gunicorn": read_by_gunicorn}
