"""Waiting for a locked SQLite database outside of SQLite, where a coroutine can park.

SQLite waits in its busy handler, while it holds the mutex of the connection: nothing can park there. So coroutines use
a connection without a busy timeout. A call that has met the lock, and so has had no effect, is repeated here until it
succeeds or the timeout of the connection has passed. While OS threads use the connection, SQLite has the timeout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from sqlite3.dbapi2 import Connection, Cursor, OperationalError, ProgrammingError, connect
from time import monotonic
from typing import Any

from .._rmeinheld import give_way
from ..coroutine import Event, can_park

BUSY = 5
"""SQLITE_BUSY, the lowest byte of the codes of its kind."""

BUSY_SNAPSHOT = 517
"""SQLITE_BUSY_SNAPSHOT: another connection has written since this transaction began to read. Waiting is no use."""

SHORTEST_PAUSE = 0.001
"""Seconds until the first repetition; the time doubles with each."""

LONGEST_PAUSE = 0.02
"""Seconds between two repetitions. Only other processes are noticed that late, see `Waiters.wake`."""

PAUSE_FOR_EACH = 0.001
"""Seconds that each waiter for a database adds to the longest pause: many of them must not keep the loop busy."""

MOST_TIMEOUTS = 10
"""Timeouts of a connection for which a call waits at most, however much other coroutines compute."""

ASK_EVERY = 0.005
"""Seconds between two questions to SQLite, each of which takes a millisecond: see `Timeout._ask`."""

ANSWERS = 3
"""Slow answers until SQLite is taken to wait: on a busy machine one may be slow for another reason."""

LONGEST_TIMEOUT = 2**31 - 1
"""Milliseconds; SQLite keeps an int."""


class Waiters:
    """The coroutines that wait for databases, in the order in which they came."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}
        """By the path of the database."""

    def number(self, database: str) -> int:
        """How many wait for a database."""
        return len(self.events.get(database, ()))

    @contextmanager
    def waiting(self, database: str, commits: bool) -> Iterator[Event]:
        """Be among those who wait. A commit comes first: until it is done, the others get nothing."""
        event = Event()
        events = self.events.setdefault(database, [])
        events.insert(0 if commits else len(events), event)
        try:
            yield event
        finally:
            events.remove(event)
            if not events:
                self.events.pop(database, None)

    def wake(self, database: str) -> None:
        """Have the first who waits for a database try again: a transaction has ended."""
        events = self.events.get(database)
        if events:
            events[0].set()


waiters = Waiters()


class WaitBudget:
    """The time for which a call may still wait for a lock.

    Delays of the loop do not count: while other coroutines compute, the holder of the lock cannot go on either. No wait
    takes longer than `MOST_TIMEOUTS` times the timeout.
    """

    def __init__(self, seconds: float) -> None:
        now = monotonic()
        self._deadline = now + seconds
        self._last_deadline = now + MOST_TIMEOUTS * seconds

    def left(self) -> float:
        """Return seconds, which are negative after the end."""
        return self._deadline - monotonic()

    def wait(self, woken: Event, seconds: float) -> None:
        """Wait for an event, and clear it. Parks."""
        started = monotonic()
        pause = max(0.0, min(seconds, self._deadline - started))
        woken.wait(pause)
        woken.clear()
        delay = max(0.0, monotonic() - started - pause)
        self._deadline = min(self._deadline + delay, self._last_deadline)


