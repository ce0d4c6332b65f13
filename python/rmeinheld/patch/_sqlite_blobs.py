"""Blobs of `sqlite3` that are open for writing: `close` parks while the database is locked.

Outside a transaction, SQLite commits when the last such blob of a connection is closed. If this commit fails, the data
is lost: `sqlite3.Blob.close` ignores the error. Therefore the commit is a call of its own here, which can be repeated.
"""

from __future__ import annotations

import weakref
from contextlib import suppress
from functools import partial
from sqlite3 import dbapi2
from sqlite3.dbapi2 import ProgrammingError
from types import TracebackType
from typing import Any, ClassVar

from ..coroutine import can_park
from ._sqlite_busy import Timeout

# The classes in C: this module is imported before they are replaced.
_Blob: Any = dbapi2.Blob
_Connection: Any = dbapi2.Connection
_Cursor: Any = dbapi2.Cursor
_execute: Any = _Cursor.execute


class OpenBlobs:
    """The blobs of one connection that are open for writing."""

    def __init__(self, connection: Any, timeout: Timeout) -> None:
        self._connection = connection
        self._timeout = timeout
        self._blobs: weakref.WeakSet[Blob] = weakref.WeakSet()
        self._number = 0

    def add(self, real: Any) -> Blob:
        """Return a blob around one in C."""
        blob = Blob(self, real)
        self._blobs.add(blob)
        self._number += 1
        return blob

    def close_all(self) -> None:
        """Close all blobs, as `sqlite3.Connection.close` does. Parks."""
        for blob in list(self._blobs):
            if blob.is_open:
                blob.close()

    def close(self, real: Any) -> None:
        """Close an open blob. If it is the last one and no transaction is active, commit. Parks.

        Raises sqlite3.OperationalError if the database stays locked until the timeout of the connection has passed.
        """
        connection = self._connection
        self._number -= 1
        if not can_park():
            self._timeout.wait_in_sqlite(connection)
            real.close()
        elif self._number > 0 or connection.in_transaction:
            real.close()
        else:
            self._close_and_commit(real)

    def _close_and_commit(self, real: Any) -> None:
        connection = self._connection
        cursor = _Cursor(connection)
        _execute(cursor, "BEGIN")
        try:
            real.close()
            self._timeout.call(connection, partial(_execute, cursor, "COMMIT"), commits=True)
        except BaseException:
            _Connection.rollback(connection)
            self._timeout.released(connection)
            raise


class Blob:
    """`sqlite3.Blob`, open for writing."""

    __module__ = "sqlite3"
    __slots__ = ("__weakref__", "_blobs", "_real", "is_open")
    # The class in C has items and is not iterable.
    __iter__: ClassVar[None] = None

    def __init__(self, blobs: OpenBlobs, real: Any) -> None:
        self._blobs = blobs
        self._real = real
        self.is_open = True

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """For `isinstance`: the class in C has no subclasses."""
        return _Blob

    def close(self) -> None:
        """See `sqlite3.Blob.close`."""
        if self.is_open:
            self.is_open = False
            self._blobs.close(self._real)
        else:
            self._real.close()

    def __del__(self) -> None:
        # The connection may be closed, or belong to another thread.
        with suppress(ProgrammingError):
            self.close()

    def __enter__(self) -> Blob:
        self._real.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        if not self.is_open:
            # The blob in C raises the error.
            self._real.__exit__(kind, error, traceback)
        self.close()

    def read(self, length: int = -1, /) -> bytes:
        """See `sqlite3.Blob.read`."""
        return self._real.read(length)  # type: ignore[no-any-return]

    def write(self, data: Any, /) -> None:
        """See `sqlite3.Blob.write`."""
        self._real.write(data)

    def seek(self, offset: int, origin: int = 0, /) -> None:
        """See `sqlite3.Blob.seek`."""
        self._real.seek(offset, origin)

    def tell(self) -> int:
        """See `sqlite3.Blob.tell`."""
        return self._real.tell()  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self._real)

    def __getitem__(self, key: Any, /) -> Any:
        return self._real[key]

    def __setitem__(self, key: Any, value: Any, /) -> None:
        self._real[key] = value

    def __delitem__(self, key: Any, /) -> None:
        del self._real[key]
