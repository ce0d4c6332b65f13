"""nginx and HAProxy in front of a server, each in the foreground with a configuration of its own.

A proxy inherits the sockets that it listens on. The kernel has chosen their ports, so that no other process can take
them. A client that connects before the proxy is ready waits in the socket's queue.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving import TIMEOUT, Connection, Process

NGINX = """\
daemon off;
{user}
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path client_body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    client_max_body_size 0;
    keepalive_requests 10000;
    {upstreams}
    {servers}
}}
"""

HAPROXY = """\
global
    nbthread 1  # the threads do not all share their idle connections
    maxconn 512
defaults
    mode http
    timeout connect 5s
    timeout client 15s
    timeout server 15s
{servers}
"""

Address = tuple[str, int]


@dataclass(frozen=True)
class Front:
    """One of the addresses that a proxy listens on, and the rules that hold there are called `name`."""

    name: str
    address: Address

    def connect(
        self, timeout: float = TIMEOUT, source: str | None = None, receive_buffer: int | None = None
    ) -> Connection:
        """Open a connection to the proxy."""
        return Connection(self.address, timeout, receive_buffer=receive_buffer, source=source)


class Proxy(Process):
    """A proxy that runs. `fronts` are the addresses that it listens on, by name."""

    def __init__(self, command: Sequence[str], directory: Path, listeners: Mapping[str, socket.socket]) -> None:
        descriptors = [listener.fileno() for listener in listeners.values()]
        environment = {**os.environ, "NGINX": "".join(f"{descriptor};" for descriptor in descriptors)}
        super().__init__(command, directory, environment, descriptors)
        self.fronts = {name: Front(name, listener.getsockname()[:2]) for name, listener in listeners.items()}

    def stop(self) -> None:
        """End it, by the signal on which it does not wait for its connections, and check that it did not crash."""
        if self.popen.poll() is None:
            self.signal(signal.SIGTERM)
        status = self.wait()
        assert status in (0, -signal.SIGTERM), f"exit status {status}; log:\n{self.log()}"


def program(name: str, package: str) -> str:
    """Path of the program; skips the test without it."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {package})")
    return found


@contextmanager
def nginx(directory: Path, upstreams: str, servers: Mapping[str, str]) -> Iterator[Proxy]:
    """nginx with `upstreams` (text of the configuration), and for each of `servers` the text of its only location."""
    path = directory / "nginx.conf"
    command = [program("nginx", "nginx-light"), "-e", "stderr", "-p", f"{directory}/", "-c", str(path)]
    with _listening(servers) as listeners:
        blocks = [
            f"server {{ listen 127.0.0.1:{listeners[name].getsockname()[1]}; location / {{ {text} }} }}"
            for name, text in servers.items()
        ]
        # Its worker stays the user that started it, to whom the directory belongs.
        user = "user root;" if os.geteuid() == 0 else ""
        text = NGINX.format(user=user, upstreams=upstreams, servers="\n    ".join(blocks))
        path.write_text(text)
        proxy = Proxy(command, directory, listeners)
    yield from _until_stopped(proxy)


@contextmanager
def haproxy(directory: Path, servers: Mapping[str, Sequence[str]]) -> Iterator[Proxy]:
    """HAProxy with a `listen` section of these lines for each of `servers`."""
    command = [program("haproxy", "haproxy"), "-db", "-f", str(directory / "haproxy.cfg")]
    with _listening(servers) as listeners:
        sections = [
            "\n    ".join([f"listen {name}", f"bind fd@{listeners[name].fileno()}", *lines])
            for name, lines in servers.items()
        ]
        (directory / "haproxy.cfg").write_text(HAPROXY.format(servers="\n".join(sections)))
        proxy = Proxy(command, directory, listeners)
    yield from _until_stopped(proxy)


@contextmanager
def _listening(names: Mapping[str, object]) -> Iterator[dict[str, socket.socket]]:
    """Sockets that listen on free ports, until the proxy has inherited them."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512)) for name in names}


def _until_stopped(proxy: Proxy) -> Iterator[Proxy]:
    try:
        yield proxy
    finally:
        print(f"--- log of the proxy with pid {proxy.pid} ---\n{proxy.log()}")
        try:
            proxy.stop()
        finally:
            proxy.kill()
