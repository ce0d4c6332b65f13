"""The access log: its format, the atoms a format can name, and what a logger of one's own must offer.

The lines are formatted by the extension; this module holds what has to be known before the server starts. The atoms
are Gunicorn's, which follow Apache's mod_log_config.
"""

from __future__ import annotations

import re
from types import TracebackType
from typing import Any, Final, Protocol

__all__ = ["ATOMS", "DEFAULT_FORMAT", "AccessLogger", "ErrorLogger", "validate_format"]

DEFAULT_FORMAT: Final = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
"""Gunicorn's default format, which is the "combined" format of Apache and nginx."""

ATOMS: Final[dict[str, str]] = {
    "h": "address of the client; '-' on a Unix socket",
    "l": "always '-'",
    "u": "user name of Basic authentication, or '-'",
    "t": "time at which the line is written, [day/month/year:hour:minute:second zone]",
    "r": "request line",
    "m": "request method",
    "U": "path of the request without the query",
    "q": "query string",
    "H": "protocol, such as HTTP/1.1",
    "s": "status code",
    "b": "bytes of the response body",
    "B": "the same",
    "f": "Referer field",
    "a": "User-Agent field",
    "T": "time taken, in whole seconds",
    "M": "time taken, in milliseconds",
    "D": "time taken, in microseconds",
    "L": "time taken, in seconds with six decimals",
    "p": "process id in angle brackets",
}
"""Atoms of a format, written `%(h)s`. Beside them: `%({name}i)s` for a request field, `%({name}o)s` for a response
field and `%({name}e)s` for a key of the environ; each is '-' when absent."""

_DIRECTIVE = re.compile(r"%(?:%|\((?P<atom>[^()]*)\)s)?")
_NAMED_ATOM = re.compile(r"\{[^{}]+\}[ioe]")


class AccessLogger(Protocol):
    """An access logger of one's own, as Meinheld has it (`set_access_logger`)."""

    def access(self, environ: dict[str, Any], /) -> object:
        """Take note of one request, after its response.

        `environ` is the request's, with `STATUS_CODE` (int), `SEND_BYTES` (int, bytes of the body), `REQUEST_TIME`
        (int, milliseconds) and `LOCAL_TIME` (str) added to it; and `rmeinheld.status` (str, such as "200 OK"),
        `rmeinheld.response_headers` (list of pairs of str, as sent) and `rmeinheld.request_time` (float, seconds).
        """


class ErrorLogger(Protocol):
    """An error logger of one's own, as Meinheld has it (`set_error_logger`)."""

    def error(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> object:
        """Take note of an exception that an application has let escape."""


def validate_format(text: str) -> str:
    """Return `text` if it is a usable access log format.

    Raises ValueError naming the part that is not understood: an atom that does not exist, or a conversion other than
    `%(atom)s` and `%%`. Gunicorn finds such a mistake at the first request; here it is found at the start.
    """
    for directive in _DIRECTIVE.finditer(text):
        atom = directive["atom"]
        if directive[0] == "%%" or atom in ATOMS or (atom is not None and _NAMED_ATOM.fullmatch(atom)):
            continue
        if atom is None:
            found = text[directive.start() : directive.start() + 12]
            raise ValueError(f"the access log format {text!r} has {found!r} where %(atom)s or %% is expected")
        known = " ".join(ATOMS)
        raise ValueError(
            f"the access log format {text!r} has an unknown atom {directive[0]!r}; "
            f"known are {known} and {{name}}i {{name}}o {{name}}e"
        )
    return text
