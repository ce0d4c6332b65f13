"""The settings of Gunicorn's configuration that the options of a service mean."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..addresses import parse_address
from ..application import StartError
from ..option_kinds import Seconds
from ..privileges import identity_of
from ..settings import OPTIONS, Settings
from .layers import Given

__all__ = ["WORKER_CLASS", "settings_for_gunicorn"]

WORKER_CLASS = "rmeinheld.gunicorn_worker.Worker"

_NOT_FOR_GUNICORN = frozenset({"check_config", "config", "control_socket", "print_config", "root_path", "wsgi_app"})
"""Options that the command line has acted on before Gunicorn starts, and those that our own code acts on."""


def settings_for_gunicorn(
    settings: Settings, given: Mapping[str, Given], extra: Mapping[str, Given], reasons: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the settings by name. Gunicorn's own checks have passed.

    Raises StartError naming a value that the installed Gunicorn does not take, or the reason to need Gunicorn.
    """
    try:
        from gunicorn import __version__ as version
        from gunicorn.config import Config
    except ModuleNotFoundError as error:
        if error.name != "gunicorn":
            raise
        reason = f"{reasons[0]} needs Gunicorn" if reasons else "several workers need Gunicorn"
        raise StartError(f"{reason}, which is not installed: pip install gunicorn") from None
    config = Config()
    try:
        values: dict[str, Any] = {"worker_class": WORKER_CLASS, **_from_options(settings)}
    except ValueError as error:
        raise StartError(str(error)) from None
    values |= {name: one.value for name, one in extra.items()}
    sources = {OPTIONS[name].gunicorn: one.source for name, one in given.items()}
    sources |= {name: one.source for name, one in extra.items()}
    for name, value in list(values.items()):
        if name not in config.settings:
            if name in sources:
                raise StartError(f"{sources[name]} needs a newer Gunicorn; this is {version}")
            del values[name]
            continue
        try:
            config.set(name, value)
        except Exception as error:
            raise StartError(f"{sources.get(name, name)}: Gunicorn refuses {value!r}: {error}") from None
    return values


def _from_options(settings: Settings) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in OPTIONS.values():
        value = getattr(settings, option.name)
        if not option.gunicorn or not option.master or option.name in _NOT_FOR_GUNICORN or value is None:
            continue
        if isinstance(option.kind, Seconds):
            # Gunicorn takes whole seconds only.
            value = math.ceil(value)
        values[option.gunicorn] = list(value) if isinstance(value, tuple) else value
    values["bind"] = [str(parse_address(text)) for text in settings.bind]
    values.setdefault("umask", _mask_of_process())
    identity = identity_of(settings.user, settings.group)
    if identity is not None:
        # Gunicorn would leave the group of root to the user.
        values |= {"user": identity.user, "group": identity.group}
    # Only root may change groups, and Gunicorn needs the name of a user for it.
    values["initgroups"] = settings.initgroups and settings.user is not None and os.geteuid() == 0
    values["chdir"] = os.path.abspath(settings.chdir or ".")
    values["threads"] = settings.threads
    if settings.control_socket is None:
        # It costs a thread in the master, and a second service would take the path of the first one.
        values["control_socket_disable"] = True
        del values["control_socket_mode"]
    else:
        values["control_socket"] = settings.control_socket
    return values


def _mask_of_process() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
