"""Client libraries and curl against a live server: every framing both ways, kept connections, and cut responses.

A few lines below adapt each library. Framing, reuse of connections and the check that a response is whole stay the
library's. Bodies come back as they were on the wire, without decoding.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import h11
import httpx
import pytest
import requests
import urllib3

from serving import TIMEOUT, Serve, Server
from transfer_app import PACKED, content, pieces

SIZES = [0, 1000, 3_000_000]


@dataclass(frozen=True)
class Answer:
    """A response; names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The JSON object in the body."""
        assert self.status == 200, self
        result: dict[str, Any] = json.loads(self.body)
        return result


Body = bytes | Iterator[bytes] | None
"""An iterator is sent chunked."""


def lower(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Fields with their names in lower case."""
    return {name.lower(): value for name, value in headers}


# --- the clients -----------------------------------------------------------------------------------------------------


class Client:
    """One client that keeps its connection. It raises one of `errors` when a response is cut."""

    errors: tuple[type[Exception], ...] = ()

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.address = server.address

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def ask(self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make one request and read its response to the end."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the kept connection."""


class Curl(Client):
    """One process for each request, without a kept connection."""

    errors = (subprocess.CalledProcessError,)

    def ask(self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make one request, as `Client.ask` describes."""
        how = ["--head"] if method == "HEAD" else ["--request", method]
        fields = dict(headers or {})
        if body is not None:
            how += ["--data-binary", "@-"]
            fields.update({} if isinstance(body, bytes) else {"Transfer-Encoding": "chunked"})
        for name, value in fields.items():
            how += ["--header", f"{name}: {value}"]
        output = curl("--include", *how, self.url + path, data=body if body is None else b"".join(chunks_of(body)))
        while True:  # interim responses come first
            head, _, output = output.partition(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            found = lower((name, value) for name, _, value in (line.partition(": ") for line in lines[1:]))
            if status >= 200:
                return Answer(status, found, output)


def curl(*arguments: str, data: bytes | None = None) -> bytes:
    """The output of curl. CalledProcessError if it fails."""
    program = shutil.which("curl")
    if program is None:
        pytest.skip("curl is not installed (Debian: apt-get install curl)")
    command = [program, "--silent", "--show-error", "--noproxy", "*", "--max-time", str(int(TIMEOUT)), *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=True, timeout=2 * TIMEOUT).stdout


def chunks_of(body: bytes | Iterator[bytes]) -> Iterator[bytes]:
    """The body in pieces; a body of bytes is one piece."""
    return iter([body]) if isinstance(body, bytes) else body


class H11(Client):
    """h11 on a socket: every byte of the server's is judged by an independent state machine."""

    errors = (h11.RemoteProtocolError,)

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.socket: socket.socket | None = None
        self.connection = h11.Connection(h11.CLIENT)

    def ask(self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make one request, as `Client.ask` describes."""
        if self.socket is None:
            self.socket = socket.create_connection(self.address, TIMEOUT)
            self.connection = h11.Connection(h11.CLIENT)
        fields = [("Host", "test"), *(headers or {}).items()]
        if isinstance(body, bytes):
            fields.append(("Content-Length", str(len(body))))
        elif body is not None:
            fields.append(("Transfer-Encoding", "chunked"))
        self.send(h11.Request(method=method, target=path, headers=fields))
        for chunk in chunks_of(body or b""):
            self.send(h11.Data(data=chunk))
        self.send(h11.EndOfMessage())
        response, parts = h11.Response(status_code=200, headers=[]), []
        while not isinstance(event := self.receive(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                response = event
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
        if self.connection.our_state is h11.DONE and self.connection.their_state is h11.DONE:
            self.connection.start_next_cycle()
        else:
            assert self.connection.their_state is h11.MUST_CLOSE
            assert self.socket.recv(1) == b"", "the server said that it would close"
            self.close()
        found = lower((name.decode(), value.decode("latin-1")) for name, value in response.headers)
        return Answer(response.status_code, found, b"".join(parts))

    def send(self, event: h11.Event) -> None:
        """Send the event's bytes."""
        assert self.socket is not None
        self.socket.sendall(self.connection.send(event) or b"")

    def receive(self) -> object:
        """The next event of the server's."""
        assert self.socket is not None
        while (event := self.connection.next_event()) is h11.NEED_DATA:
            self.connection.receive_data(self.socket.recv(65536))
        return event

    def close(self) -> None:
        """Close the kept connection."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None


class Standard(Client):
    """http.client of the standard library."""

    errors = (http.client.IncompleteRead,)

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.connection = http.client.HTTPConnection(*server.address, timeout=TIMEOUT)

    def ask(self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make one request, as `Client.ask` describes."""
        encode_chunked = body is not None and not isinstance(body, bytes)
        fields = {**(headers or {}), **({"Transfer-Encoding": "chunked"} if encode_chunked else {})}
        self.connection.request(method, path, body, fields, encode_chunked=encode_chunked)
        response = self.connection.getresponse()
        return Answer(response.status, lower(response.getheaders()), response.read())

    def close(self) -> None:
        """Close the kept connection."""
        self.connection.close()


class Urllib3(Client):
    """urllib3 with one connection in its pool."""

    errors = (urllib3.exceptions.ProtocolError,)

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.pool = urllib3.HTTPConnectionPool(*server.address, maxsize=1, timeout=TIMEOUT, retries=False)

    def ask(self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make one request, as `Client.ask` describes."""
        response = self.pool.urlopen(method, path, body, headers, decode_content=False)
        return Answer(response.status, lower(response.headers.items()), response.data)

    def close(self) -> None:
        """Close the kept connection."""
        self.pool.close()


class Requests(Client):
    """requests with a session."""

    errors = (requests.RequestException, urllib3.exceptions.ProtocolError)

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.session = requests.Session()
        self.session.trust_env = False

    def ask(self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make one request, as `Client.ask` describes."""
        with self.session.request(
            method, self.url + path, data=body, headers=dict(headers or {}), timeout=TIMEOUT, stream=True
        ) as response:
            return Answer(
                response.status_code, lower(response.headers.items()), response.raw.read(decode_content=False)
            )

    def close(self) -> None:
        """Close the kept connection."""
        self.session.close()


class Httpx(Client):
    """httpx with a client."""

    errors = (httpx.RemoteProtocolError,)

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.client = httpx.Client(trust_env=False, timeout=TIMEOUT)

    def ask(self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make one request, as `Client.ask` describes."""
        with self.client.stream(method, self.url + path, content=body, headers=headers) as response:
            return Answer(response.status_code, lower(response.headers.items()), b"".join(response.iter_raw()))

    def close(self) -> None:
        """Close the kept connection."""
        self.client.close()


class Aiohttp(Client):
    """aiohttp with a session, in an event loop of its own."""

    errors = (aiohttp.ClientPayloadError,)

    def __init__(self, server: Server) -> None:
        if hasattr(sys, "gettotalrefcount"):
            pytest.skip(
                "aiohttp's wheels end an interpreter that is built with assertions (multidict, in a macro of it)"
            )
        super().__init__(server)
        self.runner = asyncio.Runner()
        self.session = self.runner.run(self.open())

    async def open(self) -> aiohttp.ClientSession:
        """A session. It has to be made within the loop."""
        return aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=TIMEOUT))

    def ask(self, method: str, path: str, body: Body = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Make one request, as `Client.ask` describes."""
        return self.runner.run(self.ask_async(method, path, body, headers))

    async def ask_async(
        self, method: str, path: str, body: Body, headers: Mapping[str, str] | None, expect100: bool = False
    ) -> Answer:
        """Make one request, as `Client.ask` describes."""
        data = body if body is None or isinstance(body, bytes) else asynchronous(body)
        async with self.session.request(
            method, self.url + path, data=data, headers=headers, expect100=expect100
        ) as response:
            return Answer(response.status, lower(response.headers.items()), await response.read())

    def close(self) -> None:
        """Close the kept connection."""
        self.runner.run(self.session.close())
        self.runner.close()


async def asynchronous(items: Iterable[bytes]) -> Any:
    """The items, for clients that await them."""
    for item in items:
        yield item


KEEPING: list[type[Client]] = [H11, Standard, Urllib3, Requests, Httpx, Aiohttp]


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """The server that all clients ask."""
    return serve_module("transfer_app:app")


@pytest.fixture(params=[Curl, *KEEPING], ids=lambda kind: kind.__name__.lower())
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Client]:
    """Each client."""
    kind: type[Client] = request.param
    with kind(server) as client:
        yield client


@pytest.fixture(params=KEEPING, ids=lambda kind: kind.__name__.lower())
def keeping_client(request: pytest.FixtureRequest, server: Server) -> Iterator[Client]:
    """Each client that keeps its connection."""
    kind: type[Client] = request.param
    with kind(server) as client:
        yield client


# --- bodies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sized", "chunked", "file"])
@pytest.mark.parametrize("size", SIZES)
def test_a_response_arrives_whole(client: Client, kind: str, size: int) -> None:
    for _ in range(2):
        answer = client.ask("GET", f"/{kind}/{size}")
        assert (answer.status, answer.body) == (200, content(size))
    assert answer.headers.get("transfer-encoding") == ("chunked" if kind == "chunked" and size else None)


@pytest.mark.parametrize("size", SIZES)
def test_a_body_with_a_length_arrives_whole(client: Client, size: int) -> None:
    for _ in range(2):
        found = client.ask("POST", "/digest", content(size)).json()
        assert found == {
            "size": size,
            "sha256": hashlib.sha256(content(size)).hexdigest(),
            "length": str(size),
            "chunked": False,
        }


@pytest.mark.parametrize("size", SIZES)
def test_a_chunked_body_arrives_whole(client: Client, size: int) -> None:
    for _ in range(2):
        found = client.ask("POST", "/digest", pieces(content(size))).json()
        assert (found["size"], found["sha256"]) == (size, hashlib.sha256(content(size)).hexdigest())
        assert found["chunked"] is True


def test_head_has_the_fields_of_get(client: Client) -> None:
    for _ in range(2):
        answer = client.ask("HEAD", "/sized/1000")
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "1000")
    assert client.ask("HEAD", "/chunked/1000").body == b""
    assert client.ask("GET", "/after").body == b"hello from /after"


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body_have_none(client: Client, status: int) -> None:
    for _ in range(2):
        answer = client.ask("GET", f"/status/{status}")
        assert (answer.status, answer.body) == (status, b"")
    assert client.ask("GET", "/after").body == b"hello from /after"


def test_compressed_content_passes_unchanged(client: Client) -> None:
    answer = client.ask("GET", "/gzip", headers={"Accept-Encoding": "gzip"})
    assert (answer.headers["content-encoding"], answer.body) == ("gzip", PACKED)


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_errors_of_the_application_have_their_bodies(client: Client, status: int) -> None:
    for _ in range(2):
        answer = client.ask("GET", f"/status/{status}")
        assert (answer.status, answer.body) == (status, b"a body with %d" % status)


def test_an_application_that_fails_is_a_500(client: Client) -> None:
    for _ in range(2):
        answer = client.ask("GET", "/fail")
        assert answer.status == 500
        assert b"on purpose" not in answer.body
    assert client.ask("GET", "/after").body == b"hello from /after"


@pytest.mark.parametrize("kind", ["sized", "chunked"])
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_response_that_is_cut_is_an_error(client: Client, kind: str, size: int) -> None:
    with pytest.raises(client.errors):
        client.ask("GET", f"/fail-{kind}/{size}")


def test_a_response_of_http_1_0_that_is_cut_is_an_error(server: Server) -> None:
    assert curl("--http1.0", f"{server.url}/chunked/100000") == content(100_000)
    with pytest.raises(subprocess.CalledProcessError):
        curl("--http1.0", f"{server.url}/fail-chunked/100000")


# --- connections -----------------------------------------------------------------------------------------------------


def port_of(client: Client) -> str:
    """The port from which the next request comes."""
    port: str = client.ask("GET", "/environ").json()["REMOTE_PORT"]
    return port


def test_a_connection_is_kept_through_requests_of_all_kinds(keeping_client: Client) -> None:
    client = keeping_client
    port = port_of(client)
    for method, path in [
        ("HEAD", "/sized/1000"),
        ("GET", "/chunked/1000"),
        ("GET", "/status/204"),
        ("GET", "/status/304"),
        ("GET", "/status/404"),
        ("GET", "/fail"),
        ("DELETE", "/status/204"),
    ]:
        client.ask(method, path)
        assert port_of(client) == port, f"{method} {path} has ended the connection"
    for body in (b"sized", pieces(content(100_000))):
        for path in ("/digest", "/ignored"):
            client.ask("POST", path, body)
            assert port_of(client) == port, f"the body to {path} has ended the connection"


def test_curl_keeps_its_connection(server: Server) -> None:
    connects = curl("--output", "/dev/null", "--write-out", "%{num_connects}", f"{server.url}/[1-5]")
    assert connects == b"10000"


@pytest.mark.parametrize("who", ["client", "application"])
def test_a_connection_is_closed_when_one_side_asks_for_it(keeping_client: Client, who: str) -> None:
    client = keeping_client
    port = port_of(client)
    if who == "client":
        answer = client.ask("GET", "/asked", headers={"Connection": "close"})
    else:
        answer = client.ask("GET", "/close")
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert port_of(client) != port


# --- Expect: 100-continue --------------------------------------------------------------------------------------------

# Without a 100 curl would wait for longer than a test may take.
EXPECTING = ["--header", "Expect: 100-continue", "--expect100-timeout", "600"]
DIGEST = hashlib.sha256(content(3_000_000)).hexdigest()


def test_curl_gets_its_100_continue(server: Server, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(content(3_000_000))
    heads = tmp_path / "heads"
    how = [*EXPECTING, "--dump-header", str(heads)]
    found = json.loads(curl(*how, "--data-binary", f"@{tmp_path}/body", f"{server.url}/digest"))
    assert found["sha256"] == DIGEST
    assert heads.read_bytes().startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


def test_curl_does_not_send_a_body_that_is_refused(server: Server, tmp_path: Path) -> None:
    with (tmp_path / "body").open("wb") as file:
        file.truncate(20_000_000)
    how = [*EXPECTING, "--output", "/dev/null"]
    sent = curl(*how, "--write-out", "%{http_code} %{size_upload}", "-T", f"{tmp_path}/body", f"{server.url}/digest")
    assert sent == b"413 0"


def test_http_client_by_hand_gets_its_100_continue(server: Server) -> None:
    with Standard(server) as client:
        connection = client.connection
        for _ in range(2):
            connection.putrequest("POST", "/digest")
            connection.putheader("Content-Length", "3000000")
            connection.putheader("Expect", "100-continue")
            connection.endheaders()
            expected = b"HTTP/1.1 100 Continue\r\n\r\n"
            assert connection.sock.recv(len(expected), socket.MSG_WAITALL) == expected
            connection.send(content(3_000_000))
            assert json.loads(connection.getresponse().read())["sha256"] == DIGEST


def test_h11_gets_its_100_continue(server: Server) -> None:
    with H11(server) as client:
        assert client.ask("GET", "/before").status == 200
        fields = [("Host", "test"), ("Expect", "100-continue"), ("Content-Length", "3000000")]
        client.send(h11.Request(method="POST", target="/digest", headers=fields))
        assert client.connection.client_is_waiting_for_100_continue
        interim = client.receive()
        assert isinstance(interim, h11.InformationalResponse)
        assert interim.status_code == 100
        client.send(h11.Data(data=content(3_000_000)))
        client.send(h11.EndOfMessage())
        assert isinstance(client.receive(), h11.Response)
        event = client.receive()
        assert isinstance(event, h11.Data)
        assert json.loads(bytes(event.data))["sha256"] == DIGEST
        assert isinstance(client.receive(), h11.EndOfMessage)


def test_aiohttp_gets_its_100_continue(server: Server) -> None:
    with Aiohttp(server) as client:
        for _ in range(2):
            answer = client.runner.run(client.ask_async("POST", "/digest", content(3_000_000), None, expect100=True))
            assert answer.json()["sha256"] == DIGEST
