"""sqlite3 under the patch: calls that wait for a locked database park, and no change is made twice."""

from __future__ import annotations

import pytest

from serving import RunScript

HEADER = """
from rmeinheld import patch
patch.patch_all()
import sqlite3, threading, time
from rmeinheld.coroutine import Event, Timeout, offload, sleep, spawn, timeout
from side_by_side import main, together

def connect(**options):
    return sqlite3.connect("data.sqlite", **options)

def numbers():
    with connect(timeout=0) as connection:
        return [number for number, in connection.execute("SELECT number FROM numbers ORDER BY rowid")]

def taken(function, *arguments):
    started = time.monotonic()
    try:
        return function(*arguments), time.monotonic() - started
    except sqlite3.OperationalError as error:
        return error.sqlite_errorname, time.monotonic() - started

def write(connection, number):
    return connection.execute("INSERT INTO numbers VALUES (?)", (number,))

def hold(seconds, statement="BEGIN IMMEDIATE"):
    '''Hold a lock in a coroutine, which has it when this returns.'''
    held = Event()
    def holding():
        connection = connect(isolation_level=None)
        connection.execute(statement)
        if statement == "BEGIN":
            connection.execute("SELECT COUNT(*) FROM numbers").fetchone()
        held.set()
        sleep(seconds)
        connection.execute("COMMIT")
        connection.close()
    coroutine = spawn(holding)
    assert held.wait(5)
    return coroutine

with connect() as connection:
    connection.execute("CREATE TABLE numbers (number UNIQUE)")
connection.close()
"""


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_twenty_transactions_that_wait_inside_are_all_done_and_hold_up_no_other_coroutine(
    script: RunScript, mode: str
) -> None:
    output = script(
        f"""{HEADER}
connect(isolation_level=None).execute("PRAGMA journal_mode = {mode}").close()

def implicit(number):
    connection = connect()
    with connection:
        write(connection, number)
        sleep(0.05)
    connection.close()

def explicit(number):
    connection = connect(isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    write(connection, number)
    sleep(0.05)
    connection.execute("COMMIT")

pauses = []

def tick():
    while True:
        before = time.monotonic()
        sleep(0.005)
        pauses.append(time.monotonic() - before - 0.005)

def test():
    spawn(tick)
    started = time.monotonic()
    together(implicit, range(20))
    together(explicit, range(20, 40))
    assert sorted(numbers()) == list(range(40))
    # One after the other they take 2 s. The timeout of each is 5 s.
    assert time.monotonic() - started < 20
    p99 = sorted(pauses)[int(len(pauses) * 0.99)]
    return p99 < 0.2 or p99

main(test)
"""
    )
    assert output == "True\n"


