"""A raw client of WebSockets, with a strict reader: frames as they are on the wire (RFC 6455 5.2)."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple, Self

from proxying import Front
from serving import Connection, Server, request

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
COMPRESSED = 0x40
"""The first reserved bit, where compression is agreed on (RFC 7692 6)."""

HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The answer to that key (RFC 6455 1.3)."""


class Frame(NamedTuple):
    """A frame of the server's, which is never masked."""

    first: int
    payload: bytes


def frame(first: int, payload: bytes = b"", *, masked: bool = True, length: int | None = None) -> bytes:
    """A frame of the client's. `first` is its first byte: flags and opcode. `length` is what it claims to have."""
    size = len(payload) if length is None else length
    flag = 0x80 if masked else 0
    if size < 126:
        head = struct.pack("!BB", first, flag | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, flag | 126, size)
    else:
        head = struct.pack("!BBQ", first, flag | 127, size)
    if not masked:
        return head + payload
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


def text(message: str) -> bytes:
    """A text message."""
    return frame(FIN | TEXT, message.encode())


def close(code: int = 1000, reason: bytes = b"") -> bytes:
    """A close."""
    return frame(FIN | CLOSE, struct.pack("!H", code) + reason)


class Client:
    """A WebSocket on a raw connection. With `early`, these bytes go out together with the handshake."""

    def __init__(
        self,
        server: Server | Front,
        target: str = "/",
        *headers: str,
        early: bytes = b"",
        receive_buffer: int | None = None,
    ) -> None:
        self.connection: Connection = server.connect(receive_buffer=receive_buffer)
        self.connection.send(request("GET", target, *HANDSHAKE, *headers) + early)
        response, _ = self.connection.read_head()
        assert response.status == 101, response
        assert response.header("Sec-WebSocket-Accept") == ACCEPT
        # Case does not count (RFC 6455 4.1), and nginx writes its own.
        fields = [str(response.header(name)).lower() for name in ("Upgrade", "Connection")]
        assert fields == ["websocket", "upgrade"]
        self.headers = dict(response.headers)
        self.cookies = response.all("Set-Cookie")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.connection.send(data)

    def frame(self) -> Frame:
        """The next frame; AssertionError unless it is whole, unmasked and without reserved bits that mean nothing."""
        first, second = self.connection.read_exactly(2)
        assert not second & 0x80, "the server masks"
        reserved = 0x30 if "Sec-WebSocket-Extensions" in self.headers else 0x70
        assert not first & reserved, "the server sets a reserved bit"
        size = second
        if second == 126:
            (size,) = struct.unpack("!H", self.connection.read_exactly(2))
            assert size >= 126
        elif second == 127:
            (size,) = struct.unpack("!Q", self.connection.read_exactly(8))
            assert size >= 65536
        return Frame(first, self.connection.read_exactly(size))

    def text(self) -> str:
        """The next message, which is text in one frame."""
        first, payload = self.frame()
        assert first == FIN | TEXT, (first, payload)
        return payload.decode()

    def expect_close(self, code: int) -> str:
        """Expect a close with this code and then the end of the stream; returns the reason."""
        first, payload = self.frame()
        assert first == FIN | CLOSE, (first, payload)
        assert payload[:2] == struct.pack("!H", code), payload
        self.connection.expect_end()
        return payload[2:].decode()

    def expect_close_after_answer(self) -> None:
        """Answer the close of a server whose application has returned."""
        first, payload = self.frame()
        assert first == FIN | CLOSE, (first, payload)
        self.send(frame(FIN | CLOSE, payload))
        self.connection.expect_end()

    def expect_close_from_server(self, code: int, reason: str | None = None) -> None:
        """Expect that the server begins to close, and answer."""
        first, payload = self.frame()
        assert (first, payload[:2]) == (FIN | CLOSE, struct.pack("!H", code)), (first, payload)
        assert reason is None or payload[2:].decode() == reason
        self.send(frame(FIN | CLOSE, payload[:2]))
        self.connection.expect_end()

    def end_in_order(self) -> None:
        """Close, whatever is still coming."""
        self.send(close())
        while self.frame().first != FIN | CLOSE:
            pass
        self.connection.expect_end()

    def end(self) -> None:
        """Close in order: the server answers with the same code, and is the first to end the stream."""
        self.send(close())
        self.expect_close(1000)
