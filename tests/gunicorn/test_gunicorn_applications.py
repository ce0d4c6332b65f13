"""Applications as they are under the Gunicorn worker, nginx in front of it, and what is behind a Unix socket."""

from __future__ import annotations

import json
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn import version_info

from frameworks import FILE, FILE_HASH, check_djangos_admin, check_flask_with_requests, curl, make_django_site
from masters import Gunicorn
from proxying import Proxy, nginx
from serving import TIMEOUT, request

requests = pytest.importorskip("requests")

OURS = "rmeinheld.gunicorn_worker.Worker"


class Serving(Gunicorn):
    """A master of any application."""

    def await_start(self) -> None:
        """Wait until the master listens; what comes before there is a worker waits in the kernel."""
        self.await_socket()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


type Start = Callable[..., Serving]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(application, *options) -> Serving`: a running master, which must end in order at the end of the test."""
    masters: list[Serving] = []

    def started(application: str, *options: str) -> Serving:
        masters.append(Serving(tmp_path, options, application))
        masters[-1].await_start()
        return masters[-1]

    yield started
    for master in masters:
        try:
            # One that has no worker yet would miss the signal.
            master.wait_for_log(r"Booting worker with pid")
            master.signal(signal.SIGTERM)
            assert master.wait() == 0
        finally:
            print(master.log())
            master.kill()


# --- Flask and Django ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [(), ("--env", "RMEINHELD_PATCH=0"), ("--preload",)], ids=["", "unpatched", "preload"]
)
def test_flask_is_served(start: Start, options: tuple[str, ...]) -> None:
    pytest.importorskip("flask")
    server = start("flask_app:app", *options)
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(2):  # the second time on a connection that was kept
            check_flask_with_requests(server.url, session)
    answer = json.loads(
        curl("--header", "Expect: 100-continue", "--data-binary", "@-", server.url + "/body", data=FILE)
    )
    assert answer["size"] == len(FILE)
    assert "Traceback" in server.log()  # of /error, in Gunicorn's error log


@pytest.mark.parametrize("options", [(), ("--env", "RMEINHELD_PATCH=0")], ids=["", "unpatched"])
def test_django_is_served(start: Start, tmp_path: Path, options: tuple[str, ...]) -> None:
    pytest.importorskip("django")
    variables = [f"--env={name}={value}" for name, value in make_django_site(tmp_path).items()]
    server = start("django_site.wsgi:application", *variables, *options)
    check_djangos_admin(server.url)
    file = tmp_path / "file"
    file.write_bytes(FILE)
    answer = json.loads(curl("--form", "note=x", "--form", f"file=@{file}", server.url + "/upload"))
    assert answer["sha256"] == FILE_HASH
    assert curl(server.url + "/stream").count(b"\n") == 5
    assert "Traceback" not in server.log()


# --- early hints -----------------------------------------------------------------------------------------------------

HINTING_APP = """
def app(environ, start_response):
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""


@pytest.mark.parametrize(
    "worker",
    [OURS, pytest.param("sync", marks=pytest.mark.skipif(version_info < (25,), reason="Gunicorn 25 and later"))],
)
def test_early_hints_are_sent(start: Start, tmp_path: Path, worker: str) -> None:
    (tmp_path / "hinting_app.py").write_text(HINTING_APP)
    with start("hinting_app:app", "--worker-class", worker).connect() as connection:
        hint = connection.request(request("GET", "/"))
        assert (hint.status, hint.headers) == (103, [("Link", "</style.css>; rel=preload; as=style")])
        assert connection.read_response().body == b"ok"


# --- Unix sockets ----------------------------------------------------------------------------------------------------


def ask(path: Path, data: bytes, context: ssl.SSLContext | None = None) -> dict[str, Any]:
    """The application's view of a request that ends its connection, through the Unix socket."""
    with socket.socket(socket.AF_UNIX) as plain:
        plain.settimeout(TIMEOUT)
        plain.connect(str(path))
        connection = context.wrap_socket(plain, server_hostname="localhost") if context else plain
        with connection:
            connection.sendall(data)
            received = b""
            while piece := connection.recv(65536):
                received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), received
    seen: dict[str, Any] = json.loads(body)
    return seen


NAMES = (
    *("SERVER_NAME", "SERVER_PORT", "REMOTE_ADDR", "REMOTE_PORT", "HTTP_HOST", "wsgi.url_scheme", "PATH_INFO"),
    *("SCRIPT_NAME", "HTTP_X_FORWARDED_FOR", "PROXY_PROTOCOL", "PROXY_ADDR", "PROXY_PORT"),
)

REQUESTS = {
    "no port": ("a.example", []),
    "a port": ("a.example:8080", []),
    "https": ("a.example", ["X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.9"]),
    "http": ("a.example", ["X-Forwarded-Proto: http"]),
    "https and a port": ("a.example:8443", ["X-Forwarded-Proto: https"]),
    "a path": ("a.example", ["SCRIPT_NAME: /a"]),
}


def seen_by(start: Start, path: Path, worker: str, *options: str, before: bytes = b"", tls: Path | None = None) -> Any:
    """An application's view of each of REQUESTS, under a worker class."""
    context = None
    if tls is not None:
        options += ("--certfile", str(tls), "--keyfile", str(tls))
        context = ssl.create_default_context(cafile=f"{tls}.crt")
    start("gunicorn_app:app", "--worker-class", worker, "--bind", f"unix:{path}", *options)
    answers = {}
    for name, (host, fields) in REQUESTS.items():
        lines = ["GET /a/b HTTP/1.1", f"Host: {host}", "Connection: close", *fields, "", ""]
        seen = ask(path, before + "\r\n".join(lines).encode(), context)
        answers[name] = {key: seen[key] for key in NAMES if key in seen}
    return answers


@pytest.mark.parametrize("kind", ["plain", "others trusted", "tls", "proxy protocol"])
def test_a_unix_socket_is_as_with_gunicorns_own_worker(
    start: Start, tmp_path: Path, certificate: Path, kind: str
) -> None:
    options: tuple[str, ...] = ()
    more: dict[str, Any] = {}
    match kind:
        case "others trusted":
            options = ("--forwarded-allow-ips", "192.0.2.1")
        case "tls":
            more = {"tls": certificate}
        case "proxy protocol":
            # This worker checks the address in the header, and Gunicorn's the peer on the socket: here both are
            # trusted.
            options = ("--proxy-protocol", "--forwarded-allow-ips", "*")
            more = {"before": b"PROXY TCP4 192.0.2.7 192.0.2.2 1 2\r\n"}
    ours = seen_by(start, tmp_path / "ours.sock", OURS, *options, **more)
    gunicorns = seen_by(start, tmp_path / "sync.sock", "sync", *options, **more)
    assert ours == gunicorns
    plain = "443" if kind == "tls" else "80"
    assert [answer["SERVER_PORT"] for answer in ours.values()] == [plain, "8080", "443", "80", "8443", plain]
    assert {answer["SERVER_NAME"] for answer in ours.values()} == {"a.example"}
    if kind != "proxy protocol":
        assert all(answer["REMOTE_ADDR"] == "" and "REMOTE_PORT" not in answer for answer in ours.values())


# --- nginx in front --------------------------------------------------------------------------------------------------

TO_WORKER = (
    'proxy_pass http://{}; proxy_set_header Host $http_host; proxy_http_version 1.1; proxy_set_header Connection ""; '
    "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto {}; "
)
SERVERS = {
    "unix": TO_WORKER.format("unix", "http"),
    "unix https": TO_WORKER.format("unix", "https"),
    "tcp https": TO_WORKER.format("tcp", "https"),
}


def proxied(proxy: Proxy, name: str, *fields: str) -> dict[str, Any]:
    with proxy.fronts[name].connect() as connection:
        response = connection.request(request("GET", "/a?b", *fields))
        assert response.status == 200
        seen: dict[str, Any] = json.loads(response.body)
        return seen


@pytest.mark.parametrize(("peers", "is_believed"), [((), True), (("--forwarded-allow-ips", "192.0.2.1"), False)])
def test_nginx_in_front(start: Start, tmp_path: Path, peers: tuple[str, ...], is_believed: bool) -> None:
    path = tmp_path / "worker.sock"
    server = start("gunicorn_app:app", "--bind", f"unix:{path}", *peers)
    upstreams = "".join(
        f"upstream {name} {{ server {address}; keepalive 8; }}"
        for name, address in (("tcp", f"127.0.0.1:{server.port}"), ("unix", f"unix:{path}"))
    )
    (tmp_path / "nginx").mkdir()
    with nginx(tmp_path / "nginx", upstreams, SERVERS) as proxy:
        for _ in range(3):  # nginx keeps its connections to the worker
            seen = proxied(proxy, "unix", "X-Forwarded-For: 192.0.2.66")
            assert (seen["REMOTE_ADDR"], seen.get("REMOTE_PORT")) == ("", None)
            assert seen["HTTP_X_FORWARDED_FOR"] == "192.0.2.66, 127.0.0.1"
            assert (seen["wsgi.url_scheme"], seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("http", "test", "80")
        # A peer on a Unix socket is trusted whatever forwarded_allow_ips says, as in Gunicorn.
        seen = proxied(proxy, "unix https")
        assert (seen["wsgi.url_scheme"], seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("https", "test", "443")
        seen = proxied(proxy, "tcp https")
        assert seen["wsgi.url_scheme"] == ("https" if is_believed else "http")
        # Gunicorn never takes a client's address from a field.
        assert (seen["REMOTE_ADDR"], seen["SERVER_PORT"]) == ("127.0.0.1", str(server.port))


def test_an_upload_passes_through_nginx_and_a_unix_socket(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("flask")
    path = tmp_path / "worker.sock"
    start("flask_app:app", "--bind", f"unix:{path}")
    (tmp_path / "nginx").mkdir()
    streamed = TO_WORKER.format("unix", "http") + "proxy_request_buffering off; "
    with nginx(
        tmp_path / "nginx", f"upstream unix {{ server unix:{path}; keepalive 8; }}", {"front": streamed}
    ) as proxy:
        host, port = proxy.fronts["front"].address
        with requests.Session() as session:
            session.trust_env = False
            check_flask_with_requests(f"http://{host}:{port}", session)
