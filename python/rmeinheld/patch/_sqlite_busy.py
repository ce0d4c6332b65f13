"""Waits for a locked SQLite database outside SQLite, where a coroutine can park.

SQLite waits in its busy handler and holds the mutex of the connection meanwhile, so a coroutine cannot park there.
Coroutines therefore use a connection without a busy timeout. A call that fails because of the lock has no effect. It is
repeated here until it succeeds, or until the timeout of the connection has passed. For OS threads, SQLite itself waits.
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
"""SQLITE_BUSY, the lowest byte of the error codes of this kind."""

BUSY_SNAPSHOT = 517
"""SQLITE_BUSY_SNAPSHOT: another connection has written since this transaction began to read. A wait cannot help."""

SHORTEST_PAUSE = 0.001
"""Seconds before the first repetition; each further pause is twice as long."""

LONGEST_PAUSE = 0.02
"""Seconds between two repetitions at most. Only locks of other processes need them; see `Waiters.wake`."""

PAUSE_FOR_EACH = 0.001
"""Seconds that each waiter adds to the longest pause, so that many waiters do not keep the loop busy."""

MOST_TIMEOUTS = 10
"""The longest wait of a call, in timeouts of its connection, however much other coroutines compute."""

CHECK_EVERY = 0.005
"""Seconds between two deadlock checks, each of which takes a millisecond; see `Timeout._check_for_deadlock`."""

SLOW_CHECKS = 3
"""Checks that have to be slow before a deadlock is ruled out. On a busy machine one may be slow by chance."""

LONGEST_TIMEOUT = 2**31 - 1
"""Milliseconds: the largest int, in which SQLite stores the timeout."""


class Waiters:
    """The coroutines that wait for databases, in the order in which they came."""

    def __init__(self) -> None:
        self.events: dict[str, list[Event]] = {}
        """The events of the waiters, by the path of the database."""

    def number(self, database: str) -> int:
        """Return the number of waiters for a database."""
        return len(self.events.get(database, ()))

    @contextmanager
    def waiting(self, database: str, commits: bool) -> Iterator[Event]:
        """Stand in line for a database. A commit goes first: no other call can succeed until it is done."""
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
        """Make the first waiter for a database try again, because a transaction has ended."""
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


def _always() -> bool:
    return True


class Timeout:
    """The busy timeout of one connection."""

    __slots__ = ("_check_seconds", "_database", "_milliseconds", "in_sqlite")

    def __init__(self, milliseconds: int | None, in_sqlite: bool) -> None:
        self._milliseconds = milliseconds
        """The timeout; None if only SQLite knows it."""
        self.in_sqlite = in_sqlite
        """Whether SQLite itself waits."""
        self._database: str | None = None
        self._check_seconds = 0.0
        """Seconds that the last deadlock check took."""

    def wait_in_sqlite(self, connection: Connection) -> None:
        """Make SQLite wait, for an OS thread or a call that cannot be repeated."""
        if not self.in_sqlite:
            _set(connection, self._milliseconds or 0)
            self.in_sqlite = True

    def wait_in_coroutine(self, connection: Connection) -> None:
        """Make SQLite fail at once, for a coroutine, which waits here."""
        if self.in_sqlite:
            if self._milliseconds is None:
                self._milliseconds = _ask_for(connection, "PRAGMA busy_timeout")
            _set(connection, 0)
            self.in_sqlite = False

    def read_again(self, connection: Connection) -> None:
        """Let the application read or set the timeout in SQLite. It is read again afterwards."""
        self.wait_in_sqlite(connection)
        self._milliseconds = None

    def released(self, connection: Connection) -> None:
        """Make the next waiter try, because the connection may have released its locks."""
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
        repeatable: Callable[[], bool] = _always,
        commits: bool = False,
    ) -> T:
        """Call, and in a coroutine repeat the call while the database is locked. Parks.

        `repeatable` says, after a call that failed because of the lock, whether it had no effect. Raises the errors of
        `call`.
        """
        if not can_park():
            self.wait_in_sqlite(connection)
            return call()
        give_way()
        self.wait_in_coroutine(connection)
        try:
            result = call()
        except OperationalError as error:
            if not self.waits_after(error) or not repeatable():
                raise
        else:
            if waiters.events and not connection.in_transaction:
                self.released(connection)
            return result
        return self.repeat(connection, call, repeatable, commits)

    def waits_after(self, error: OperationalError) -> bool:
        """Whether a coroutine waits after a call that has failed with this error."""
        return bool(self._milliseconds) and _is_busy(error)

    def repeat[T](
        self,
        connection: Connection,
        call: Callable[[], T],
        repeatable: Callable[[], bool] = _always,
        commits: bool = False,
    ) -> T:
        """Repeat a call that failed because of the lock, until it succeeds or the timeout has passed. Parks."""
        budget = WaitBudget((self._milliseconds or 0) / 1000)
        pause = SHORTEST_PAUSE
        slow_checks = 0
        database = self._name_of_database(connection)
        with waiters.waiting(database, commits) as woken:
            while True:
                left = budget.left()
                budget.wait(woken, pause)
                # An OS thread may have used the connection meanwhile.
                self.wait_in_coroutine(connection)
                checks = slow_checks < SLOW_CHECKS and left > pause and _may_check()
                try:
                    result = self._check_for_deadlock(connection, call) if checks else call()
                    break
                except OperationalError as error:
                    if not _is_busy(error) or budget.left() <= 0 or not repeatable():
                        raise
                    if checks and self._check_seconds < SHORTEST_PAUSE / 2:
                        # SQLite has not waited: the holder of the lock waits for a lock of this connection.
                        raise
                    slow_checks += checks
                longest = max(LONGEST_PAUSE, PAUSE_FOR_EACH * waiters.number(database))
                pause = min(2 * pause, longest)
        if not connection.in_transaction:
            self.released(connection)
        return result

    def _check_for_deadlock[T](self, connection: Connection, call: Callable[[], T]) -> T:
        """Call with a timeout of one millisecond. SQLite waits for as long, unless the wait may be a deadlock."""
        _set(connection, 1)
        started = monotonic()
        try:
            return call()
        finally:
            self._check_seconds = monotonic() - started
            with suppress(ProgrammingError):
                _set(connection, 0)


def _is_busy(error: OperationalError) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF == BUSY and code != BUSY_SNAPSHOT


def _set(connection: Connection, milliseconds: int) -> None:
    Cursor(connection).execute(f"PRAGMA busy_timeout = {milliseconds}").close()


def _ask_for(connection: Connection, question: str) -> int:
    return int(Cursor(connection).execute(question).fetchone()[0])


_next_check = 0.0


def _may_check() -> bool:
    global _next_check
    now = monotonic()
    if now < _next_check or not _sqlite_sleeps():
        return False
    _next_check = now + CHECK_EVERY
    return True


@functools.cache
def _sqlite_sleeps() -> bool:
    """Whether this SQLite waits for a millisecond if its timeout is one. Some are built to wait for whole seconds."""
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
