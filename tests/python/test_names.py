"""The names of the package: the top level, Meinheld's names, their aliases, and the old places that forward."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
from types import ModuleType

import pytest

import rmeinheld
from rmeinheld import addresses, coroutine, meinheld, running
from rmeinheld.meinheld import server
from scripts import in_a_coroutine
from serving import RunScript

ONCE_AT_THE_TOP = """
Timer cancel_wait get_backlog get_client_body_buffer_size get_ident get_keepalive get_max_content_length
get_picoev_max_fd listen schedule_call set_access_logger set_backlog set_client_body_buffer_size set_error_logger
set_fastwatchdog set_keepalive set_listen_socket set_max_content_length set_picoev_max_fd set_watchdog shutdown stop
trampoline
""".split()


def test_the_top_level_has_few_names() -> None:
    exceptions = {"ClientDisconnected", "RequestTimeout"}
    assert set(rmeinheld.__all__) == {"__version__", "dump", "run", "sleep", "spawn", "timeout"} | exceptions
    for name in ("sleep", "spawn", "timeout"):
        assert getattr(rmeinheld, name) is getattr(coroutine, name)
    assert rmeinheld.run is running.run


@pytest.mark.parametrize("name", ["continuation", "middleware", "server"])
def test_the_short_modules_are_aliases_without_a_warning(name: str, recwarn: pytest.WarningsRecorder) -> None:
    alias, module = (importlib.import_module(f"rmeinheld.{place}{name}") for place in ("", "meinheld."))
    assert alias.__all__ == module.__all__
    assert [each for each in module.__all__ if getattr(alias, each) is not getattr(module, each)] == []
    assert recwarn.list == []


def test_meinhelds_package_has_the_names_of_its_server() -> None:
    assert [name for name in server.__all__ if getattr(meinheld, name) is not getattr(server, name)] == []


def test_a_program_moves_by_one_line(script: RunScript) -> None:
    source = """
        from rmeinheld.meinheld import server, middleware, patch, websocket

        def app(environ, start_response):
            server.stop()
            return []

        print(middleware.ContinuationMiddleware(app).app is app, patch.__name__, websocket.__name__)
    """
    assert script(source) == "True rmeinheld.patch rmeinheld.websocket\n"


def test_a_program_that_only_imports_rmeinheld_finds_the_server(script: RunScript) -> None:
    assert script("import rmeinheld; print(rmeinheld.server.stop())") == "None\n"


@pytest.mark.parametrize("name", ONCE_AT_THE_TOP)
def test_a_name_that_has_left_the_top_level_forwards_with_a_warning(name: str) -> None:
    with pytest.warns(
        DeprecationWarning, match=rf"^rmeinheld\.{name} has moved to rmeinheld\.meinheld\.server\.{name};"
    ):
        assert getattr(rmeinheld, name) is getattr(server, name)


@pytest.mark.parametrize(
    ("old", "name", "new"),
    [
        ("rmeinheld.scheduling", "timeout", server),
        ("rmeinheld.scheduling", "trampoline", server),
        ("rmeinheld.watchdog", "Watchdog", importlib.import_module("rmeinheld.meinheld.watchdog")),
        ("rmeinheld.listeners", "parse_address", addresses),
    ],
)
def test_a_name_of_a_module_that_has_moved_forwards_with_a_warning(old: str, name: str, new: ModuleType) -> None:
    module = importlib.import_module(old)
    with pytest.warns(DeprecationWarning, match=re.escape(f"{old}.{name} has moved to {new.__name__}.{name};")):
        assert getattr(module, name) is getattr(new, name)


def test_an_unknown_name_is_an_error_as_everywhere() -> None:
    for module in (rmeinheld, meinheld, importlib.import_module("rmeinheld.scheduling")):
        with pytest.raises(AttributeError, match=rf"^module '{module.__name__}' has no attribute 'nothing'$"):
            _ = module.nothing


def test_a_warning_names_the_line_of_the_program(script: RunScript) -> None:
    printed = script("import warnings; warnings.simplefilter('default')\nimport rmeinheld\nrmeinheld.stop()\n")
    assert re.search(r"\.py:3: DeprecationWarning: rmeinheld\.stop has moved", printed), printed


def test_spawn_has_one_signature_outside_of_meinhelds_names() -> None:
    assert rmeinheld.spawn is coroutine.spawn
    assert str(inspect.signature(coroutine.spawn)) == "(func, /, *args, **kwargs)"
    assert list(inspect.signature(server.spawn).parameters) == ["func", "args", "kwargs"]


def test_timer_is_one_class() -> None:
    assert server.Timer is coroutine.Timer


def test_timeout_is_a_time_limit_and_its_exception(script: RunScript) -> None:
    body = """
import rmeinheld
from rmeinheld.meinheld import server
assert timeout is rmeinheld.timeout is server.timeout
seen = []
limit = rmeinheld.timeout(0.01)
for kind in (rmeinheld.timeout, server.timeout, TimeoutError, OSError, Timeout):
    limit = rmeinheld.timeout(0.01)
    try:
        with limit:
            try:
                sleep(30)
            except Exception:
                seen.append("swallowed")
    except kind as error:
        assert error is limit and limit.expired, error
        seen.append(str(error))
return seen
"""
    assert in_a_coroutine(script, body) == str(["0.01 seconds"] * 5)


def test_a_trampoline_that_times_out_raises_the_same_class(script: RunScript) -> None:
    body = """
import rmeinheld
from rmeinheld.meinheld import server
try:
    server.trampoline(-1, timeout=0.01)
except rmeinheld.timeout as error:
    return str(error)
"""
    assert in_a_coroutine(script, body) == "timed out"


def test_a_timeout_in_a_nested_block_leaves_through_the_inner_block_unchanged(script: RunScript) -> None:
    body = """
seen = []
outer, inner = timeout(0.01), timeout(30)
try:
    with outer:
        try:
            with inner:
                sleep(30)
        except TimeoutError:
            seen.append("inner")
        except Timeout as error:
            seen.append(type(error).__name__)
            raise
except TimeoutError as error:
    seen.append((error is outer, inner.expired))
return seen
"""
    assert in_a_coroutine(script, body) == "['Timeout', (True, False)]"


def test_a_timeout_that_is_an_exception_alone_is_no_time_limit() -> None:
    error = rmeinheld.timeout("too late")
    assert (str(error), error.seconds, error.expired) == ("too late", None, False)
    assert str(pickle.loads(pickle.dumps(error))) == "too late"
    with pytest.raises(
        TypeError, match=re.escape("timeout('too late') is an exception only; a time limit is timeout(")
    ):
        error.__enter__()
