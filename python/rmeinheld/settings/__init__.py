"""Every option of the server, in one table: the fields of `Settings`.

The table is the source of the keyword options of `rmeinheld.run`, and of the command line and its help. It is the
source of the keys of files, of the environment variables, and of the settings reference. It also has the checks of the
`set_*` functions. An option is named after its flag (`--keep-alive` is `keep_alive`). A bad value raises ValueError or
TypeError that names the option, its range and the value. No value is corrected silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn, cast

from .channels import ChannelOptions
from .concurrency import ConcurrencyOptions
from .limits import LimitOptions
from .listening import ListeningOptions
from .logging import LoggingOptions
from .option import PREFIX, Option
from .process import ProcessOptions
from .proxies import ProxyOptions
from .sticky import StickyOptions, check_sticky_with_tls
from .websockets import WebSocketOptions
from .workers import WorkerOptions

__all__ = ["GROUPS", "OPTIONS", "PREFIX", "Option", "Settings", "find_option", "resolve"]

GROUPS: Final = (
    "Listening",
    "TLS",
    "Time limits",
    "Size limits",
    "Leniency",
    "Request bodies",
    "Behind a proxy",
    "WebSocket",
    "Channels",
    "Concurrency",
    "Workers",
    "Health",
    "Inspection",
    "Development",
    "Logging",
    "Process",
)
"""Groups of options, in the order of the help."""


class Settings(
    ProcessOptions,
    LoggingOptions,
    StickyOptions,
    WorkerOptions,
    ConcurrencyOptions,
    ChannelOptions,
    WebSocketOptions,
    ProxyOptions,
    LimitOptions,
    ListeningOptions,
):
    """The checked options of one server. The attributes are the table of options. An instance cannot be changed.

    Raises ValueError, TypeError or AttributeError that names the option, its range and the value.

    >>> Settings(keep_alive=2).keep_alive
    2.0
    >>> Settings(backlog=0)
    Traceback (most recent call last):
        ...
    ValueError: backlog must be an integer from 1 to 65535, not 0
    """

    def __init__(self, **options: Any) -> None:
        if unknown := options.keys() - OPTIONS.keys():
            raise TypeError(f"Settings() has no field {min(unknown)!r}{suggestion(min(unknown), OPTIONS)}")
        for name, option in OPTIONS.items():
            # Each default passes its own check unchanged; a test sees to that.
            vars(self)[name] = option.check(options[name]) if name in options else option.default
        # 0 means that only the limit of the head counts. With that number, the parser needs no rule for 0.
        for name in ("limit_request_line", "limit_request_field_size"):
            if getattr(self, name) == 0:
                vars(self)[name] = self.limit_request_head
        if not self.access_log:
            vars(self)["access_logfile"] = None
        if "forwarded" in self.trusted_proxy_headers and len(self.trusted_proxy_headers) > 1:
            raise ValueError(
                "trusted_proxy_headers must have 'forwarded' alone or other fields without it, "
                f"not {self.trusted_proxy_headers!r}"
            )
        if self.reload and self.preload_app:
            raise ValueError("reload and preload_app exclude each other: the master would keep the code of before")
        if self.certfile is None and self.ssl_context is None:
            for name in ("keyfile", "ca_certs", "cert_reqs", "ciphers"):
                if getattr(self, name) != OPTIONS[name].default:
                    raise ValueError(f"{name} needs certfile: without it the server does not speak TLS")
        check_sticky_with_tls(self.sticky, is_tls=(self.certfile, self.ssl_context) != (None, None))
        if self.otlp_endpoint is not None and not self.metrics:
            raise ValueError("otlp_endpoint needs metrics: without them there is nothing to send")
        if self.ready_workers > self.workers:
            raise ValueError(f"ready_workers must be at most workers ({self.workers}), not {self.ready_workers}")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Settings cannot be changed: make others with a different {name}")

    def replace(self, **options: Any) -> Settings:
        """Return settings with other values for some options. Raises the exceptions of `Settings`."""
        changed = {name: value for name, value in vars(self).items() if value is not OPTIONS[name].default}
        return Settings(**{**changed, **options})

    @property
    def access_log_format(self) -> str:
        """The format of the access log, under Gunicorn's name of the setting."""
        return self.access_logformat

    @classmethod
    def from_options(cls, options: Mapping[str, object], defaults: Mapping[str, object] | None = None) -> Settings:
        """Return settings from the keyword options of `run`, which win over `defaults` (by name, no aliases).

        Raises the exceptions of `resolve` and `Settings`.
        """
        return cls(**cast(dict[str, Any], {**(defaults or {}), **resolve(options)}))


OPTIONS: Final[dict[str, Option]] = {
    name: row._replace(name=name)
    for owner in reversed(Settings.__mro__)
    for name, row in vars(owner).items()
    if isinstance(row, Option)
}
"""The table: options by name, in the order of the help."""

_NAMES: Final[dict[str, Option]] = {
    name: option for option in OPTIONS.values() for name in (option.name, *option.aliases)
}


def find_option(name: str) -> Option:
    """Return the option called `name`, which may be an alias.

    Raises TypeError naming it, with the nearest name that exists.
    """
    option = _NAMES.get(name)
    if option is None:
        raise TypeError(f"unknown option {name!r}{suggestion(name, _NAMES)}")
    return option


def resolve(options: Mapping[str, object]) -> dict[str, object]:
    """Replace aliases among the keyword options of `run` by the names of the table.

    Raises TypeError for an unknown option, for an option of the command line alone, and for two names of one option.
    """
    resolved: dict[str, object] = {}
    given: dict[str, str] = {}
    for name, value in options.items():
        option = find_option(name)
        if option.scope in ("command", "service"):
            raise TypeError(f"option {name!r} belongs to the command line ({option.flag}); run() does not take it")
        if option.name in given:
            raise TypeError(f"options {given[option.name]!r} and {name!r} are the same option; give only one")
        given[option.name] = name
        resolved[option.name] = option.check(value, label=name)
    return resolved


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" if one of `known` is close to `name`, otherwise an empty string."""
    # Only a mistake needs it.
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
