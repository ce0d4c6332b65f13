"""The client's address and scheme as a server behind HAProxy or nginx sees them: the PROXY protocol, and X-Forwarded-*
from nginx."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

import pytest

from proxying import Front, Proxy, haproxy, nginx
from serving import Connection, Serve, Server, request
from transfer_app import content

CLIENT = "127.0.0.2"
"""The address of the clients of these tests; the proxies come from 127.0.0.1."""


def serve_with(serve: Serve, **options: str) -> Server:
    """A server with options of `rmeinheld.run`."""
    return serve.script(f"""
        import rmeinheld
        from transfer_app import app

        rmeinheld.run(app, port=0, **{options!r})
        """)


def environ(connection: Connection, *headers: str) -> dict[str, str]:
    """The texts of a request's environ."""
    response = connection.request(request("GET", "/environ", *headers))
    assert response.status == 200, response
    result: dict[str, str] = json.loads(response.body)
    return result


def remote(environment: dict[str, str]) -> tuple[str, int]:
    """The client's address as the application sees it."""
    return environment["REMOTE_ADDR"], int(environment["REMOTE_PORT"])


# --- the PROXY protocol ----------------------------------------------------------------------------------------------

VERSIONS = {"version-1": "send-proxy", "version-2": "send-proxy-v2"}


def before(port: int, extra: str = "") -> dict[str, Sequence[str]]:
    """For each version of the protocol the lines of HAProxy's section."""
    return {
        version: ["http-reuse always", f"server only 127.0.0.1:{port} {option} {extra}"]
        for version, option in VERSIONS.items()
    }


@pytest.fixture(scope="module")
def server(serve_module: Serve) -> Server:
    """A server that takes either version of the protocol from 127.0.0.1."""
    return serve_with(serve_module, proxy_protocol="auto", proxy_allow_ips="127.0.0.1", access_logfile="-")


