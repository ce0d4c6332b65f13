"""The access log: its default format, the atoms of a format, and the interface of an application's own loggers.

The engine reads the format and writes the lines. The atoms are Gunicorn's, which follow Apache's mod_log_config.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Protocol

from ._rmeinheld import check_access_log_format

__all__ = ["ATOMS", "DEFAULT_FORMAT", "FORMS", "NOTES", "AccessLogger", "ErrorLogger", "validate_format"]

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
"""Atoms of a format, written `%(h)s`. In addition, `%({name}i)s` is a request field, `%({name}o)s` a response field and
`%({name}e)s` a key of the environ; each is '-' when absent. `%({name}n)s` is one of `NOTES`."""

NOTES: Final[dict[str, str]] = {
    "request_id": "id of the request, with the option request_id",
    "trace_id": "trace id of W3C Trace Context, with the option request_id",
    "span_id": "id of the request's span in that trace, with the option request_id",
}
"""Notes of the server, written `%({request_id}n)s`; each is '-' when absent."""

FORMS: Final[dict[str, str]] = {
    "json": "one JSON object for each request, in ASCII",
    "readable": "columns for people: time, status, duration, bytes, client, request",
}
"""Names that stand for a whole format."""


class AccessLogger(Protocol):
    """An application's own access logger, as Meinheld has it (`set_access_logger`)."""

    def access(self, environ: dict[str, Any], /) -> object:
        """Log one request, after its response.

        `environ` is the request's. The server adds Meinheld's keys to it: `STATUS_CODE` (int), `SEND_BYTES` (int, bytes
        of the body), `REQUEST_TIME` (int, milliseconds) and `LOCAL_TIME` (str). It also adds `rmeinheld.status` (str,
        such as "200 OK"), `rmeinheld.response_headers` (list of pairs of str, as sent) and `rmeinheld.request_time`
        (float, seconds).
        """


class ErrorLogger(Protocol):
    """An application's own error logger, as Meinheld has it (`set_error_logger`)."""

    def error(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None, /
    ) -> object:
        """Log an exception that the application did not catch."""


def validate_format(text: str) -> str:
    """Return `text` if it is a usable access log format or one of `FORMS`, which the engine's parser decides.

    Raises ValueError naming an unknown atom, or a conversion other than `%(atom)s` and `%%`. Gunicorn finds such a
    mistake at the first request; here it is found at the start.
    """
    check_access_log_format(text)
    return text
