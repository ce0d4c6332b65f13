"""A PostgreSQL of the benchmark's own, with TechEmpower's tables, and constants of the applications that use it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

CLIENTS = 64
"""Requests at a time, each of which may have a connection."""
WORLDS = 10_000
MOST_QUERIES = 500
FORTUNE = "Additional fortune added at request time."
TEMPLATE = (
    "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table><tr><th>id</th><th>message</th></tr>"
    "{% for fortune in fortunes %}<tr><td>{{ fortune.0 }}</td><td>{{ fortune.1 }}</td></tr>{% endfor %}"
    "</table></body></html>"
)
TABLES = f"""
    CREATE TABLE world (id integer PRIMARY KEY, randomnumber integer NOT NULL);
    INSERT INTO world SELECT i, 1 + floor(random() * {WORLDS}) FROM generate_series(1, {WORLDS}) i;
    CREATE TABLE fortune (id integer PRIMARY KEY, message text NOT NULL);
    INSERT INTO fortune SELECT i, 'A <b>saying</b> with the number ' || i FROM generate_series(1, 12) i;
"""
USER = "postgres"
"""The user who runs PostgreSQL if the benchmark runs as root, which PostgreSQL refuses."""
READY_SECONDS = 60.0


class Missing(Exception):
    """PostgreSQL cannot be started; the message says why."""


@contextlib.contextmanager
def running_postgresql() -> Iterator[str]:
    """Yields how psycopg reaches PostgreSQL. Raises `Missing` where it or psycopg is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        raise Missing("PostgreSQL is not installed (Debian: apt install postgresql)")
    try:
        import psycopg
    except ImportError as error:
        raise Missing("psycopg is not installed (pip install 'psycopg[binary,pool]')") from error
    with tempfile.TemporaryDirectory(prefix="rmeinheld-") as directory:
        Path(directory).chmod(0o755)
        as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(directory, USER)
            as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        create = [*as_user, initdb, "-D", f"{directory}/data", "-A", "trust", "-U", "bench", "-N", "--no-locale"]
        done = subprocess.run([*create, "-E", "UTF8"], cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Missing(f"initdb failed: {done.stderr.strip()}")
        options = ["listen_addresses=", f"unix_socket_directories={directory}", "fsync=off"]
        options.append(f"max_connections={CLIENTS + 20}")
        command = [*as_user, str(Path(initdb).with_name("postgres")), "-D", f"{directory}/data"]
        command += [word for option in options for word in ("-c", option)]
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = f"host={directory} user=bench dbname=postgres"
        try:
            deadline = time.monotonic() + READY_SECONDS
            while True:
                try:
                    with psycopg.connect(address, autocommit=True) as connection:
                        connection.execute(TABLES)
                    break
                except psycopg.OperationalError as error:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise Missing(f"PostgreSQL does not answer: {error}") from error
                    time.sleep(0.05)
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(READY_SECONDS)
