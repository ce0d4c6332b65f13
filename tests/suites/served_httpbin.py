"""A plugin of pytest: the fixtures of pytest-httpbin, with httpbin served by rmeinheld or Gunicorn.

SUITES_SERVER is "rmeinheld" or "gthread". httpbin over TLS stays with pytest-httpbin's own server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from pytest_httpbin.plugin import (  # noqa: F401
    class_based_httpbin,
    class_based_httpbin_secure,
    httpbin_both,
    httpbin_ca_bundle,
    httpbin_secure,
)

from serving import Process, Servers, environment_of_child

GUNICORN = ["-m", "gunicorn", "--worker-class", "gthread", "--threads", "8", "--bind", "127.0.0.1:0", "httpbin:app"]


@dataclass
class Served:
    """The part of pytest-httpbin's server that the tests use."""

    url: str


@pytest.fixture(scope="session")
def httpbin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """httpbin at a free port."""
    directory = tmp_path_factory.mktemp("httpbin")
    if os.environ["SUITES_SERVER"] == "rmeinheld":
        servers = Servers(directory)
        yield Served(servers("httpbin:app").url)
        servers.stop()
        return
    process = Process([sys.executable, *GUNICORN], directory, environment_of_child(directory))
    try:
        yield Served(process.wait_for_log(r"Listening at: (http://\S+)")[1])
    finally:
        process.kill()
