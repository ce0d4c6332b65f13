"""The command line: `rmeinheld MODULE:APP`, or `python -m rmeinheld MODULE:APP`.

Options have Gunicorn's names where Gunicorn has them. They come from the table in `rmeinheld.settings`. A failure to
start is one line on standard error and exit status 1. If the application raises while it is imported, its traceback
comes first.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final, NoReturn, cast

from . import _rmeinheld, ends, error_log, stdio
from .addresses import Address, parse_address
from .application import StartError, load_application
from .listeners import close_all, systemd_descriptors
from .option_kinds import Choice, Switch
from .running import make_engine, open_listeners, serve
from .settings import GROUPS, OPTIONS, Option, Settings, suggestion

__all__ = ["StartError", "load_application", "main"]

FAILURE: Final = 1
"""Exit status of a server that could not start."""

DESCRIPTION: Final = "Serve a WSGI application. Each request runs in a coroutine with a Python thread state of its own."

EPILOG: Final = """\
examples:
  rmeinheld shop:app
  rmeinheld --bind 0.0.0.0:80 --bind unix:/run/shop.sock 'shop:create_app("production")'

signals:
  SIGTERM, SIGINT   stop; requests in progress have the graceful timeout to finish
  SIGQUIT           stop at once, as does a second SIGINT
  SIGUSR1           reopen the log files
"""


class _Hang(Exception):
    """A request or thread goes on computing, so the process cannot end in order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (None: those of the process) and return the exit status.

    0: the server stopped in order, or `--check-config` found no fault. 1: the server could not start, and one line on
    standard error says why. The status is also 1 if the process ended while a request or thread was computing.
    """
    stdio.fill_standard_descriptors()
    try:
        target, settings, given = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        _prepare_process(settings)
        with ExitStack() as stack:
            with _as_start_error("--error-logfile"):
                stack.enter_context(error_log.configured(settings.log_level, settings.error_logfile))
            app = load_application(target)
            with _as_start_error():
                addresses = _addresses(settings, given)
            if settings.check_config:
                print(f"rmeinheld: {target} and its options are in order")
                return 0
            with _as_start_error():
                listeners = open_listeners(addresses, settings)
                stack.callback(close_all, listeners)
                engine = make_engine(app, listeners, settings)
            if settings.pid is not None:
                stack.enter_context(_pid_file(settings.pid))
            with _as_hang():
                serve(engine, listeners, settings, exit_status=FAILURE)
    except _Hang as error:
        logging.getLogger(error_log.LOGGER_NAME).error("%s; the process ends anyway", error)
        ends.leave(FAILURE)
        return FAILURE
    except StartError as error:
        if error.cause_shown is not None:
            traceback.print_exception(error.cause_shown)
        # A message may quote text with line ends. It is printed as one line.
        print("rmeinheld: error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return FAILURE
    return 0


# --- arguments -------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise StartError(f"{message} (rmeinheld --help lists the options)")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, max_help_position=30, **options)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # "-b, --bind ADDRESS" instead of "-b ADDRESS, --bind ADDRESS".
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line from the table of options. Values stay strings."""
    parser = _Parser(
        prog="rmeinheld",
        usage="rmeinheld [OPTIONS] MODULE:APP",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        add_help=False,
        argument_default=argparse.SUPPRESS,
    )
    what = parser.add_argument_group("Application")
    what.add_argument(
        "target",
        metavar="MODULE:APP",
        help="Module, and in it the application: a name, a dotted name, or a call with literal arguments that returns "
        "it. Default of APP: application, or app.",
    )
    for group in GROUPS:
        section = parser.add_argument_group(group)
        for option in OPTIONS.values():
            if option.group == group and option.flags:
                _add_option(section, option)
    other = parser.add_argument_group("Other")
    other.add_argument("-h", "--help", action="help", help="Show this help and exit.")
    other.add_argument(
        "-v",
        "--version",
        action="version",
        version=f"rmeinheld {_rmeinheld.__version__}",
        help="Show the version and exit.",
    )
    return parser


