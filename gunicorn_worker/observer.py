"""What Gunicorn's hooks and loggers get to see of a request: objects with the attributes that they read."""

from __future__ import annotations

from datetime import timedelta
from logging import INFO, FileHandler, Formatter, StreamHandler
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from rmeinheld.access_log import validate_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIEnvironment

__all__ = [
    "Errors",
    "Observer",
    "Request",
    "Response",
    "access_log_descriptor",
    "is_callable_set",
    "needs_gunicorns_logger",
    "request_of",
]

_KEY = "rmeinheld.gunicorn_request"


class Request:
    """The request as `pre_request`, `post_request` and `Logger.access` take it."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.method: str = environ["REQUEST_METHOD"]
        self.uri: str = environ["RAW_URI"]
        target = self.uri
        if not target.startswith("/"):
            # Beside a path, a target may be a whole URL.
            target = urlsplit(target)._replace(scheme="", netloc="").geturl()
        self.path, _, self.query = target.partition("?")
        self.fragment = ""
        self.scheme: str = environ["wsgi.url_scheme"]
        self.version = tuple(int(number) for number in environ["SERVER_PROTOCOL"].partition("/")[2].split("."))
        self.headers: list[tuple[str, str]] = []
        """Pairs of name and value. Names are in capitals, as in Gunicorn; fields of one name are joined."""
        for key, value in environ.items():
            if key.startswith("HTTP_"):
                self.headers.append((key[5:].replace("_", "-"), value))
            elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
                self.headers.append((key.replace("_", "-"), value))
        self.trailers: list[tuple[str, str]] = []
        self.body: Any = environ["wsgi.input"]
        address = environ.get("REMOTE_ADDR", "")
        self.remote_addr: Any = (address, int(environ.get("REMOTE_PORT") or 0)) if address else ""
        """Address and port of the client; empty on a Unix socket."""
        self.peer_addr = self.remote_addr
        self.proxy_protocol_info: dict[str, Any] | None = None

    def change(self, environ: WSGIEnvironment, hook: Callable[[Request], object]) -> None:
        """Call a hook, and have the environ say what it has changed, as if the client had said it."""
        before = self._keys()
        hook(self)
        after = self._keys()
        for key in before.keys() - after.keys():
            environ.pop(key, None)
        environ.update({key: value for key, value in after.items() if value != before.get(key)})

    def _keys(self) -> dict[str, str]:
        """What of the environ follows from attributes that a hook may change."""
        keys = {
            "REQUEST_METHOD": self.method,
            "RAW_URI": self.uri,
            "QUERY_STRING": self.query,
            "PATH_INFO": unquote(self.path, "latin-1"),
            "wsgi.url_scheme": self.scheme,
        }
        for name, value in self.headers:
            key = name.upper().replace("-", "_")
            key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key
            keys[key] = f"{keys[key]},{value}" if key in keys else value
        return keys


class Response:
    """The response as `post_request` and `Logger.access` take it."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.status_code: int = environ["STATUS_CODE"]
        # Nothing was sent to a client that was gone before; loggers want a number nevertheless.
        self.status: str = environ["rmeinheld.status"] or str(self.status_code)
        self.headers: list[tuple[str, str]] = environ["rmeinheld.response_headers"]
        self.sent: int = environ["SEND_BYTES"]


def request_of(environ: WSGIEnvironment) -> Request:
    """Return the request's object: the same one for every caller, unless the application has taken it away."""
    request = environ.get(_KEY)
    if not isinstance(request, Request):
        request = environ[_KEY] = Request(environ)
    return request


class Errors:
    """`wsgi.errors`: the files of Gunicorn's error log, as its own workers have it, whichever are open at the time."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg

    def write(self, text: str) -> None:
        """Write, and flush."""
        from gunicorn.http.wsgi import WSGIErrorsWrapper

        WSGIErrorsWrapper(self._cfg).write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write all of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Do nothing: it is done at every write."""


class Observer:
    """The access logger of the engine, in Gunicorn's stead: its logger if `logs`, `post_request` if `posts`."""

    def __init__(self, worker: Any, *, logs: bool, posts: bool) -> None:
        self._worker, self._logs, self._posts = worker, logs, posts

    def access(self, environ: WSGIEnvironment) -> None:
        """Take note of one request, after its response."""
        worker, request, response = self._worker, request_of(environ), Response(environ)
        if self._logs:
            worker.log.access(response, request, environ, timedelta(seconds=environ["rmeinheld.request_time"]))
        if self._posts:
            try:
                worker.cfg.post_request(worker, request, environ, response)
            except Exception:
                worker.log.exception("Exception in post_request hook")


def is_callable_set(cfg: Any, name: str) -> bool:
    """Whether somebody has set this hook: the default is Gunicorn's own function."""
    hook = cfg.settings[name]
    return hook.get() is not None and hook.get() is not hook.default


def needs_gunicorns_logger(cfg: Any, log: Any) -> bool:
    """Whether the access log takes Gunicorn's logger. Else it is off, or a file whose lines the engine writes alike."""
    from gunicorn.glogging import Logger

    if any(getattr(type(log), name, None) is not getattr(Logger, name, None) for name in _OVERRIDDEN):
        # StatsD, or a class of the user's.
        return True
    redirects = cfg.syslog and not cfg.disable_redirect_access_to_syslog
    configs = [getattr(cfg, name, None) for name in ("logconfig", "logconfig_dict", "logconfig_json")]
    if any(configs) or redirects:
        return True
    if not cfg.accesslog:
        return False
    try:
        validate_format(cfg.access_log_format)
    except ValueError:
        return True
    # Gunicorn takes names of the environ without regard to case.
    return "}e)" in cfg.access_log_format or access_log_descriptor(log) is None


_OVERRIDDEN: Final = ("access", "atoms", "now", "_get_user", "atoms_wrapper_class")
"""What decides of a line in Gunicorn's logger."""


def access_log_descriptor(log: Any) -> int | None:
    """The descriptor of the access log, if its lines go to one file only, as they are: hooks may have changed that."""
    logger = log.access_log
    if len(logger.handlers) != 1 or logger.filters or logger.propagate or not logger.isEnabledFor(INFO):
        return None
    (handler,) = logger.handlers
    is_plain = type(handler) in (FileHandler, StreamHandler) and not handler.filters and handler.level <= INFO
    is_bare = type(handler.formatter) is Formatter and handler.formatter._fmt == "%(message)s"
    try:
        return int(handler.stream.fileno()) if is_plain and is_bare else None
    except (AttributeError, OSError, ValueError):
        # Not a file of the system.
        return None
