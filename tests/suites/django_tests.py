"""Django's tests of its live test server, with rmeinheld in its place.

The tests of `servers.test_basehttp` are left out: they call Django's own server class.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from outcome import Outcome

HERE = Path(__file__).resolve().parent

LABELS = ("servers.tests", "servers.test_liveserverthread", "staticfiles_tests.test_liveserver")

VIEWS = "servers.tests.LiveServerViews.test_"

CLOSE = "the client has sent Connection: close, after which the connection ends (RFC 9112 9.6)"
ONE = "one server runs at a time in a process, as with Meinheld"
BLOCKS = "the view waits for its own server in a way that blocks the one OS thread; this needs a patched socket module"

EXPECTED: dict[str, tuple[str | tuple[str, ...], str]] = {
    VIEWS + "closes_connection_without_content_length": (
        "AssertionError: False is not true",
        "a response without Content-Length is chunked, and the connection stays (RFC 9112 7.1, 9.3)",
    ),
    VIEWS + "keep_alive_on_connection_with_content_length": ("AssertionError: True is not false", CLOSE),
    VIEWS + "keep_alive_connection_clears_previous_request_data": ("AssertionError: True is not false", CLOSE),
    "servers.tests.LiveServerPort.test_port_bind": ("RuntimeError: a server is running", ONE),
    "servers.tests.LiveServerPort.test_specified_port_bind": ("RuntimeError: a server is running", ONE),
    # The test gives up as soon as the view does, so it may get an answer yet.
    "servers.tests.LiveServerThreadedTests.test_view_calls_subview": (("TimeoutError", "HTTPError"), BLOCKS),
    # Or the view still reads when the test ends, and then its database cannot be flushed.
    "servers.tests.LiveServerThreadedTests.test_check_model_instance_from_subview": (
        ("TimeoutError", "HTTPError", "CommandError"),
        BLOCKS,
    ),
}
"""Tests that fail, with the reasons."""

SECONDS = 300.0


def run(sdist: Path, directory: Path) -> Outcome:
    """Run the suite; `directory` is for its results."""
    results = directory / "results.json"
    script = [sys.executable, str(HERE / "django_runtests.py"), str(results)]
    with (directory / "django.log").open("wb") as log:
        command = [*script, "--parallel=1", "--verbosity=2", *LABELS]
        subprocess.run(command, cwd=sdist / "tests", stdout=log, stderr=log, timeout=SECONDS)
    facts = json.loads(results.read_text())
    found = facts["tests"]
    outcome = Outcome("Django's live server tests", sdist.name.rpartition("-")[2])
    outcome.skipped = sum(result is None for result in found.values())
    outcome.count({name: result or None for name, result in found.items() if result is not None}, EXPECTED)
    if not facts["requests"]:
        outcome.unexpected.append("no request has reached the server")
    return outcome
