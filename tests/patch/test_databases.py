"""Real servers, and the clients for them that people use, in hundreds of coroutines of a patched process.

Each test checks that the loop goes on while a client waits: see tests/apps/side_by_side.py. Each answer bears the
number of its question, so that a mix-up of two clients shows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from databases import MariaDB, PostgreSQL, Redis, running
from serving import RunScript

HEADER = """
from rmeinheld import patch
patch.patch_all()
import random, threading, time
from rmeinheld.coroutine import Timeout, sleep, spawn, timeout
from side_by_side import main, together
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    """A Redis that the tests of this module share."""
    pytest.importorskip("redis")
    with running(Redis) as server:
        yield server


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB that the tests of this module share."""
    pytest.importorskip("pymysql")
    with running(MariaDB) as server:
        yield server


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL that the tests of this module share."""
    with running(PostgreSQL) as server:
        yield server


# --- Redis -----------------------------------------------------------------------------------------------------------


def test_redis_answers_200_coroutines_on_a_pool(script: RunScript, redis: Redis) -> None:
    output = script(
        f"""{HEADER}
import redis

pool = redis.BlockingConnectionPool(host="127.0.0.1", port={redis.port}, max_connections=20, timeout=30)
client = redis.Redis(connection_pool=pool)

def talk(number):
    for turn in range(5):
        key = f"pool:{{number}}:{{turn}}"
        client.set(key, number)
        assert client.get(key) == str(number).encode()
        with client.pipeline() as pipe:
            pipe.incr(key).incr(key).get(key)
            assert pipe.execute() == [number + 1, number + 2, str(number + 2).encode()]
    return number

def test():
    assert together(talk, range(200)) == list(range(200))
    return len(pool._connections) <= 20

main(test)
"""
    )
    assert output == "True\n"


def test_redis_blocks_200_coroutines_at_once_and_wakes_each_with_its_own(script: RunScript, redis: Redis) -> None:
    output = script(
        f"""{HEADER}
import redis

client = redis.Redis(unix_socket_path={redis.socket!r}, max_connections=250)

def wait(number):
    key, value = client.blpop(f"blocked:{{number}}", timeout=30)
    return int(value)

def test():
    waiting = spawn(together, wait, range(200))
    while client.info("clients")["blocked_clients"] < 200:
        sleep(0.01)
    order = list(range(200))
    random.shuffle(order)
    for number in order:
        client.rpush(f"blocked:{{number}}", number)
    assert waiting.join(30)
    return waiting.result == list(range(200))

main(test)
"""
    )
    assert output == "True\n"


def test_redis_transactions_and_locks_of_coroutines_exclude_each_other(script: RunScript, redis: Redis) -> None:
    output = script(
        f"""{HEADER}
import redis

client = redis.Redis(port={redis.port})
client.set("watched", 0)
client.set("locked", 0)

def increment(_):
    with client.pipeline() as pipe:
        while True:
            try:
                pipe.watch("watched")
                value = int(pipe.get("watched"))
                pipe.multi()
                pipe.set("watched", value + 1)
                pipe.execute()
                break
            except redis.WatchError:
                continue
    with client.lock("lock", blocking_timeout=30, sleep=0.005):
        client.set("locked", int(client.get("locked")) + 1)

def test():
    together(increment, range(30))
    return int(client.get("watched")), int(client.get("locked"))

main(test)
"""
    )
    assert output == "(30, 30)\n"


def test_redis_delivers_messages_to_coroutines_and_an_os_thread(script: RunScript, redis: Redis) -> None:
    output = script(
        f"""{HEADER}
import redis

client = redis.Redis(port={redis.port})
seen = []

def subscribe(number):
    with client.pubsub(ignore_subscribe_messages=True) as subscription:
        subscription.subscribe("news")
        for message in subscription.listen():
            if message["data"] == b"end":
                return number
            seen.append(message["data"])

# Started outside of coroutines: an OS thread.
thread = threading.Thread(target=subscribe, args=(50,))
thread.start()

def test():
    subscribers = spawn(together, subscribe, range(50))
    while client.pubsub_numsub("news")[0][1] < 51:
        sleep(0.01)
    for number in range(10):
        client.publish("news", number)
    client.publish("news", "end")
    assert subscribers.join(30)
    thread.join()
    return sorted(seen) == sorted([b"%d" % number for number in range(10)] * 51)

main(test)
"""
    )
    assert output == "True\n"


