"""Every option of the server, in one table: the fields of `Settings`.

From this table come the keyword options of `rmeinheld.run`, the flags of the command line and its help, and the checks
behind the `set_*` functions. An option is named after its flag (`--keep-alive` is `keep_alive`). A bad value raises
ValueError or TypeError that names the option, what it may be, and the value; nothing is corrected in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, cast

from .access_log import DEFAULT_FORMAT, AccessLogger, ErrorLogger, validate_format

__all__ = ["GROUPS", "OPTIONS", "Option", "Settings", "find_option", "resolve"]

YEAR_SECONDS: Final = 31_536_000.0
"""Longest time that an option takes. Longer is a mistake of the unit, and "no limit" is 0."""

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


# --- kinds of values -------------------------------------------------------------------------------------------------


class Kind:
    """What values an option takes: how they are checked, and read from the command line."""

    metavar: ClassVar[str] = ""
    repeatable: ClassVar[bool] = False

    @property
    def expected(self) -> str:
        """What a value must be, as the middle of the sentence "keep_alive must be ...": also shown in the help."""
        raise NotImplementedError

    def check(self, label: str, value: object) -> object:
        """Return `value` in its final type. Raises TypeError or ValueError that starts with `label`."""
        raise NotImplementedError

    def parse(self, label: str, text: str) -> object:
        """Read a value as it is written on the command line. Raises ValueError that starts with `label`."""
        return self.check(label, text)

    def _wrong_type(self, label: str, value: object) -> TypeError:
        return TypeError(f"{label} must be {self.expected}, not {type(value).__name__} {value!r}")

    def _bad_value(self, label: str, value: object) -> ValueError:
        return ValueError(f"{label} must be {self.expected}, not {value!r}")


@dataclass(frozen=True)
class Seconds(Kind):
    """A time in seconds, whole or not."""

    maximum: float = YEAR_SECONDS
    metavar: ClassVar[str] = "SECONDS"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return f"a number of seconds from 0 to {self.maximum:.0f}"

    def check(self, label: str, value: object) -> float:
        """See `Kind.check`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong_type(label, value)
        if not 0 <= value <= self.maximum:  # so neither is infinity or NaN
            raise self._bad_value(label, value)
        return float(value)

    def parse(self, label: str, text: str) -> float:
        """See `Kind.parse`."""
        if not re.fullmatch(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})", text, re.ASCII):
            raise self._bad_value(label, text)
        return self.check(label, float(text) if "." in text else int(text))


@dataclass(frozen=True)
class Count(Kind):
    """A whole number within a range."""

    minimum: int
    maximum: int
    metavar: ClassVar[str] = "N"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return f"an integer from {self.minimum} to {self.maximum}"

    def check(self, label: str, value: object) -> int:
        """See `Kind.check`."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_type(label, value)
        if not self.minimum <= value <= self.maximum:
            raise self._bad_value(label, value)
        return int(value)

    def parse(self, label: str, text: str) -> int:
        """See `Kind.parse`."""
        # int() would also take "1_000", " 5" and the digits of other scripts. Twenty digits are more than any maximum.
        if not re.fullmatch(r"[+-]?\d{1,20}", text, re.ASCII):
            raise self._bad_value(label, text)
        return self.check(label, int(text))


@dataclass(frozen=True)
class Size(Count):
    """A number of bytes; the command line also takes it with K, M or G (powers of 1024)."""

    metavar: ClassVar[str] = "BYTES"
    factors: ClassVar[dict[str, int]] = {"": 1, "K": KIB, "M": MIB, "G": GIB}

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return f"an integer number of bytes from {self.minimum} to {self.maximum}"

    def parse(self, label: str, text: str) -> int:
        """See `Kind.parse`."""
        match = re.fullmatch(r"([+-]?\d{1,20})([KMG]?)", text, re.ASCII | re.IGNORECASE)
        if not match:
            raise ValueError(f"{label} must be {self.expected} (K, M or G may follow), not {text!r}")
        value = int(match[1]) * self.factors[match[2].upper()]
        if not self.minimum <= value <= self.maximum:
            raise self._bad_value(label, text)
        return value


@dataclass(frozen=True)
class Switch(Kind):
    """True or False. On the command line it is a flag without a value."""

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "True or False"

    def check(self, label: str, value: object) -> bool:
        """See `Kind.check`."""
        if not isinstance(value, bool):
            raise self._wrong_type(label, value)
        return value


@dataclass(frozen=True)
class Text(Kind):
    """A text that is not empty."""

    what: str = "a text"
    metavar: ClassVar[str] = "TEXT"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return self.what

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        if not isinstance(value, str):
            raise self._wrong_type(label, value)
        if not value or "\0" in value:
            raise self._bad_value(label, value)
        return value


@dataclass(frozen=True)
class FileName(Text):
    """The name of a file."""

    what: str = "a file name"
    metavar: ClassVar[str] = "FILE"


@dataclass(frozen=True)
class Directory(Text):
    """The name of a directory."""

    what: str = "a directory"
    metavar: ClassVar[str] = "DIR"


@dataclass(frozen=True)
class Directories(Text):
    """Directories, separated by commas as for Gunicorn."""

    what: str = "directories separated by commas"
    metavar: ClassVar[str] = "DIRS"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        text = super().check(label, value)
        if not all(text.split(",")):
            raise self._bad_value(label, value)
        return text


@dataclass(frozen=True)
class LogFormat(Text):
    """A format of the access log."""

    what: str = "an access log format"
    metavar: ClassVar[str] = "FORMAT"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        try:
            return validate_format(super().check(label, value))
        except ValueError as error:
            if str(error).startswith(label):
                raise
            raise ValueError(f"{label}: {error}") from None


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words, in any case."""

    words: tuple[str, ...] = ()
    metavar: ClassVar[str] = "LEVEL"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "one of " + ", ".join(self.words)

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        if not isinstance(value, str):
            raise self._wrong_type(label, value)
        if value.lower() not in self.words:
            raise self._bad_value(label, value)
        return value.lower()


