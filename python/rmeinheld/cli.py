"""The command line: `rmeinheld MODULE:APP`, or `python -m rmeinheld MODULE:APP`.

Options are Gunicorn's where Gunicorn has them; they come from the table in `rmeinheld.settings`. Everything that keeps
the server from starting is one line on standard error and exit status 1; an application that raises while it is
imported shows its traceback first.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from . import _rmeinheld, ends, error_log, stdio
from .addresses import Address, parse_address
from .listeners import close_all, systemd_descriptors
from .option_kinds import Choice, Switch
from .running import check_application, make_engine, open_listeners, serve
from .settings import GROUPS, OPTIONS, Option, Settings, suggestion

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

__all__ = ["StartError", "load_application", "main"]

FAILURE: Final = 1
"""Exit status when the server has not started, whatever the reason."""

DEFAULT_ATTRIBUTES: Final = ("application", "app")
"""Names under which the application is looked for if the command line names none: Gunicorn's, then Flask's."""

DESCRIPTION: Final = "Serve a WSGI application. Each request runs in a coroutine with a Python thread state of its own."

EPILOG: Final = """\
examples:
  rmeinheld shop:app
  rmeinheld --bind 0.0.0.0:80 --bind unix:/run/shop.sock 'shop:create_app("production")'

signals:
  SIGTERM, SIGINT   stop; requests in progress have the graceful timeout to end
  SIGQUIT           stop at once, as does a second SIGINT
  SIGUSR1           open the log files anew