def test_redis_after_a_timeout_in_the_middle_of_a_query_mixes_nothing_up(script: RunScript, redis: Redis) -> None:
    output = script(
        f"""{HEADER}
import redis

client = redis.Redis(connection_pool=redis.BlockingConnectionPool(port={redis.port}, max_connections=10))
# The first connection imports modules. A time limit within an import fails it for all that wait for the module.
client.ping()

def talk(number):
    timeouts = 0
    for turn in range(5):
        try:
            with timeout(0.02):
                client.blpop(f"never:{{number}}", timeout=5)
        except Timeout:
            timeouts += 1
        value = f"{{number}}:{{turn}}".encode()
        assert client.echo(value) == value
    return timeouts

def test():
    return together(talk, range(20)) == [5] * 20

main(test)
"""
    )
    assert output == "True\n"


def restarted_while_in_use(script: RunScript, server: Redis | MariaDB | PostgreSQL, source: str) -> str:
    """Run a script that prints "in use", restart the server, and let the script see it; returns what it printed.

    The script looks for the file `restarted`.
    """
    flag = server.directory / "in-use"
    restarted = server.directory / "restarted"

    def restart() -> None:
        while not flag.exists():
            threading.Event().wait(0.01)
        server.stop()
        server.start()
        restarted.touch()

    thread = threading.Thread(target=restart, daemon=True)
    thread.start()
    body = f"""{HEADER}
import os, pathlib

def in_use():
    pathlib.Path({str(flag)!r}).touch()

def is_restarted():
    return os.path.exists({str(restarted)!r})
{source}"""
    output = script(body)
    thread.join(30)
    return output


def test_redis_may_be_restarted(script: RunScript) -> None:
    pytest.importorskip("redis")
    with running(Redis) as server:
        output = restarted_while_in_use(
            script,
            server,
            f"""
import redis

client = redis.Redis(port={server.port})

def talk(number):
    errors = 0
    after = 0
    while after < 3:
        is_new = is_restarted()
        try:
            value = f"{{number}}:{{random.random()}}".encode()
            assert client.echo(value) == value
            client.blpop(f"never:{{number}}", timeout=0.05)
            after += is_new
        except redis.ConnectionError:
            errors += 1
            sleep(0.01)
        if number == 0:
            in_use()
    return errors

def test():
    # redis-py itself connects anew and tries again, so there may be no error at all.
    return len(together(talk, range(50)))

main(test)
""",
        )
    assert output == "50\n"


# --- MariaDB ---------------------------------------------------------------------------------------------------------


def test_pymysql_runs_200_queries_at_once(script: RunScript, mariadb: MariaDB) -> None:
    output = script(
        f"""{HEADER}
import pymysql

def ask(number):
    connection = pymysql.connect(unix_socket={mariadb.socket!r}, user="root", ssl_disabled=True)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT SLEEP(0.3), %s", (number,))
        return cursor.fetchone()[1]

def test():
    started = time.monotonic()
    assert together(ask, range(200)) == list(range(200))
    # One after the other they would take a minute.
    return time.monotonic() - started < 20

main(test)
"""
    )
    assert output == "True\n"


def test_sqlalchemys_pool_serves_200_coroutines_whose_transactions_exclude_each_other(
    script: RunScript, mariadb: MariaDB
) -> None:
    pytest.importorskip("sqlalchemy")
    output = script(
        f"""{HEADER}
import sqlalchemy
from sqlalchemy import text

url = "mysql+pymysql://root@localhost/?unix_socket={mariadb.socket}&ssl_disabled=1"
engine = sqlalchemy.create_engine(url, pool_size=10, max_overflow=10, pool_timeout=60)
with engine.begin() as connection:
    connection.execute(text("CREATE DATABASE pooled"))
    connection.execute(text("CREATE TABLE pooled.counter (name VARCHAR(9) PRIMARY KEY, value INT)"))
    connection.execute(text("INSERT INTO pooled.counter VALUES ('all', 0)"))

def increment(number):
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT :number"), {{"number": number}}) == number
    with engine.begin() as connection:
        value = connection.scalar(text("SELECT value FROM pooled.counter WHERE name = 'all' FOR UPDATE"))
        connection.execute(text("UPDATE pooled.counter SET value = :value"), {{"value": value + 1}})
        if number % 4 == 0:
            connection.rollback()

def test():
    together(increment, range(200))
    assert engine.pool.checkedout() == 0
    with engine.connect() as connection:
        return connection.scalar(text("SELECT value FROM pooled.counter"))

main(test)
"""
    )
    assert output == "150\n"


