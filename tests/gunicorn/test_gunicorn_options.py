"""Settings of Gunicorn that the worker honours, one by one: those that no other test is about."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from gunicorn import config
from rmeinheld.gunicorn_worker.settings import SETTINGS, Kind

from frames import HANDSHAKE, text
from masters import LISTENING, Gunicorn, Masters, wait_until
from serving import TIMEOUT, request

type Start = Masters[Gunicorn]

TESTS = Path(__file__).parents[1]


def has(setting: str) -> pytest.MarkDecorator:
    """Skip where Gunicorn is too old for a setting."""
    return pytest.mark.skipif(setting not in config.make_settings(), reason=f"this Gunicorn has no {setting}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options, conf="", app=...) -> Gunicorn`: a running master whose gunicorn.conf.py is `conf`."""
    masters = Masters(tmp_path, Gunicorn)
    yield masters
    masters.stop()


def test_every_setting_that_is_honoured_is_in_a_test() -> None:
    sources = "".join(path.read_text() for path in [*TESTS.glob("*/test_*.py"), TESTS / "support/masters.py"])
    options = {setting.name: setting.cli or [] for setting in config.KNOWN_SETTINGS}
    names = [name for name, (kind, _) in SETTINGS.items() if kind is Kind.WORKER]
    untested = [
        name
        for name in names
        # Some are named as the variable in gunicorn.conf.py, most as the option.
        if not any(re.search(rf"(?<![\w-]){re.escape(word)}\b", sources) for word in [name, *options.get(name, [])])
    ]
    assert untested == []


# --- proxies ---------------------------------------------------------------------------------------------------------


@has("forwarder_headers")
def test_forwarder_headers(start: Start) -> None:
    seen = start().get("/app/x", "SCRIPT_NAME: /app")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/app", "/x")
    seen = start("--forwarder-headers", "X").get("/app/x", "SCRIPT_NAME: /app")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("", "/app/x")


@has("root_path")
def test_root_path(start: Start) -> None:
    server = start("--root-path", "/app")
    assert [server.get(path)["SCRIPT_NAME"] for path in ("/app/x", "/x")] == ["/app", "/app"]
    assert [server.get(path)["PATH_INFO"] for path in ("/app/x", "/x")] == ["/x", "/x"]


def test_secure_scheme_headers(start: Start) -> None:
    server = start(conf='secure_scheme_headers = {"X-SECURE": "yes"}')
    for field, scheme in (("X-Secure: yes", "https"), ("X-Secure: no", "http"), ("X-Forwarded-Proto: https", "http")):
        assert server.get("/", field)["wsgi.url_scheme"] == scheme, field


def test_proxy_allow_ips(start: Start) -> None:
    data = b"PROXY TCP4 192.0.2.7 192.0.2.2 1 2\r\n" + request("GET", "/")
    server = start("--proxy-protocol", "--proxy-allow-from", "127.0.0.1")
    assert server.status(data) == 200
    server = start("--proxy-protocol", "--proxy-allow-from", "192.0.2.1")
    assert server.status(data) == 403


# --- logs ------------------------------------------------------------------------------------------------------------


def test_loglevel(start: Start) -> None:
    server = start("--log-level", "debug")
    server.get("/watched")
    server.wait_for_log(r"\[DEBUG\] GET /watched")
    server = start("--log-level", "info")
    server.get("/watched")
    assert "GET /watched" not in server.log()


def test_errorlog_accesslog_and_access_log_format(tmp_path: Path) -> None:
    errors, accesses = tmp_path / "errors.log", tmp_path / "accesses.log"
    errors.touch()
    logs = ("--error-logfile", str(errors), "--access-logfile", str(accesses), "--access-logformat", "%(m)s %(U)s")
    server = Gunicorn(tmp_path, logs)
    try:
        wait_until(lambda: re.search(LISTENING, errors.read_text()) is not None, errors.read_text)
        server.port = int((re.search(LISTENING, errors.read_text()) or [""])[1])
        server.get("/")
        assert server.status(request("GET", "/fail", "Connection: close")) == 500
        wait_until(lambda: "failed on purpose" in errors.read_text(), errors.read_text)
        wait_until(lambda: accesses.read_text() == "GET /\nGET /fail\n", accesses.read_text)
        assert "failed on purpose" not in server.log()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    finally:
        server.kill()
        print(errors.read_text())


