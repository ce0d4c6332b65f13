"""Connections to Redis, made by redis-py, and the coroutines that use them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from ...channel_options import without_password
from ...error_log import LOGGER_NAME
from ..subscriptions import spawn_or_thread

__all__ = ["BackOff", "Connection", "Link", "in_background"]

ANSWER_SECONDS: Final = 10.0
"""The longest wait for Redis to connect or to answer, unless the URL has its own: `?socket_timeout=`."""

_logger: Final = logging.getLogger(LOGGER_NAME)


class Connection(Protocol):
    """The part of redis-py's `Connection` that is used. Each call but `pack_command` raises redis-py's exceptions."""

    _sock: Any

    def connect(self) -> None:
        """Connect, and give the password."""

    def disconnect(self) -> None:
        """Close the connection. Raises nothing."""

    def can_read(self, timeout: float = 0) -> bool:
        """Whether a part of an answer has arrived, or the end."""

    def read_response(self) -> Any:
        """Return the next answer. Raises ResponseError if that is an error."""

    def pack_command(self, *arguments: Any) -> list[bytes]:
        """Return a command as it is sent."""

    def send_packed_command(self, command: list[bytes]) -> None:
        """Send commands."""

    def send_command(self, *arguments: Any) -> None:
        """Send a command."""


class Link:
    """The way to one Redis. `url` is that of redis-py. `origin` names the place of the URL in messages.

    Raises ImportError without redis-py, and ValueError for a URL that redis-py does not take. Both name `origin`.
    """

    def __init__(self, url: str, origin: str) -> None:
        self.title = without_password(url)
        """The URL without its password."""
        self.origin = origin
        try:
            import redis
        except ImportError as error:
            raise ImportError(
                f"{origin} is {self.title!r}, which needs redis-py, and that cannot be imported ({error}): "
                "pip install redis"
            ) from error
        try:
            pool = redis.ConnectionPool.from_url(url, protocol=2)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{origin} {self.title!r} is no URL of Redis: {error}. It looks like redis://HOST:6379/0, "
                "rediss://HOST (TLS) or unix:///PATH"
            ) from None
        settings = pool.connection_kwargs
        settings.setdefault("socket_timeout", ANSWER_SECONDS)
        settings.setdefault("socket_connect_timeout", settings["socket_timeout"])
        # Bytes come as they are, and no command is sent twice.
        settings.update(decode_responses=False, health_check_interval=0, retry=_no_retry())
        self._pool = pool
        self.errors: tuple[type[Exception], ...] = (redis.RedisError, OSError)
        """The exceptions that a connection raises."""
        self.database = int(settings.get("db") or 0)
        self.password = str(settings.get("password") or unquote(urlsplit(url).password or ""))

    def connect(self) -> Connection:
        """Return a new connection. Raises one of `errors`.

        # Parks
        """
        connection: Connection = self._pool.connection_class(**self._pool.connection_kwargs)
        try:
            connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        return connection

    def failure(self, error: BaseException) -> ConnectionError:
        """Return the exception for an application whose message did not reach Redis."""
        return ConnectionError(f"{self.origin} {self.title}: {error}")


def _no_retry() -> Any:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Retry(NoBackoff(), 0)


class BackOff:
    """The pauses between attempts to reach Redis, from 0.1 s to 5 s. The log has a line when they begin and end."""

    FIRST_SECONDS: Final = 0.1
    LONGEST_SECONDS: Final = 5.0

    def __init__(self, link: Link, purpose: str) -> None:
        self._link = link
        self._purpose = purpose
        self._pause = 0.0
        self._began = 0.0
        self.until = 0.0
        """Time of the next attempt, as `time.monotonic`."""

    def failed(self, error: BaseException) -> float:
        """Note a failure, and return the pause before the next attempt."""
        now = time.monotonic()
        if not self._pause:
            self._began = now
            _logger.warning(
                "Channels over Redis (%s %s) cannot %s: %s. It is tried again",
                self._link.origin,
                self._link.title,
                self._purpose,
                str(error).rstrip("."),
            )
        self._pause = min(max(self.FIRST_SECONDS, self._pause * 2), self.LONGEST_SECONDS)
        self.until = now + self._pause
        return self._pause

    def succeeded(self) -> None:
        """Note that Redis answers."""
        if self._pause:
            _logger.warning(
                "Channels over Redis (%s) %s again, after %.1f s",
                self._link.title,
                self._purpose,
                time.monotonic() - self._began,
            )
        self._pause = self.until = 0.0

    def retry_now(self) -> None:
        """Make the next attempt at once."""
        self.until = 0.0


def in_background(call: Callable[[], object]) -> None:
    """Run `call` in a coroutine; on an OS thread if redis-py would block the coroutines there."""
    from ...patch import get_original, is_patched

    def run() -> None:
        try:
            call()
        except Exception:
            _logger.exception("Channels over Redis have ended: restart this process")

    if is_patched("socket") and is_patched("select") and is_patched("ssl"):
        spawn_or_thread(run)
    else:
        get_original("_thread", "start_new_thread")(run, ())
