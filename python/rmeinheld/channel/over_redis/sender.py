"""The connection on which a process sends commands to Redis."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ... import _rmeinheld
from .link import BackOff, Connection, Link, in_background

__all__ = ["Reply", "Script", "Sender"]

_BATCH_COMMANDS: Final = 256
_BATCH_BYTES: Final = 1 << 20
"""Commands that are sent before the first answer is read. The kernel has room for their short answers."""

_IDLE_SECONDS: Final = 1.0
"""After this time without a command, the connection may have been closed by Redis."""


class Script:
    """A script of Redis, which is loaded on each new connection."""

    def __init__(self, source: str) -> None:
        self.source = source.encode()
        self.digest = b""


class Reply:
    """The answer of Redis to one command, which may not have come yet."""

    __slots__ = ("_callback", "_event", "arguments", "error", "result")

    def __init__(self, arguments: tuple[Any, ...], callback: Callable[[Any], object] | None) -> None:
        self.arguments = arguments
        self.result: Any = None
        self.error: Exception | None = None
        self._callback = callback
        self._event = _rmeinheld.Event()

    def wait(self) -> Any:
        """Wait for the answer, and return it. Raises ConnectionError if Redis has not confirmed the command.

        # Parks
        """
        self._event.wait()
        if self.error is not None:
            raise self.error
        return self.result

    def settle(self, result: Any, error: Exception | None) -> None:
        """Take the answer. The callback gets the result, or None after an error."""
        self.result, self.error = result, error
        self._event.set()
        if self._callback is not None:
            self._callback(result)


class Sender:
    """Sends commands in the order in which they come, many at a time, and gives each its answer.

    A command that has no answer when the connection breaks counts as failed. It is not sent again, since it may have
    been executed. While Redis cannot be reached, commands fail at once.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._queue: deque[Reply] = deque()
        self._wake = _rmeinheld.Event()
        self._connection: Connection | None = None
        self._used_at = 0.0
        self._scripts: dict[Script, None] = {}
        self._failure: Exception | None = None
        self._is_closed = False
        self.back_off = BackOff(link, "send")
        self.last_words: Callable[[], list[tuple[Any, ...]]] = list
        """Returns the commands that end the connection, whose answers nothing waits for."""

    def start(self) -> None:
        """Begin to send."""
        in_background(self._run)

    def submit(self, *arguments: Any, callback: Callable[[Any], object] | None = None) -> Reply:
        """Queue a command. Its first argument may be a `Script`. Does not wait."""
        reply = Reply(arguments, callback)
        if self._is_closed:
            reply.settle(None, ConnectionError("the channels of this process are closed"))
        elif self._failure is not None and time.monotonic() < self.back_off.until:
            reply.settle(None, self._link.failure(self._failure))
        else:
            self._queue.append(reply)
            self._wake.set()
            if self.is_closed():
                # By another thread, in this moment.
                self._fail_queued(ConnectionError("the channels of this process are closed"))
        return reply

    def close(self) -> None:
        """End. Commands that wait fail."""
        self._is_closed = True
        self._wake.set()

    def is_closed(self) -> bool:
        """Whether the sender has ended, or is about to."""
        return self._is_closed

    def _run(self) -> None:
        try:
            while not self._is_closed:
                self._wake.wait()
                self._wake.clear()
                while self._queue:
                    self._send_batch()
                    _rmeinheld.give_way()
        finally:
            # The end of the server, if nothing else.
            self._is_closed = True
            self._say_last_words()
            self._disconnect()
            self._fail_queued(ConnectionError("the channels of this process are closed"))

    def _send_batch(self) -> None:
        batch: list[Reply] = []
        try:
            connection = self._connected()
            self._exchange(connection, batch)
            self._used_at = time.monotonic()
            self._failure = None
            self.back_off.succeeded()
        except self._link.errors as error:
            self._disconnect()
            self._failure = error
            self.back_off.failed(error)
            failure = self._link.failure(error)
            for reply in batch:
                reply.settle(None, failure)
            self._fail_queued(failure)
        except BaseException:
            for reply in batch:
                reply.settle(None, ConnectionError("the channels of this process are closed"))
            raise

    def _connected(self) -> Connection:
        connection = self._connection
        if connection is not None and time.monotonic() - self._used_at > _IDLE_SECONDS:
            # Redis sends nothing unasked, so there is something to read only after an end.
            if self._has_ended(connection):
                self._disconnect()
                connection = None
        if connection is None:
            connection = self._connection = self._link.connect()
            for script in self._scripts:
                self._load(connection, script)
        return connection

    def _has_ended(self, connection: Connection) -> bool:
        try:
            return bool(connection.can_read(timeout=0))
        except self._link.errors:
            return True

    def _exchange(self, connection: Connection, batch: list[Reply]) -> None:
        """Send commands of the queue, moving them to `batch`, and settle those that are answered, taking them off."""
        packed: list[bytes] = []
        size = 0
        while self._queue and len(batch) < _BATCH_COMMANDS and size < _BATCH_BYTES:
            reply = self._queue[0]
            command = b"".join(connection.pack_command(*self._command(connection, reply.arguments)))
            batch.append(self._queue.popleft())
            packed.append(command)
            size += len(command)
        connection.send_packed_command([b"".join(packed)])
        again: list[Reply] = []
        batch.reverse()
        while batch:
            result, error = self._answer(connection)
            reply = batch.pop()
            if error is not None and error.startswith("NOSCRIPT"):
                # Redis has forgotten its scripts, and has not executed the command.
                self._scripts.pop(reply.arguments[0], None)
                again.append(reply)
            else:
                reply.settle(result, None if error is None else self._link.failure(Exception(error)))
        self._queue.extendleft(reversed(again))

    def _answer(self, connection: Connection) -> tuple[Any, str | None]:
        """Return the next answer, and the message of Redis if it is an error."""
        from redis.exceptions import ResponseError

        try:
            return connection.read_response(), None
        except ResponseError as error:
            name = "NOSCRIPT " if type(error).__name__ == "NoScriptError" else ""
            return None, f"{name}{error}"

    def _command(self, connection: Connection, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        script = arguments[0]
        if not isinstance(script, Script):
            return arguments
        if script not in self._scripts:
            self._load(connection, script)
            self._scripts[script] = None
        return (b"EVALSHA", script.digest, *arguments[1:])

    def _load(self, connection: Connection, script: Script) -> None:
        connection.send_command(b"SCRIPT", b"LOAD", script.source)
        script.digest = connection.read_response()

    def _say_last_words(self) -> None:
        connection = self._connection
        if connection is not None:
            try:
                for command in self.last_words():
                    connection.send_command(*command)
            except self._link.errors:
                pass  # The others notice the end later.

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _fail_queued(self, failure: Exception) -> None:
        while True:
            try:
                reply = self._queue.popleft()
            except IndexError:
                return
            reply.settle(None, failure)
