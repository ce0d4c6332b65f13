"""WebSockets."""

from __future__ import annotations

from ..option_kinds import GIB, KIB, MIB, Choice, Origins, Seconds, Size
from .option import option


class WebSocketOptions:
    """Options of the group WebSocket."""

    websocket_max_message_size: int = option(
        MIB,
        Size(1, 2**31 - 1),
        "--websocket-max-message-size",
        group="WebSocket",
        help="Longest message from a client. A longer one closes the WebSocket with 1009, before it is in memory.",
        unit="bytes",
        precedent="websockets max_size (1 MiB); Gunicorn websocket_max_message_size (16 MiB)",
    )
    websocket_max_queue_size: int = option(
        64 * KIB,
        Size(1, GIB),
        "--websocket-max-queue-size",
        group="WebSocket",
        help="Most bytes that wait for a slow client before send() waits, too. A message is always queued whole.",
        unit="bytes",
        precedent="websockets write_limit (32 KiB); aiohttp (64 KiB)",
    )
    websocket_ping_interval: float = option(
        20.0,
        Seconds(),
        "--websocket-ping-interval",
        group="WebSocket",
        help="Longest silence of a client before it is pinged; each client has its own, from half of this on. Pings "
        "find clients that are gone, and keep proxies from closing idle connections. 0: no pings.",
        unit="seconds",
        precedent="websockets ping_interval (20); Uvicorn --ws-ping-interval (20)",
    )
    websocket_ping_timeout: float = option(
        20.0,
        Seconds(),
        "--websocket-ping-timeout",
        group="WebSocket",
        help="How long a client may be silent after a ping; then the WebSocket is closed (1006). Time does not count "
        "while the client takes data sent before the ping, or while the application leaves too much unread. 0: no "
        "limit.",
        unit="seconds",
        precedent="websockets ping_timeout (20); Uvicorn --ws-ping-timeout (20)",
    )
    websocket_close_timeout: float = option(
        10.0,
        Seconds(),
        "--websocket-close-timeout",
        group="WebSocket",
        help="How long the closing handshake may take; then the connection is cut. When the server stops, the "
        "application first has the same time to receive and answer pending messages. 0: no limit.",
        unit="seconds",
        precedent="websockets close_timeout (10)",
    )
    websocket_origins: tuple[str, ...] | None = option(
        None,
        Origins(),
        "--websocket-origins",
        group="WebSocket",
        help="Origins from which browsers may open a WebSocket, such as https://shop.example, separated by commas; "
        'others get 403. "same" allows pages of the host and port that the request is for; a trusted proxy may name '
        "them. Clients without an Origin are no browsers, and may open one. By default every page may.",
        precedent="websockets origins; Django Channels AllowedHostsOriginValidator",
    )
    websocket_compression: str = option(
        "off",
        Choice(("off", "on", "takeover"), what="MODE", switch=("on", "off")),
        "--websocket-compression",
        group="WebSocket",
        help="Compression of messages with clients that offer it (permessage-deflate, RFC 7692). on: each message from "
        "256 bytes on, for itself, so that an idle connection needs no more memory. takeover: each message from 32 "
        "bytes on, with earlier ones as its context. Short messages get much smaller, and a connection needs 8 KiB "
        "more, or 36 KiB where the client does not let the server choose. A short message costs about 10 us of CPU.",
        precedent="websockets compression (on, with context); Tornado get_compression_options (off); ws "
        "perMessageDeflate (off)",
    )
