"""Each row of the table in docs/workers.md that compares `rmeinheld --workers` with Gunicorn's own command."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from health_probes import UnixConnection
from masters import Gunicorn, Masters, wait_until
from pages import ROOT
from serving import TIMEOUT, request, takes

type Start = Masters[Gunicorn]

APP = "service_app:app"
LONG = 3 * TIMEOUT
TESTS = ROOT / "tests"

ROWS = {
    "recycling": (
        "test_recycling_by_requests_loses_none_and_has_a_replacement_first",
        "test_a_worker_leaves_before_its_replacement_is_there",
    ),
    "`max_worker_memory`, `max_worker_lifetime`": (
        "test_a_worker_above_max_worker_memory_is_replaced",
        "test_a_variable_acts_or_is_refused_with_gunicorns_option",
    ),
    "SIGHUP to code that cannot be imported": (
        "test_code_that_does_not_import_leaves_the_old_workers_and_is_tried_again",
        "test_sighup_to_code_that_cannot_be_imported_ends_the_service",
    ),
    "SIGHUP to a configuration that is refused": (
        "test_a_reload_with_a_bad_configuration_changes_nothing_and_is_tried_again",
        "test_sighup_to_a_bad_configuration_ends_the_service",
    ),
    "`drain_delay`, `admin_bind`, metrics": (
        "test_readiness_fails_during_drain_delay_and_the_reload_keeps_it",
        "test_a_variable_acts_or_is_refused_with_gunicorns_option",
    ),
    "`inspect_socket`": (
        "test_the_socket_goes_on_with_a_new_master_and_is_removed_with_the_last",
        "test_the_master_of_an_upgrade_takes_the_path_over",
    ),
    "channels reach": (
        "test_messages_and_members_reach_all_workers_also_after_one_is_killed",
        "test_messages_and_members_reach_all_workers_also_after_one_is_killed",
    ),
    "`sticky`": (
        "test_a_crash_and_a_reload_move_no_other_session",
        "test_the_gunicorn_command_names_ours",
    ),
    "path of a Unix socket at SIGTERM": (
        "test_drain_delay_goes_on_accepting_and_keeps_the_path_of_a_unix_socket",
        "test_the_path_of_a_unix_socket_goes_at_once",
    ),
    "first SIGINT": (
        "test_the_first_interrupt_drains_and_the_second_ends_within_a_second",
        "test_the_first_sigint_ends_requests",
    ),
}
"""The tests of a row: of the command `rmeinheld`, and of Gunicorn's."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*options, conf="") -> Gunicorn`: a running master, which must have ended in order, or before the test."""
    masters = Masters(tmp_path, Gunicorn)
    yield masters
    masters.stop()


def test_every_row_has_a_test_for_both_commands() -> None:
    page = (ROOT / "docs" / "workers.md").read_text(encoding="utf-8")
    table = page.partition("| | `rmeinheld --workers` | `gunicorn -k` |\n")[2].partition("\n\n")[0]
    names = re.findall(r"^\| ([^|]+) \|", re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", table), re.M)
    assert names[1:] == list(ROWS)
    known = {
        name for path in TESTS.rglob("test_*.py") for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert {name for names in ROWS.values() for name in names} <= known


def test_a_worker_leaves_before_its_replacement_is_there(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMPORT_SECONDS", "0.7")
    # The first request is the start's.
    server = start("--workers", "1", "--max-requests", "2", app=APP)
    first = server.get("/")["pid"]
    longest = 0.0
    while True:
        # The leaving worker answers what it finds in the kernel's queue.
        begun = time.monotonic()
        pid = server.get("/")["pid"]
        longest = max(longest, time.monotonic() - begun)
        if pid != first:
            break
    print(f"a request waited for {longest:.2f} s")
    assert longest > 0.3


def test_sighup_to_code_that_cannot_be_imported_ends_the_service(start: Start, tmp_path: Path) -> None:
    server = start("--workers", "2", app=APP)
    (tmp_path / "broken").touch()
    server.signal(signal.SIGHUP)
    assert server.wait(LONG) != 0
    assert "Worker failed to boot" in server.log()
    start.forget()


def test_sighup_to_a_bad_configuration_ends_the_service(start: Start, tmp_path: Path) -> None:
    server = start("--workers", "2", app=APP)
    (tmp_path / "gunicorn.conf.py").write_text("workers = = 2\n")
    server.signal(signal.SIGHUP)
    assert server.wait(LONG) != 0
    start.forget()


def test_the_path_of_a_unix_socket_goes_at_once(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "service.sock"
    server = start("--workers", "2", "--bind", f"unix:{path}", app=APP)
    with UnixConnection(str(path)) as connection:
        connection.send(request("GET", "/held"))
        server.wait_for_log("begun to wait")
        server.signal(signal.SIGTERM)
        begun = time.monotonic()
        wait_until(lambda: not path.exists(), server.log)
        print(f"the path was gone after {time.monotonic() - begun:.2f} s")
        server.release()
        assert connection.read_response().status == 200
    assert server.wait() == 0


def test_the_first_sigint_ends_requests(start: Start) -> None:
    server = start("--workers", "2", "--graceful-timeout", "60", app=APP)
    with server.connect() as connection:
        connection.send(request("GET", "/sleep/60"))
        server.wait_for_log("begun to sleep")
        with takes(0, 10):
            server.signal(signal.SIGINT)
            assert connection.read_response().status == 503
            assert server.wait() == 0