@pytest.fixture(scope="module")
def proxy(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """HAProxy with a section for each version."""
    with haproxy(tmp_path_factory.mktemp("haproxy"), before(server.port)) as proxy:
        yield proxy


@pytest.fixture(params=VERSIONS)
def front(request: pytest.FixtureRequest, proxy: Proxy) -> Front:
    """The address where one version is spoken to the server."""
    return proxy.fronts[request.param]


def test_the_remote_address_is_that_of_the_client(front: Front) -> None:
    with front.connect(source=CLIENT) as connection:
        for _ in range(3):
            assert remote(environ(connection)) == connection.socket.getsockname()


def test_clients_that_take_turns_keep_their_addresses(front: Front) -> None:
    with front.connect(source=CLIENT) as first, front.connect(source="127.0.0.3") as second:
        for _ in range(3):
            for connection in (first, second):
                assert remote(environ(connection)) == connection.socket.getsockname()


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_an_upload_behind_the_header_arrives_whole(front: Front, framing: str) -> None:
    body = content(3_000_000)
    upload = request("POST", "/digest", body=body) if framing == "sized" else request("POST", "/digest", chunks=[body])
    with front.connect(source=CLIENT) as connection:
        for _ in range(2):
            found = json.loads(connection.request(upload, "POST").body)
            assert (found["size"], found["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def test_the_access_log_has_the_address_of_the_client(front: Front, server: Server) -> None:
    path = f"/logged/{front.address[1]}"
    with front.connect(source=CLIENT) as connection:
        assert connection.request(request("GET", path)).status == 200
    server.wait_for_log(rf'^127\.0\.0\.2 .*"GET {path} HTTP/1\.1" 200 ')


@pytest.mark.parametrize("version", VERSIONS)
def test_health_checks_speak_for_no_client_and_are_answered(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory, version: str
) -> None:
    # Version 1 says UNKNOWN, version 2 LOCAL: the address stays that of the connection.
    server = serve_with(serve, proxy_protocol="auto", proxy_allow_ips="127.0.0.1", access_logfile="-")
    lines = ["option httpchk", *before(server.port, "check inter 50ms fall 1")[version]]
    with haproxy(tmp_path_factory.mktemp("haproxy"), {"only": lines}) as proxy:
        start = 0
        for _ in range(3):
            start = server.wait_for_log(r'^127\.0\.0\.1 .*"OPTIONS / HTTP/1\.0" 200 ', start=start).end()
        with proxy.fronts["only"].connect(source=CLIENT) as connection:
            assert remote(environ(connection)) == connection.socket.getsockname()
        assert "DOWN" not in proxy.log()
    assert "Traceback" not in server.log()
    assert " 400 " not in server.log()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_proxy_that_is_not_allowed_is_not_trusted(
    serve: Serve, tmp_path_factory: pytest.TempPathFactory, version: str
) -> None:
    server = serve_with(serve, proxy_protocol="auto", proxy_allow_ips="10.0.0.1")
    with (
        haproxy(tmp_path_factory.mktemp("haproxy"), before(server.port)) as proxy,
        proxy.fronts[version].connect(source=CLIENT) as connection,
    ):
        connection.send(request("GET", "/environ"))
        status = int(connection.read_until(b"\r\n").split()[1])
        # HAProxy passes the refusal on, or says that there was no answer.
        assert status in (400, 403, 502)
    assert "served GET /environ" not in server.log()


# --- X-Forwarded-* ---------------------------------------------------------------------------------------------------

FORWARDING = {
    "with TLS": "proxy_pass http://only; proxy_set_header Host $http_host; "
    'proxy_http_version 1.1; proxy_set_header Connection ""; '
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; "
    "proxy_set_header X-Forwarded-Proto https; "
}
"""As if the client had spoken TLS to nginx."""


@pytest.fixture(scope="module", params=["127.0.0.1", "10.0.0.1"], ids=["trusted", "not trusted"])
def forwarded(
    request: pytest.FixtureRequest, serve_module: Serve, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Front, bool]]:
    """nginx before a server that trusts it, and one that does not."""
    server = serve_with(serve_module, forwarded_allow_ips=request.param)
    upstreams = f"upstream only {{ server 127.0.0.1:{server.port}; keepalive 8; }}"
    with nginx(tmp_path_factory.mktemp("nginx"), upstreams, FORWARDING) as proxy:
        yield proxy.fronts["with TLS"], request.param == "127.0.0.1"


def test_scheme_and_address_are_taken_from_a_proxy_that_is_trusted(forwarded: tuple[Front, bool]) -> None:
    front, is_trusted = forwarded
    for _ in range(2):  # the second client over the connection of the first
        with front.connect(source=CLIENT) as connection:
            environment = environ(connection)
        assert environment["wsgi.url_scheme"] == ("https" if is_trusted else "http")
        assert environment["REMOTE_ADDR"] == (CLIENT if is_trusted else "127.0.0.1")


def test_a_clients_statements_about_itself_are_not_trusted(forwarded: tuple[Front, bool]) -> None:
    front, is_trusted = forwarded
    headers = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: http", "Forwarded: for=192.0.2.1"]
    with front.connect(source=CLIENT) as connection:
        environment = environ(connection, *headers)
    assert environment["wsgi.url_scheme"] == ("https" if is_trusted else "http")
    assert environment["REMOTE_ADDR"] == (CLIENT if is_trusted else "127.0.0.1")


def test_one_connection_of_a_trusted_proxy_serves_clients_of_different_addresses(
    forwarded: tuple[Front, bool],
) -> None:
    front, is_trusted = forwarded
    with front.connect(source=CLIENT) as first, front.connect(source="127.0.0.3") as second:
        found = [environ(connection)["REMOTE_ADDR"] for connection in (first, second, first)]
    assert found == ([CLIENT, "127.0.0.3", CLIENT] if is_trusted else ["127.0.0.1"] * 3)
