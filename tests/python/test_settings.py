"""The table of options, its checks and their sentences, and the `set_*` functions that stand on it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import rmeinheld
from rmeinheld import process_state
from rmeinheld.access_log import ATOMS, DEFAULT_FORMAT, NOTES, validate_format
from rmeinheld.meinheld import server
from rmeinheld.option_kinds import Count, Seconds
from rmeinheld.settings import GROUPS, OPTIONS, Option, Settings, resolve


@pytest.fixture(autouse=True)
def _defaults_restored() -> Iterator[None]:
    defaults, inert = dict(process_state.defaults), dict(server._inert)
    yield
    process_state.defaults.clear()
    process_state.defaults.update(defaults)
    server._inert.update(inert)


# --- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_every_option_has_a_help_a_precedent_and_a_group(option: Option) -> None:
    assert option.help.endswith(".")
    assert option.precedent
    assert option.group in GROUPS


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_every_number_has_a_unit_and_nothing_else_has(option: Option) -> None:
    assert bool(option.unit) is isinstance(option.kind, Seconds | Count)


@pytest.mark.parametrize("option", [option for option in OPTIONS.values() if option.flags], ids=lambda o: o.name)
def test_every_option_of_the_command_line_has_a_variable(option: Option) -> None:
    assert option.environment == "RMEINHELD_" + option.name.upper()


def test_no_two_options_share_a_name() -> None:
    names = [name for option in OPTIONS.values() if option.scope != "run" for name in option.spellings]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_every_default_passes_its_own_check_unchanged(option: Option) -> None:
    # Also 5.0 and 5 are different here.
    assert repr(option.check(option.default)) == repr(option.default)


@pytest.mark.parametrize("option", [option for option in OPTIONS.values() if option.flags], ids=lambda o: o.name)
def test_an_option_is_named_after_its_flag(option: Option) -> None:
    flags = [flag.removeprefix("--").removeprefix("no-").replace("-", "_") for flag in option.flags]
    assert option.name in flags


def test_no_flag_and_no_alias_appears_twice() -> None:
    names = [name for option in OPTIONS.values() for name in (*option.flags, option.name, *option.aliases)]
    assert len(names) == len(set(names))


def test_the_defaults_are_those_of_the_documentation() -> None:
    settings = Settings()
    expected = {
        "keep_alive": 5.0,
        "worker_connections": 1000,
        "graceful_timeout": 30.0,
        "limit_request_line": 8208,
        "limit_request_fields": 128,
        "limit_request_field_size": 8192,
        "limit_request_head": 81920,
        "limit_request_body": 16 * 1024 * 1024,
        "permit_obsolete_folding": False,
        "strip_header_spaces": False,
        "permit_unconventional_http_method": True,
        "casefold_http_method": False,
        "permit_unconventional_http_version": False,
        "permit_connect": False,
        "client_header_timeout": 60.0,
        "client_body_timeout": 60.0,
        "send_timeout": 60.0,
        "min_send_rate": 500,
        "stack_size": 8 * 1024 * 1024,
        "sendfile": True,
        "multiprocess": False,
        "access_logfile": None,
        "access_log_format": DEFAULT_FORMAT,
        "access_logger": None,
        "error_logger": None,
        "backlog": 2048,
        "bind": ("127.0.0.1:8000",),
    }
    assert {name: getattr(settings, name) for name in expected} == expected


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="keep_alive"):
        Settings().keep_alive = 1


def test_zero_for_a_line_or_field_leaves_only_the_limit_of_the_head() -> None:
    settings = Settings(limit_request_line=0, limit_request_field_size=0, limit_request_head=5000)
    assert settings.limit_request_line == settings.limit_request_field_size == 5000


# --- bad values ------------------------------------------------------------------------------------------------------


class Silent:
    """A logger without methods."""


class Broken:
    """A logger whose methods cannot be called."""

    access = error = 7


SECONDS = "a number of seconds from 0 to 31536000"

BAD_VALUES: list[tuple[str, object, type[Exception], str]] = [
    ("keep_alive", -1, ValueError, f"keep_alive must be {SECONDS}, not -1"),
    ("keep_alive", float("nan"), ValueError, f"keep_alive must be {SECONDS}, not nan"),
    ("keep_alive", float("inf"), ValueError, f"keep_alive must be {SECONDS}, not inf"),
    ("keep_alive", "5", TypeError, f"keep_alive must be {SECONDS}, not str '5'"),
    ("keep_alive", True, TypeError, f"keep_alive must be {SECONDS}, not bool True"),
    ("keep_alive", None, TypeError, f"keep_alive must be {SECONDS}, not NoneType None"),
    ("graceful_timeout", 1e9, ValueError, f"graceful_timeout must be {SECONDS}, not 1000000000.0"),
    ("backlog", 0, ValueError, "backlog must be an integer from 1 to 65535, not 0"),
    ("backlog", 1.5, TypeError, "backlog must be an integer from 1 to 65535, not float 1.5"),
    ("worker_connections", 0, ValueError, "worker_connections must be an integer from 1 to 1000000, not 0"),
    ("limit_request_fields", 32769, ValueError, "limit_request_fields must be an integer from 1 to 32768, not 32769"),
    (
        "limit_request_head",
        10,
        ValueError,
        "limit_request_head must be an integer number of bytes from 1024 to 16777216, not 10",
    ),
    (
        "limit_request_body",
        -1,
        ValueError,
        "limit_request_body must be an integer number of bytes from 0 to 9223372036854775807, not -1",
    ),
    (
        "stack_size",
        "8M",
        TypeError,
        "stack_size must be an integer number of bytes from 262144 to 1073741824, not str '8M'",
    ),
    (
        "stack_size",
        4096,
        ValueError,
        "stack_size must be an integer number of bytes from 262144 to 1073741824, not 4096",
    ),
    ("sendfile", 1, TypeError, "sendfile must be True or False, not int 1"),
    ("umask", 0o1000, ValueError, "umask must be a mask of permissions from 0o000 to 0o777, not 512"),
    ("umask", "022", TypeError, "umask must be a mask of permissions from 0o000 to 0o777, not str '022'"),
    ("access_logfile", "", ValueError, "access_logfile must be a file name, or '-' for standard output, not ''"),
    ("access_logfile", 1, TypeError, "access_logfile must be a file name, or '-' for standard output, not int 1"),
    ("log_level", "loud", ValueError, "log_level must be one of debug, info, warning, error, critical, not 'loud'"),
    ("bind", 8000, TypeError, "bind must be an address or a sequence of addresses, not int 8000"),
    ("bind", [], ValueError, "bind must be an address or a sequence of addresses, not []"),
    ("bind", [8000], TypeError, "bind must be an address or a sequence of addresses, not int 8000"),
    (
        "access_logger",
        Silent(),
        AttributeError,
        "access_logger must be an object with a method access(), or None; Silent has no 'access'",
    ),
    (
        "error_logger",
        Broken(),
        TypeError,
        "error_logger must be an object with a method error(), or None; 'error' of Broken is no callable",
    ),
]


@pytest.mark.parametrize(("name", "value", "kind", "sentence"), BAD_VALUES)
def test_a_bad_value_is_refused_with_name_range_and_value(
    name: str, value: Any, kind: type[Exception], sentence: str
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$"):
        Settings(**{name: value})
    with pytest.raises(kind, match=f"^{re.escape(sentence)}$"):
        rmeinheld.run(lambda environ, start_response: [], **{name: value})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"keep_alives": 1}, "unknown option 'keep_alives'; did you mean 'keep_alive'?"),
        ({"zzz": 1}, "unknown option 'zzz'"),
        ({"chdir": "/"}, "option 'chdir' belongs to the command line (--chdir); run() does not take it"),
        ({"workers": 2}, "option 'workers' belongs to the command line (--workers); run() does not take it"),
        ({"pid": "x"}, "option 'pid' belongs to the command line (--pid); run() does not take it"),
        ({"keepalive": 1, "keep_alive": 2}, "options 'keepalive' and 'keep_alive' are the same option; give only one"),
        ({"keepalive": "x"}, f"keepalive must be {SECONDS}, not str 'x'"),
    ],
)
def test_an_option_that_run_does_not_know_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        rmeinheld.run(lambda environ, start_response: [], **options)


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("keepalive", "keep_alive", 2.0),
        ("access_log_format", "access_logformat", "%(h)s"),
        ("max_content_length", "limit_request_body", 1),
    ],
)
def test_names_of_gunicorn_and_meinheld_are_aliases(alias: str, name: str, value: object) -> None:
    assert resolve({alias: value}) == {name: value}


def test_options_win_over_what_the_set_functions_have_set() -> None:
    settings = Settings.from_options({"keepalive": 1}, {"keep_alive": 9.0, "backlog": 5})
    assert (settings.keep_alive, settings.backlog) == (1, 5)


@pytest.mark.parametrize("app", [None, 7, "hello:app", []])
def test_an_application_that_is_not_callable_is_refused_with_its_type(app: object) -> None:
    with pytest.raises(TypeError, match=f"must be a callable as PEP 3333 has it, not {type(app).__name__} "):
        rmeinheld.run(app)  # type: ignore[arg-type]


# --- texts of the command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("keep_alive", "2.5", 2.5),
        ("keep_alive", "0", 0.0),
        ("backlog", "64", 64),
        ("stack_size", "512K", 512 * 1024),
        ("stack_size", "8m", 8 * 1024 * 1024),
        ("stack_size", "1G", 1024**3),
        ("limit_request_body", "0", 0),
        ("umask", "022", 0o22),
        ("umask", "22", 0o22),
        ("umask", "0o7", 7),
        ("log_level", "WARNING", "warning"),
        ("env", "NAME=a=b", "NAME=a=b"),
        ("env", "NAME=", "NAME="),
    ],
)
def test_a_text_of_the_command_line_is_read(name: str, text: str, value: object) -> None:
    assert OPTIONS[name].kind.parse("--x", text) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("keep_alive", "five"),
        ("keep_alive", "1e3"),
        ("keep_alive", "nan"),
        ("keep_alive", ""),
        ("keep_alive", "9" * 400),
        ("backlog", "1_000"),
        ("backlog", " 5"),
        ("backlog", "٥"),
        ("backlog", "9" * 5000),
        ("stack_size", "8MB"),
        ("stack_size", "1T"),
        ("stack_size", "2G"),
        ("umask", "9"),
        ("umask", "0x1f"),
        ("umask", "7777"),
        ("env", "NAME"),
        ("env", "=value"),
        ("pythonpath", "a,,b"),
        ("log_level", "loud"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_with_flag_and_text(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"^--x must be ") as caught:
        OPTIONS[name].kind.parse("--x", text)
    assert text[:20] in str(caught.value) or str(int(text, 8)) in str(caught.value)


# --- set_* and get_* -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "default", "value", "bad"),
    [
        ("keepalive", 5.0, 0, -1),
        ("max_content_length", 16 * 1024 * 1024, 2**40, -1),
        ("client_body_buffer_size", 512000, 0, -1),
        ("backlog", 2048, 100, 0),
        ("picoev_max_fd", 4096, 10, 0),
    ],
)
def test_a_set_function_keeps_its_value_and_refuses_a_bad_one(
    name: str, default: float, value: float, bad: float
) -> None:
    setter, getter = getattr(server, f"set_{name}"), getattr(server, f"get_{name}")
    assert getter() == default
    setter(value)
    assert getter() == value
    with pytest.raises(ValueError, match=str(bad)):
        setter(bad)
    with pytest.raises(TypeError, match="many"):
        setter("many")
    assert getter() == value


@pytest.mark.parametrize(("name", "method"), [("set_access_logger", "access"), ("set_error_logger", "error")])
def test_a_logger_needs_its_method(name: str, method: str) -> None:
    setter = getattr(server, name)
    with pytest.raises(AttributeError, match=f"Silent has no '{method}'"):
        setter(Silent())
    with pytest.raises(TypeError, match=f"'{method}' of Broken is no callable"):
        setter(Broken())
    setter(type("Logger", (), {method: lambda *arguments: None})())
    setter(None)


def test_the_logger_of_errors_is_found_by_aliases_too() -> None:
    assert resolve({"access_logger": None, "error_logger": None}) == {"access_logger": None, "error_logger": None}


# --- the format of the access log ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [DEFAULT_FORMAT, "", "100%%", "%({x-request-id}i)s %({x}o)s %({wsgi.url_scheme}e)s", *map("%({})s".format, ATOMS)],
)
def test_a_good_format_is_accepted(text: str) -> None:
    assert validate_format(text) == text


def test_the_documented_atoms_are_those_of_the_parser() -> None:
    with pytest.raises(ValueError, match=r"unknown atom '%\(z\)s'") as refused:
        validate_format("%(z)s")
    known = str(refused.value).partition("known are ")[2]
    notes = " ".join(f"{{{name}}}n" for name in NOTES)
    assert known == " ".join(ATOMS) + " and {name}i {name}o {name}e " + notes


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("%(h)s %(z)s", "unknown atom '%(z)s'"),
        ("%()s", "unknown atom '%()s'"),
        ("%({x}q)s", "unknown atom '%({x}q)s'"),
        ("%({}i)s", "unknown atom '%({}i)s'"),
        ("%h %r", "has '%h %r' where"),
        ("%(D)d", "has '%(D)d' where"),
        ("100%", "has '%' where"),
    ],
)
def test_a_format_that_would_fail_at_the_first_request_is_refused(text: str, found: str) -> None:
    with pytest.raises(ValueError, match=re.escape(found)):
        validate_format(text)
