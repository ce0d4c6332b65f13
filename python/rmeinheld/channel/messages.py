"""Messages of channels: their kinds, their limits, and their form outside the process."""

from __future__ import annotations

import json
from typing import Any, Final

__all__ = [
    "BINARY",
    "JSON",
    "MAX_MESSAGE_BYTES",
    "MAX_NAME_BYTES",
    "PRESENCE",
    "TEXT",
    "Message",
    "checked_name",
    "decode",
    "encode",
]

MAX_NAME_BYTES: Final = 255
"""The longest name of a channel in UTF-8, as of files (NAME_MAX) and MQTT's practice."""

MAX_MESSAGE_BYTES: Final = (1 << 20) - 512
"""The longest message, in bytes of its form outside the process: the crew's 1 MiB without the header and the name."""

TEXT: Final = 0
BINARY: Final = 1
JSON: Final = 2
PRESENCE: Final = 16
"""A message between the presences of processes, which no subscription sees."""

type Message = str | bytes | Any
"""A message as applications see it: `str`, `bytes`, or what JSON makes of any other object."""

_compact: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def checked_name(name: str) -> bytes:
    """Return the name of a channel in UTF-8. Raises TypeError, and ValueError naming the limit."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a channel is a str, not {type(name).__name__}")
    encoded = name.encode()
    if not 0 < len(encoded) <= MAX_NAME_BYTES:
        raise ValueError(f"the name of a channel has 1 to {MAX_NAME_BYTES} bytes in UTF-8, not {len(encoded)}")
    return encoded


def encode(message: Message) -> tuple[int, str | bytes, bytes]:
    """Return the kind of a message, the message as local subscribers get it (JSON: its text), and its bytes.

    Raises ValueError naming the limit, ValueError for text that is no UTF-8, and TypeError for what JSON does not know.
    """
    kind: int
    local: str | bytes
    if isinstance(message, str):
        kind, local = TEXT, message
    elif isinstance(message, (bytes, bytearray, memoryview)):
        # Others could change while the message waits.
        kind, local = BINARY, bytes(message)
    else:
        kind, local = JSON, _compact(message)
    data = local.encode() if isinstance(local, str) else local
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(
            f"a message of {len(data)} bytes is longer than the limit of {MAX_MESSAGE_BYTES} bytes of a channel: "
            "split it, or publish where it is kept"
        )
    return kind, local, data


def decode(kind: int, payload: bytes | memoryview) -> str | bytes:
    """Return a received message as `encode` returns it for local subscribers."""
    return bytes(payload) if kind == BINARY else str(payload, "utf-8")
