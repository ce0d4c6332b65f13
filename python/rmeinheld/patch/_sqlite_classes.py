"""Connections and cursors of `sqlite3` whose waits for a locked database park the coroutine.

They are subclasses, because the methods of the classes in C cannot be replaced. A call is repeated only if it had no
effect. Therefore the statements of a script, and the parameter sets of an `executemany`, are executed one by one.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from sqlite3 import dbapi2
from sqlite3.dbapi2 import OperationalError, ProgrammingError
from types import TracebackType
from typing import Any

from .._rmeinheld import give_way
from ..coroutine import can_park, sleep
from ._sqlite_blobs import OpenBlobs
from ._sqlite_busy import BUSY, LONGEST_TIMEOUT, Timeout, waiters

# The classes in C: this module is imported before they are replaced.
_Connection: Any = dbapi2.Connection
_Cursor: Any = dbapi2.Cursor
_connect: Any = dbapi2.connect
_execute: Any = _Cursor.execute
_next: Any = _Cursor.__next__

LEGACY: int = dbapi2.LEGACY_TRANSACTION_CONTROL
LOCKED = 6
"""SQLITE_LOCKED."""

DEFAULT_TIMEOUT = 5.0
"""Seconds, as in `sqlite3.connect`."""

REMEMBERED = 4_000
"""Characters of the longest statement whose kind is remembered."""


class Connection(_Connection):  # type: ignore[misc]
    """`sqlite3.Connection`."""

    __module__ = "sqlite3"
    _rmeinheld_timeout = Timeout(None, in_sqlite=True)
    """The timeout of a connection whose `__init__` has not run. It has no database."""
    _rmeinheld_blobs: OpenBlobs | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        timeout = args[1] if len(args) > 1 else kwargs.get("timeout", DEFAULT_TIMEOUT)
        milliseconds = _milliseconds(timeout) if can_park() else None
        if milliseconds is None:
            super().__init__(*args, **kwargs)
            self._rmeinheld_timeout = Timeout(None, in_sqlite=True)
            return
        if len(args) > 1:
            args = (args[0], 0.0, *args[2:])
        else:
            kwargs["timeout"] = 0.0
        super().__init__(*args, **kwargs)
        self._rmeinheld_timeout = Timeout(milliseconds, in_sqlite=False)

    def _parking[T](self, call: Callable[[], T], *, commits: bool = False) -> T:
        return self._rmeinheld_timeout.call(self, call, commits=commits)

    def cursor(self, factory: Any = _Cursor) -> Any:
        """See `sqlite3.Connection.cursor`."""
        return super().cursor(_parking_factory(factory, _Cursor, Cursor))

    def execute(self, *args: Any) -> Any:
        """See `sqlite3.Connection.execute`."""
        return super().cursor(Cursor).execute(*args)

    def executemany(self, *args: Any) -> Any:
        """See `sqlite3.Connection.executemany`."""
        return super().cursor(Cursor).executemany(*args)

    def executescript(self, *args: Any) -> Any:
        """See `sqlite3.Connection.executescript`."""
        return super().cursor(Cursor).executescript(*args)

    def commit(self) -> None:
        """See `sqlite3.Connection.commit`. A commit that fails because of a lock has no effect."""
        self._parking(super().commit, commits=True)

    def rollback(self) -> None:
        """See `sqlite3.Connection.rollback`."""
        super().rollback()
        self._rmeinheld_timeout.released(self)

    def close(self) -> None:
        """See `sqlite3.Connection.close`."""
        if self._rmeinheld_blobs is not None:
            self._rmeinheld_blobs.close_all()
        # This call looks up the name of the database, which the second call needs.
        self._rmeinheld_timeout.released(self)
        super().close()
        self._rmeinheld_timeout.released(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> bool:
        """Commit, or roll back if there is an exception. A commit that fails is rolled back."""
        if kind is None and error is None and traceback is None:
            try:
                # The class in C does not call an overridden `commit` either.
                Connection.commit(self)
            except BaseException:
                _Connection.rollback(self)
                self._rmeinheld_timeout.released(self)
                raise
            return False
        ended = bool(super().__exit__(kind, error, traceback))
        self._rmeinheld_timeout.released(self)
        return ended

    def blobopen(self, *args: Any, readonly: bool = False, **kwargs: Any) -> Any:
        """See `sqlite3.Connection.blobopen`."""
        blob = self._parking(partial(super().blobopen, *args, readonly=readonly, **kwargs))
        if readonly:
            return blob
        if self._rmeinheld_blobs is None:
            self._rmeinheld_blobs = OpenBlobs(self, self._rmeinheld_timeout)
        return self._rmeinheld_blobs.add(blob)

    def serialize(self, **kwargs: Any) -> bytes:
        """See `sqlite3.Connection.serialize`. Its error does not say whether a lock was the reason, so SQLite waits."""
        self._rmeinheld_timeout.wait_in_sqlite(self)
        return bytes(super().serialize(**kwargs))

    def backup(
        self,
        target: Any,
        *,
        pages: int = -1,
        progress: Callable[[int, int, int], object] | None = None,
        name: str = "main",
        sleep: float = 0.250,
    ) -> None:
        """See `sqlite3.Connection.backup`. Parks while one of the databases is locked, and between two steps."""
        if not can_park() or not (progress is None or callable(progress)):
            self._rmeinheld_timeout.wait_in_sqlite(self)
            super().backup(target, pages=pages, progress=progress, name=name, sleep=sleep)
            return
        for connection in (self, target):
            if isinstance(connection, Connection):
                connection._rmeinheld_timeout.wait_in_coroutine(connection)
        super().backup(target, pages=pages, progress=partial(_step_of_backup, progress, sleep), name=name, sleep=0)

    @property
    def isolation_level(self) -> Any:
        """See `sqlite3.Connection.isolation_level`. Setting None commits."""
        return _Connection.isolation_level.__get__(self)

    @isolation_level.setter
    def isolation_level(self, level: Any) -> None:
        self._parking(partial(_Connection.isolation_level.__set__, self, level), commits=True)

    @property
    def autocommit(self) -> Any:
        """See `sqlite3.Connection.autocommit`. Setting True commits."""
        return _Connection.autocommit.__get__(self)

    @autocommit.setter
    def autocommit(self, value: Any) -> None:
        self._parking(partial(_Connection.autocommit.__set__, self, value), commits=True)


class Cursor(_Cursor):  # type: ignore[misc]
    """`sqlite3.Cursor`."""

    __module__ = "sqlite3"
    _rmeinheld_rows: deque[Any] | None = None
    """Rows that were read in advance; see `_execute_and_read`."""

    def execute(self, sql: Any, parameters: Any = (), /) -> Any:
        """See `sqlite3.Cursor.execute`."""
        if self._rmeinheld_rows is not None:
            self._rmeinheld_rows = None
        connection = self.connection
        timeout: Timeout | None = getattr(connection, "_rmeinheld_timeout", None)
        if timeout is None:
            return _execute(self, sql, parameters)
        kind = _kind(sql)
        if kind is PLAIN:
            # A faster `Timeout.call`, for the most frequent call.
            if timeout.in_sqlite or not can_park() or waiters.events:
                return timeout.call(connection, partial(_execute, self, sql, parameters))
            give_way()
            try:
                return _execute(self, sql, parameters)
            except OperationalError as error:
                if not timeout.waits_after(error):
                    raise
            return timeout.repeat(connection, partial(_execute, self, sql, parameters))
        return self._execute_special(connection, timeout, kind, partial(_execute, self, sql, parameters), sql)

    def _execute_special(
        self, connection: Connection, timeout: Timeout, kind: object, call: Callable[[], Any], sql: str
    ) -> Any:
        if kind is SETS_TIMEOUT:
            timeout.read_again(connection)
            return call()
        if kind is CHECKPOINT and can_park():
            _checkpoint(connection, timeout, sql)
        elif kind is RETURNING and can_park():
            call = partial(self._execute_and_read, call)
        return timeout.call(connection, call, commits=kind is COMMIT)

    def _execute_and_read(self, call: Callable[[], Any]) -> Any:
        """Execute a statement that changes a table and returns rows, and read the rows if no transaction is active.

        Such a statement commits when its last row is read. If this commit fails because of a lock, SQLite undoes the
        change.
        """
        result = call()
        if not self.connection.in_transaction:
            self._rmeinheld_rows = deque(super().fetchall())
        return result

    def executemany(self, sql: Any, parameters: Any, /) -> Any:
        """See `sqlite3.Cursor.executemany`."""
        self._rmeinheld_rows = None
        timeout = _timeout_of(self)
        if timeout is None or not can_park():
            if timeout is not None:
                timeout.wait_in_sqlite(self.connection)
            return super().executemany(sql, parameters)
        sets = _Sets(parameters)
        connection = self.connection
        if _commits_by_itself(connection) and isinstance(sql, str) and CHANGES.match(sql):
            return _each_in_a_transaction(connection, timeout, partial(super().executemany, sql), sets)

        def call() -> Any:
            sets.rewind()
            return super(Cursor, self).executemany(sql, sets)

        return timeout.call(connection, call, repeatable=lambda: sets.number <= 1)

    def executescript(self, sql_script: Any, /) -> Any:
        """See `sqlite3.Cursor.executescript`. Statements are executed one by one."""
        self._rmeinheld_rows = None
        timeout = _timeout_of(self)
        sets_timeout = _kind(sql_script) is SETS_TIMEOUT or "busy_timeout" in str(sql_script).lower()
        if timeout is None or not can_park() or sets_timeout or type(sql_script) is not str or "\0" in sql_script:
            if timeout is not None:
                (timeout.read_again if sets_timeout else timeout.wait_in_sqlite)(self.connection)
            return super().executescript(sql_script)
        connection = self.connection
        legacy = connection.autocommit == LEGACY
        if legacy:
            timeout.call(connection, partial(_Connection.commit, connection), commits=True)
            # Otherwise each statement would commit the transaction that the previous one has begun.
            _Connection.autocommit.__set__(connection, True)
        try:
            super().executescript("")
            for statement in _statements(sql_script):
                timeout.call(connection, partial(super().executescript, statement))
        finally:
            if legacy:
                with suppress(ProgrammingError):
                    _Connection.autocommit.__set__(connection, LEGACY)
        return self

    def fetchone(self) -> Any:
        """See `sqlite3.Cursor.fetchone`."""
        return self._rmeinheld_rows.popleft() if self._rmeinheld_rows else super().fetchone()

    def fetchmany(self, *args: Any, **kwargs: Any) -> list[Any]:
        """See `sqlite3.Cursor.fetchmany`."""
        rows = self._rmeinheld_rows
        if not rows:
            return super().fetchmany(*args, **kwargs)  # type: ignore[no-any-return]
        size: Any = args[0] if args else kwargs.get("size", self.arraysize)
        return [rows.popleft() for _ in range(min(size, len(rows)) if size > 0 else len(rows))]

    def fetchall(self) -> list[Any]:
        """See `sqlite3.Cursor.fetchall`."""
        rows, self._rmeinheld_rows = self._rmeinheld_rows, None
        return list(rows) if rows else super().fetchall()

    def __next__(self) -> Any:
        return self._rmeinheld_rows.popleft() if self._rmeinheld_rows else _next(self)

    def close(self) -> None:
        """See `sqlite3.Cursor.close`."""
        self._rmeinheld_rows = None
        super().close()


def connect(*args: Any, **kwargs: Any) -> Any:
    """See `sqlite3.connect`. A factory that was derived from `sqlite3.Connection` before the patch parks too."""
    if len(args) > 5:
        args = (*args[:5], _parking_factory(args[5], _Connection, Connection), *args[6:])
    else:
        kwargs["factory"] = _parking_factory(kwargs.get("factory", Connection), _Connection, Connection)
    return _connect(*args, **kwargs)


connect.__module__ = "_sqlite3"


def _parking_factory(factory: Any, before: type, after: type) -> Any:
    """Return a factory of the same objects that park."""
    if isinstance(factory, type) and issubclass(factory, before) and not issubclass(factory, after):
        early: Any = factory
        return after if factory is before else _derived(early, after)
    return factory


@functools.cache
def _derived(early: Any, after: Any) -> Any:
    """Return a subclass of a class from before the patch. Its `super()` finds the methods that park."""
    return type(early)(early.__name__, (early, after), {"__slots__": (), "__module__": early.__module__})


def _milliseconds(timeout: object) -> int | None:
    """Convert seconds to the milliseconds of SQLite; None for values that `sqlite3.connect` refuses or converts."""
    if not isinstance(timeout, int | float) or not -LONGEST_TIMEOUT < timeout * 1000 < LONGEST_TIMEOUT:
        return None
    return max(0, int(timeout * 1000))


def _timeout_of(cursor: Cursor) -> Timeout | None:
    """Return the timeout of a cursor's connection; None for a connection that was made before the patch."""
    return getattr(cursor.connection, "_rmeinheld_timeout", None)


