"""Options from the command line, and from `GUNICORN_CMD_ARGS`, which has its form."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from .. import _rmeinheld
from ..application import StartError
from ..option_kinds import Switch, Texts
from ..settings import GROUPS, OPTIONS, Option, suggestion
from .layers import Given, Layer, checked, word_of_flag
from .names import refusal

__all__ = ["build_parser", "read_arguments", "read_gunicorn_arguments"]

GUNICORN_ARGUMENTS: Final = "GUNICORN_CMD_ARGS"

DESCRIPTION: Final = "Serve a WSGI application. Each request runs in a coroutine with a Python thread state of its own."

APPLICATION: Final = """\
MODULE:APP                  Module, and in it the application: a name, a dotted name, or a call
                            with literal arguments that returns it. Default of APP: application,
                            or app."""

EPILOG: Final = """\
sources, from the one that wins to the one that loses:
  the command line; the environment (RMEINHELD_KEEP_ALIVE=10 for --keep-alive 10); the file
  of --config, or else rmeinheld.toml or [tool.rmeinheld] of pyproject.toml; WEB_CONCURRENCY

commands for a running server with --inspect-socket (each has its own --help):
  rmeinheld top     workers and requests on the terminal
  rmeinheld ctl     one question or order: workers, requests, stack, kill, reload, log-level
  rmeinheld dump    the stacks of all coroutines

examples:
  rmeinheld shop:app
  rmeinheld --workers 4 --bind 0.0.0.0:80 --bind unix:/run/shop.sock 'shop:create_app("production")'

signals:
  SIGTERM, SIGINT   stop; requests in progress have the graceful timeout to finish.
                    SIGTERM waits for the drain delay first, SIGINT closes idle connections at once
  SIGQUIT           stop at once, as does a second SIGINT
  SIGUSR1           reopen the log files
"""

_NOT_OURS: Final = {
    "-k": "worker_class",
    "--worker-class": "worker_class",
    "--paste": "paste",
    "--paster": "paste",
    "--paste-global": "raw_paste_global_conf",
    "--protocol": "protocol",
    "--http-protocols": "http_protocols",
    "--http2-cleartext": "http2_cleartext",
}
"""Flags of Gunicorn with a value that are no options here."""


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


class _Collect(argparse.Action):
    """Notes each flag with its value, in the order of the command line."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, flag: str | None = None
    ) -> None:
        namespace.given.append((self.dest, flag, values))


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line from the table of options."""
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
    parser.add_argument_group("Application", APPLICATION)
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
    for flag, name in _NOT_OURS.items():
        other.add_argument(flag, dest=name, action=_Collect, help=argparse.SUPPRESS)
    return parser


def _add_option(section: argparse._ArgumentGroup, option: Option) -> None:
    text = f"{option.help} {_describe_default(option)}".strip().replace("%", "%%")
    word = word_of_flag(option.kind)
    further: dict[str, Any] = {"nargs": None if word is None else "?", "const": word, "metavar": option.kind.metavar}
    hidden = [f"--{name.replace('_', '-')}" for name in option.spellings]
    if isinstance(option.kind, Switch):
        further = {"nargs": 0}
        hidden += [f"--no-{name.removeprefix('--')}" for name in hidden]
    section.add_argument(*option.flags, dest=option.name, action=_Collect, help=text, **further)
    if hidden := [flag for flag in dict.fromkeys(hidden) if flag not in option.flags]:
        section.add_argument(*hidden, dest=option.name, action=_Collect, help=argparse.SUPPRESS, **further)


def _describe_default(option: Option) -> str:
    default = option.default
    if default is None or default == () or isinstance(option.kind, Switch):
        return ""
    if isinstance(default, tuple):
        default = ", ".join("=".join(item) if isinstance(item, tuple) else item for item in default)
    if isinstance(default, float):
        default = f"{default:g}"
    if option.name == "control_socket_mode":
        default = f"{default:o}"
    return f"[{default} {option.unit}]" if option.unit else f"[{default}]"


def read_arguments(arguments: Sequence[str], label: str = "") -> tuple[str | None, Layer]:
    """Return MODULE:APP, if it is there, and the values of the flags. `label` begins the names of sources.

    Raises StartError naming the argument and its value; SystemExit after `--help` and `--version`.
    """
    parser = build_parser()
    namespace, rest = parser.parse_known_args(arguments, argparse.Namespace(given=[]))
    for name in rest:
        if name.startswith("-") and name != "--":
            parser.error(f"unknown argument {name!r}{_suggestion(name)}")
    targets = [word for word in rest if word != "--"]
    if len(targets) > 1:
        parser.error(f"unknown argument {targets[1]!r}, after the application {targets[0]!r}")
    layer = Layer()
    repeated: dict[str, list[tuple[str, str]]] = {}
    for name, flag, text in namespace.given:
        option = OPTIONS.get(name)
        if option is None:
            if reason := refusal(name, text):
                raise StartError(f"{label}{flag} is {text!r}, which cannot be honoured: {reason}")
            continue
        # A source is named by a long flag.
        source = label + (flag if flag.startswith("--") else option.flag)
        if isinstance(option.kind, Texts):
            repeated.setdefault(name, []).append((checked(option.kind.check_item, source, text), source))
        else:
            layer.add(option, Given(_read(option, source, flag, text), source))
    for name, items in repeated.items():
        layer.add(OPTIONS[name], Given(tuple(item for item, _ in items), items[0][1]))
    return (targets[0] if targets else None), layer


def read_gunicorn_arguments(variables: Mapping[str, str]) -> tuple[str | None, Layer]:
    """Return what `GUNICORN_CMD_ARGS` has, as `read_arguments` does."""
    text = variables.get(GUNICORN_ARGUMENTS, "")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise StartError(f"{GUNICORN_ARGUMENTS} must be words as in a shell, not {text!r}: {error}") from None
    try:
        return read_arguments(words, f"{GUNICORN_ARGUMENTS}: ")
    except StartError as error:
        text = str(error)
        raise StartError(text if text.startswith(GUNICORN_ARGUMENTS) else f"{GUNICORN_ARGUMENTS}: {text}") from None


def _read(option: Option, label: str, flag: str, text: object) -> object:
    if isinstance(option.kind, Switch):
        return not option.default if not flag.startswith("--") else not flag.startswith("--no-")
    assert isinstance(text, str)
    return checked(option.kind.parse, label, text)


def _suggestion(argument: str) -> str:
    flags = [flag for option in OPTIONS.values() for flag in option.flags]
    return suggestion(argument.split("=")[0], flags)
