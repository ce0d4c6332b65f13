"""The statements of proxies about their clients: X-Forwarded-*, Forwarded, the PROXY protocol; and names with
underscores."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from serving import Option, Serve, Server, request, run_script

APPLICATION = "forwarded_app:app"
TRUSTING: dict[str, Option] = {"forwarded_allow_ips": "127.0.0.1,10.0.0.0/8"}
V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def environ_of(server: Server, *fields: str, target: str = "/", preface: bytes = b"") -> dict[str, Any]:
    """The environ of a request with these fields."""
    with server.connect() as connection:
        response = connection.request(preface + request("GET", target, *fields))
        assert response.status == 200, response
        environ: dict[str, Any] = json.loads(response.body)
        # A kept connection keeps its own address.
        if not fields and preface:
            again = json.loads(connection.request(request("GET", target)).body)
            assert again == environ
        return environ


def refused(server: Server, *fields: str, target: str = "/", preface: bytes = b"") -> int:
    """The status of the refusal of a request with these fields; the connection must end."""
    with server.connect() as connection:
        response = connection.request(preface + request("GET", target, *fields) + request("GET", "/smuggled"))
        assert response.status >= 400, response.body
        connection.expect_end()
        return response.status


@pytest.fixture(scope="module")
def plain(serve_module: Serve) -> Server:
    """A server that trusts no proxy: the default."""
    return serve_module(APPLICATION)


@pytest.fixture(scope="module")
def trusting(serve_module: Serve) -> Server:
    """A server that trusts this machine and 10.0.0.0/8, and the usual fields."""
    return serve_module(
        APPLICATION, **TRUSTING, trusted_proxy_headers="x-forwarded-for,x-forwarded-host,x-forwarded-port"
    )


# --- X-Forwarded-* ---------------------------------------------------------------------------------------------------

ALL_FIELDS = (
    "X-Forwarded-For: 192.0.2.1",
    "X-Forwarded-Host: public.example",
    "X-Forwarded-Port: 8443",
    "X-Forwarded-Proto: https",
    "Forwarded: for=192.0.2.2;proto=https;host=other.example",
)


def test_by_default_no_proxy_is_trusted_and_everything_is_passed_on(plain: Server) -> None:
    environ = environ_of(plain, *ALL_FIELDS, "SCRIPT_NAME: /app", target="/app/x")
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["REMOTE_PORT"].isdigit()
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == "test"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/app/x")
    # Frameworks have settings of their own for these.
    assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"
    assert environ["HTTP_X_FORWARDED_PROTO"] == "https"
    assert environ["HTTP_FORWARDED"] == "for=192.0.2.2;proto=https;host=other.example"


def test_a_trusted_proxy_names_client_host_and_scheme(trusting: Server) -> None:
    environ = environ_of(trusting, *ALL_FIELDS)
    assert environ["REMOTE_ADDR"] == "192.0.2.1"
    assert "REMOTE_PORT" not in environ
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTP_HOST"] == "public.example"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("public.example", "8443")


@pytest.mark.parametrize(
    ("fields", "address", "port"),
    [
        (["X-Forwarded-For: 203.0.113.9, 192.0.2.1, 10.0.0.1"], "192.0.2.1", None),
        (["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 192.0.2.1,10.0.0.1"], "192.0.2.1", None),
        (["X-Forwarded-For: 10.0.0.2, 10.0.0.1"], "10.0.0.2", None),
        (["X-Forwarded-For: a,,b, 192.0.2.1,,"], "192.0.2.1", None),
        (["X-Forwarded-For: 192.0.2.1:4711"], "192.0.2.1", "4711"),
        (["X-Forwarded-For: [2001:db8::1]:4711"], "2001:db8::1", "4711"),
        (["X-Forwarded-For: unknown"], "unknown", None),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(
    trusting: Server, fields: list[str], address: str, port: str | None
) -> None:
    environ = environ_of(trusting, *fields)
    assert (environ["REMOTE_ADDR"], environ.get("REMOTE_PORT")) == (address, port)


@pytest.mark.parametrize("fields", [[], ["X-Forwarded-For: "], ["X-Forwarded-For: ,"]])
def test_without_a_word_the_client_is_the_peer(trusting: Server, fields: list[str]) -> None:
    environ = environ_of(trusting, *fields)
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["REMOTE_PORT"].isdigit()


@pytest.mark.parametrize(
    ("fields", "host", "name", "port"),
    [
        (["X-Forwarded-Host: a.example"], "a.example", "a.example", "80"),
        (["X-Forwarded-Host: a.example", "X-Forwarded-Proto: https"], "a.example", "a.example", "443"),
        (["X-Forwarded-Host: a.example:81", "X-Forwarded-Port: 82"], "a.example:81", "a.example", "81"),
        (["X-Forwarded-Host: evil.example, [2001:db8::1]"], "[2001:db8::1]", "2001:db8::1", "80"),
        (["X-Forwarded-Port: 8080"], "test", None, "8080"),
    ],
)
def test_the_host_is_what_the_nearest_proxy_says(
    trusting: Server, fields: list[str], host: str, name: str | None, port: str
) -> None:
    environ = environ_of(trusting, *fields)
    assert (environ["HTTP_HOST"], environ["SERVER_PORT"]) == (host, port)
    assert name in (None, environ["SERVER_NAME"])


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        (["X-Forwarded-Proto: https"], "https"),
        (["X-Forwarded-Ssl: on"], "https"),
        (["X-Forwarded-Protocol: ssl", "X-Forwarded-Ssl: on"], "https"),
        (["X-Forwarded-Proto: http"], "http"),
        (["X-Forwarded-Proto: HTTPS"], "http"),
        (["X-Forwarded-Ssl: off"], "http"),
    ],
)
def test_the_scheme_is_read_as_gunicorn_does(trusting: Server, fields: list[str], scheme: str) -> None:
    assert environ_of(trusting, *fields)["wsgi.url_scheme"] == scheme


@pytest.mark.parametrize(
    "fields",
    [
        ["X-Forwarded-Proto: https", "X-Forwarded-Ssl: off"],
        ["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"],
        ["X-Forwarded-For: rubbish"],
        ["X-Forwarded-For: 192.0.2.256, 10.0.0.1"],
        ["X-Forwarded-Host: a b"],
        ["X-Forwarded-Host: user@a"],
        ["X-Forwarded-Port: http"],
        ["X-Forwarded-Port: -1"],
    ],
)
def test_a_trusted_proxy_that_makes_no_sense_gets_400(trusting: Server, fields: list[str]) -> None:
    assert refused(trusting, *fields) == 400


def test_the_word_of_others_is_taken_out(serve: Serve) -> None:
    server = serve(APPLICATION, forwarded_allow_ips="192.0.2.0/24", trusted_proxy_headers="x-forwarded-for")
    environ = environ_of(server, *ALL_FIELDS, "SCRIPT_NAME: /app", target="/app/x")
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["wsgi.url_scheme"] == "http"
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/app/x")
    assert not {"HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_SCRIPT_NAME"} & environ.keys()
    # No proxy listens to this field, so none removes it.
    assert environ["HTTP_X_FORWARDED_HOST"] == "public.example"


def test_only_the_fields_that_are_listened_to_count(serve: Serve) -> None:
    server = serve(APPLICATION, **TRUSTING)
    environ = environ_of(server, *ALL_FIELDS)
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("192.0.2.1", "https")
    assert environ["HTTP_HOST"] == "test"


def test_everybody_may_be_trusted(serve: Serve) -> None:
    server = serve(APPLICATION, forwarded_allow_ips="*")
    assert environ_of(server, "X-Forwarded-For: 192.0.2.9, 192.0.2.1")["REMOTE_ADDR"] == "192.0.2.9"


def test_a_peer_on_a_unix_socket_is_trusted_where_anybody_is(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    serve.script(
        f"""
        from forwarded_app import app
        import rmeinheld

        rmeinheld.run(app, bind=["127.0.0.1:0", "unix:{path}"], forwarded_allow_ips="192.0.2.1")
        """
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(request("GET", "/", "X-Forwarded-For: 192.0.2.77", "Connection: close"))
        with client.makefile("rb") as answer:
            environ = json.loads(answer.read().partition(b"\r\n\r\n")[2])
    assert environ["REMOTE_ADDR"] == "192.0.2.77"


# --- Forwarded -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def standard(serve_module: Serve) -> Server:
    """A server whose proxies speak by RFC 7239."""
    return serve_module(APPLICATION, **TRUSTING, trusted_proxy_headers="forwarded")


def test_forwarded_says_it_all(standard: Server) -> None:
    field = 'Forwarded: for="[2001:db8::1]:99";proto=HTTPS;host="a.example:444", for=10.0.0.1;proto=http;host=b'
    environ = environ_of(standard, field, "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: http")
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("2001:db8::1", "99")
    assert environ["wsgi.url_scheme"] == "https"
    assert environ["HTTP_HOST"] == "a.example:444"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("a.example", "444")


def test_with_forwarded_no_other_field_counts(standard: Server) -> None:
    environ = environ_of(standard, *ALL_FIELDS[:4])
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("127.0.0.1", "http")
    assert environ["HTTP_HOST"] == "test"


@pytest.mark.parametrize(
    "value",
    ['for="192.0.2.9', "for=192.0.2.1;for=192.0.2.2", "for=192.0.2.1:80", "proto=ftp", "host=a/b", 'host="a b"'],
)
def test_forwarded_that_makes_no_sense_gets_400(standard: Server, value: str) -> None:
    assert refused(standard, f"Forwarded: {value}") == 400


def test_forwarded_and_the_others_cannot_be_combined(tmp_path: Path) -> None:
    source = """
