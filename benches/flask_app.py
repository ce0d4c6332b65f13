"""A Flask application: hello, a small JSON, and TechEmpower's tests of a database.

`BENCH_DATABASE` says how psycopg reaches PostgreSQL. `postgresql.py` fills the tables.
"""

from __future__ import annotations

import atexit
import os
import random
from typing import Any

from flask import Flask, jsonify, request

from postgresql import CLIENTS, FORTUNE, MOST_QUERIES, TEMPLATE, WORLDS

app = Flask(__name__)
page = app.jinja_env.from_string(TEMPLATE)


pool: Any = None
if database := os.environ.get("BENCH_DATABASE"):
    import psycopg_pool

    # Here rather than at the first request: several could come at once.
    pool = psycopg_pool.ConnectionPool(database, kwargs={"autocommit": True}, min_size=4, max_size=CLIENTS, open=True)
    atexit.register(pool.close)


def some_worlds(connection: Any, count: int) -> list[dict[str, int]]:
    """Rows with random numbers of their own, by a query for each."""
    rows = []
    for number in random.sample(range(1, WORLDS + 1), count):
        row = connection.execute("SELECT id, randomnumber FROM world WHERE id = %s", (number,)).fetchone()
        rows.append({"id": row[0], "randomNumber": row[1]})
    return rows


def wanted() -> int:
    """The number of queries, from 1 to 500."""
    return min(max(request.args.get("queries", 1, type=int), 1), MOST_QUERIES)


@app.get("/")
def hello() -> str:
    """Answer the plain text of the other applications."""
    return "Hello, world!"


@app.get("/json")
def small() -> Any:
    """Answer a small object."""
    return jsonify(message="Hello, world!")


@app.get("/db")
def one() -> Any:
    """One row."""
    with pool.connection() as connection:
        return jsonify(some_worlds(connection, 1)[0])


@app.get("/queries")
def several() -> Any:
    """Several rows."""
    with pool.connection() as connection:
        return jsonify(some_worlds(connection, wanted()))


@app.get("/updates")
def updates() -> Any:
    """Several rows, with new numbers."""
    with pool.connection() as connection:
        rows = some_worlds(connection, wanted())
        for row in rows:
            row["randomNumber"] = random.randint(1, WORLDS)
        # In one order, or two requests could wait for each other's rows.
        pairs = sorted((row["id"], row["randomNumber"]) for row in rows)
        with connection.cursor() as cursor:
            cursor.executemany("UPDATE world SET randomnumber = %s WHERE id = %s", [pair[::-1] for pair in pairs])
    return jsonify(rows)


@app.get("/fortunes")
def fortunes() -> str:
    """All fortunes and one more, in a page."""
    with pool.connection() as connection:
        rows = connection.execute("SELECT id, message FROM fortune").fetchall()
    return page.render(fortunes=sorted([*rows, (0, FORTUNE)], key=lambda row: row[1]))