def _commits_by_itself(connection: Connection) -> bool:
    """Whether each statement is a transaction of its own."""
    if connection.in_transaction:
        return False
    return connection.autocommit is True or (connection.autocommit == LEGACY and connection.isolation_level is None)


# --- kinds of statements ---------------------------------------------------------------------------------------------

PLAIN, SETS_TIMEOUT, CHECKPOINT, RETURNING, COMMIT = (object() for _ in range(5))

BLANK = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*"
"""A pattern of spaces and comments."""

CHANGES = re.compile(rf"{BLANK}(?:INSERT|UPDATE|DELETE|REPLACE|WITH)\b", re.IGNORECASE | re.DOTALL)
ENDS = re.compile(rf"{BLANK}(?:COMMIT|END)\b", re.IGNORECASE | re.DOTALL)
PRAGMA = re.compile(rf"{BLANK}(?:EXPLAIN\s+)?PRAGMA\b", re.IGNORECASE | re.DOTALL)
WAITING_CHECKPOINT = re.compile(r"\bwal_checkpoint\s*[(=]\s*['\"]?(?:full|restart|truncate)", re.IGNORECASE)
TOKEN = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|;", re.DOTALL)


def _kind(sql: object) -> object:
    """Return the kind of a statement, which says how to execute it."""
    if type(sql) is not str:
        return PLAIN
    return _kind_of(sql) if len(sql) > REMEMBERED else _remembered_kind(sql)