@pytest.fixture
def syslog() -> Iterator[socket.socket]:
    """A socket that receives syslog's datagrams."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(TIMEOUT)
        yield receiver


def logged(syslog: socket.socket, pattern: str) -> str:
    """All that has come, up to the line with this pattern."""
    lines = ""
    while not re.search(pattern, lines):
        lines += syslog.recv(65536).decode() + "\n"
    return lines


def test_syslog(start: Start, syslog: socket.socket) -> None:
    server = start("--log-syslog", "--log-syslog-to", f"udp://127.0.0.1:{syslog.getsockname()[1]}")
    server.get("/logged")
    logged(syslog, '"GET /logged HTTP/1.1" 200')


def test_disable_redirect_access_to_syslog(start: Start, syslog: socket.socket) -> None:
    address = f"udp://127.0.0.1:{syslog.getsockname()[1]}"
    server = start("--log-syslog", "--log-syslog-to", address, "--disable-redirect-access-to-syslog")
    server.get("/logged")
    server.status(request("GET", "/fail", "Connection: close"))
    assert "/logged HTTP" not in logged(syslog, "failed on purpose")


@has("logconfig_json")
def test_logconfig_json(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "accesses.log"
    settings = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "console": {"class": "logging.StreamHandler"},
            "file": {"class": "logging.FileHandler", "filename": str(file)},
        },
        "loggers": {
            "gunicorn.error": {"handlers": ["console"], "level": "INFO"},
            "gunicorn.access": {"handlers": ["file"], "level": logging.INFO, "propagate": False},
        },
    }
    (tmp_path / "logging.json").write_text(json.dumps(settings))
    server = start("--log-config-json", str(tmp_path / "logging.json"))
    server.get("/logged")
    wait_until(lambda: '"GET /logged HTTP/1.1" 200' in file.read_text(), file.read_text)


# --- what is sent and received ---------------------------------------------------------------------------------------

FILE_APP = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"{}"] if environ["PATH_INFO"] == "/" else environ["wsgi.file_wrapper"](open(__file__, "rb"))
"""


@pytest.mark.parametrize(("options", "is_sent_whole"), [((), True), (("--no-sendfile",), False)])
def test_sendfile(start: Start, tmp_path: Path, options: tuple[str, ...], is_sent_whole: bool) -> None:
    (tmp_path / "file_app.py").write_text(FILE_APP)
    server = start(*options, app="file_app:app")
    with server.connect() as connection:
        response = connection.request(request("GET", "/file"))
    assert response.body == FILE_APP.encode()
    # The kernel is given a file whose length is known; otherwise it is read in pieces until its end.
    assert (response.header("Content-Length") is not None) is is_sent_whole


@has("websocket_max_message_size")
def test_websocket_max_message_size(start: Start) -> None:
    server = start("--websocket-max-message-size", "10")
    with server.connect() as connection:
        connection.send(request("GET", "/echo", *HANDSHAKE))
        connection.read_head()
        connection.send(text("x" * 10))
        assert connection.read_exactly(12) == b"\x81\x0a" + b"x" * 10
        connection.send(text("x" * 11))
        assert connection.read_exactly(4) == b"\x88\x02" + (1009).to_bytes(2)


def test_ciphers(start: Start, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    chosen, other = "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"
    server = Gunicorn(tmp_path, ("--certfile", str(certificate), "--keyfile", str(certificate), "--ciphers", chosen))
    try:
        server.await_socket()
        for cipher in (chosen, other):
            context = ssl.create_default_context()
            authority.configure_trust(context)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(cipher)
            with socket.create_connection(("127.0.0.1", server.port), TIMEOUT) as connection:
                if cipher == chosen:
                    with context.wrap_socket(connection, server_hostname="localhost") as secured:
                        assert (secured.cipher() or ("",))[0] == chosen
                else:
                    with pytest.raises(ssl.SSLError):
                        context.wrap_socket(connection, server_hostname="localhost")
        server.wait_for_log("TLS with 127.0.0.1 failed: .*NO_SHARED_CIPHER")
        server.end()
    finally:
        server.kill()


# --- hooks -----------------------------------------------------------------------------------------------------------


def test_worker_abort(start: Start) -> None:
    conf = """
def worker_abort(worker):
    worker.log.info("aborted: %s", worker.pid)
"""
    server = start("--timeout", "2", conf=conf)
    pid = server.get("/")["pid"]
    with server.connect() as connection:
        connection.send(request("GET", "/busy"))
        server.wait_for_log(f"aborted: {pid}")
    wait_until(lambda: server.get("/")["pid"] != pid, server.log)
