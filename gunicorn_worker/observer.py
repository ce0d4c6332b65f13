"""What Gunicorn's hooks and loggers get to see of a request: objects with the attributes that they read."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rmeinheld.access_log import validate_format

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["Observer", "Request", "Response", "is_callable_set", "needs_gunicorns_logger", "request_of"]

_KEY = "rmeinheld.gunicorn_request"


class Request:
    """The request as `pre_request`, `post_request` and `Logger.access` take it."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.method: str = environ["REQUEST_METHOD"]
        self.uri: str = environ["RAW_URI"]
        self.path, _, self.query = self.uri.partition("?")
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

    if getattr(type(log), "access", None) is not Logger.access or type(log).atoms is not Logger.atoms:
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
    # Gunicorn takes names of the environ without regard to case; and hooks may have added handlers or filters.
    logger = log.access_log
    return "}e)" in cfg.access_log_format or len(logger.handlers) != 1 or bool(logger.filters)
