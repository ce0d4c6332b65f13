"""Fixtures: servers and scripts in fresh processes."""

from __future__ import annotations

import functools
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import APPLICATIONS, RunScript, Servers, run_script

# Some tests compare what an application in tests/apps did with what it does here.
sys.path.insert(0, str(APPLICATIONS))


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
    """As `serve`, for servers that all tests of a module share."""
    servers = Servers(tmp_path_factory.mktemp("served"))
    yield servers
    servers.stop()


@pytest.fixture
def script(tmp_path: Path) -> RunScript:
    """`script(source, timeout=30.0, status=0) -> str`: run a fresh Python process and return what it printed."""
    return functools.partial(run_script, directory=tmp_path)
