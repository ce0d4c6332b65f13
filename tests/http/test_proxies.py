"""nginx and HAProxy as reverse proxies: kept and closed upstream connections, HTTP/1.0, uploads, downloads, faults."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import pytest

from proxying import Front, Proxy, haproxy, nginx
from serving import Connection, ConnectionEnded, Response, Serve, Server, request
from transfer_app import PIECE, content

APPLICATION = "transfer_app:app"
UPLOAD = content(5_000_000)
DIGEST = hashlib.sha256(UPLOAD).hexdigest()

TO_SERVER = "proxy_pass http://{}; proxy_set_header Host $http_host; "
KEPT = TO_SERVER + 'proxy_http_version 1.1; proxy_set_header Connection ""; '
STREAMED = KEPT + "proxy_request_buffering off; proxy_buffering off; "
NGINX = {
    "buffered": KEPT.format("tcp"),
    "streamed": STREAMED.format("tcp"),
    # nginx without further settings: HTTP/1.0 and a connection for each request.
    "1.0": TO_SERVER.format("tcp"),
    "1.0 streamed": TO_SERVER.format("tcp") + "proxy_request_buffering off; proxy_buffering off; ",
    "unix": STREAMED.format("unix"),
}

HAPROXY = {
    "reused": ["http-reuse always", "server tcp 127.0.0.1:{port}"],
    "closed": ["option http-server-close", "http-reuse never", "server tcp 127.0.0.1:{port}"],
    "unix": ["http-reuse always", "server unix unix@{path}"],
}

ALL = [*(("nginx", name) for name in NGINX), *(("haproxy", name) for name in HAPROXY)]
STREAMING = [pair for pair in ALL if pair[0] == "haproxy" or pair[1] in ("streamed", "1.0 streamed", "unix")]
"""The fronts that pass a request body on as it arrives, so that the server notices a client that goes away."""

# nginx has to buffer a chunked body before it speaks HTTP/1.0.
LEFT_UPLOADS = [
    (way, framing)
    for way in STREAMING
    for framing in ("sized", "chunked")
    if (way[1], framing) != ("1.0 streamed", "chunked")
]


@pytest.fixture(scope="module")
def unix_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Further address on which the server listens."""
    return tmp_path_factory.mktemp("socket") / "server.sock"


@pytest.fixture(scope="module")
def server(serve_module: Serve, unix_path: Path) -> Server:
    """The server behind the proxies."""
    return serve_module(APPLICATION, bind=f"unix:{unix_path}")


