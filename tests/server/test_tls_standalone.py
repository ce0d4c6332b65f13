"""TLS of the command line and of `run`: certificates, their faults, and their renewal while the server runs."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rmeinheld
from certificates import (
    Certificate,
    bad_renewals,
    get_tls,
    make_certificate,
    make_expired_certificate,
    open_tls,
    shown_certificate,
)
from rmeinheld import tls as tls_module
from rmeinheld.settings import Settings
from rmeinheld.tls import Tls, tls_of
from serving import TIMEOUT, Serve, Server, environment_of_child
from terminals import OnTerminal

APPLICATION = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [f"{environ['wsgi.url_scheme']} {environ.get('HTTPS')}".encode()]
"""


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("second"))


@pytest.fixture
def current(tmp_path: Path, first: Certificate) -> Certificate:
    """The files that a server has been given, with the first certificate."""
    place = Certificate(tmp_path / "site.pem", tmp_path / "site.key")
    first.put(place)
    return place


def serve_tls(serve: Serve, place: Certificate, **options: str) -> Server:
    return serve(APPLICATION, certfile=str(place.certificate), keyfile=str(place.key), **options)


def test_the_command_serves_tls(serve: Serve, current: Certificate, first: Certificate) -> None:
    server = serve_tls(serve, current)
    assert f"listening at https://127.0.0.1:{server.port} " in server.log()
    with open_tls(server.port, first) as connection:
        assert connection.selected_alpn_protocol() is None
        response = get_tls(connection)
    assert (response.status, response.body) == (200, b"https on")


def test_the_key_may_be_in_the_file_of_the_certificate(serve: Serve, tmp_path: Path, first: Certificate) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(first.key.read_bytes() + first.certificate.read_bytes())
    server = serve(APPLICATION, certfile=str(both))
    with open_tls(server.port, first) as connection:
        assert get_tls(connection).body == b"https on"


def test_sighup_has_new_connections_use_the_new_certificate(
    serve: Serve, current: Certificate, first: Certificate, second: Certificate
) -> None:
    server = serve_tls(serve, current)
    with open_tls(server.port, first) as old:
        second.put(current)
        server.signal(signal.SIGHUP)
        server.wait_for_log("TLS: read the certificates again")
        with open_tls(server.port, second) as new:
            assert get_tls(new).body == b"https on"
        with pytest.raises(ssl.SSLCertVerificationError):
            open_tls(server.port, first)
        # The connection of before goes on.
        assert get_tls(old).body == b"https on"


def test_a_bad_certificate_at_sighup_leaves_the_old_one_in_use(
    serve: Serve, current: Certificate, first: Certificate, second: Certificate
) -> None:
    server = serve_tls(serve, current)
    shutil.copy(second.key, current.key)
    server.signal(signal.SIGHUP)
    line = server.wait_for_log(r"\[ERROR\] TLS: (.*)")[1]
    assert line == (
        f"keyfile: the key in {str(current.key)!r} does not belong to the certificate in {str(current.certificate)!r}; "
        "the certificates that were read before stay in use"
    )
    with open_tls(server.port, first) as connection:
        assert get_tls(connection).status == 200
    # The rest of the renewal comes, and the next signal takes it.
    second.put(current)
    server.signal(signal.SIGHUP)
    server.wait_for_log("TLS: read the certificates again")
    with open_tls(server.port, second) as connection:
        assert get_tls(connection).status == 200


def test_every_bad_renewal_at_sighup_is_one_error_line_and_service_goes_on(
    serve: Serve, current: Certificate, first: Certificate, second: Certificate
) -> None:
    server = serve_tls(serve, current)
    for number, fault in enumerate(bad_renewals(current, second), 1):
        seen = len(server.log())
        server.signal(signal.SIGHUP)
        line = server.wait_for_log(r"\[ERROR\] TLS: (.*); the certificates .* before stay in use$", start=seen)
        assert line[1].startswith(fault)
        with open_tls(server.port, first) as connection:
            assert get_tls(connection).status == 200
        assert server.log().count("[ERROR]") == number
    assert "Traceback" not in server.log()


