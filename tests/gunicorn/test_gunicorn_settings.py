"""The table of Gunicorn's settings is complete and in the documentation, and what it says of the worker's own is so."""

from __future__ import annotations

import json
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gunicorn import config
from rmeinheld.gunicorn_worker.settings import SETTINGS, settings_of, table

from frames import HANDSHAKE, frame, text
from masters import Gunicorn, Masters
from rmeinheld.settings import OPTIONS
from serving import TIMEOUT, request

type Start = Masters[Gunicorn]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options, conf="") -> Gunicorn`: a running master whose gunicorn.conf.py is `conf`."""
    masters = Masters(tmp_path, Gunicorn)
    yield masters
    masters.stop()


def wait_for_text(path: Path, pattern: str) -> str:
    deadline = time.monotonic() + TIMEOUT
    while not (path.exists() and (found := re.search(pattern, path.read_text()))):
        assert time.monotonic() < deadline, path.read_text() if path.exists() else "no file"
        time.sleep(0.02)
    return found[0]


# --- the table -------------------------------------------------------------------------------------------------------


def test_no_setting_is_forgotten() -> None:
    assert {setting.name for setting in config.KNOWN_SETTINGS} - set(SETTINGS) == set()


def test_the_table_of_options_names_the_gunicorn_setting_that_decides_each() -> None:
    options = [option for option in OPTIONS.values() if option.gunicorn]
    assert {option.gunicorn for option in options} - {setting.name for setting in config.KNOWN_SETTINGS} == set()
    default = config.Config()
    settings = settings_of(default)
    changed = {option.name for option in OPTIONS.values() if getattr(settings, option.name) != option.default}
    assert {name for name in changed if OPTIONS[name].environment and not OPTIONS[name].gunicorn} == {
        "clear_untrusted_proxy_headers", "limit_request_body", "limit_request_head", "trusted_proxy_headers",
        *(["websocket_max_message_size"] if hasattr(default, "websocket_max_message_size") else []),
    }  # fmt: skip


def test_the_table_has_a_row_for_each_setting_and_the_documentation_has_the_table() -> None:
    rows = table().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(SETTINGS)
    page = Path(__file__).parents[2] / "docs" / "gunicorn.md"
    assert "\n<!-- generated: gunicorn-settings -->\n" in page.read_text()


# --- clients that break the rules ------------------------------------------------------------------------------------


def raw(start_line: str, *fields: str) -> bytes:
    return "\r\n".join((start_line, "Host: test", *fields, "", "")).encode()


def ask(server: Gunicorn, data: bytes) -> tuple[int, dict[str, Any]]:
    """The status, and what the application saw."""
    with server.connect() as connection:
        response = connection.request(data)
        if response.status == 200:
            return 200, json.loads(response.body)
        connection.expect_end()
        return response.status, {}


HAS_FOLDING = pytest.mark.skipif(
    "permit_obsolete_folding" not in config.make_settings(), reason="a setting of Gunicorn 23 and later"
)

FOLDED = raw("GET / HTTP/1.1", "X-Long: one \r\n \ttwo", "X-Next: three")
SPACED = raw("GET / HTTP/1.1", "X-Long \t: one", "X-Next: two")
ODD_METHODS = ("get", "GE", "Get", "G#T", "A" * 21)
ODD_VERSIONS = {"HTTP/0.9": "HTTP/1.0", "HTTP/2.0": "HTTP/1.1", "HTTP/3.1": "HTTP/1.1"}


def test_rules_are_kept_by_default(start: Start) -> None:
    server = start()
    assert [ask(server, raw(f"{method} / HTTP/1.1"))[0] for method in ODD_METHODS] == [400] * len(ODD_METHODS)
    assert [ask(server, raw(f"GET / {version}"))[0] for version in ODD_VERSIONS] == [505] * len(ODD_VERSIONS)
    assert ask(server, raw("GET / HTTP/1.2"))[1]["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert (ask(server, FOLDED)[0], ask(server, SPACED)[0]) == (400, 400)
    for method in ("PUT", "VERSION-CONTROL", "A" * 20, "M_X"):
        assert ask(server, raw(f"{method} / HTTP/1.1"))[1]["REQUEST_METHOD"] == method


def test_permit_unconventional_http_method(start: Start) -> None:
    server = start("--permit-unconventional-http-method")
    for method in ODD_METHODS:
        assert ask(server, raw(f"{method} / HTTP/1.1"))[1]["REQUEST_METHOD"] == method
    assert ask(server, raw("G(T / HTTP/1.1"))[0] == 400


def test_casefold_http_method(start: Start) -> None:
    server = start("--casefold-http-method", "--permit-unconventional-http-method")
    assert ask(server, raw("get / HTTP/1.1"))[1]["REQUEST_METHOD"] == "GET"
    assert ask(server, raw("-bl / HTTP/1.1"))[1]["REQUEST_METHOD"] == "-BL"
    with server.connect() as connection:
        # It counts as HEAD for the server too.
        connection.send(raw("head / HTTP/1.1"))
        assert connection.read_response("HEAD").body == b""
        assert connection.request(request("GET", "/")).status == 200


def test_casefold_http_method_alone_changes_nothing(start: Start) -> None:
    server = start("--casefold-http-method")
    assert ask(server, raw("get / HTTP/1.1"))[0] == 400
    assert ask(server, raw("GET / HTTP/1.1"))[1]["REQUEST_METHOD"] == "GET"


def test_permit_unconventional_http_version(start: Start) -> None:
    server = start("--permit-unconventional-http-version")
    for version, served_as in ODD_VERSIONS.items():
        assert ask(server, raw(f"GET / {version}"))[1]["SERVER_PROTOCOL"] == served_as
    assert ask(server, raw("GET / HTTP/10.0"))[0] == 400
    assert ask(server, raw("GET / HTTP/0.9", "Transfer-Encoding: chunked"))[0] == 400
    assert ask(server, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")[0] == 400


@HAS_FOLDING
def test_permit_obsolete_folding(start: Start) -> None:
    server = start("--permit-obsolete-folding")
    seen = ask(server, FOLDED)[1]
    assert (seen["HTTP_X_LONG"], seen["HTTP_X_NEXT"]) == ("one two", "three")
    with server.connect() as connection:
        connection.send_slowly(FOLDED)
        assert json.loads(connection.read_response().body)["HTTP_X_LONG"] == "one two"
    for fields in (
        ["Content-Length:\r\n 0"], ["Transfer-Encoding:\r\n chunked"], ["X: y\r\n "], ["X: y\n z"], ["X: y\r\n z\0"],
        ["X\r\n : y"], ["X : y\r\n z"],
    ):  # fmt: skip
        assert ask(server, raw("GET / HTTP/1.1", *fields))[0] == 400, fields
    assert ask(server, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n")[0] == 400
    assert ask(server, b"GET / HTTP/1.1\r\nHost:\r\n a\r\n\r\n")[0] == 400
    assert ask(server, SPACED)[0] == 400


@HAS_FOLDING
def test_folded_lines_count_as_one_field(start: Start) -> None:
    server = start("--permit-obsolete-folding", "--limit-request-fields", "3", "--limit-request-field_size", "100")
    folds = "\r\n x" * 20
    assert ask(server, raw("GET / HTTP/1.1", "A: b" + folds, "C: d"))[1]["HTTP_A"] == "b" + " x" * 20
    assert ask(server, raw("GET / HTTP/1.1", "A: b" + folds * 2))[0] == 431
    assert ask(server, raw("GET / HTTP/1.1", "A: b", "C: d", "E: f"))[0] == 431


def test_strip_header_spaces(start: Start) -> None:
    server = start("--strip-header-spaces")
    seen = ask(server, SPACED)[1]
    assert (seen["HTTP_X_LONG"], seen["HTTP_X_NEXT"]) == ("one", "two")
    for field in ("Content-Length : 0", "Transfer-Encoding\t: chunked", " : x", "X y : z", "X\x0b: y", " X : y"):
        assert ask(server, raw("GET / HTTP/1.1", field))[0] == 400, field
    assert ask(server, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n")[0] == 400
    assert ask(server, FOLDED)[0] == 400


# --- hooks -----------------------------------------------------------------------------------------------------------

HOOKS = """
def note(text):
    with open("hooks", "a") as file:
        file.write(text + "\\n")
def pre_request(worker, req):
    note(f"pre {req.method} {req.path} {req.query} {req.version} {dict(req.headers)['X-Y']}")
    worker.req = req
def post_request(worker, req, environ, resp):
    kind = dict(resp.headers)["Content-Type"]
    note(f"post {req is worker.req} {environ['PATH_INFO']} {resp.status} {resp.sent > 9} {kind}")
def post_fork(server, worker):
    note("post_fork")
def post_worker_init(worker):
    note("post_worker_init")
def worker_int(worker):
    note("worker_int")
def worker_exit(server, worker):
    note("worker_exit")
def child_exit(server, worker):
    note("child_exit")
"""


def test_hooks_are_called(start: Start, tmp_path: Path) -> None:
    conf = HOOKS.replace("['X-Y']", ".get('X-Y')")
    server = start(conf=conf)
    server.get("/a?b=c", "X-Y: z")
    wait_for_text(tmp_path / "hooks", "post True /a ")
    server.signal(signal.SIGQUIT)
    assert server.wait() == 0
    lines = (tmp_path / "hooks").read_text().splitlines()
    assert lines[:2] == ["post_fork", "post_worker_init"]
    assert "pre GET /a b=c (1, 1) z" in lines
    assert "post True /a 200 OK True application/json" in lines
    assert {"worker_int", "worker_exit", "child_exit"} <= set(lines)


def test_a_hook_that_raises_before_the_request_is_a_500_and_after_it_a_line_in_the_log(start: Start) -> None:
    conf = """
def pre_request(worker, req):
    if req.path == "/pre":
        raise RuntimeError("pre went wrong")
def post_request(worker, req):
    raise RuntimeError("post went wrong")
"""
    server = start(conf=conf)
    assert server.status(request("GET", "/pre")) == 500
    assert server.status(request("GET", "/")) == 200
    server.wait_for_log("pre went wrong")
    server.wait_for_log("Exception in post_request hook")


# --- access log ------------------------------------------------------------------------------------------------------

ATOMS = "%(m)s %(U)s %(s)s %(B)s %({x-y}i)s %({content-type}o)s %({remote_addr}e)s %(M)s %(L)s"
LINE = r"GET /a 200 \d+ z application/json 127\.0\.0\.1 \d+ \d+\.\d{6}\n"


def test_access_log_by_gunicorns_logger(start: Start, tmp_path: Path) -> None:
    server = start("--access-logfile", "access", "--access-logformat", ATOMS)
    server.get("/a?b", "X-Y: z")
    wait_for_text(tmp_path / "access", LINE)


def test_access_log_by_a_class_of_the_users(start: Start, tmp_path: Path) -> None:
    conf = """
from gunicorn.glogging import Logger
class logger_class(Logger):
    def access(self, resp, req, environ, request_time):
        with open("access", "a") as file:
            file.write(f"{resp.status} {req.path} {request_time.total_seconds() < 5}\\n")
"""
    start(conf=conf).get("/a")
    wait_for_text(tmp_path / "access", "200 OK /a True\n")


def test_access_log_by_logconfig_dict(start: Start, tmp_path: Path) -> None:
    conf = """
logconfig_dict = {
    "version": 1, "disable_existing_loggers": False, "root": {"level": "INFO", "handlers": []},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "access"},
                 "error": {"class": "logging.StreamHandler"}},
    "loggers": {"gunicorn.access": {"level": "INFO", "handlers": ["file"], "propagate": False},
                "gunicorn.error": {"level": "INFO", "handlers": ["error"], "propagate": False}},
}
"""
    start(conf=conf).get("/a")
    wait_for_text(tmp_path / "access", '"GET /a HTTP/1.1" 200')


def test_requests_are_counted_by_statsd(start: Start) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(TIMEOUT)
        start("--statsd-host", f"127.0.0.1:{statsd.getsockname()[1]}", "--statsd-prefix", "here")
        while statsd.recv(1000) != b"here.gunicorn.request.status.200:1|c|@1.0":
            pass


# --- where it is mounted, patching, threads ---------------------------------------------------------------------------


def test_script_name(start: Start) -> None:
    server = start("--env", "SCRIPT_NAME=/below")
    seen = server.get("/below/a")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"], seen["RAW_URI"]) == ("/below", "/a", "/below/a")
    assert server.get("/belowed")["PATH_INFO"] == "/belowed"


PATCH_THE_MASTER = "from rmeinheld.patch import patch_all\npatch_all()\n"


@pytest.mark.parametrize(
    ("options", "conf", "patched"),
    [
        ((), "", True),
        (("--env", "RMEINHELD_PATCH=0"), "", False),
        ((), "patch = False", False),
        (("--env", "RMEINHELD_PATCH=1"), "patch = False", True),
        (("--preload",), "", False),
        (("--preload",), PATCH_THE_MASTER, True),
    ],
)
def test_patching_comes_before_the_application(
    start: Start, tmp_path: Path, options: tuple[str, ...], conf: str, patched: bool
) -> None:
    (tmp_path / "gunicorn_app.py").write_text(PATCHED_APP)
    server = start(*options, conf=conf)
    assert server.get("/") == {"patched": patched}
    is_said = "preload_app: the application was imported before" in server.log()
    assert is_said is ("--preload" in options and not patched)


PATCHED_APP = """
import json
from rmeinheld.patch import is_patched
patched = is_patched("time")
def app(environ, start_response):
    answer = json.dumps({"patched": patched}).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""


def test_options_of_websockets_come_from_the_environment(start: Start) -> None:
    server = start(
        "--env", "RMEINHELD_WEBSOCKET_PING_INTERVAL=0.1", "--env", "RMEINHELD_WEBSOCKET_MAX_MESSAGE_SIZE=100",
        "--access-logfile", "-",
    )  # fmt: skip
    with server.connect() as connection:
        connection.send(request("GET", "/echo", *HANDSHAKE))
        assert connection.read_head()[0].status == 101
        assert connection.read_exactly(6).startswith(b"\x89\x04")
        connection.send(frame(0x8A) + text("hello"))
        assert connection.read_until(b"hello").endswith(b"\x81\x05")
        connection.send(text("x" * 101))
        assert connection.read_to_end().endswith(b"\x88\x02\x03\xf1")
    server.wait_for_log(r'"GET /echo HTTP/1\.1" 101 ')


def test_connect_is_permitted_by_the_environment(start: Start) -> None:
    connect = raw("CONNECT test:1 HTTP/1.1")
    assert ask(start(), connect)[0] == 501
    with start("--env", "RMEINHELD_PERMIT_CONNECT=Yes").connect() as connection:
        connection.send(connect)
        response, _ = connection.read_head("CONNECT")
        assert (response.status, response.all("Content-Length")) == (200, [])
        assert json.loads(connection.read_to_end())["REQUEST_METHOD"] == "CONNECT"


def test_a_field_line_may_have_as_many_bytes_as_gunicorn_counts(start: Start) -> None:
    server = start("--limit-request-field_size", "40")
    for value, status in [("a" * 33, 200), ("a" * 34, 431)]:
        assert ask(server, raw("GET / HTTP/1.1", f"X-A: {value}"))[0] == status


@HAS_FOLDING
def test_the_lines_of_a_folded_field_count_together_as_in_gunicorn(start: Start) -> None:
    server = start("--limit-request-field_size", "40", "--permit-obsolete-folding")
    for value, status in [("b" * 15, 200), ("b" * 16, 431)]:
        assert ask(server, raw("GET / HTTP/1.1", "X-A: aaaaaaaaaaaaaaa", f" {value}"))[0] == status


def test_an_option_of_websockets_that_is_not_understood_is_an_error(tmp_path: Path) -> None:
    server = Gunicorn(tmp_path, ("--env", "RMEINHELD_WEBSOCKET_PING_INTERVAL=often"))
    try:
        assert server.wait() != 0
        assert "RMEINHELD_WEBSOCKET_PING_INTERVAL must be a number of seconds" in server.log()
        assert "not 'often'" in server.log()
    finally:
        server.kill()


def test_a_switch_that_is_not_understood_is_an_error(tmp_path: Path) -> None:
    server = Gunicorn(tmp_path, ("--env", "RMEINHELD_PATCH=perhaps"))
    try:
        assert server.wait() != 0
        assert "RMEINHELD_PATCH must be 1 or 0, not 'perhaps'" in server.log()
    finally:
        server.kill()


def test_threads_are_those_of_offload(start: Start, tmp_path: Path) -> None:
    (tmp_path / "gunicorn_app.py").write_text(
        PATCHED_APP.replace("import json", "import json\nfrom rmeinheld.coroutine import *").replace(
            '{"patched": patched}', '{"threads": get_offload_threads()}'
        )
    )
    assert start("--threads", "3").get("/") == {"threads": 3}


# --- TLS -------------------------------------------------------------------------------------------------------------


class SecureGunicorn(Gunicorn):
    """A master whose workers serve TLS."""

    context: ssl.SSLContext

    def await_start(self) -> None:
        self.await_socket()

    def open(self, *, may_end_roughly: bool = True) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), TIMEOUT)
        return self.context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=may_end_roughly)

    def ask(self, data: bytes) -> tuple[bytes, Any]:
        """The head and the JSON of the answer to a request that ends its connection."""
        with self.open() as connection:
            connection.sendall(data)
            return self.answer(connection)

    @staticmethod
    def answer(connection: ssl.SSLSocket) -> tuple[bytes, Any]:
        received = b""
        while data := connection.recv(65536):
            received += data
        head, _, body = received.partition(b"\r\n\r\n")
        return head, json.loads(body)


type StartTls = Masters[SecureGunicorn]


@pytest.fixture
def start_tls(tmp_path: Path, certificate: Path) -> Iterator[StartTls]:
    def secure(directory: Path, options: tuple[str, ...], app: str) -> SecureGunicorn:
        master = SecureGunicorn(
            directory, ("--certfile", str(certificate), "--keyfile", str(certificate), *options), app
        )
        master.context = ssl.create_default_context(cafile=f"{certificate}.crt")
        return master

    masters = Masters(tmp_path, secure)
    yield masters
    masters.stop()


def test_tls_is_served(start_tls: StartTls) -> None:
    server = start_tls()
    head, seen = server.ask(request("GET", "/a", "Connection: close"))
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert (seen["wsgi.url_scheme"], seen["HTTPS"], seen["PATH_INFO"]) == ("https", "on", "/a")
    # Kept alive, in small pieces, and by two requests in one record.
    with server.open() as connection:
        for byte in request("GET", "/b"):
            connection.sendall(bytes([byte]))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        connection.sendall(request("GET", "/c") + request("GET", "/d", "Connection: close"))
        received = b""
        while data := connection.recv(65536):
            received += data
        assert received.count(b"HTTP/1.1 200 OK\r\n") == 2


def test_a_client_that_speaks_no_tls_hinders_no_other_client(start_tls: StartTls) -> None:
    server = start_tls()
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as silent:
        with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as plain:
            plain.sendall(request("GET", "/"))
            # At most an alert (RFC 8446 6.2), then the end.
            received = b""
            while data := plain.recv(1000):
                received += data
            assert not received.startswith(b"HTTP")
        server.wait_for_log(r"TLS with 127\.0\.0\.1 failed: .*HTTP_REQUEST")
        assert server.ask(request("GET", "/", "Connection: close"))[1]["PATH_INFO"] == "/"
        silent.sendall(b"\x16")


def test_a_client_that_sends_on_after_the_answer_still_gets_it_through_tls(start_tls: StartTls) -> None:
    server = start_tls()
    for _ in range(5):
        with server.open() as connection:
            # The application reads nothing of it; it is taken all the same, or a reset would overtake the answer.
            connection.sendall(request("POST", "/", "Content-Length: 2000000"))
            for _ in range(100):
                connection.sendall(bytes(20_000))
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_large_bodies_pass_through_tls_both_ways(start_tls: StartTls, tmp_path: Path) -> None:
    (tmp_path / "gunicorn_app.py").write_text(ECHO_APP)
    server = start_tls()
    body = bytes(range(256)) * 12_000
    with server.open() as connection:
        connection.sendall(request("POST", "/", f"Content-Length: {len(body)}", "Connection: close") + body)
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.partition(b"\r\n\r\n")[2] == body
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    with server.open() as connection:
        connection.sendall(request("GET", "/", "Connection: close"))
        received = b""
        while data := connection.recv(65536):
            received += data
    assert received.partition(b"\r\n\r\n")[2] == ECHO_APP.encode()


ECHO_APP = """
def app(environ, start_response):
    fields = [("Content-Type", "application/octet-stream")]
    if environ["REQUEST_METHOD"] == "GET":
        start_response("200 OK", fields)
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    body = environ["wsgi.input"].read()
    start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
    return iter([body[:1_500_000], body[1_500_000:]])
"""


def test_an_answer_that_is_cut_off_is_seen_as_such_through_tls(start_tls: StartTls, tmp_path: Path) -> None:
    (tmp_path / "gunicorn_app.py").write_text(CUT_APP)
    server = start_tls()
    with server.open(may_end_roughly=False) as connection:
        # HTTP/1.0: the end of the connection is that of the body.
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        with pytest.raises((ssl.SSLError, ConnectionError)):
            while data := connection.recv(65536):
                received += data
    assert received.endswith(b"half") or received == b""


CUT_APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    yield b"half"
    raise RuntimeError("cut off")
"""


def test_the_ssl_context_hook_is_asked(start_tls: StartTls) -> None:
    conf = """
def ssl_context(conf, default_ssl_context_factory):
    import ssl
    context = default_ssl_context_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sni_callback = lambda object, name, context: print("SNI", name, flush=True)
    return context
"""
    server = start_tls(conf=conf)
    server.ask(request("GET", "/", "Connection: close"))
    server.wait_for_log("SNI localhost")
    server.context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), server.open():
        pass


def test_client_certificates_are_asked_for(start_tls: StartTls, certificate: Path) -> None:
    server = start_tls("--cert-reqs", "2", "--ca-certs", f"{certificate}.crt")
    with pytest.raises((ssl.SSLError, ConnectionError, ValueError)):
        server.ask(request("GET", "/", "Connection: close"))
    server.context.load_cert_chain(certificate)
    assert server.ask(request("GET", "/", "Connection: close"))[1]["HTTPS"] == "on"


def test_curl_believes_the_certificate(start_tls: StartTls, certificate: Path) -> None:
    server = start_tls()
    command = ["curl", "--silent", "--show-error", "--fail", "--cacert", f"{certificate}.crt"]
    answer = subprocess.run([*command, f"https://localhost:{server.port}/x"], check=True, capture_output=True)
    assert json.loads(answer.stdout)["wsgi.url_scheme"] == "https"