def _kind_of(sql: str) -> object:
    if PRAGMA.match(sql):
        if "busy_timeout" in sql.lower():
            return SETS_TIMEOUT
        return CHECKPOINT if WAITING_CHECKPOINT.search(sql) else PLAIN
    if ("returning" in sql.lower()) and CHANGES.match(sql):
        return RETURNING
    return COMMIT if ENDS.match(sql) else PLAIN


_remembered_kind = functools.lru_cache(maxsize=256)(_kind_of)


def _statements(script: str) -> Iterator[str]:
    """Split a script into statements. An incomplete rest is the last one, in which SQLite finds the error."""
    start = 0
    for token in TOKEN.finditer(script):
        if token.group() == ";" and dbapi2.complete_statement(script[start : token.end()]):
            yield script[start : token.end()]
            start = token.end()
    if script[start:].strip():
        yield script[start:]


# --- calls of several transactions -----------------------------------------------------------------------------------


class _Sets:
    """The parameter sets of an `executemany`. The last one can be repeated."""

    def __init__(self, parameters: Iterable[Any]) -> None:
        self._source = iter(parameters)
        self._again: list[Any] = []
        self._last: Any = None
        self.number = 0
        """The number of sets that were returned since the call began."""

    def __iter__(self) -> _Sets:
        return self

    def __next__(self) -> Any:
        self._last = self._again.pop() if self._again else next(self._source)
        self.number += 1
        return self._last

    def rewind(self) -> None:
        """Begin again with the set that was returned last, if there is one."""
        if self.number:
            self._again.append(self._last)
            self.number = 0


