"""The request of each log record: a filter for `logging`.

    import logging

    from rmeinheld.logging import RequestFilter

    handler = logging.StreamHandler()
    handler.addFilter(RequestFilter())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s [%(request_id)s] %(message)s"))

Ids need the option `request_id`. The first filter that is made turns the search on: until then no request pays for it.
"""

from __future__ import annotations

import logging
from typing import Final

from ._rmeinheld import LoggedRequest, follow_requests, followed_request

__all__ = ["NOTHING", "LoggedRequest", "RequestFilter", "current_request"]

NOTHING: Final = "-"
"""Stands for a value that a record does not have."""


class RequestFilter(logging.Filter):
    """A filter that lets every record pass, and gives it attributes of its request.

    They are `request_id`, `trace_id`, `span_id` and `request_line` (method and target, such as "GET /path"), each `-`
    without a request or, for the ids, without the option `request_id`. A record keeps such an attribute that it has
    already.

    Add the filter to a handler. A filter of a logger does not see the records of the loggers below it.
    """

    def __init__(self, name: str = "") -> None:
        """Make a filter, and have the server follow requests from now on. `name` is that of `logging.Filter`."""
        super().__init__(name)
        follow_requests()

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes. Returns whether the record is to be logged, as `logging.Filter` decides by its name."""
        request = followed_request()
        for attribute in ("request_id", "trace_id", "span_id", "request_line"):
            if not hasattr(record, attribute):
                setattr(record, attribute, getattr(request, attribute, None) or NOTHING)
        return bool(super().filter(record))


def current_request() -> LoggedRequest | None:
    """Return the request that the caller's code works for, or None.

    It is known in the coroutine of the request, in `offload`, and in coroutines that it has spawned, even after its
    end. A thread belongs to no request, because threads of a pool work for many.

    The first call has the server follow requests. It finds those that begin after it.
    """
    follow_requests()
    return followed_request()
