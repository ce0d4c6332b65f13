"""Options from variables of the environment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Final

from ..application import StartError
from ..settings import OPTIONS, PREFIX
from .layers import Given, Layer, checked, read_text
from .names import VARIABLES, nearest

__all__ = ["is_of_kubernetes", "read_environment", "read_web_concurrency"]

WEB_CONCURRENCY: Final = "WEB_CONCURRENCY"


def read_environment(variables: Mapping[str, str]) -> Layer:
    """Return the values of the variables `RMEINHELD_*`. An empty variable counts as unset.

    The text of an option that may be repeated is divided into words as in a shell.

    Raises StartError naming a bad value or an unknown variable.
    """
    layer = Layer()
    for name, text in variables.items():
        if not name.startswith(PREFIX) or is_of_kubernetes(name, text):
            continue
        option = VARIABLES.get(name)
        if option is None:
            raise StartError(_unknown(name))
        if text:
            layer.add(option, Given(read_text(option, name, text, shlex.split), name))
    return layer


def read_web_concurrency(variables: Mapping[str, str]) -> Layer:
    """Return the number of workers that `WEB_CONCURRENCY` has. Raises StartError naming a bad value."""
    layer = Layer()
    if text := variables.get(WEB_CONCURRENCY):
        option = OPTIONS["workers"]
        layer.add(option, Given(checked(option.kind.parse, WEB_CONCURRENCY, text), WEB_CONCURRENCY))
    return layer


def is_of_kubernetes(name: str, text: str) -> bool:
    """Has Kubernetes set the variable, because a service is called rmeinheld?"""
    rest = name.removeprefix(PREFIX)
    return rest.startswith(("SERVICE_", "PORT_")) or (rest == "PORT" and re.match(r"\w+://", text) is not None)


def _unknown(name: str) -> str:
    if name == PREFIX + "PORT":
        close = PREFIX + "BIND"
    else:
        close = nearest(name.removeprefix(PREFIX).removeprefix("NO_"), (key.removeprefix(PREFIX) for key in VARIABLES))
        close = PREFIX + close if close else ""
    hint = f"; did you mean {close!r}?" if close else " (rmeinheld --print-config lists the options)"
    return f"the environment has {name!r}, which is no option of rmeinheld{hint}"
