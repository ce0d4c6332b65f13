"""The access log under Gunicorn: the engine writes a plain file; everything else goes through Gunicorn's logger."""

from __future__ import annotations

from datetime import timedelta
from logging import INFO, FileHandler, Formatter, StreamHandler
from typing import TYPE_CHECKING, Any, Final

from rmeinheld._rmeinheld import access_log_line
from rmeinheld.access_log import FORMS, validate_format

from .request import Response, request_of

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

__all__ = ["Observer", "access_log_descriptor", "needs_gunicorns_logger"]

_OVERRIDDEN: Final = ("access", "atoms", "now", "_get_user", "atoms_wrapper_class")
"""Attributes of Gunicorn's logger that shape a line. A class that overrides one writes its lines itself."""


class Observer:
    """The engine's access logger: calls Gunicorn's logger if `logs`, and the hook `post_request` if `posts`."""

    def __init__(self, worker: Any, *, logs: bool, posts: bool) -> None:
        self._worker, self._logs, self._posts = worker, logs, posts
        if logs and worker.cfg.access_log_format in FORMS:
            _write_form(worker.cfg, worker.log)

    def access(self, environ: WSGIEnvironment) -> None:
        """Log one request, after its response."""
        worker, request, response = self._worker, request_of(environ), Response(environ)
        if self._logs:
            worker.log.access(response, request, environ, timedelta(seconds=environ["rmeinheld.request_time"]))
        if self._posts:
            try:
                worker.cfg.post_request(worker, request, environ, response)
            except Exception:
                worker.log.exception("Exception in post_request hook")


def _write_form(cfg: Any, log: Any) -> None:
    """Have Gunicorn's logger write the lines of a named form, which the engine renders."""
    form = cfg.access_log_format

    def atoms(response: object, request: object, environ: dict[str, Any], time: object) -> dict[str, str]:
        return {"line": access_log_line(form, environ)}

    cfg.set("access_log_format", "%(line)s")
    log.atoms, log.atoms_wrapper_class = atoms, dict


def needs_gunicorns_logger(cfg: Any, log: Any) -> bool:
    """Must Gunicorn's logger write the access log? Otherwise it is off, or a file whose lines the engine writes."""
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
    # Gunicorn ignores case in the names of environ keys; the engine does not.
    return "}e)" in cfg.access_log_format or access_log_descriptor(log) is None


def access_log_descriptor(log: Any) -> int | None:
    """Return the descriptor of the access log, or None unless its lines go unchanged to exactly one file.

    Hooks may have changed the handlers.
    """
    logger = log.access_log
    if len(logger.handlers) != 1 or logger.filters or logger.propagate or not logger.isEnabledFor(INFO):
        return None
    (handler,) = logger.handlers
    is_plain = type(handler) in (FileHandler, StreamHandler) and not handler.filters and handler.level <= INFO
    is_bare = type(handler.formatter) is Formatter and handler.formatter._fmt == "%(message)s"
    try:
        return int(handler.stream.fileno()) if is_plain and is_bare else None
    except (AttributeError, OSError, ValueError):
        # The stream has no descriptor.
        return None