@pytest.fixture(scope="module")
def nginx_proxy(server: Server, unix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """nginx with a server for each of NGINX."""
    upstreams = "".join(
        f"upstream {name} {{ server {address}; keepalive 32; }}"
        for name, address in (("tcp", f"127.0.0.1:{server.port}"), ("unix", f"unix:{unix_path}"))
    )
    with nginx(tmp_path_factory.mktemp("nginx"), upstreams, NGINX) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def haproxy_proxy(server: Server, unix_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """HAProxy with a section for each of HAPROXY."""
    sections = {
        name: [line.format(port=server.port, path=unix_path) for line in lines] for name, lines in HAPROXY.items()
    }
    with haproxy(tmp_path_factory.mktemp("haproxy"), sections) as proxy:
        yield proxy


@pytest.fixture
def front(request: pytest.FixtureRequest) -> Front:
    """A way through a proxy; tests choose ways with `through`."""
    program, name = request.param
    proxy: Proxy = request.getfixturevalue(f"{program}_proxy")
    return proxy.fronts[name]


def through(ways: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Run a test with `front` as each of `ways`."""
    return pytest.mark.parametrize("front", ways, indirect=True, ids=[" ".join(way) for way in ways])


MARKS = itertools.count()


def log_start(server: Server) -> int:
    """The length of the log, once it has the lines of all earlier tests."""
    mark = f"/mark-{next(MARKS)}"
    assert server.get(mark).status == 200
    server.wait_for_log(rf"served GET {mark}$")
    return len(server.log())


def environ(response: Response) -> dict[str, str]:
    """The texts of the environ that /environ has answered with."""
    assert response.status == 200
    result: dict[str, str] = json.loads(response.body)
    return result


# --- connections -----------------------------------------------------------------------------------------------------


def upstream_ports(connection: Connection, count: int = 10) -> list[str]:
    """The proxy's port from which each of `count` requests on a connection came to the server."""
    return [environ(connection.request(request("GET", "/environ")))["REMOTE_PORT"] for _ in range(count)]


@through([("nginx", "buffered"), ("nginx", "streamed"), ("haproxy", "reused")])
def test_connections_to_the_server_are_used_again(front: Front) -> None:
    with front.connect() as first, front.connect() as second:
        ports = upstream_ports(first) + upstream_ports(second)
    # A connection that an earlier test has left may come to its end in between.
    assert len(set(ports)) <= 2, ports


@through([("nginx", "1.0"), ("haproxy", "closed")])
def test_a_proxy_that_keeps_no_connections_is_served(front: Front) -> None:
    with front.connect() as connection:
        assert len(set(upstream_ports(connection))) == 10


@through([("nginx", "unix"), ("haproxy", "unix")])
def test_a_proxy_is_served_at_a_unix_socket(front: Front) -> None:
    with front.connect() as connection:
        environment = environ(connection.request(request("GET", "/environ")))
    assert environment["REMOTE_ADDR"] == ""
    assert environment["HTTP_HOST"] == "test"


@through([("haproxy", name) for name in HAPROXY])
@pytest.mark.parametrize("path", ["/sized/100000", "/chunked/100000", "/file/100000"])
def test_a_client_of_http_1_0_is_answered_through_a_proxy(front: Front, path: str) -> None:
    with front.connect() as connection:
        response = connection.request(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        assert (response.status, response.body) == (200, content(100_000))
        connection.expect_end()


@through(ALL)
def test_responses_without_a_body_leave_the_connection_in_step(front: Front) -> None:
    exchanges = [
        ("HEAD", "/sized/1000", 200, b""),
        ("GET", "/status/204", 204, b""),
        ("GET", "/status/304", 304, b""),
        ("HEAD", "/chunked/1000", 200, b""),
        ("HEAD", "/status/404", 404, b""),
        ("GET", "/chunked/0", 200, b""),
        ("DELETE", "/status/204", 204, b""),
        ("GET", "/after", 200, b"hello from /after"),
    ]
    with front.connect() as connection:
        for method, path, status, body in exchanges * 2:
            response = connection.request(request(method, path), method)
            assert (method, path, response.status, response.body) == (method, path, status, body)


@through([("nginx", "buffered"), ("nginx", "streamed"), ("haproxy", "reused")])
def test_responses_without_a_body_do_not_cost_the_connection_to_the_server(front: Front) -> None:
    with front.connect() as connection:
        (before,) = upstream_ports(connection, 1)
        for method, path in [("HEAD", "/sized/1000"), ("GET", "/status/204"), ("GET", "/status/304")]:
            connection.request(request(method, path), method)
            assert upstream_ports(connection, 1) == [before], f"{method} {path} has ended it"


@through(ALL)
@pytest.mark.parametrize("status", [400, 401, 404, 413, 418, 500, 502, 503, 504])
def test_error_statuses_pass_with_their_bodies(front: Front, status: int) -> None:
    with front.connect() as connection:
        response = connection.request(request("GET", f"/status/{status}"))
        assert (response.status, response.body) == (status, b"a body with %d" % status)


@through(ALL)
def test_a_thousand_requests_at_once_by_twenty(front: Front) -> None:
    def client(number: int) -> list[tuple[int, bytes]]:
        results = []
        with front.connect() as connection:
            for turn in range(25):
                response = connection.request(request("GET", f"/{number}/{turn}"))
                results.append((response.status, response.body))
                response = connection.request(request("POST", "/digest", body=b"%d %d" % (number, turn)), "POST")
                sha256 = hashlib.sha256(b"%d %d" % (number, turn)).hexdigest()
                results.append((response.status, b"ok" if json.loads(response.body)["sha256"] == sha256 else b""))
        return results

    with ThreadPoolExecutor(20) as pool:
        for number, results in enumerate(pool.map(client, range(20))):
            expected = [(200, b"hello from /%d/%d" % (number, turn)) for turn in range(25)]
            assert results[::2] == expected
            assert results[1::2] == [(200, b"ok")] * 25


# --- transfers -------------------------------------------------------------------------------------------------------


def digest(response: Response) -> dict[str, Any]:
    """The digest that /digest computed."""
    assert response.status == 200
    result: dict[str, Any] = json.loads(response.body)
    return result


@through(ALL)
@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_an_upload_arrives_whole(front: Front, framing: str) -> None:
    pieces = [UPLOAD[start : start + 100_000] for start in range(0, len(UPLOAD), 100_000)]
    data = {"body": UPLOAD} if framing == "sized" else {"chunks": pieces}
    with front.connect() as connection:
        for _ in range(2):
            found = digest(connection.request(request("POST", "/digest", **data), "POST"))
            assert (found["size"], found["sha256"]) == (len(UPLOAD), DIGEST)
    # nginx passes a chunked body on as it is only if it neither buffers it nor speaks HTTP/1.0 to the server.
    assert found["chunked"] is (framing == "chunked" and front.name in ("streamed", "unix", "reused", "closed"))


@through(ALL)
def test_an_upload_after_100_continue_arrives_whole(front: Front) -> None:
    with front.connect() as connection:
        for _ in range(2):
            connection.send(request("POST", "/digest", "Expect: 100-continue", f"Content-Length: {len(UPLOAD)}"))
            assert connection.read_response("POST").status == 100
            assert digest(connection.request(UPLOAD, "POST"))["sha256"] == DIGEST


@through(ALL)
@pytest.mark.parametrize("size", [100_000, len(UPLOAD)])
def test_an_upload_that_is_not_read_is_answered(front: Front, size: int) -> None:
    for _ in range(3):
        with front.connect() as connection:
            response = connection.request(request("POST", "/unread", body=UPLOAD[:size]), "POST")
            assert (response.status, response.body) == (200, b"hello from /unread")
    with front.connect() as connection:
        assert connection.request(request("GET", "/on")).body == b"hello from /on"


@through(ALL)
def test_the_refusal_of_an_upload_that_is_too_long_passes(front: Front) -> None:
    body = bytes(17 * 1024 * 1024)
    with front.connect() as connection:
        with suppress(ConnectionError):  # the proxy need not take all of it
            connection.send(request("POST", "/digest", body=body))
        assert connection.read_response("POST").status == 413
    with front.connect() as connection:
        assert connection.request(request("GET", "/on")).body == b"hello from /on"


@through(ALL)
@pytest.mark.parametrize("kind", ["sized", "chunked", "file"])
def test_a_download_arrives_whole(front: Front, kind: str) -> None:
    with front.connect() as connection:
        for _ in range(2):
            response = connection.request(request("GET", f"/{kind}/5000000"))
            assert (response.status, hashlib.sha256(response.body).hexdigest()) == (200, DIGEST)


@through(ALL)
def test_a_file_from_the_disk_arrives_whole(front: Front, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(UPLOAD)
    with front.connect() as connection:
        response = connection.request(request("GET", f"/file?name={tmp_path}/file"))
        assert (response.status, hashlib.sha256(response.body).hexdigest()) == (200, DIGEST)


# --- faults ----------------------------------------------------------------------------------------------------------


def assert_serves_on(front: Front, server: Server, start: int) -> None:
    """The proxy and the server answer, and the log has had no traceback since `start`."""
    with front.connect() as connection:
        assert connection.request(request("GET", "/on")).body == b"hello from /on"
    log_start(server)
    assert "Traceback" not in server.log()[start:]


@pytest.mark.parametrize(("front", "framing"), LEFT_UPLOADS, indirect=["front"], ids=str)
@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_client_that_leaves_an_upload_costs_no_traceback(
    front: Front, server: Server, framing: str, end: str
) -> None:
    start = log_start(server)
    path = f"/digest/{next(MARKS)}"
    connection = front.connect()
    if framing == "sized":
        connection.send(request("POST", path, f"Content-Length: {len(UPLOAD)}") + UPLOAD[:100_000])
    else:
        connection.send(request("POST", path, chunks=[UPLOAD[:100_000], UPLOAD[100_000:200_000]])[:-100])
    server.wait_for_log(rf"reading {path}$", start=start)
    getattr(connection, end)()
    server.wait_for_log(r"400 from .*: the connection ended within the request body", start=start)
    assert_serves_on(front, server, start)


@through([pair for pair in ALL if pair not in STREAMING])
def test_the_server_does_not_hear_of_a_client_that_leaves_a_buffered_upload(front: Front, server: Server) -> None:
    start = log_start(server)
    connection = front.connect()
    connection.send(request("POST", "/digest", f"Content-Length: {len(UPLOAD)}") + UPLOAD[:100_000])
    connection.close()
    assert_serves_on(front, server, start)
    assert "served POST" not in server.log()[start:]


@through(ALL)
@pytest.mark.parametrize("end", ["close", "abort"])
def test_a_client_that_leaves_a_download_closes_the_iterable(front: Front, server: Server, end: str) -> None:
    start = log_start(server)
    path = f"/endless/{next(MARKS)}"
    connection = front.connect()
    connection.send(request("GET", path))
    connection.read_exactly(200_000)
    getattr(connection, end)()
    server.wait_for_log(rf"closed {path}$", start=start)
    assert_serves_on(front, server, start)


@through(ALL)
def test_an_application_that_fails_at_once_is_a_500(front: Front, server: Server) -> None:
    start = log_start(server)
    with front.connect() as connection:
        for _ in range(2):
            assert connection.request(request("GET", "/fail")).status == 500
        assert connection.request(request("GET", "/on")).body == b"hello from /on"
    for _ in range(2):
        start = server.wait_for_log("Error handling request GET /fail$", start=start).end()


@through(ALL)
@pytest.mark.parametrize("kind", ["sized", "chunked"])
@pytest.mark.parametrize("size", [2 * PIECE, 40 * PIECE])
def test_an_application_that_fails_in_its_body_is_never_a_whole_response(front: Front, kind: str, size: int) -> None:
    with front.connect() as connection:
        connection.send(request("GET", f"/fail-{kind}/{size}"))
        with suppress(ConnectionEnded):
            assert connection.read_response().status == 502
    with front.connect() as connection:
        assert connection.request(request("GET", "/on")).body == b"hello from /on"


# --- stops and starts of the server ----------------------------------------------------------------------------------

RETRYING = ["http-reuse always", "retry-on conn-failure empty-response"]
"""Settings with which HAProxy tries again when a kept connection has ended, which nginx does by itself."""


def before(program: str, directory: Path, address: str, lines: list[str]) -> AbstractContextManager[Proxy]:
    """A proxy with one front, "only", before a server at `address`. `lines` are for HAProxy."""
    if program == "nginx":
        upstreams = f"upstream only {{ server {address}; keepalive 8; }}"
        return nginx(directory, upstreams, {"only": STREAMED.format("only")})
    return haproxy(directory, {"only": [*lines, f"server only {address.replace('unix:', 'unix@')}"]})


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_a_server_that_comes_back_is_used_again(serve: Serve, tmp_path: Path, program: str) -> None:
    path = tmp_path / "server.sock"
    server = serve(APPLICATION, bind=f"unix:{path}", keep_alive=1)
    with before(program, tmp_path, f"unix:{path}", RETRYING) as proxy, proxy.fronts["only"].connect() as connection:
        for _ in range(2):
            assert connection.request(request("GET", "/up")).body == b"hello from /up"
            server.stop()
            with proxy.fronts["only"].connect() as other:
                other.send(request("GET", "/down"))
                assert other.read_until(b"\r\n").split()[1] in (b"502", b"503")
            server = serve(APPLICATION, bind=f"unix:{path}", keep_alive=1)
        assert connection.request(request("GET", "/up")).body == b"hello from /up"


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_a_restart_behind_an_inherited_socket_fails_no_request(serve: Serve, tmp_path: Path, program: str) -> None:
    ended = threading.Event()

    def client(front: Front) -> set[tuple[int, bytes]]:
        results = set()
        with front.connect() as connection:
            while not ended.is_set():
                response = connection.request(request("GET", "/sized/1000"))
                results.add((response.status, response.body))
        return results

    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener, ThreadPoolExecutor(4) as pool:
        number = listener.fileno()
        server = serve(APPLICATION, [number], bind=f"fd://{number}", keep_alive=1)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        # HAProxy tries nothing again: a server that stops answers what has arrived on its kept connections.
        with before(program, tmp_path, address, ["http-reuse always", "retries 0"]) as proxy:
            clients = [pool.submit(client, proxy.fronts["only"]) for _ in range(4)]
            try:
                for _ in range(3):
                    start = len(server.log())
                    for _ in range(100):
                        start = server.wait_for_log(r"served GET .*\n", start=start).end()
                    server.stop()
                    server = serve(APPLICATION, [number], bind=f"fd://{number}", keep_alive=1)
                server.wait_for_log("served GET")
            finally:
                ended.set()
            for done in clients:
                assert done.result() == {(200, content(1000))}


@pytest.mark.parametrize("program", ["nginx", "haproxy"])
def test_a_server_that_stops_finishes_what_a_proxy_has_asked_for(serve: Serve, tmp_path: Path, program: str) -> None:
    server = serve(APPLICATION)
    address = f"127.0.0.1:{server.port}"
    with before(program, tmp_path, address, RETRYING) as proxy, proxy.fronts["only"].connect() as connection:
        connection.send(request("POST", "/digest", f"Content-Length: {len(UPLOAD)}") + UPLOAD[:100_000])
        server.wait_for_log("reading /digest")
        server.signal(signal.SIGTERM)
        with suppress(OSError):  # no further client is accepted
            while True:
                server.connect().close()
        assert digest(connection.request(UPLOAD[100_000:], "POST"))["sha256"] == DIGEST
        assert server.wait() == 0


@pytest.mark.parametrize(
    ("lines", "line_of_log"),
    [
        (["option httpchk"], "served OPTIONS /"),
        (["option httpchk", "http-check send meth GET uri /health ver HTTP/1.1 hdr Host test"], "served GET /health"),
        ([], "listening"),
    ],
    ids=["OPTIONS of HTTP/1.0", "GET of HTTP/1.1", "a connection"],
)
def test_health_checks_notice_a_stop_and_a_start(
    serve: Serve, tmp_path: Path, lines: list[str], line_of_log: str
) -> None:
    lines = [*lines, "default-server check inter 50ms rise 2 fall 1"]
    path = tmp_path / "server.sock"
    server = serve(APPLICATION, bind=f"unix:{path}", keep_alive=1)
    with before("haproxy", tmp_path, f"unix:{path}", lines) as proxy:
        front = proxy.fronts["only"]
        for _ in range(2):
            server.wait_for_log(line_of_log)
            start = len(proxy.log())
            server.stop()
            assert "Traceback" not in server.log()
            assert " 400 " not in server.log()
            proxy.wait_for_log("Server only/only is DOWN", start=start)
            with front.connect() as connection:
                connection.send(request("GET", "/down"))
                assert connection.read_until(b"\r\n").split()[1] == b"503"
            start = len(proxy.log())
            server = serve(APPLICATION, bind=f"unix:{path}", keep_alive=1)
            proxy.wait_for_log("Server only/only is UP", start=start)
            with front.connect() as connection:
                assert connection.request(request("GET", "/up")).body == b"hello from /up"
