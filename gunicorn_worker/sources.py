"""Options of this server under Gunicorn's own command: from variables of the environment, and gunicorn.conf.py.

The order of the sources: Gunicorn's command line wins over the variable `RMEINHELD_*`, and that wins over
gunicorn.conf.py. Gunicorn's command line knows only options that are settings of Gunicorn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from rmeinheld.application import StartError
from rmeinheld.configuration.environment import read_environment
from rmeinheld.configuration.files import MODULE_NAME, globals_of
from rmeinheld.configuration.layers import Layer, first_of
from rmeinheld.configuration.names import refusal
from rmeinheld.settings import OPTIONS, Option

__all__ = ["options_of_sources", "refuse_settings"]

type Warn = Callable[[str], object]


def options_of_sources(cfg: Any, warn: Warn | None = None) -> dict[str, Any]:
    """Return the options that the sources set and that win over Gunicorn's configuration `cfg`.

    `warn` gets a line for each global of gunicorn.conf.py that looks like a mistyped option.

    Raises StartError naming a bad value, an unknown variable, or an option that a worker cannot honour.
    """
    environment = read_environment({**os.environ, **cfg.env})
    file = _own_globals(cfg, warn or (lambda line: None))
    given = first_of((environment, file)).options
    decided = _settings_on_the_line(cfg) if given else frozenset()
    options: dict[str, Any] = {}
    for name, one in given.items():
        option = OPTIONS[name]
        if not option.is_of_worker:
            raise StartError(_without_effect(option, one.source, cfg))
        if _setting_of(option, cfg) not in decided:
            options[name] = one.value
    return options


def refuse_settings(cfg: Any) -> None:
    """Raise StartError for a setting of Gunicorn that cannot be honoured, if a client could notice that."""
    for name in cfg.settings:
        value = getattr(cfg, name, None) if name != "worker_class" else None
        if name != "worker_class" and (reason := refusal(name, value)):
            raise StartError(f"{name} is {value!r}, which cannot be honoured: {reason}")


def _own_globals(cfg: Any, warn: Warn) -> Layer:
    """Return the options that gunicorn.conf.py sets under a name that is not Gunicorn's."""
    location = str(cfg.config or "")
    module = sys.modules.get(location.removeprefix("python:") if location.startswith("python:") else MODULE_NAME)
    if module is None:
        return Layer()
    file = location.removeprefix("file:").removeprefix("./") or "gunicorn.conf.py"
    names = vars(module)
    mine = {name: value for name, value in names.items() if name not in cfg.settings}
    layer = globals_of(mine, file, lambda line: None if _names_a_setting(line, names) else warn(line))
    for name, one in layer.options.items():
        setting = _setting_of(OPTIONS[name], cfg)
        if setting in names and OPTIONS[name].check(names[setting]) != one.value:
            raise StartError(
                f"{one.source} is {one.value!r} and {file}: {setting} is {names[setting]!r}, but they are the same "
                "option; give only one value"
            )
    return layer


def _names_a_setting(line: str, names: Mapping[str, object]) -> bool:
    """Does a warning suggest a setting that the file has as well?"""
    return any(f"did you mean {name!r}" in line for name in names)


def _setting_of(option: Option, cfg: Any) -> str:
    """Return the setting of Gunicorn that means the option, or "" if there is none."""
    return option.gunicorn or (option.name if option.name in cfg.settings else "")


def _without_effect(option: Option, source: str, cfg: Any) -> str:
    if not option.gunicorn:
        command = f"rmeinheld {option.flag}" if option.flags else "rmeinheld"
        return f"{source} has no effect under the gunicorn command: start the service by {command}"
    setting = cfg.settings.get(option.gunicorn)
    flags = [flag for flag in (setting.cli if setting else None) or () if flag.startswith("--")]
    own = f"Gunicorn's own option {flags[0]}, or " if flags else ""
    return (
        f"{source} has no effect here, because Gunicorn's master acts on it: use {own}the setting {option.gunicorn} in "
        "gunicorn.conf.py"
    )


def _settings_on_the_line(cfg: Any) -> frozenset[str]:
    """Return the settings that Gunicorn's command line and `GUNICORN_CMD_ARGS` set."""
    parser = cfg.parser()

    def refuse(message: str) -> NoReturn:
        raise ValueError(message)

    # An application that embeds Gunicorn has a command line of its own.
    parser.error = refuse
    found: set[str] = set()
    for words in (cfg.get_cmd_args_from_env(), sys.argv[1:]):
        try:
            namespace, _ = parser.parse_known_args(words)
        except (ValueError, SystemExit):
            continue
        found.update(name for name, value in vars(namespace).items() if value is not None)
    return frozenset(found)
