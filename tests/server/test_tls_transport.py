"""TLS whose Python code waits: the ssl module runs what an application, a finalizer or a debugger puts into it."""

from __future__ import annotations

import ssl
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from serving import Serve, Server, program

trustme = pytest.importorskip("trustme", reason="wheels of this library are missing for this Python")
pytest.importorskip("websockets", reason="wheels of this library are missing for this Python")

from websockets.sync.client import connect  # noqa: E402

APPLICATION = program("waiting_tls")


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> tuple[Server, ssl.SSLContext]:
    """The application over TLS, and a context of a client that trusts it."""
    authority = trustme.CA()
    certificate = tmp_path / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return serve.script(APPLICATION.replace('CERTIFICATE = ""', f"CERTIFICATE = {str(certificate)!r}")), context


def test_coroutines_and_threads_that_use_one_connection_do_not_block_each_other(
    server: tuple[Server, ssl.SSLContext],
) -> None:
    # The second of two that used a WebSocket at once blocked the OS thread of all coroutines.
    process, context = server
    url = f"wss://localhost:{process.port}/"
    with (
        connect(url, ssl=context, open_timeout=60) as one,
        connect(url, ssl=context, open_timeout=60) as other,
    ):
        for number in range(20):
            for client in (one, other):
                client.send(f"client {number}")
        expected = {f"{name} {number}" for name in ("client", "coroutine", "thread") for number in range(20)}
        for client in (one, other):
            received = [client.recv(timeout=60) for _ in range(60)]
            assert set(received) == expected
            for name in ("client", "coroutine", "thread"):
                own = [message for message in received if str(message).startswith(name)]
                assert own == [f"{name} {number}" for number in range(20)]


def test_requests_are_answered(server: tuple[Server, ssl.SSLContext]) -> None:
    process, context = server
    connection = HTTPSConnection("localhost", process.port, context=context, timeout=60)
    for number in range(3):
        body = str(number).encode() * 100_000
        connection.request("POST", "/", body)
        assert connection.getresponse().read() == b"x" * 200_000 + body
    connection.close()
