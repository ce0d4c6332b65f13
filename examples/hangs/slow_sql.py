"""Requests wait for a query that takes too long. Each waits as it should, and they become more and more."""

import os

import psycopg

DSN = os.environ["DATABASE"]


def orders():
    with psycopg.connect(DSN) as connection:
        # Stands for a query whose index is missing.
        connection.execute("SELECT pg_sleep(30)")


def app(environ, start_response):
    if environ["PATH_INFO"] == "/orders":
        orders()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ok\n"]