@dataclass(frozen=True)
class Mask(Kind):
    """A mask of permission bits; octal on the command line, as for umask(1)."""

    metavar: ClassVar[str] = "OCTAL"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "a mask of permissions from 0o000 to 0o777"

    def check(self, label: str, value: object) -> int:
        """See `Kind.check`."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_type(label, value)
        if not 0 <= value <= 0o777:
            raise self._bad_value(label, value)
        return int(value)

    def parse(self, label: str, text: str) -> int:
        """See `Kind.parse`."""
        # Gunicorn reads "22" as decimal and "022" as octal; nobody means the former.
        if not re.fullmatch(r"(0o)?[0-7]{1,4}", text, re.ASCII):
            raise ValueError(f"{label} must be an octal {self.expected.removeprefix('a ')}, not {text!r}")
        return self.check(label, int(text, 8))


@dataclass(frozen=True)
class Texts(Kind):
    """Several texts. On the command line the flag is repeated."""

    what: str = "a sequence of texts"
    metavar: ClassVar[str] = "TEXT"
    repeatable: ClassVar[bool] = True

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return self.what

    def check(self, label: str, value: object) -> tuple[str, ...]:
        """See `Kind.check`."""
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, list | tuple):
            raise self._wrong_type(label, value)
        return tuple(self.check_item(label, item) for item in value)

    def check_item(self, label: str, item: object) -> str:
        """Check one of the texts."""
        if not isinstance(item, str):
            raise self._wrong_type(label, item)
        return item

    def parse(self, label: str, text: str) -> str:
        """Read one of the texts."""
        return self.check_item(label, text)


@dataclass(frozen=True)
class Addresses(Texts):
    """Addresses to listen on; `rmeinheld.listeners.parse_address` knows their forms."""

    what: str = "an address or a sequence of addresses"
    metavar: ClassVar[str] = "ADDRESS"

    def check(self, label: str, value: object) -> tuple[str, ...]:
        """See `Kind.check`."""
        addresses = super().check(label, value)
        if not addresses:
            raise self._bad_value(label, value)
        return addresses


@dataclass(frozen=True)
class Assignments(Texts):
    """Assignments of environment variables."""

    what: str = "assignments of the form NAME=VALUE"
    metavar: ClassVar[str] = "NAME=VALUE"

    def check_item(self, label: str, item: object) -> str:
        """See `Texts.check_item`."""
        text = super().check_item(label, item)
        if not re.fullmatch(r"[^=\0]+=[^\0]*", text, re.DOTALL):
            raise self._bad_value(label, text)
        return text


@dataclass(frozen=True)
class Caller(Kind):
    """An object of which one method is called."""

    method: str

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return f"an object with a method {self.method}(), or None"

    def check(self, label: str, value: object) -> object:
        """Return `value`. Raises AttributeError if the method is missing, TypeError if it cannot be called."""
        if not hasattr(value, self.method):
            raise AttributeError(f"{label} must be {self.expected}; {type(value).__name__} has no {self.method!r}")
        if not callable(getattr(value, self.method)):
            raise TypeError(
                f"{label} must be {self.expected}; {self.method!r} of {type(value).__name__} is no callable"
            )
        return value


# --- the table -------------------------------------------------------------------------------------------------------

GROUPS: Final = ("Listening", "Time limits", "Size limits", "Concurrency", "Logging", "Process")
"""Groups of options, in the order of the help."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One row of the table.

    `flags` is empty for an option that only `run` takes. `scope` is "command" for what only the command line takes,
    since an application that calls `run` does it itself. `unit` follows the default in the help. An option whose
    default is None takes None. `precedent` says which server has it, and under what name.
    """

    name: str = ""
    kind: Kind
    default: object
    group: str
    help: str
    precedent: str
    flags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    unit: str = ""
    scope: Literal["server", "command"] = "server"

    def check(self, value: object, label: str | None = None) -> object:
        """Return `value` in its final type; ValueError, TypeError or AttributeError, naming `label` or the option."""
        if value is None and self.default is None:
            return None
        return self.kind.check(label or self.name, value)

    @property
    def flag(self) -> str:
        """The flag by which messages name the option."""
        return next((flag for flag in self.flags if flag.startswith("--")), self.name)


def _option(
    default: object,
    kind: Kind,
    *flags: str,
    group: str,
    help: str,
    precedent: str,
    aliases: tuple[str, ...] = (),
    unit: str = "",
    scope: Literal["server", "command"] = "server",
) -> Any:
    row = Option(
        kind=kind,
        default=default,
        group=group,
        help=help,
        precedent=precedent,
        flags=flags,
        aliases=aliases,
        unit=unit,
        scope=scope,
    )
    return dataclasses.field(default=default, metadata={"option": row})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of one server, all checked. The fields are the table of options.

    Raises ValueError, TypeError or AttributeError that names the option, what it may be, and the value.

    >>> Settings(keep_alive=2).keep_alive
    2.0
    >>> Settings(backlog=0)
    Traceback (most recent call last):
        ...
    ValueError: backlog must be an integer from 1 to 65535, not 0
    """

    bind: tuple[str, ...] = _option(
        ("127.0.0.1:8000",),
        Addresses(),
        "-b",
        "--bind",
        group="Listening",
        help="Address to listen on: HOST:PORT, HOST, :PORT (all IPv4 addresses), PORT (127.0.0.1), [IPV6]:PORT, "
        "unix:PATH, unix:@NAME (abstract) or fd://N (inherited). May be repeated. Port 0 takes a free one. Without "
        "it, sockets passed by systemd are used if there are any.",
        precedent="Gunicorn bind",
    )
    backlog: int = _option(
        2048,
        Count(1, 65535),
        "--backlog",
        group="Listening",
        help="Connections that wait in the kernel to be accepted, at most; the kernel may cap it further.",
        unit="connections",
        precedent="Gunicorn backlog; Meinheld set_backlog (4096)",
    )
    reuse_port: bool = _option(
        False,
        Switch(),
        "--reuse-port",
        group="Listening",
        help="Set SO_REUSEPORT, so that several processes can listen on the same port.",
        precedent="Gunicorn reuse_port",
    )
    umask: int | None = _option(
        None,
        Mask(),
        "-m",
        "--umask",
        group="Listening",
        help="Mask of permissions of Unix sockets (and, from the command line, of all files). "
        "Without it the mask of the process stays.",
        precedent="Gunicorn umask (0)",
    )

    keep_alive: float = _option(
        5.0,
        Seconds(),
        "--keep-alive",
        group="Time limits",
        help="How long an idle connection waits for its next request. 0: one request per connection.",
        unit="seconds",
        aliases=("keepalive",),
        precedent="Gunicorn keepalive (2); Meinheld set_keepalive (0)",
    )
    graceful_timeout: float = _option(
        30.0,
        Seconds(),
        "--graceful-timeout",
        group="Time limits",
        help="How long requests in progress may go on after SIGTERM, SIGINT or stop().",
        unit="seconds",
        precedent="Gunicorn graceful_timeout",
    )
    client_header_timeout: float = _option(
        60.0,
        Seconds(),
        "--client-header-timeout",
        group="Time limits",
        help="How long a client may take to send the whole head of a request. 0: no limit.",
        unit="seconds",
        precedent="nginx client_header_timeout",
    )
    client_body_timeout: float = _option(
        60.0,
        Seconds(),
        "--client-body-timeout",
        group="Time limits",
        help="How long a client may pause while it sends a request body. 0: no limit.",
        unit="seconds",
        precedent="nginx client_body_timeout",
    )
    send_timeout: float = _option(
        60.0,
        Seconds(),
        "--send-timeout",
        group="Time limits",
        help="How long a client may go without taking any of the response. 0: no limit.",
        unit="seconds",
        precedent="nginx send_timeout",
    )

    limit_request_line: int = _option(
        8208,
        Size(0, 16 * MIB),
        "--limit-request-line",
        group="Size limits",
        help="Longest request line; beyond it the answer is 414. 0: only the limit of the head counts.",
        unit="bytes",
        precedent="Gunicorn limit_request_line (4094); Meinheld takes a target of 8 KiB",
    )
    limit_request_fields: int = _option(
        128,
        Count(1, 32768),
        "--limit-request-fields",
        group="Size limits",
        help="Most field lines in the head of a request; beyond it the answer is 431.",
        unit="fields",
        precedent="Gunicorn limit_request_fields (100); Meinheld 128",
    )
    limit_request_field_size: int = _option(
        8192,
        Size(0, 16 * MIB),
        # Gunicorn spells it with an underscore.
        "--limit-request-field_size",
        "--limit-request-field-size",
        group="Size limits",
        help="Longest field line; beyond it the answer is 431. 0: only the limit of the head counts.",
        unit="bytes",
        precedent="Gunicorn limit_request_field_size (8190); Meinheld 8 KiB",
    )
    limit_request_head: int = _option(
        80 * KIB,
        Size(KIB, 16 * MIB),
        "--limit-request-head",
        group="Size limits",
        help="Longest head of a request, request line and all fields; beyond it the answer is 431.",
        unit="bytes",
        precedent="Meinheld, Node.js --max-http-header-size",
    )
    limit_request_body: int = _option(
        16 * MIB,
        Size(0, 2**63 - 1),
        "--limit-request-body",
        group="Size limits",
        help="Longest request body; beyond it the answer is 413. 0: no limit.",
        unit="bytes",
        aliases=("max_content_length",),
        precedent="Apache LimitRequestBody; Meinheld set_max_content_length",
    )

    worker_connections: int = _option(
        1000,
        Count(1, 1_000_000),
        "--worker-connections",
        group="Concurrency",
        help="Requests in progress at once, at most; more wait in the kernel. Idle connections do not count.",
        unit="requests",
        precedent="Gunicorn worker_connections",
    )
    stack_size: int = _option(
        8 * MIB,
        Size(256 * KIB, GIB),
        "--stack-size",
        group="Concurrency",
        help="Stack of a coroutine. It is address space; memory is taken only as the stack is used.",
        unit="bytes",
        precedent="ulimit -s, threading.stack_size",
    )
    sendfile: bool = _option(
        True,
        Switch(),
        "--no-sendfile",
        group="Concurrency",
        help="Do not use sendfile(2) for wsgi.file_wrapper.",
        precedent="Gunicorn sendfile, --no-sendfile",
    )
    multiprocess: bool = _option(
        False,
        Switch(),
        group="Concurrency",
        help="Whether other processes serve the same application: the value of wsgi.multiprocess.",
        precedent="PEP 3333 wsgi.multiprocess",
    )

    access_logfile: str | None = _option(
        None,
        FileName("a file name, or '-' for standard output"),
        "--access-logfile",
        group="Logging",
        help="File of the access log, '-' for standard output. Without it there is no access log.",
        precedent="Gunicorn accesslog, --access-logfile",
    )
    access_logformat: str = _option(
        DEFAULT_FORMAT,
        LogFormat(),
        "--access-logformat",
        group="Logging",
        help="Format of the access log, in Gunicorn's atoms (see rmeinheld.access_log).",
        aliases=("access_log_format",),
        precedent="Gunicorn access_log_format, --access-logformat",
    )
    error_logfile: str = _option(
        "-",
        FileName("a file name, or '-' for standard error"),
        "--error-logfile",
        "--log-file",
        group="Logging",
        help="File of the error log, '-' for standard error.",
        precedent="Gunicorn errorlog, --error-logfile, --log-file",
    )
    log_level: str = _option(
        "info",
        Choice(("debug", "info", "warning", "error", "critical")),
        "--log-level",
        group="Logging",
        help="Least severe level in the error log: debug, info, warning, error or critical.",
        precedent="Gunicorn loglevel, --log-level",
    )
    access_logger: AccessLogger | None = _option(  # noqa: RUF009 (a field(), which ruff cannot see)
        None,
        Caller("access"),
        group="Logging",
        help="Object whose access(environ) is called after each response.",
        precedent="Meinheld set_access_logger",
    )
    error_logger: ErrorLogger | None = _option(  # noqa: RUF009 (a field(), which ruff cannot see)
        None,
        Caller("error"),
        group="Logging",
        help="Object whose error(exc_type, exc, tb) is called for errors of the application, "
        "in place of the logger rmeinheld.error.",
        precedent="Meinheld set_error_logger",
    )

    chdir: str | None = _option(
        None,
        Directory(),
        "--chdir",
        group="Process",
        help="Change to this directory before the application is imported.",
        precedent="Gunicorn chdir",
        scope="command",
    )
    pythonpath: str | None = _option(
        None,
        Directories(),
        "--pythonpath",
        group="Process",
        help="Directories, separated by commas, to put in front of sys.path.",
        precedent="Gunicorn pythonpath",
        scope="command",
    )
    env: tuple[str, ...] = _option(
        (),
        Assignments(),
        "-e",
        "--env",
        group="Process",
        help="Environment variable to set before the application is imported. May be repeated.",
        precedent="Gunicorn raw_env, --env",
        scope="command",
    )
    pid: str | None = _option(
        None,
        FileName(),
        "-p",
        "--pid",
        group="Process",
        help="File that holds the process id while the server runs.",
        precedent="Gunicorn pidfile, --pid",
        scope="command",
    )
    check_config: bool = _option(
        False,
        Switch(),
        "--check-config",
        group="Process",
        help="Check the options, import the application, and exit without serving.",
        precedent="Gunicorn check_config",
        scope="command",
    )

    def __post_init__(self) -> None:
        for option in OPTIONS.values():
            object.__setattr__(self, option.name, option.check(getattr(self, option.name)))
        # 0 means that only the limit of the head counts. Said so, the parser needs no rule for it.
        for name in ("limit_request_line", "limit_request_field_size"):
            if getattr(self, name) == 0:
                object.__setattr__(self, name, self.limit_request_head)

    @property
    def access_log_format(self) -> str:
        """The format of the access log, under Gunicorn's name of the setting."""
        return self.access_logformat

    @classmethod
    def from_options(cls, options: Mapping[str, object], defaults: Mapping[str, object] | None = None) -> Settings:
        """Settings from the keyword options of `run`, which win over `defaults` (by name, no aliases).

        Raises what `resolve` and `Settings` raise.
        """
        return cls(**cast(dict[str, Any], {**(defaults or {}), **resolve(options)}))


OPTIONS: Final[dict[str, Option]] = {
    field.name: dataclasses.replace(field.metadata["option"], name=field.name) for field in dataclasses.fields(Settings)
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

    Raises TypeError for an unknown option, for one that only the command line takes, and for two names of the same.
    """
    resolved: dict[str, object] = {}
    given: dict[str, str] = {}
    for name, value in options.items():
        option = find_option(name)
        if option.scope == "command":
            raise TypeError(f"option {name!r} belongs to the command line ({option.flag}); run() does not take it")
        if option.name in given:
            raise TypeError(f"options {given[option.name]!r} and {name!r} are the same; give one of them")
        given[option.name] = name
        resolved[option.name] = option.check(value, label=name)
    return resolved


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" if one of `known` is close to `name`, otherwise nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
