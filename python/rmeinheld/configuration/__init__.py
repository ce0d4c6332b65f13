"""The configuration of the command line: the source of each option, and what Gunicorn's arbiter gets of it.

A value of an earlier source wins over one of a later source:

1. the command line;
2. the environment: `RMEINHELD_` and the option's name in capitals, and `GUNICORN_CMD_ARGS`;
3. one file: that of `--config`, or else rmeinheld.toml or the table tool.rmeinheld of pyproject.toml in the current
   directory. A gunicorn.conf.py is read only if `--config` names it;
4. `WEB_CONCURRENCY`, for the number of workers;
5. the default. On a terminal, that of the access log is to print requests.

Two different values for one option in the same source are an error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from ..application import StartError
from ..settings import OPTIONS, Settings
from .arguments import build_parser, read_arguments, read_gunicorn_arguments
from .environment import read_environment, read_web_concurrency
from .files import find_file, read_file
from .layers import DEFAULT, Given, Layer, first_of
from .names import WORKER_CLASSES
from .report import report
from .terminal import read_terminal

__all__ = ["Command", "Resolved", "build_parser", "report"]


class Resolved(NamedTuple):
    """The configuration of one start or reload.

    `target` is MODULE:APP. `settings` has all options with their values. `given` has the values that were written
    somewhere, with their sources, by the option's name; `extra` those of Gunicorn's settings that are no options.

    `reasons` are the values that need Gunicorn's arbiter, as "workers = 2 (--workers)". Without one, a single process
    serves.
    """

    target: str
    settings: Settings
    given: Mapping[str, Given]
    extra: Mapping[str, Given]
    reasons: tuple[str, ...]
    directory: str
    """The directory where the command was started."""

    @property
    def gunicorn(self) -> dict[str, Any]:
        """Settings for Gunicorn's configuration by name: of options that Gunicorn acts on, and hooks.

        Raises StartError naming a value that the installed Gunicorn does not take, or that there is no Gunicorn.
        """
        from .service import settings_for_gunicorn

        return settings_for_gunicorn(self.settings, self.given, self.extra, self.reasons)

    @property
    def options(self) -> dict[str, Any]:
        """All options but those of `run` alone, by name. In a worker they win over Gunicorn's configuration."""
        return {
            **{
                option.name: getattr(self.settings, option.name) for option in OPTIONS.values() if option.scope != "run"
            },
            "multiprocess": self.settings.workers > 1,
        }

    def source(self, name: str) -> str:
        """Return the source of the value of an option."""
        return self.given[name].source if name in self.given else DEFAULT

    def label(self, name: str) -> str:
        """Return the start of a message about an option: its source, or its name if it has the default."""
        return self.given[name].source if name in self.given else name


class Command:
    """A command line, in the environment and the directory where it was started. It can be read again at a reload."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        """Keep copies of the arguments and of the environment (None: that of the process)."""
        self._arguments = tuple(arguments)
        self._environ = dict(os.environ if environ is None else environ)
        self._directory = os.getcwd()

    def load(self) -> Resolved:
        """Read all sources.

        Raises StartError naming the setting, its value and its source; SystemExit after `--help` and `--version`.
        """
        target, line = read_arguments(self._arguments)
        environment = read_environment(self._environ)
        other_target, gunicorn_line = read_gunicorn_arguments(self._environ)
        environment.add_all(gunicorn_line, OPTIONS)
        given = first_of((line, environment))
        file = self._read_file(given)
        given = first_of((line, environment, file, read_web_concurrency(self._environ)))
        given = first_of((given, read_terminal(given)))
        values = {name: one.value for name, one in given.options.items()}
        settings = _settings(values, given)
        _refuse_hidden_options(settings, given)
        target = target or other_target or settings.wsgi_app or ""
        if not target and not settings.print_config:
            raise StartError("the following arguments are required: MODULE:APP (rmeinheld --help lists the options)")
        return Resolved(
            target=target,
            settings=settings,
            given=given.options,
            extra=given.extra,
            reasons=tuple(_reasons(given)),
            directory=self._directory,
        )

    def _read_file(self, given: Layer) -> Layer:
        named = given.options.get("config")
        path = find_file(self._directory) if named is None else str(named.value)
        if path is None:
            return Layer()
        if not path.startswith(("python:", "file:")):
            path = os.path.join(self._directory, path)
        return read_file(path, _warn)


def _warn(line: str) -> None:
    print(f"rmeinheld: warning: {line}\n", end="", file=sys.stderr)


def _settings(values: Mapping[str, object], given: Layer) -> Settings:
    try:
        return Settings(**cast(dict[str, Any], values))
    except (ValueError, TypeError, AttributeError) as error:
        # A rule for several options. Each value alone was checked where it was read.
        names = [name for name in given.options if name in str(error)]
        places = ", ".join(f"{name} is from {given.options[name].source}" for name in names)
        raise StartError(f"{error} ({places})" if places else str(error)) from None


def _refuse_hidden_options(settings: Settings, given: Layer) -> None:
    for assignment in settings.env:
        name = assignment.partition("=")[0]
        if name.startswith("RMEINHELD_") or name in ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY"):
            source = given.options["env"].source
            raise StartError(f"{source} sets {name!r}, which is read before; write the option itself")


def _reasons(given: Layer) -> list[str]:
    reasons = [
        f"{name} = {one.value!r} ({one.source})"
        for name, one in given.options.items()
        if OPTIONS[name].scope == "service" and one.value != OPTIONS[name].default
    ]
    for name, one in given.extra.items():
        if one.value and not (name == "worker_class" and str(one.value) in WORKER_CLASSES):
            reasons.append(f"{name} ({one.source})")
    return reasons