"""


class StartError(Exception):
    """What keeps the server from starting, as one line. `cause_shown` holds the traceback to print before it."""

    def __init__(self, message: str, cause_shown: BaseException | None = None) -> None:
        super().__init__(message)
        self.cause_shown = cause_shown


class _Hang(Exception):
    """Something computes on, so that the process cannot end in order."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line with `arguments` (None: those of the process) and return the exit status.

    0: stopped in order, or `--check-config` found nothing wrong. 1: not started; one line on standard error says why.
    Or the process has ended although a request or a thread computes on.
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
        logging.getLogger(error_log.LOGGER_NAME).error("%s; the process ends all the same", error)
        ends.leave(FAILURE)
        return FAILURE
    except StartError as error:
        if error.cause_shown is not None:
            traceback.print_exception(error.cause_shown)
        # A message may quote what holds line ends; it is one line all the same.
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
        # "-b, --bind ADDRESS" in place of "-b ADDRESS, --bind ADDRESS".
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line from the table of options. Values stay texts."""
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
        return target, Settings(**cast(dict[str, Any], values)), frozenset(values)


def _read(option: Option, text: object) -> object:
    if isinstance(text, list):
        return tuple(option.kind.parse(option.flag, item) for item in text)
    return option.kind.parse(option.flag, text) if isinstance(text, str) else text


# --- the application -------------------------------------------------------------------------------------------------


def load_application(target: str) -> WSGIApplication:
    """Import the application that `target` names: `module:name`, `module:object.name` or `module:factory("x", n=1)`.

    Without a name it is `application` or `app`. Arguments of a factory are literals.

    Raises StartError naming what is missing or wrong. If the application's own code raises, `cause_shown` is its
    exception with a traceback that begins in that code.
    """
    name, _, expression = target.partition(":")
    module = _import(name)
    if not expression:
        if target.endswith(":"):
            raise StartError(f"{target!r} names no application after the colon")
        found = [attribute for attribute in DEFAULT_ATTRIBUTES if hasattr(module, attribute)]
        if not found:
            wanted = " or ".join(repr(attribute) for attribute in DEFAULT_ATTRIBUTES)
            raise StartError(f"module {name!r} has no attribute {wanted}; name the application as in {name}:NAME")
        expression = found[0]
    dotted, call = _parse_expression(expression)
    app = _attribute(module, name, dotted)
    if call is not None:
        app = _call_factory(f"{name}:{dotted}", app, *call)
    try:
        check_application(app, f"application {name + ':' + expression!r}")
    except TypeError as error:
        raise StartError(str(error)) from None
    return cast("WSGIApplication", app)


def _import(name: str) -> ModuleType:
    is_file = name.endswith(".py") and os.path.isfile(name)
    if is_file or not all(part.isidentifier() for part in name.split(".")):
        hint = ""
        if is_file:
            directory, file = os.path.split(name)
            where = f"--chdir {directory} " if directory else ""
            hint = f"; a file is named as in: rmeinheld {where}{file.removesuffix('.py')}:app"
        raise StartError(f"{name!r} is not the name of a module{hint}")
    try:
        return importlib.import_module(name)
    except Exception as error:
        own = _outside_of_import(error.__traceback__)
        if own is None and isinstance(error, ModuleNotFoundError) and error.name and _is_part(error.name, name):
            raise StartError(
                f"cannot import {name!r}: {error} (looked in {os.getcwd()} and on the Python path)"
            ) from None
        raise StartError(
            f"importing {name!r} failed: {type(error).__name__}: {error}", error.with_traceback(own)
        ) from None


def _is_part(name: str, module: str) -> bool:
    return module == name or module.startswith(name + ".")


def _outside_of_import(tb: TracebackType | None) -> TracebackType | None:
    """Drop the frames of this module and of the import system from the top of a traceback."""
    ours = {__file__, importlib.__file__}
    while tb is not None:
        file = tb.tb_frame.f_code.co_filename
        if file not in ours and not file.startswith("<frozen importlib"):
            return tb
        tb = tb.tb_next
    return None


def _parse_expression(expression: str) -> tuple[str, tuple[list[Any], dict[str, Any]] | None]:
    """Split `a.b` or `a.b("x", n=1)` into the dotted name and the arguments, which are None without a call."""
    wrong = StartError(f"{expression!r} is neither a name nor a call with literal arguments")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        raise wrong from None
    if not isinstance(tree, ast.Call):
        return _dotted(tree, wrong), None
    try:
        positional = [ast.literal_eval(argument) for argument in tree.args]
        named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in tree.keywords}
    except ValueError:
        raise wrong from None
    if None in named:
        raise wrong
    return _dotted(tree.func, wrong), (positional, cast(dict[str, Any], named))


def _dotted(tree: ast.expr, wrong: StartError) -> str:
    if isinstance(tree, ast.Name):
        return tree.id
    if isinstance(tree, ast.Attribute):
        return f"{_dotted(tree.value, wrong)}.{tree.attr}"
    raise wrong


def _attribute(module: ModuleType, name: str, dotted: str) -> object:
    value: object = module
    path = f"module {name!r}"
    for part in dotted.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise StartError(f"{path} has no attribute {part!r}{suggestion(part, dir(value))}") from None
        path = f"{part!r} of {path}"
    return value


def _call_factory(name: str, factory: object, positional: list[Any], named: dict[str, Any]) -> object:
    if not callable(factory):
        raise StartError(f"{name!r} cannot be called; it is of type {type(factory).__name__}")
    _check_call(name, factory, positional, named)
    try:
        return factory(*positional, **named)
    except Exception as error:
        message = f"calling {name!r} failed: {type(error).__name__}: {error}"
        raise StartError(message, error.with_traceback(_outside_of_import(error.__traceback__))) from None


def _check_call(name: str, factory: Callable[..., object], positional: list[Any], named: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (ValueError, TypeError):
        return  # A callable written in C may not tell; the call itself will.
    try:
        signature.bind(*positional, **named)
    except TypeError as error:
        raise StartError(f"{name!r} does not take these arguments: {error}") from None


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
    # The script of an installed command has its own directory on the path, not the one it is called in.
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
    """Keep this process's id in the file `path` while the block runs. Raises StartError if it cannot be written."""
    path = os.path.abspath(path)
    _refuse_living_owner(path)
    try:
        # Written under another name first: nobody ever reads half a number.
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
        return  # Left over from a process that did not end in order.
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
