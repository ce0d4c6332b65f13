"""Clients that repeat their requests get answers like any other: what is kept between two requests carries nothing."""

from __future__ import annotations

import json

from serving import Connection, Serve, request

ENVIRON = """
import json

def app(environ, start_response):
    names = ("REQUEST_METHOD", "RAW_URI", "PATH_INFO", "QUERY_STRING", "REMOTE_PORT", "SERVER_PROTOCOL", "SERVER_PORT")
    seen = {name: environ[name] for name in names}
    seen["fields"] = {name: environ[name] for name in environ if name.startswith(("HTTP_", "CONTENT_"))}
    seen["left"] = "test.left" in environ
    environ["test.left"] = True
    environ["HTTP_X_NAME"] = "changed"
    del environ["PATH_INFO"]
    body = json.dumps(seen).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""


def test_repeated_requests_have_an_environ_of_their_own(serve: Serve) -> None:
    server = serve(ENVIRON)
    targets = ["/a?b"] * 5 + ["/c%20d", "/a?b", "/c%20d", "/c%20d", "/c%20d", "http://other/e", "/a?b"]
    with server.connect() as one, server.connect() as two:
        for connection in (one, two):
            for number, target in enumerate(targets * 2):
                name = "first" if number < len(targets) else "second"
                method = "DELETE" if number % 7 == 6 else "GET"
                connection.send(request(method, target, f"X-Name: {name}", "Cookie: a=1"))
                seen = json.loads(connection.read_response().body)
                path, _, query = target.removeprefix("http://other").partition("?")
                host = "other" if target.startswith("http") else "test"
                assert seen == {
                    "REQUEST_METHOD": method,
                    "RAW_URI": target,
                    "PATH_INFO": path.replace("%20", " "),
                    "QUERY_STRING": query,
                    "REMOTE_PORT": str(connection.socket.getsockname()[1]),
                    "SERVER_PROTOCOL": "HTTP/1.1",
                    "SERVER_PORT": str(server.port),
                    "fields": {"HTTP_HOST": host, "HTTP_X_NAME": name, "HTTP_COOKIE": "a=1"},
                    "left": False,
                }


KEPT = """
kept = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    hints = environ["wsgi.early_hints"]
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if path.startswith("/keep/"):
        kept.append({"start_response": start_response, "write": write, "hints": hints, "environ": environ}[path[6:]])
    said = []
    if path == "/use":
        for former in kept:
            said.append(str(former not in (start_response, write, hints, environ)))
            try:
                if isinstance(former, dict):
                    former = former["wsgi.early_hints"]
                if type(former).__name__ == "StartResponse":
                    former("200 OK", [("X-Wrong", "yes")])
                else:
                    former(b"wrong" if type(former).__name__ == "Write" else [("Link", "</wrong>")])
            except ValueError:
                said.append("refused")
    return [" ".join(said).encode()]
"""


def test_objects_of_an_ended_request_that_are_kept_do_not_reach_later_ones(serve: Serve) -> None:
    server = serve(KEPT)
    with server.connect() as connection:
        for path in [
            "/",
            "/",
            "/keep/start_response",
            "/",
            "/keep/write",
            "/keep/hints",
            "/",
            "/keep/environ",
            "/",
            "/",
        ]:
            connection.send(request("GET", path))
            assert connection.read_response().body == b""
        connection.send(request("GET", "/use"))
        response = connection.read_response()
        assert (response.status, response.body) == (200, b"True refused True refused True True")
        assert connection.buffer == b""


CHECKS = """
kept = []

def app(environ, start_response):
    if environ["PATH_INFO"] == "/keep":
        kept.append(environ["rmeinheld.client_disconnected"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(str(is_gone()) for is_gone in kept).encode()]
"""


def test_a_kept_check_of_the_client_looks_at_the_client_of_its_own_request(serve: Serve) -> None:
    server = serve(CHECKS)

    def ask(connection: Connection, path: str) -> bytes:
        connection.send(request("GET", path))
        return connection.read_response().body

    with server.connect() as stays:
        with server.connect() as goes:
            assert ask(goes, "/") == b""
            assert ask(goes, "/keep") == b"False"
            assert ask(stays, "/keep") == b"False False"
            assert ask(goes, "/") == b"False False"
        assert ask(stays, "/") == b"True False"
        with server.connect() as another:
            assert ask(another, "/keep") == b"True False False"
            assert ask(stays, "/") == b"True False False"


HEADERS = """
MANY = [("X-Number", str(number)) for number in range(100)]
CONSTANT = ("X-Constant", "always")

def app(environ, start_response):
    number = int(environ["QUERY_STRING"])
    pair = MANY[number % 100]
    fresh = ("X-Fresh", str(number))
    length = ("Content-Length", "2") if number % 2 else ("content-length", str(2))
    start_response("200 OK", [CONSTANT, pair, fresh, length, ("Date", "never") if number % 5 == 0 else CONSTANT])
    return [b"ok"]
"""


def test_headers_are_those_of_their_own_response(serve: Serve) -> None:
    server = serve(HEADERS)
    with server.connect() as connection:
        for number in range(300):
            connection.send(request("GET", f"/?{number}"))
            response = connection.read_response()
            assert response.header("X-Number") == str(number % 100)
            assert response.header("X-Fresh") == str(number)
            assert response.header("Content-Length") == "2"
            assert (response.header("Date") == "never") is (number % 5 == 0)
            assert set(response.all("X-Constant")) == {"always"}
            assert response.body == b"ok"
