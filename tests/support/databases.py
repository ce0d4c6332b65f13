"""Redis, MariaDB and PostgreSQL, each in the foreground with a temporary directory and nothing of the system's.

A server that is restarted keeps its address and its data. Each listens on a Unix socket; Redis and
MariaDB also on a port of 127.0.0.1, which is free when it is chosen.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxying import program
from serving import Process

MARIADB_CONNECTIONS = 400
POSTGRESQL_CONNECTIONS = 250
POSTGRESQL_USER = "postgres"
"""Whom PostgreSQL runs as if the tests run as root, which it refuses."""


class Database:
    """A server of one kind: `command` starts it, and it is ready when `ready` is in its log."""

    def __init__(
        self, directory: Path, command: Sequence[str], ready: str, stop: signal.Signals = signal.SIGTERM
    ) -> None:
        self.directory = directory
        self._command = command
        self._ready = ready
        self._stop = stop
        self._process: Process | None = None

    def start(self) -> None:
        """Start the server, and wait until it is ready."""
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        self._process = Process(self._command, self.directory, environment)
        self._process.wait_for_log(self._ready, 60)

    def stop(self) -> None:
        """End the server in order."""
        assert self._process is not None
        self._process.signal(self._stop)
        self._process.wait(60)

    def restart(self) -> None:
        """End the server at once, and start it anew."""
        self.kill()
        self.start()

    def kill(self) -> None:
        """End the server at once."""
        if self._process is not None:
            self._process.kill()


class Redis(Database):
    """Redis. `port` is that of 127.0.0.1, `socket` the path of its Unix socket."""

    def __init__(self, directory: Path) -> None:
        self.socket = str(directory / "redis.sock")
        self.port = free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", self.socket]
        options += ["--save", "", "--appendonly", "no", "--dir", str(directory), "--enable-debug-command", "yes"]
        super().__init__(directory, [program("redis-server", "redis-server"), *options], "Ready to accept connections")


class MariaDB(Database):
    """MariaDB. Its user root, which has no password, comes in through the socket at the path `socket`."""

    def __init__(self, directory: Path) -> None:
        server = program("mariadbd", "mariadb-server")
        self.socket = str(directory / "mariadb.sock")
        self.port = free_port()
        data = f"--datadir={directory / 'data'}"
        user = ["--user=root"] if os.geteuid() == 0 else []
        install = [program("mariadb-install-db", "mariadb-server"), "--no-defaults", data, *user]
        (directory / "data").mkdir()
        run([*install, "--auth-root-authentication-method=normal", "--skip-test-db"], directory)
        small = ["--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=0", "--innodb-log-file-size=16M"]
        command = [server, "--no-defaults", data, *user, f"--socket={self.socket}", *small]
        command += [
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--max-connections={MARIADB_CONNECTIONS}",
            f"--pid-file={directory / 'mariadb.pid'}",
        ]
        super().__init__(directory, command, "ready for connections")


class PostgreSQL(Database):
    """PostgreSQL. Its user "test" comes in without a password through the socket in `directory`."""

    def __init__(self, directory: Path) -> None:
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        found = str(binaries[-1]) if binaries else shutil.which("initdb")
        if found is None:
            pytest.skip("PostgreSQL's initdb is not installed (Debian: apt-get install postgresql)")
        self.dsn = f"host={directory} user=test dbname=postgres"
        as_user: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(directory, POSTGRESQL_USER)
            as_user = ["setpriv", f"--reuid={POSTGRESQL_USER}", f"--regid={POSTGRESQL_USER}", "--clear-groups"]
        data = str(directory / "data")
        run([*as_user, found, "-D", data, "-A", "trust", "-U", "test", "-N", "--no-locale", "-E", "UTF8"], directory)
        options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={directory}", "-c", "fsync=off"]
        options += ["-c", f"max_connections={POSTGRESQL_CONNECTIONS}"]
        command = [*as_user, str(Path(found).with_name("postgres")), "-D", data, *options]
        super().__init__(directory, command, "ready to accept connections", signal.SIGINT)


def free_port() -> int:
    """A free port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return int(reserved.getsockname()[1])


def run(command: Sequence[str], directory: Path) -> None:
    """Run a program to its end; AssertionError with what it prints if it fails."""
    done = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100)
    assert done.returncode == 0, f"{command[0]} failed:\n{done.stdout.decode(errors='replace')}"


@contextmanager
def running[T: (Redis, MariaDB, PostgreSQL)](kind: type[T]) -> Iterator[T]:
    """A server of this kind; skips the test if it is not installed."""
    # Not pytest's directory: its path may be too long for a Unix socket, and only its owner may enter it.
    with tempfile.TemporaryDirectory(prefix="rmeinheld-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        server = kind(directory)
        try:
            server.start()
            yield server
        finally:
            server.kill()