def test_pymysqls_connection_is_closed_by_a_timeout_in_the_middle_of_a_query(
    script: RunScript, mariadb: MariaDB
) -> None:
    output = script(
        f"""{HEADER}
import pymysql

def ask(number):
    connection = pymysql.connect(unix_socket={mariadb.socket!r}, user="root", ssl_disabled=True)
    cursor = connection.cursor()
    try:
        with timeout(0.05):
            cursor.execute("SELECT SLEEP(0.2), 'late'")
        return "no timeout"
    except Timeout:
        pass
    sleep(0.3)
    try:
        cursor.execute("SELECT %s", (number,))
        return cursor.fetchone()
    except pymysql.err.Error:
        return connection.open

def test():
    return together(ask, range(20)) == [False] * 20

main(test)
"""
    )
    assert output == "True\n"


def test_sqlalchemy_gives_up_a_connection_of_pymysql_after_a_timeout(script: RunScript, mariadb: MariaDB) -> None:
    pytest.importorskip("sqlalchemy")
    output = script(
        f"""{HEADER}
import sqlalchemy
from sqlalchemy import text

url = "mysql+pymysql://root@localhost/?unix_socket={mariadb.socket}&ssl_disabled=1"
engine = sqlalchemy.create_engine(url, pool_size=5)

def ask(number):
    timeouts = 0
    for turn in range(4):
        try:
            with timeout(0.05), engine.connect() as connection:
                connection.execute(text("SELECT SLEEP(2), 'late'"))
        except Timeout:
            timeouts += 1
        with engine.connect() as connection:
            assert connection.scalar(text("SELECT :number"), {{"number": number}}) == number
    return timeouts

def test():
    assert together(ask, range(10)) == [4] * 10
    return engine.pool.checkedout()

main(test)
"""
    )
    assert output == "0\n"


def test_mariadb_may_be_restarted(script: RunScript) -> None:
    pytest.importorskip("pymysql")
    pytest.importorskip("sqlalchemy")
    with running(MariaDB) as server:
        output = restarted_while_in_use(
            script,
            server,
            f"""
import sqlalchemy
from sqlalchemy import exc, text

url = "mysql+pymysql://root@localhost/?unix_socket={server.socket}&ssl_disabled=1"
engine = sqlalchemy.create_engine(url, pool_size=20, pool_pre_ping=True)

def talk(number):
    errors = 0
    after = 0
    while after < 3:
        is_new = is_restarted()
        try:
            with engine.connect() as connection:
                row = connection.execute(text("SELECT SLEEP(0.05), :number"), {{"number": number}}).one()
                if row[0] == 0:
                    assert row[1] == number
                    after += is_new
        except exc.DBAPIError:
            errors += 1
            sleep(0.01)
        if number == 0:
            in_use()
    return errors > 0

def test():
    return any(together(talk, range(40)))

main(test)
""",
        )
    assert output == "True\n"


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize("early", [True, False], ids=["patched early", "patched late"])
def test_postgresql_runs_200_queries_at_once(
    script: RunScript, postgresql: PostgreSQL, driver: str, early: bool
) -> None:
    pytest.importorskip(driver)
    header = HEADER if early else f"import {driver}{HEADER}"
    output = script(
        f"""{header}
import {driver} as driver

def ask(number):
    connection = driver.connect({postgresql.dsn!r})
    try:
        cursor = connection.cursor()
        cursor.execute("SELECT pg_sleep(0.3), %s", (number,))
        return cursor.fetchone()[1]
    finally:
        connection.close()

def test():
    started = time.monotonic()
    assert together(ask, range(200)) == list(range(200))
    return time.monotonic() - started < 20

main(test)
"""
    )
    assert output.endswith("True\n")


