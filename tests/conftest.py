"""Fixtures: servers and scripts in fresh processes."""

from __future__ import annotations

import functools
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import APPLICATIONS, RunScript, Servers, run_script

# Some tests compare the result of an application in tests/apps with the result of the same code here.
sys.path.insert(0, str(APPLICATIONS))


SAME_ON_EVERY_PYTHON = (
    "test_rate_client.py",
    "test_sticky_sessions.py",
    "test_compression.py",
    "test_broadcast.py",
    "test_arena.py",
    "test_attached_websockets.py",
    "test_attached.py",
    "test_admin_listener.py",
    "test_advisories.py",
    "test_bodies.py",
    "test_channels_over_redis.py",
    "test_chat.py",
    "test_chat_docs.py",
    "test_chat_in_a_browser.py",
    "test_chat_workers.py",
    "test_clients.py",
    "test_corpus.py",
    "test_databases.py",
    "test_demo.py",
    "test_deploy.py",
    "test_developer_pages.py",
    "test_differential.py",
    "test_docs.py",
    "test_ends_of_connections.py",
    "test_ends_of_servers.py",
    "test_events_example.py",
    "test_exhaustion.py",
    "test_forks.py",
    "test_ends_of_responses.py",
    "test_forwarded.py",
    "test_full_outputs.py",
    "test_gauge.py",
    "test_gunicorn_applications.py",
    "test_gunicorn_likeness.py",
    "test_gunicorn_load.py",
    "test_gunicorn_options.py",
    "test_gunicorn_settings.py",
    "test_gunicorn_sources.py",
    "test_hangs.py",
    "test_http.py",
    "test_inspect_socket.py",
    "test_layering.py",
    "test_listeners.py",
    "test_names_and_circles.py",
    "test_packaging.py",
    "test_plain_english.py",
    "test_privileges.py",
    "test_proxies.py",
    "test_proxies_forwarded.py",
    "test_restarts.py",
    "test_reload.py",
    "test_request_timeout_databases.py",
    "test_replacement.py",
    "test_scoreboard.py",
    "test_service_channels.py",
    "test_service_configuration.py",
    "test_service_crew.py",
    "test_service_health.py",
    "test_service_otlp.py",
    "test_service_replacement.py",
    "test_service_stop.py",
    "test_service_stuck.py",
    "test_service_upgrade.py",
    "test_metrics.py",
    "test_service_metrics.py",
    "test_service_moves.py",
    "test_siblings.py",
    "test_service_tls.py",
    "test_slow_clients.py",
    "test_slow_readers.py",
    "test_socketio_workers.py",
    "test_spread.py",
    "test_sqlite.py",
    "test_systemd.py",
    "test_taken_over.py",
    "test_tools_page.py",
    "test_tls_standalone.py",
    "test_tls_transport.py",
    "test_websocket_flow.py",
    "test_websocket_libraries.py",
    "test_websocket_spread.py",
    "test_valgrind.py",
)
"""Files that test the engine below Python, other programs or the repository: `--other-python` leaves them out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of the runs on further versions of Python."""
    parser.addoption("--other-python", action="store_true", help="leave out what is the same on every Python")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files that `--other-python` skips."""
    return True if config.getoption("other_python") and collection_path.name in SAME_ON_EVERY_PYTHON else None


@pytest.fixture(scope="session", autouse=True)
def _enough_descriptors() -> None:
    """Raise the soft limit of open files, for this process and the servers that inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(hard, 8192)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Servers]:
    """`serve(application, **options) -> Server`; every server must end in order at the end of the test."""
    servers = Servers(tmp_path)
    yield servers
    servers.stop()


@pytest.fixture(scope="module")
def serve_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """The fixture `serve` for servers that all tests of a module share."""
    servers = Servers(tmp_path_factory.mktemp("served"))
    yield servers
    servers.stop()


@pytest.fixture
def script(tmp_path: Path) -> RunScript:
    """`script(source, timeout=30.0, status=0) -> str`: run a fresh Python process and return what it printed."""
    return functools.partial(run_script, directory=tmp_path)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for localhost with its key; the certificate alone is in the file with `.crt` added."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(path), "-out", str(path) + ".crt", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path