def test_sqlite_decides_whether_a_wait_may_be_a_deadlock(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def reads_and_then_writes():
    # The holder of the lock cannot commit while this connection reads. SQLite fails at once, whatever the timeout.
    connection = connect(timeout=20, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM numbers").fetchall()
    holder = hold(0.3)
    outcome = taken(write, connection, 1)
    connection.execute("ROLLBACK")
    return outcome, holder

def writes_while_it_reads():
    connection = connect(timeout=20, isolation_level=None)
    rows = connection.execute("SELECT number FROM numbers")
    next(rows)
    holder = hold(0.3)
    outcome = taken(write, connection, 2)
    rows.close()
    return outcome, holder

def has_read_what_was_changed():
    connection = connect(timeout=20, isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    connection.execute("BEGIN")
    connection.execute("SELECT * FROM numbers").fetchall()
    write(connect(isolation_level=None), 3)
    return taken(write, connection, 4), None

def test():
    connect(isolation_level=None).executemany("INSERT INTO numbers VALUES (?)", [(-1,), (-2,)])
    for function in reads_and_then_writes, writes_while_it_reads, has_read_what_was_changed:
        (name, seconds), holder = function()
        print(function.__name__, name, seconds < 10 or seconds)
        if holder is not None:
            assert holder.join(10)
            holder.result

main(test)
"""
    )
    assert output.splitlines() == [
        "reads_and_then_writes SQLITE_BUSY True",
        "writes_while_it_reads SQLITE_BUSY True",
        "has_read_what_was_changed SQLITE_BUSY_SNAPSHOT True",
        "None",
    ]


def test_the_timeout_is_that_of_the_connection_or_of_the_pragma(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def seconds_of(connection):
    name, seconds = taken(write, connection, 1)
    assert name == "SQLITE_BUSY", name
    return seconds

def test():
    outside = connect_outside
    assert connect().execute("PRAGMA busy_timeout").fetchone() == (5000,)
    holder = hold(60)
    assert seconds_of(connect(timeout=0)) < 2
    assert 0.3 <= seconds_of(connect(timeout=0.3)) < 4
    connection = connect(timeout=0)
    assert connection.execute("/* set */ pragma Busy_Timeout = 200").fetchone() == (200,)
    assert 0.2 <= seconds_of(connection) < 4
    assert connection.execute("PRAGMA busy_timeout").fetchone() == (200,)
    connection.executescript("PRAGMA busy_timeout = 0")
    assert seconds_of(connection) < 2
    # Only SQLite knows the timeout of this connection.
    assert 0.1 <= seconds_of(outside) < 4
    assert outside.execute("PRAGMA busy_timeout").fetchone() == (100,)
    holder.kill()
    return holder.join(10)

connect_outside = connect(timeout=0.1, check_same_thread=False)
main(test)
"""
    )
    assert output == "True\n"


def test_os_threads_wait_in_sqlite(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
shared = []

def test():
    connection = connect(check_same_thread=False)
    shared.append(connection)
    with connection:
        write(connection, 1)
    # SQLite waits on an OS thread. Afterwards the coroutines of the connection park again.
    holder = hold(0.4)
    with connection:
        offload(write, connection, 2)
    assert holder.join(10)
    holder = hold(0.4)
    with connection:
        write(connection, 3)
    return holder.join(10)

main(test)
holder = hold(0.4)
with shared[0]:
    write(shared[0], 4)
holder.join()
held = threading.Event()

def holding():
    connection = connect(isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    held.set()
    time.sleep(0.4)
    connection.execute("COMMIT")

threading.Thread(target=holding).start()
held.wait()
with connect() as connection:
    write(connection, 5)
print(numbers())
"""
    )
    assert output == "True\n[1, 2, 3, 4, 5]\n"


def test_a_coroutine_waits_for_another_process(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
import subprocess, sys

child = '''
import sqlite3, sys, time
connection = sqlite3.connect("data.sqlite", isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
time.sleep(0.5)
connection.execute("INSERT INTO numbers VALUES (0)")
connection.execute("COMMIT")
connection.close()
'''

def test():
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\\n"
    # A read waits, and so does the first statement of a transaction.
    assert taken(connect().execute, "SELECT * FROM numbers")[0].fetchall() == [(0,)]
    together(lambda number: write(connect(isolation_level=None), number), range(1, 5))
    process.wait()
    return sorted(numbers())

main(test)
"""
    )
    assert output == "[0, 1, 2, 3, 4]\n"


def test_a_commit_waits_for_readers(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def with_block(number):
    connection = connect()
    with connection:
        write(connection, number)

def method(number):
    connection = connect()
    write(connection, number)
    connection.commit()
    assert not connection.in_transaction

def statement(number):
    connection = connect(isolation_level=None)
    connection.execute("BEGIN")
    write(connection, number)
    connection.execute("COMMIT")

def level(number):
    connection = connect()
    write(connection, number)
    connection.isolation_level = None
    assert not connection.in_transaction

def autocommit(number):
    connection = connect(autocommit=False)
    write(connection, number)
    connection.autocommit = True
    assert not connection.in_transaction

def alone(number):
    write(connect(isolation_level=None), number)

def rolled_back():
    connection = connect(timeout=0.1)
    try:
        with connection:
            write(connection, 100)
    except sqlite3.OperationalError as error:
        return error.sqlite_errorname, connection.in_transaction

def test():
    kinds = [with_block, method, statement, level, autocommit, alone]
    for number, kind in enumerate(kinds):
        reader = hold(0.2, "BEGIN")
        assert taken(kind, number)[1] >= 0.15, kind
        assert reader.join(5)
    assert numbers() == list(range(len(kinds)))
    reader = hold(0.5, "BEGIN")
    assert rolled_back() == ("SQLITE_BUSY", False)
    assert reader.join(5)
    return numbers() == list(range(len(kinds)))

main(test)
"""
    )
    assert output == "True\n"


def test_rows_of_a_change_that_commits_by_itself_are_kept_until_it_could_commit(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def test():
    connection = connect(isolation_level=None)
    ways = [lambda cursor: [cursor.fetchone()], lambda cursor: cursor.fetchall(), lambda cursor: [next(cursor)],
        lambda cursor: list(cursor), lambda cursor: cursor.fetchmany(1), lambda cursor: cursor.fetchmany(size=5)]
    for number, way in enumerate(ways):
        reader = hold(0.1, "BEGIN")
        cursor = connection.execute("INSERT INTO numbers VALUES (?) RETURNING number, 'x'", (number,))
        assert way(cursor) == [(number, "x")], number
        assert (cursor.rowcount, cursor.lastrowid) == (1, number + 1)
        assert cursor.fetchone() is None and cursor.fetchall() == [] and list(cursor) == []
        assert reader.join(5)
    cursor.execute("INSERT INTO numbers VALUES (10), (11), (12) RETURNING number")
    assert next(cursor) == (10,) and cursor.fetchmany(5) == [(11,), (12,)]
    cursor.execute("INSERT INTO numbers VALUES (20), (21) RETURNING number")
    cursor.execute("SELECT 1")
    assert cursor.fetchall() == [(1,)]
    return numbers()

main(test)
"""
    )
    assert output == f"{[*range(6), 10, 11, 12, 20, 21]}\n"


def test_executemany_makes_no_change_twice(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
INSERT = "INSERT INTO numbers VALUES (?)"

def in_a_transaction():
    connection = connect()
    holder = hold(0.1)
    with connection:
        cursor = connection.executemany(INSERT, ((number,) for number in range(3)))
    return cursor.rowcount, holder.join(5)

def each_by_itself():
    connection = connect(isolation_level=None)
    def sets():
        for number in range(10, 14):
            # A reader delays each COMMIT, and a writer each BEGIN.
            holders.append(hold(0.05, "BEGIN"))
            yield (number,)
            holders.append(hold(0.05))
    holders = []
    cursor = connection.executemany(INSERT, sets())
    return cursor.rowcount, connection.in_transaction, all(holder.join(5) for holder in holders)

def until_one_fails():
    connection = connect(isolation_level=None)
    try:
        connection.executemany(INSERT, [(20,), (21,), (20,), (22,)])
    except sqlite3.IntegrityError as error:
        return error.sqlite_errorname, connection.in_transaction

def until_the_timeout():
    connection = connect(isolation_level=None, timeout=0.1)
    def sets():
        yield (30,)
        holders.append(hold(0.5))
        yield (31,)
    holders = []
    return taken(connection.executemany, INSERT, sets())[0], connection.in_transaction, holders[0].join(5)

def test():
    for function in in_a_transaction, each_by_itself, until_one_fails, until_the_timeout:
        print(*function())
    return numbers()

main(test)
"""
    )
    assert output.splitlines() == [
        "3 True",
        "4 False True",
        "SQLITE_CONSTRAINT_UNIQUE False",
        "SQLITE_BUSY False True",
        str([0, 1, 2, 10, 11, 12, 13, 20, 21, 30]),
    ]


def test_executescript_makes_no_change_twice(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
SCRIPT = '''
    -- a comment; with a semicolon
    INSERT INTO numbers VALUES (1);
    SELECT wait(';');
    INSERT INTO numbers VALUES (2);;
    CREATE TRIGGER doubled AFTER INSERT ON numbers WHEN new.number = 3 BEGIN
        INSERT INTO numbers VALUES (-3); INSERT INTO numbers VALUES (-33);
    END;
    BEGIN;
    INSERT INTO numbers VALUES (3);
    SELECT wait('a'';b');
    COMMIT;
    INSERT INTO numbers VALUES (?)
'''
holders = []

def wait(value):
    holders.append(hold(0.1, "BEGIN"))
    return value

def test():
    connection = connect()
    connection.create_function("wait", 1, wait)
    write(connection, 0)
    holders.append(hold(0.1, "BEGIN"))
    connection.executescript(SCRIPT)
    assert connection.autocommit == sqlite3.LEGACY_TRANSACTION_CONTROL and not connection.in_transaction
    assert all(holder.join(5) for holder in holders) and len(holders) == 3
    for script in "INSERT INTO numbers VALUES (4); nonsense;", "INSERT INTO numbers VALUES (5); SELECT '":
        try:
            connection.executescript(script)
        except sqlite3.OperationalError as error:
            print(error)
    connection.executescript("BEGIN; INSERT INTO numbers VALUES (6)")
    assert connection.in_transaction
    connection.rollback()
    return numbers()

main(test)
"""
    )
    assert output.splitlines() == [
        'near "nonsense": syntax error',
        'unrecognized token: "\'"',
        str([0, 1, 2, 3, -3, -33, None, 4, 5]),
    ]


def test_subclasses_made_before_the_patch_park_too(script: RunScript) -> None:
    output = script(
        """
        import sqlite3, sys
        from types import ModuleType

        class EarlyCursor(sqlite3.Cursor):
            def execute(self, *arguments):
                return super().execute(*arguments)

        class EarlyConnection(sqlite3.Connection):
            def cursor(self):
                return super().cursor(EarlyCursor)

        other = ModuleType("other")
        sys.modules["other"] = other
        other.connection = sqlite3.connect(":memory:")
        other.connect = sqlite3.connect
        from rmeinheld import patch
        print(*patch.patch_all(), sep="\\n")
        assert other.connect is sqlite3.connect is sqlite3.dbapi2.connect
        from rmeinheld.coroutine import sleep, spawn
        from side_by_side import main, together

        class LateCursor(sqlite3.Cursor):
            def execute(self, *arguments):
                return sqlite3.Cursor.execute(self, *arguments)

        def early():
            return sqlite3.connect("data.sqlite", factory=EarlyConnection).cursor()

        def early_cursor():
            return sqlite3.connect("data.sqlite", isolation_level=None).cursor(factory=EarlyCursor)

        def late():
            return sqlite3.connect("data.sqlite").cursor(LateCursor)

        def plain():
            return sqlite3.Cursor(sqlite3.connect("data.sqlite"))

        def write(make):
            cursor = make()
            cursor.execute("INSERT INTO numbers VALUES (1)")
            sleep(0.02)
            cursor.connection.commit()
            return type(cursor).__name__, isinstance(cursor, sqlite3.Cursor)

        def test():
            sqlite3.connect("data.sqlite").execute("CREATE TABLE numbers (number)")
            print(set(together(write, [early, early_cursor, late, plain] * 5)) == {
                ("EarlyCursor", True), ("LateCursor", True), ("Cursor", True)})
            return sqlite3.connect("data.sqlite").execute("SELECT COUNT(*) FROM numbers").fetchone()

        main(test)
        """
    )
    assert "other: connection was made before the patch: it blocks" in output
    assert output.endswith("True\n(20,)\n")


def test_many_statements_in_a_row_let_others_run(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
counted = 0

def count():
    global counted
    while True:
        sleep(0)
        counted += 1

def test():
    spawn(count)
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE numbers (number)")
    sleep(0)
    started, before = time.monotonic(), counted
    while time.monotonic() - started < 0.5:
        connection.execute("INSERT INTO numbers VALUES (1)")
    # Each turn lasts 10 ms.
    return counted - before >= 5 or counted - before

main(test)
"""
    )
    assert output == "True\n"


def test_an_interrupted_wait_leaves_no_trace(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def test():
    holder = hold(0.5)
    connection = connect(isolation_level=None)
    try:
        with timeout(0.1):
            write(connection, 1)
    except Timeout:
        print("interrupted")
    assert holder.join(5)
    write(connection, 2)
    return numbers()

main(test)
"""
    )
    assert output == "interrupted\n[2]\n"


def test_backups_and_checkpoints_wait(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def backup():
    holder = hold(0.2, "BEGIN EXCLUSIVE")
    target, seen = sqlite3.connect(":memory:"), []
    connect().backup(target, pages=1, progress=lambda *numbers: seen.append(numbers), sleep=0.01)
    assert seen[0][0] == 5 and seen[-1][1] == 0
    assert holder.join(5)
    return target.execute("SELECT COUNT(*) FROM numbers").fetchone()

def checkpoint():
    connection = connect(isolation_level=None)
    connection.execute("PRAGMA journal_mode = wal")
    reader = hold(0.3, "BEGIN")
    write(connection, 2)
    row, seconds = taken(lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
    assert row[0] == 0 and seconds >= 0.2, (row, seconds)
    assert reader.join(5)
    reader = hold(0.3, "BEGIN")
    write(connection, 3)
    connection.execute("PRAGMA busy_timeout = 50")
    row, seconds = taken(lambda: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())
    return row[0], reader.join(5)

def test():
    write(connect(isolation_level=None), 1)
    return backup(), checkpoint()

main(test)
"""
    )
    assert output == "((1,), (1, True))\n"


def test_the_timeout_does_not_pass_while_others_compute(script: RunScript) -> None:
    output = script(
        f"""{HEADER}
def compute():
    while computing:
        end = time.monotonic() + 0.15
        while time.monotonic() < end:
            pass
        sleep(0)

def transaction():
    connection = connect(isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    held.set()
    for _ in range(6):
        sleep(0.001)
    connection.execute("COMMIT")

def test():
    spawn(transaction)
    held.wait()
    for _ in range(2):
        spawn(compute)
    result, seconds = taken(write, connect(timeout=0.5, isolation_level=None), 1)
    computing.clear()
    return type(result).__name__, seconds > 0.5

held, computing = Event(), [True]
main(test, standstill=2)
"""
    )
    assert output == "('Cursor', True)\n"


def test_sqlite3_can_be_left_unpatched(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld import patch
        patch.patch_all(sqlite3=False)
        import sqlite3
        print(sqlite3.Connection.__flags__ & (1 << 8) != 0, patch.is_patched("sqlite3.dbapi2"))
        """
    )
    assert output == "True False\n"


def test_the_patch_does_not_import_sqlite3(script: RunScript) -> None:
    output = script(
        """
        from rmeinheld import patch
        patch.patch_all()
        import sys
        print("_sqlite3" in sys.modules, patch.is_patched("sqlite3.dbapi2"))
        import sqlite3
        print(patch.is_patched("sqlite3.dbapi2"), sqlite3.connect is sqlite3.dbapi2.connect, sqlite3.Connection)
        """
    )
    assert output == "False False\nTrue True <class 'sqlite3.Connection'>\n"


# --- blobs -----------------------------------------------------------------------------------------------------------

BLOBS = """
connection = connect()
with connection:
    connection.execute("CREATE TABLE blobs (content BLOB)")
    connection.execute("INSERT INTO blobs VALUES (zeroblob(8))")
connection.close()

def stored():
    with connect() as connection:
        return connection.execute("SELECT content FROM blobs").fetchone()[0]

def open_blob(connection):
    return connection.blobopen("blobs", "content", 1)
"""


@pytest.mark.parametrize("close", ["blob.close()", "connection.close()", "del blob"])
def test_closing_a_blob_waits_for_readers_and_loses_nothing(script: RunScript, close: str) -> None:
    output = script(
        f"""{HEADER}{BLOBS}
def test():
    connection = connect()
    blob = open_blob(connection)
    blob.write(b"new")
    reading = hold(0.2, "BEGIN")
    started = time.monotonic()
    {close}
    taken = time.monotonic() - started
    reading.join()
    return 0.15 < taken < 4, stored()[:3]

main(test)
"""
    )
    assert output == "(True, b'new')\n"


def test_opening_a_blob_waits_for_writers_even_after_another_blob(script: RunScript) -> None:
    output = script(
        f"""{HEADER}{BLOBS}
def test():
    connection = connect()
    with open_blob(connection) as blob:
        blob.write(b"new")
    writing = hold(0.2)
    with open_blob(connection) as blob:
        blob[1:3] = b"xt"
    writing.join()
    hold(0.2, "BEGIN EXCLUSIVE")
    with connection.blobopen("blobs", "content", 1, readonly=True) as blob:
        return blob.read(3)

main(test)
"""
    )
    assert output == "b'nxt'\n"


def test_a_blob_that_cannot_be_committed_raises_an_error(script: RunScript) -> None:
    output = script(
        f"""{HEADER}{BLOBS}
def test():
    connection = connect(timeout=0.1)
    blob = open_blob(connection)
    blob.write(b"new")
    reading = hold(0.5, "BEGIN")
    result, seconds = taken(blob.close)
    reading.join()
    return result, seconds > 0.05, connection.in_transaction, stored()[:3]

main(test)
"""
    )
    assert output == "('SQLITE_BUSY', True, False, b'\\x00\\x00\\x00')\n"


def test_a_blob_behaves_as_without_the_patch(script: RunScript) -> None:
    output = script(
        f"""{HEADER}{BLOBS}
def test():
    connection = connect()
    with open_blob(connection) as first, open_blob(connection) as second:
        first.write(b"first")
        second.seek(-2, 2)
        second[0] = 70
        seen = isinstance(first, sqlite3.Blob), len(first), first.tell(), second.tell(), bytes(second[0:5])
        for refused in (lambda: iter(first), lambda: 1 in first, lambda: first.__delitem__(0)):
            try:
                refused()
            except TypeError:
                pass
    # In a transaction, closing a blob does not commit.
    connection.execute("INSERT INTO numbers VALUES (1)")
    with open_blob(connection) as blob:
        blob.write(b"third")
    connection.rollback()
    try:
        blob.read()
    except sqlite3.ProgrammingError as error:
        return seen, stored(), str(error)

main(test)
"""
    )
    assert output == "((True, 8, 5, 6, b'First'), b'First\\x00\\x00\\x00', 'Cannot operate on a closed blob.')\n"