def test_a_certificate_that_has_expired_is_served(serve: Serve, current: Certificate, tmp_path: Path) -> None:
    """Clients judge it, and some trust it nevertheless."""
    expired = make_expired_certificate(tmp_path / "expired")
    server = serve_tls(serve, current)
    expired.put(current)
    server.signal(signal.SIGHUP)
    server.wait_for_log("TLS: read the certificates again")
    assert shown_certificate(server.port).split() == expired.certificate.read_text().split()
    assert "[ERROR]" not in server.log()


def test_without_tls_and_without_a_terminal_sighup_changes_nothing(serve: Serve) -> None:
    server = serve(APPLICATION)
    server.signal(signal.SIGHUP)
    server.wait_for_log("SIGHUP: a single process has nothing to reload without certfile; restart it")
    assert server.get("/").status == 200


def test_the_end_of_a_terminal_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "hung_app.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", "hung_app:app"]
    with OnTerminal(command, tmp_path) as process:
        process.wait_for("listening at")
        process.hang_up()
        assert process.wait() == -signal.SIGHUP


WATCHING = """
import rmeinheld.tls

rmeinheld.tls.CHECK_SECONDS = 0.05


def app(environ, start_response):
    start_response("200 OK", [])
    return [b"watched"]


rmeinheld.run(app, port=0, certfile="site.pem", keyfile="site.key", log_level="info")
"""


def test_changed_files_are_read_again_without_a_signal(
    serve: Serve, current: Certificate, first: Certificate, second: Certificate
) -> None:
    server = serve.script(WATCHING)
    with open_tls(server.port, first) as connection:
        assert get_tls(connection).body == b"watched"
    second.put(current)
    server.wait_for_log("TLS: read the certificates again")
    with open_tls(server.port, second) as connection:
        assert get_tls(connection).body == b"watched"
    # A fault is logged once, however often the files are looked at, and the certificate stays.
    current.certificate.write_text("no certificate")
    server.wait_for_log("TLS: certfile: .* holds no certificate in PEM; the certificates that were read before stay")
    with open_tls(server.port, second) as connection:
        assert get_tls(connection).body == b"watched"
    current.certificate.unlink()
    server.wait_for_log("TLS: certfile: cannot read .*: No such file or directory; the cert")
    first.put(current)
    server.wait_for_log("read the certificates again(.|\n)*read the certificates again")
    assert server.log().count("[ERROR]") == 2


HOOKED = """
import rmeinheld


def context(settings, default):
    made = default()
    other = default()
    other.load_cert_chain("other/certificate.pem", "other/key.pem")

    def choose(connection, name, first):
        if name == "other.example":
            connection.context = other

    made.sni_callback = choose
    print("the hook was called with", settings.certfile, flush=True)
    return made


def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hooked"]


rmeinheld.run(app, port=0, certfile="site.pem", keyfile="site.key", ssl_context=context)
"""


def test_the_hook_chooses_a_certificate_by_the_name(
    serve: Serve, tmp_path: Path, current: Certificate, first: Certificate, second: Certificate
) -> None:
    other = make_certificate(tmp_path / "other", "other.example")
    server = serve.script(HOOKED)
    with open_tls(server.port, first) as connection:
        assert get_tls(connection).body == b"hooked"
    with open_tls(server.port, other, "other.example") as connection:
        assert get_tls(connection).body == b"hooked"
    second.put(current)
    server.signal(signal.SIGHUP)
    server.wait_for_log("called with site.pem(.|\n)*called with site.pem")
    with open_tls(server.port, other, "other.example") as connection:
        assert get_tls(connection).body == b"hooked"