def _add_option(section: argparse._ArgumentGroup, option: Option) -> None:
    text = f"{option.help} {_describe_default(option)}".strip().replace("%", "%%")
    if isinstance(option.kind, Switch):
        section.add_argument(*option.flags, dest=option.name, action="store_const", const=not option.default, help=text)
    else:
        word = option.kind.switch[0] if isinstance(option.kind, Choice) and option.kind.switch else None
        section.add_argument(
            *option.flags,
            dest=option.name,
            nargs=None if word is None else "?",
            const=word,
            action="append" if option.kind.repeatable else "store",
            metavar=option.kind.metavar,
            help=text,
        )


def _describe_default(option: Option) -> str:
    default = option.default
    if default is None or default == () or isinstance(option.kind, Switch):
        return ""
    if isinstance(default, tuple):
        default = ", ".join(default)
    if isinstance(default, float):
        default = f"{default:g}"
    return f"[{default} {option.unit}]" if option.unit else f"[{default}]"


def parse_arguments(arguments: Sequence[str]) -> tuple[str, Settings, frozenset[str]]:
    """Read the command line: MODULE:APP, the settings, and the names of the options that were given.

    Raises StartError naming the argument and its value; SystemExit after `--help` and `--version`.
    """
    parser = build_parser()
    namespace, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [flag for option in OPTIONS.values() for flag in option.flags]
        name = unknown[0].split("=")[0]
        parser.error(f"unknown argument {unknown[0]!r}{suggestion(name, flags)}")
    texts = vars(namespace)
    target = texts.pop("target")
    with _as_start_error():
        values = {name: _read(OPTIONS[name], text) for name, text in texts.items()}
        for name, value in values.items():
            if OPTIONS[name].scope == "service" and value != OPTIONS[name].default:
                raise ValueError(f"{OPTIONS[name].flag} has no effect yet")
        return target, Settings(**cast(dict[str, Any], values)), frozenset(values)


def _read(option: Option, text: object) -> object:
    if isinstance(text, list):
        return tuple(option.kind.parse(option.flag, item) for item in text)
    return option.kind.parse(option.flag, text) if isinstance(text, str) else text


# --- the process -----------------------------------------------------------------------------------------------------


def _prepare_process(settings: Settings) -> None:
    if settings.chdir is not None:
        with _as_start_error("--chdir"):
            os.chdir(settings.chdir)
    if settings.umask is not None:
        os.umask(settings.umask)
    for assignment in settings.env:
        name, _, value = assignment.partition("=")
        os.environ[name] = value
    # An installed command has the directory of its script on the path instead of the current one.
    front = [os.getcwd()]
    if settings.pythonpath is not None:
        front = [os.path.abspath(directory) for directory in settings.pythonpath.split(",")] + front
    sys.path[:0] = [directory for directory in front if directory not in sys.path]


def _addresses(settings: Settings, given: frozenset[str]) -> list[Address]:
    if "bind" not in given and not settings.check_config and (passed := systemd_descriptors(os.environ)):
        return list(passed)
    return [parse_address(text) for text in settings.bind]


@contextmanager
def _pid_file(path: str) -> Iterator[None]:
    """Keep the process id in the file `path` while the block runs. Raises StartError if it cannot be written."""
    path = os.path.abspath(path)
    _refuse_living_owner(path)
    try:
        # Written under another name first, so that no reader sees half a number.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(f"{os.getpid()}\n")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise StartError(f"--pid: cannot write {path!r}: {error.strerror}") from None
    try:
        yield
    finally:
        with suppress(OSError):
            if _pid_in(path) == os.getpid():
                os.unlink(path)


def _refuse_living_owner(path: str) -> None:
    owner = _pid_in(path)
    if owner is None or owner == os.getpid():
        return
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return  # The file is left over from a process that did not end in order.
    except PermissionError:
        pass
    raise StartError(f"--pid: {path!r} belongs to process {owner}, which is running; remove the file if it is stale")


def _pid_in(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            number = int(file.read(32))
    except (OSError, ValueError):
        return None
    return number if number > 0 else None


@contextmanager
def _as_hang() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise _Hang(str(error)) from None


@contextmanager
def _as_start_error(label: str = "") -> Iterator[None]:
    """Turn the errors that bad settings and refused resources raise into a StartError."""
    prefix = f"{label}: " if label else ""
    try:
        yield
    except OSError as error:
        text = error.strerror or str(error)
        place = f": {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
        raise StartError(f"{prefix}{text}{place}") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise StartError(f"{prefix}{error}") from None