class Timeout:
    """The busy timeout of one connection."""

    __slots__ = ("_answered_after", "_database", "_milliseconds", "in_sqlite")

    def __init__(self, milliseconds: int | None, in_sqlite: bool) -> None:
        self._milliseconds = milliseconds
        """None: only SQLite knows it."""
        self.in_sqlite = in_sqlite
        """Whether SQLite waits for it."""
        self._database: str | None = None
        self._answered_after = 0.0
        """Seconds that the last question took."""

    def give(self, connection: Connection) -> None:
        """Have SQLite wait, for an OS thread, or for what cannot be repeated."""
        if not self.in_sqlite:
            _set(connection, self._milliseconds or 0)
            self.in_sqlite = True

    def take(self, connection: Connection) -> None:
        """Have SQLite not wait, for a coroutine."""
        if self.in_sqlite:
            if self._milliseconds is None:
                self._milliseconds = _ask_for(connection, "PRAGMA busy_timeout")
            _set(connection, 0)
            self.in_sqlite = False

    def forget(self, connection: Connection) -> None:
        """Let the application read or set the timeout; it is looked up afterwards."""
        self.give(connection)
        self._milliseconds = None

    def released(self, connection: Connection) -> None:
        """Have the next who waits try: the connection may have released its locks."""
        if waiters.events:
            with suppress(ProgrammingError):
                waiters.wake(self._name_of_database(connection))

    def _name_of_database(self, connection: Connection) -> str:
        if self._database is None:
            row = Cursor(connection).execute("PRAGMA database_list").fetchone()
            self._database = str(row[2])
        return self._database

    def call[T](
        self,
        connection: Connection,
        call: Callable[[], T],
        *,
        repeatable: Callable[[], bool] | None = None,
        commits: bool = False,
    ) -> T:
        """Call; in a coroutine, repeat that while the database is locked. Parks.

        `repeatable` says whether the call that has met the lock has had no effect (None: it never has). Raises what
        `call` raises.
        """
        if not can_park():
            self.give(connection)
            return call()
        give_way()
        self.take(connection)
        try:
            result = call()
        except OperationalError as error:
            if not self.waits_after(error) or not (repeatable is None or repeatable()):
                raise
        else:
            if waiters.events and not connection.in_transaction:
                self.released(connection)
            return result
        return self.repeat(connection, call, repeatable, commits)

    def waits_after(self, error: OperationalError) -> bool:
        """Whether a coroutine waits when a call has failed in this way."""
        return bool(self._milliseconds) and _is_busy(error)

    def repeat[T](
        self,
        connection: Connection,
        call: Callable[[], T],
        repeatable: Callable[[], bool] | None = None,
        commits: bool = False,
    ) -> T:
        """Repeat a call that has met a lock, until it succeeds or the timeout has passed. Parks."""
        budget = WaitBudget((self._milliseconds or 0) / 1000)
        pause = SHORTEST_PAUSE
        slow_answers = 0
        database = self._name_of_database(connection)
        with waiters.waiting(database, commits) as woken:
            while True:
                left = budget.left()
                budget.wait(woken, pause)
                # An OS thread may have used the connection meanwhile.
                self.take(connection)
                asks = slow_answers < ANSWERS and left > pause and _may_ask()
                try:
                    result = self._ask(connection, call) if asks else call()
                    break
                except OperationalError as error:
                    if not _is_busy(error) or budget.left() <= 0:
                        raise
                    if repeatable is not None and not repeatable():
                        raise
                    if asks and self._answered_after < SHORTEST_PAUSE / 2:
                        # SQLite has not waited: a lock of this connection is in the way of who holds the other.
                        raise
                    slow_answers += asks
                longest = max(LONGEST_PAUSE, PAUSE_FOR_EACH * waiters.number(database))
                pause = min(2 * pause, longest)
        if not connection.in_transaction:
            self.released(connection)
        return result

    def _ask[T](self, connection: Connection, call: Callable[[], T]) -> T:
        """Call with a timeout of one millisecond, which SQLite lets pass unless waiting may be a deadlock."""
        _set(connection, 1)
        started = monotonic()
        try:
            return call()
        finally:
            self._answered_after = monotonic() - started
            with suppress(ProgrammingError):
                _set(connection, 0)


def _is_busy(error: OperationalError) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == BUSY and code != BUSY_SNAPSHOT


def _set(connection: Connection, milliseconds: int) -> None:
    Cursor(connection).execute(f"PRAGMA busy_timeout = {milliseconds}").close()


def _ask_for(connection: Connection, question: str) -> int:
    return int(Cursor(connection).execute(question).fetchone()[0])


_next_question = 0.0


def _may_ask() -> bool:
    global _next_question
    now = monotonic()
    if now < _next_question or not _sqlite_sleeps():
        return False
    _next_question = now + ASK_EVERY
    return True


@functools.cache
def _sqlite_sleeps() -> bool:
    """Whether this SQLite waits for a millisecond when its timeout is one; some are built to wait for whole seconds."""
    options: dict[str, Any] = {"uri": True, "isolation_level": None, "timeout": 0.001}
    name = "file:/rmeinheld-sleeps?vfs=memdb"
    try:
        first, second = connect(name, **options), connect(name, **options)
    except OperationalError:
        return False
    try:
        first.execute("BEGIN EXCLUSIVE")
        started = monotonic()
        try:
            second.execute("BEGIN EXCLUSIVE")
        except OperationalError:
            return SHORTEST_PAUSE / 2 <= monotonic() - started
        return False
    finally:
        first.close()
        second.close()