def test_client_certificates_are_checked(
    serve: Serve, current: Certificate, first: Certificate, second: Certificate
) -> None:
    server = serve_tls(serve, current, ca_certs=str(second.certificate), cert_reqs="required", ciphers="ECDHE+AESGCM")
    with open_tls(server.port, first, own=second) as connection:
        assert get_tls(connection).body == b"https on"
    with pytest.raises((ssl.SSLError, ConnectionError)), open_tls(server.port, first) as connection:
        get_tls(connection)


# --- faults at the start ----------------------------------------------------------------------------------------------


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """`refused(**options) -> str`: the error line of the command, which must not start with these options."""

    def run(**options: object) -> str:
        (tmp_path / "refused_app.py").write_text(APPLICATION)
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        command = [sys.executable, "-m", "rmeinheld", "--bind", "127.0.0.1:0", *arguments, "refused_app:app"]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment_of_child(tmp_path),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 1, done.stderr
        return done.stderr.rstrip("\n").removeprefix("rmeinheld: error: ")

    return run


def test_a_missing_file_is_named(refused: Callable[..., str], first: Certificate, tmp_path: Path) -> None:
    missing = f"{str(tmp_path / 'missing.pem')!r}: No such file or directory"
    assert refused(certfile="missing.pem") == f"certfile: cannot read {missing}"
    assert refused(certfile=first.certificate, keyfile="missing.pem") == f"keyfile: cannot read {missing}"
    options = {"certfile": first.certificate, "keyfile": first.key}
    assert refused(**options, ca_certs="missing.pem", cert_reqs=2) == f"ca_certs: cannot read {missing}"


def test_the_wrong_key_is_named(first: Certificate, second: Certificate) -> None:
    with pytest.raises(ValueError, match=f"keyfile: the key in '{second.key}' does not belong to the certificate"):
        tls_of(Settings(certfile=str(first.certificate), keyfile=str(second.key)))


def test_a_key_with_a_password_is_an_error_instead_of_a_question(refused: Callable[..., str], tmp_path: Path) -> None:
    locked = make_certificate(tmp_path / "locked", password="secret")
    text = refused(certfile=locked.certificate, keyfile=locked.key)
    assert text.startswith(f"keyfile: the key in {str(locked.key)!r} is protected by a password; decrypt it with ")


def test_files_without_their_part_are_named(first: Certificate, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    certificate, key = str(first.certificate), str(first.key)
    for options, message in (
        ({"certfile": str(junk)}, "certfile: .*junk.pem' holds no certificate in PEM"),
        ({"certfile": certificate}, "certfile: .* holds no private key in PEM; keyfile names the file with the key"),
        ({"certfile": certificate, "keyfile": str(junk)}, "keyfile: .*junk.pem' holds no private key in PEM"),
        ({"certfile": certificate, "keyfile": key, "ca_certs": str(junk)}, "ca_certs: .* holds no certificates in PEM"),
        ({"certfile": certificate, "keyfile": key, "ciphers": "none such"}, "ciphers: OpenSSL knows no .*'none such'"),
        ({"certfile": certificate, "keyfile": key, "cert_reqs": 2}, r"cert_reqs \(2\) needs ca_certs"),
    ):
        with pytest.raises(ValueError, match=message):
            tls_of(Settings(**options))


@pytest.mark.parametrize(
    "options", [{"keyfile": "x.pem"}, {"ca_certs": "x.pem"}, {"cert_reqs": 1}, {"ciphers": "ALL"}], ids=str
)
def test_a_setting_without_a_certificate_is_an_error(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ValueError, match=rf"{name} needs certfile"):
        rmeinheld.run(lambda environ, start_response: [], **options)


def test_a_hook_that_returns_no_context_is_named() -> None:
    with pytest.raises(TypeError, match=r"the hook ssl_context must return an ssl\.SSLContext, not NoneType"):
        rmeinheld.run(lambda environ, start_response: [], ssl_context=lambda settings, default: None)


def test_a_context_of_its_own_needs_no_files() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made = tls_of(Settings(), lambda settings, default: context)
    assert isinstance(made, Tls)
    made.read_again()
    assert tls_of(Settings()) is None
    assert tls_module.CHECK_SECONDS > 0