def _each_in_a_transaction(
    connection: Connection, timeout: Timeout, execute: Callable[[Iterator[Any]], Any], sets: Iterator[Any]
) -> Any:
    """Execute each set in a transaction of its own, which is begun and ended outside the call in C."""
    stepping = False

    def run(statement: str) -> None:
        call = partial(_Connection.execute, connection, statement)
        timeout.call(connection, call, commits=statement == "COMMIT")

    def each() -> Iterator[Any]:
        nonlocal stepping
        for parameters in sets:
            run("BEGIN IMMEDIATE")
            stepping = True
            yield parameters
            stepping = False
            run("COMMIT")

    try:
        return execute(each())
    except BaseException:
        if connection.in_transaction:
            # Changes of the failed set stay, as without the patch. There are some only with OR FAIL.
            try:
                run("COMMIT" if stepping else "ROLLBACK")
            except BaseException:
                _Connection.rollback(connection)
                raise
        raise


def _checkpoint(connection: Connection, timeout: Timeout, sql: str) -> None:
    """Repeat a checkpoint until it succeeds or the timeout has passed. The caller then executes it for the result."""
    cursor = _Cursor(connection)

    def attempt() -> None:
        row = cursor.execute(sql).fetchone()
        if row is not None and row[0] == 1:
            error = OperationalError("database is locked")
            error.sqlite_errorcode = BUSY
            raise error

    try:
        timeout.call(connection, attempt)
    except OperationalError as error:
        if error.sqlite_errorcode != BUSY:
            raise
    finally:
        cursor.close()


def _step_of_backup(
    progress: Callable[[int, int, int], object] | None, seconds: float, status: int, remaining: int, total: int
) -> None:
    """Call `progress` between two steps of a backup, and then sleep. SQLite holds no mutex at this time. Parks."""
    if progress is not None:
        progress(status, remaining, total)
    if status & 0xFF in (BUSY, LOCKED):
        sleep(seconds)
    elif remaining:
        sleep(0)