def test_psycopg2_refuses_copy_and_large_objects_with_a_wait_callback(
    script: RunScript, postgresql: PostgreSQL
) -> None:
    pytest.importorskip("psycopg2")
    output = script(
        f"""{HEADER}
import io
import psycopg2

def test():
    connection = psycopg2.connect({postgresql.dsn!r})
    refused = []
    for attempt in (
        lambda: connection.cursor().copy_expert("COPY (SELECT 1) TO STDOUT", io.StringIO()),
        lambda: connection.lobject(0, "wb"),
    ):
        try:
            attempt()
        except psycopg2.Error as error:
            refused.append(type(error).__name__)
        connection.rollback()
    connection.close()
    return refused

main(test)
"""
    )
    assert output == "['ProgrammingError', 'ProgrammingError']\n"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_postgresqls_connections_mix_nothing_up_after_a_timeout_in_the_middle_of_a_query(
    script: RunScript, postgresql: PostgreSQL, driver: str
) -> None:
    pytest.importorskip(driver)
    output = script(
        f"""{HEADER}
import {driver} as driver

def ask(number):
    connection = driver.connect({postgresql.dsn!r})
    cursor = connection.cursor()
    try:
        with timeout(0.05):
            cursor.execute("SELECT pg_sleep(0.2), 'late'")
        return "no timeout"
    except Timeout:
        pass
    sleep(0.3)
    try:
        cursor.execute("SELECT %s::int", (number,))
        return cursor.fetchone()
    except driver.Error:
        return "unusable"
    finally:
        connection.close()

def test():
    return set(together(ask, range(20)))

main(test)
"""
    )
    assert output == "{'unusable'}\n"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_sqlalchemy_on_postgresql_pools_and_gives_up_connections_after_a_timeout(
    script: RunScript, postgresql: PostgreSQL, driver: str
) -> None:
    pytest.importorskip(driver)
    pytest.importorskip("sqlalchemy")
    output = script(
        f"""{HEADER}
import sqlalchemy
from sqlalchemy import text

url = "postgresql+{driver}://test@/postgres?host={postgresql.directory}"
engine = sqlalchemy.create_engine(url, pool_size=10, max_overflow=5, pool_timeout=60)
with engine.begin() as connection:
    connection.execute(text("CREATE TABLE counter_{driver} (value INT)"))
    connection.execute(text("INSERT INTO counter_{driver} VALUES (0)"))

def ask(number):
    timeouts = 0
    if number % 10 == 0:
        try:
            with engine.connect() as connection, timeout(0.05):
                connection.execute(text("SELECT pg_sleep(2), 'late'"))
        except Timeout:
            timeouts += 1
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT CAST(:number AS int)"), {{"number": number}}) == number
        value = connection.scalar(text("SELECT value FROM counter_{driver} FOR UPDATE"))
        connection.execute(text("UPDATE counter_{driver} SET value = :value"), {{"value": value + 1}})
    return timeouts

def test():
    timeouts = sum(together(ask, range(200)))
    with engine.connect() as connection:
        value = connection.scalar(text("SELECT value FROM counter_{driver}"))
    return timeouts, value, engine.pool.checkedout()

main(test)
"""
    )
    assert output == "(20, 200, 0)\n"


def test_the_pool_of_psycopg_serves_coroutines(script: RunScript, postgresql: PostgreSQL) -> None:
    pytest.importorskip("psycopg_pool")
    output = script(
        f"""{HEADER}
from psycopg_pool import ConnectionPool

def ask(number):
    with pool.connection() as connection:
        return connection.execute("SELECT pg_sleep(0.01), %s", (number,)).fetchone()[1]

def test():
    global pool
    with ConnectionPool({postgresql.dsn!r}, min_size=2, max_size=10, timeout=60, open=False) as pool:
        pool.wait(30)
        return together(ask, range(200)) == list(range(200))

main(test)
"""
    )
    assert output == "True\n"


def test_psycopg_listens_for_notifications_in_a_coroutine(script: RunScript, postgresql: PostgreSQL) -> None:
    pytest.importorskip("psycopg")
    output = script(
        f"""{HEADER}
import psycopg

def listen(number):
    with psycopg.connect({postgresql.dsn!r}, autocommit=True) as connection:
        connection.execute("LISTEN news")
        ready.append(number)
        return [notification.payload for notification in connection.notifies(timeout=20, stop_after=2)]

ready = []

def test():
    listening = spawn(together, listen, range(20))
    while len(ready) < 20:
        sleep(0.01)
    with psycopg.connect({postgresql.dsn!r}, autocommit=True) as connection:
        connection.execute("NOTIFY news, 'one'")
        connection.execute("NOTIFY news, 'two'")
    assert listening.join(30)
    return listening.result == [["one", "two"]] * 20

main(test)
"""
    )
    assert output == "True\n"


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_postgresql_may_be_restarted(script: RunScript, driver: str) -> None:
    pytest.importorskip(driver)
    pytest.importorskip("sqlalchemy")
    with running(PostgreSQL) as server:
        output = restarted_while_in_use(
            script,
            server,
            f"""
import sqlalchemy
from sqlalchemy import exc, text

url = "postgresql+{driver}://test@/postgres?host={server.directory}"
engine = sqlalchemy.create_engine(url, pool_size=20, pool_pre_ping=True)

def talk(number):
    errors = 0
    after = 0
    while after < 3:
        is_new = is_restarted()
        try:
            with engine.connect() as connection:
                query = text("SELECT pg_sleep(0.05), CAST(:number AS int)")
                assert connection.execute(query, {{"number": number}}).one()[1] == number
                after += is_new
        except exc.DBAPIError:
            errors += 1
            sleep(0.01)
        if number == 0:
            in_use()
    return errors > 0

def test():
    return any(together(talk, range(40)))

main(test)
""",
        )
    assert output == "True\n"
