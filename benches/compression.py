"""CPU and bytes of compressed WebSockets: the JSON of a chat, echoed and sent to a room.

`python benches/compression.py`, or with other numbers: see --help. Prints a line for each value of
`websocket_compression`, with the server's CPU and the bytes on the wire. They are for a message of about 180 bytes, for
a list of ten such messages, and for a delivery to one of 50 clients. The memory of a connection is that after a message
in both directions.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure import memory
from servers import BACKLOG, Contender, Task, running_server
from toolchain import BENCHES, PROGRAMS

MODES = ("off", "on", "takeover")
ROOM = 50
BATCH = 20
WORDS = "the book that you left on table in room has been seen by two of us and we think it is yours now".split()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, help="echoed in each measurement")
    parser.add_argument("--connections", type=int, default=500, help="whose memory is measured")
    return parser.parse_args()


def chat_message(number: int) -> dict[str, object]:
    """A message of one member."""
    chooser = random.Random(number)
    text = " ".join(chooser.choices(WORDS, k=14))
    at = f"2026-11-29T22:{number // 60 % 60:02}:{number % 60:02}.{number % 1000:03}Z"
    user = f"user{chooser.randrange(1000)}"
    return {"type": "message", "room": "general", "from": user, "id": number, "at": at, "text": text}


@dataclass
class Client:
    """A client that compresses as the server has agreed to."""

    connection: socket.socket
    keeps: bool
    is_compressed: bool
    received_bytes: int = 0

    def __post_init__(self) -> None:
        self.compressor, self.data = zlib.compressobj(wbits=-12), b""

    def frame(self, message: bytes) -> bytes:
        """A message, with a mask of zeros."""
        first = 0x81
        if self.is_compressed:
            message = self.compressor.compress(message) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
            first, message = 0xC1, message[:-4]
            if not self.keeps:
                self.compressor = zlib.compressobj(wbits=-12)
        size = len(message)
        head = bytes([first, 0x80 | size]) if size < 126 else bytes([first, 0xFE]) + struct.pack("!H", size)
        return head + bytes(4) + message

    def take(self, count: int) -> None:
        """Read this number of messages, and count their bytes."""
        while count:
            size = self.data[1] if len(self.data) > 4 else 0
            start = 2
            if size == 126:
                (size,), start = struct.unpack("!H", self.data[2:4]), 4
            if len(self.data) > 4 and len(self.data) >= start + size:
                self.received_bytes += start + size
                self.data = self.data[start + size :]
                count -= 1
            else:
                self.data += self.connection.recv(65536)


def connect(port: int, path: str) -> Client:
    """Open a WebSocket."""
    connection = socket.create_connection(("127.0.0.1", port))
    fields = ["Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    fields += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    fields += ["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]
    connection.sendall("\r\n".join([f"GET {path} HTTP/1.1", *fields, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1)
    return Client(connection, b"no_context" not in head, b"permessage-deflate" in head)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process, in the resolution of the scheduler."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def echo(port: int, pid: int, messages: list[bytes]) -> tuple[float, float]:
    """Microseconds of CPU of a message that is echoed, and bytes of the echo."""
    client = connect(port, "/echo")
    batches = [messages[start : start + BATCH] for start in range(0, len(messages), BATCH)]
    before = cpu_seconds(pid)
    for batch in batches:
        client.connection.sendall(b"".join(map(client.frame, batch)))
        client.take(len(batch))
    return (cpu_seconds(pid) - before) / len(messages) * 1e6, client.received_bytes / len(messages)


def broadcast(port: int, pid: int, messages: list[bytes]) -> tuple[float, float]:
    """Microseconds of CPU of a delivery, and its bytes."""
    clients = [connect(port, "/room") for _ in range(ROOM)]
    for client in clients:
        client.take(1)
    before = cpu_seconds(pid)
    for message in messages:
        clients[0].connection.sendall(clients[0].frame(message))
        for client in clients:
            client.take(1)
    deliveries = len(messages) * len(clients)
    return (cpu_seconds(pid) - before) / deliveries * 1e6, sum(one.received_bytes for one in clients) / deliveries


def idle(port: int, pid: int, count: int, message: bytes) -> float:
    """KiB of a connection after a message in both directions."""
    before = memory(pid).proportional
    clients = [connect(port, "/echo") for _ in range(count)]
    for client in clients:
        client.connection.sendall(client.frame(message))
        client.take(1)
    return (memory(pid).proportional - before) / len(clients)


def command(mode: str) -> Contender:
    """The server with a value of `websocket_compression`."""

    def words(port: int, task: Task) -> list[str]:
        options = ["--bind", f"127.0.0.1:{port}", "--backlog", str(BACKLOG), "--websocket-compression", mode]
        options += ["--worker-connections", "2000", "--chdir", str(BENCHES)]
        return [sys.executable, "-m", "rmeinheld", *options, "compression:app"]

    return Contender(f"compression {mode}", words, serves_while_asleep=True)


def main() -> None:
    """Measure, and print a line of JSON for each value."""
    chosen = arguments()
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    short = [json.dumps(chat_message(number)).encode() for number in range(chosen.messages)]
    of_ten = [
        json.dumps([chat_message(10 * number + one) for one in range(10)]).encode()
        for number in range(chosen.messages // 10)
    ]
    for mode in MODES:
        with running_server(command(mode), Task(), None) as server:
            port, pid = server.port, server.pid
            figures = {
                "a short message": echo(port, pid, short),
                "a list of ten": echo(port, pid, of_ten),
                "a short delivery": broadcast(port, pid, short[: chosen.messages // 20]),
                "a delivery of ten": broadcast(port, pid, of_ten[: chosen.messages // 20]),
            }
            rounded = {name: {"us": round(us, 1), "bytes": round(size)} for name, (us, size) in figures.items()}
            kib = round(idle(port, pid, chosen.connections, of_ten[0]), 1)
            print(json.dumps({"compression": mode, **rounded, "KiB of a connection": kib}), flush=True)


# --- the application -------------------------------------------------------------------------------------------------

members: set[Any] = set()


def app(environ, start_response):  # type: ignore[no-untyped-def]
    """Echoes, or sends a message to all who are there."""
    from rmeinheld.websocket import broadcast as send_to_all

    websocket = environ.get("wsgi.websocket")
    if websocket is None:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
        return [b"Hello, world!"]
    if environ["PATH_INFO"] == "/echo":
        for message in websocket:
            websocket.send(message)
        return []
    websocket.accept()
    members.add(websocket)
    websocket.send("in")
    for message in websocket:
        send_to_all(members, message)
    members.discard(websocket)
    return []


if __name__ == "__main__":
    main()