import rmeinheld
try:
    rmeinheld.run(lambda e, s: [], trusted_proxy_headers=["forwarded", "x-forwarded-for"])
except ValueError as error:
    print(error)
"""
    assert "trusted_proxy_headers must have 'forwarded' alone" in run_script(source, tmp_path)


# --- underscores and SCRIPT_NAME -------------------------------------------------------------------------------------


def test_names_with_underscores_are_dropped(plain: Server) -> None:
    environ = environ_of(plain, "X_Custom: 1", "X-Custom: 2", "Content_Length: 5", "Proxy: evil", "REMOTE_USER: root")
    assert environ["HTTP_X_CUSTOM"] == "2"
    assert (
        not {"HTTP_CONTENT_LENGTH", "CONTENT_LENGTH", "HTTP_PROXY", "HTTP_REMOTE_USER", "REMOTE_USER"} & environ.keys()
    )


def test_names_with_underscores_can_be_refused(serve: Serve) -> None:
    server = serve(APPLICATION, header_map="refuse")
    assert refused(server, "X_Custom: 1") == 400
    assert environ_of(server, "X-Custom: 1")["HTTP_X_CUSTOM"] == "1"


def test_names_with_underscores_can_be_passed_on(serve: Serve) -> None:
    server = serve(APPLICATION, header_map="dangerous")
    environ = environ_of(server, "X_Custom: 1", "X-Custom: 2", "Content_Length: 5", "Proxy: evil")
    assert environ["HTTP_X_CUSTOM"] == "1,2"
    assert environ["HTTP_CONTENT_LENGTH"] == "5"
    assert "HTTP_PROXY" not in environ
    assert "CONTENT_LENGTH" not in environ


def test_a_trusted_proxy_may_send_the_names_it_is_allowed(serve: Serve) -> None:
    server = serve(APPLICATION, **TRUSTING, forwarder_headers="script_name,remote_user", header_map="refuse")
    environ = environ_of(server, "SCRIPT_NAME: /a%20b", "REMOTE_USER: jo", target="/a%20b/c%20d?q")
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/a%20b", "/c d")
    assert environ["HTTP_REMOTE_USER"] == "jo"
    assert environ["RAW_URI"] == "/a%20b/c%20d?q"
    assert environ_of(server, "SCRIPT_NAME: /app", target="/app")["PATH_INFO"] == ""
    assert environ_of(server, "SCRIPT_NAME: /app/", target="/app/")["PATH_INFO"] == "/"
    assert environ_of(server, "SCRIPT_NAME: ", target="/app/")["PATH_INFO"] == "/app/"
    assert refused(server, "SCRIPT_NAME: /app", target="/application") == 400
    assert refused(server, "SCRIPT_NAME: /app", target="/other") == 400
    assert refused(server, "X_Other: 1") == 400


# --- the PROXY protocol ----------------------------------------------------------------------------------------------


def v2(command: int, family: int, addresses: bytes) -> bytes:
    return V2_SIGNATURE + struct.pack(">BBH", command, family, len(addresses)) + addresses


V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack(">HH", 4711, 443)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") * 2 + struct.pack(">HH", 4711, 443)
HEADERS = {
    "version 1, IPv4": (b"PROXY TCP4 192.0.2.1 192.0.2.2 4711 443\r\n", ("192.0.2.1", "4711", "192.0.2.2", "TCP4")),
    "version 1, IPv6": (
        b"PROXY TCP6 2001:db8::1 2001:db8::1 4711 443\r\n",
        ("2001:db8::1", "4711", "2001:db8::1", "TCP6"),
    ),
    "version 2, IPv4": (v2(0x21, 0x11, V4), ("192.0.2.1", "4711", "192.0.2.2", "TCP4")),
    "version 2, IPv4 and a TLV": (v2(0x21, 0x11, V4 + b"\1\0\1x"), ("192.0.2.1", "4711", "192.0.2.2", "TCP4")),
    "version 2, IPv6": (v2(0x21, 0x21, V6), ("2001:db8::1", "4711", "2001:db8::1", "TCP6")),
}
SILENT = {
    "version 1, unknown": b"PROXY UNKNOWN\r\n",
    "version 2, local": v2(0x20, 0, b""),
    "version 2, unspecified": v2(0x21, 0, b"xyz"),
    "none": b"",
}


@pytest.fixture(scope="module")
def proxied(serve_module: Serve) -> Server:
    """A server that takes both versions of the PROXY protocol from this machine, and trusts 192.0.2.1 with fields."""
    return serve_module(APPLICATION, proxy_protocol="auto", forwarded_allow_ips="127.0.0.1,192.0.2.1")


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_names_the_client(proxied: Server, name: str) -> None:
    header, expected = HEADERS[name]
    environ = environ_of(proxied, preface=header)
    seen = (environ["REMOTE_ADDR"], environ["REMOTE_PORT"], environ["PROXY_ADDR"], environ["PROXY_PROTOCOL"])
    assert seen == expected
    assert environ["PROXY_PORT"] == "443"


@pytest.mark.parametrize("name", SILENT)
def test_without_an_address_the_client_is_the_peer(proxied: Server, name: str) -> None:
    environ = environ_of(proxied, preface=SILENT[name])
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert "PROXY_ADDR" not in environ


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_may_arrive_in_pieces(proxied: Server, name: str) -> None:
    header, expected = HEADERS[name]
    with proxied.connect() as connection:
        connection.send_slowly(header + request("GET", "/"))
        assert json.loads(connection.read_response().body)["REMOTE_ADDR"] == expected[0]
    with proxied.connect() as connection:
        connection.send(header)
        assert not connection.has_input(0.1)
        assert json.loads(connection.request(request("GET", "/")).body)["REMOTE_ADDR"] == expected[0]


@pytest.mark.parametrize("keep_alive", [0, 1])
def test_a_header_alone_does_not_use_up_the_connection(serve: Serve, keep_alive: int) -> None:
    server = serve(APPLICATION, proxy_protocol="auto", keep_alive=keep_alive, client_header_timeout=5)
    header, expected = HEADERS["version 1, IPv4"]
    for pieces in ([header], [header[:5], header[5:]]):
        with server.connect() as connection:
            for piece in pieces:
                connection.send(piece)
                assert not connection.has_input(0.7)
            assert json.loads(connection.request(request("GET", "/")).body)["REMOTE_ADDR"] == expected[0]


def test_only_the_first_bytes_may_be_a_header(proxied: Server) -> None:
    with proxied.connect() as connection:
        assert connection.request(request("GET", "/")).status == 200
        assert connection.request(HEADERS["version 1, IPv4"][0] + request("GET", "/")).status == 400
        connection.expect_end()
    assert refused(proxied, preface=HEADERS["version 1, IPv4"][0] * 2) == 400


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY TCP4 192.0.2.1\r\n",
        b"PROXY TCP4 a b 1 2\r\n",
        b"PROXY " + b"x" * 200,
        v2(0x11, 0x11, V4),
        v2(0x21, 0x12, V4),
    ],
)
def test_a_header_that_makes_no_sense_gets_400(proxied: Server, header: bytes) -> None:
    assert refused(proxied, preface=header) == 400


def test_the_client_that_a_header_names_is_the_one_to_be_trusted_or_not(proxied: Server) -> None:
    field = "X-Forwarded-For: 203.0.113.5"
    assert environ_of(proxied, field, preface=HEADERS["version 1, IPv4"][0])["REMOTE_ADDR"] == "203.0.113.5"
    assert environ_of(proxied, field)["REMOTE_ADDR"] == "203.0.113.5"
    # Through a trusted machine, but from another client.
    stranger = environ_of(proxied, field, preface=HEADERS["version 1, IPv6"][0])
    assert stranger["REMOTE_ADDR"] == "2001:db8::1"
    assert "HTTP_X_FORWARDED_FOR" not in stranger


def test_others_get_403_for_a_header_and_are_served_without(serve: Serve) -> None:
    server = serve(APPLICATION, proxy_protocol="auto", proxy_allow_ips="192.0.2.0/24")
    for name, (header, _) in HEADERS.items():
        assert refused(server, preface=header) == 403, name
    server.wait_for_log(r"403 from 127\.0\.0\.1: a PROXY header from an address that is not in proxy_allow_ips")
    assert environ_of(server)["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("mode", "taken", "other"),
    [
        ("v1", "version 1, IPv4", "version 2, IPv4"),
        ("v2", "version 2, IPv4", "version 1, IPv4"),
        ("off", "none", "version 1, IPv4"),
        ("off", "none", "version 2, IPv4"),
    ],
)
def test_a_version_that_is_off_is_no_header(serve: Serve, mode: str, taken: str, other: str) -> None:
    server = serve(APPLICATION, proxy_protocol=mode)
    header = HEADERS[taken][0] if taken in HEADERS else b""
    assert environ_of(server, preface=header)["REMOTE_ADDR"] == ("192.0.2.1" if header else "127.0.0.1")
    assert refused(server, preface=HEADERS[other][0]) == 400


def test_a_header_that_never_ends_gets_408(serve: Serve) -> None:
    server = serve(APPLICATION, proxy_protocol="auto", client_header_timeout=1)
    with server.connect() as connection:
        connection.send(b"PROXY TCP4 ")
        assert connection.read_response().status == 408
        connection.expect_end()
