"""Channels."""

from __future__ import annotations

from ..option_kinds import ChannelUrl, Secret
from .option import option


class ChannelOptions:
    """Options of the group Channels."""

    channel_url: str | None = option(
        None,
        ChannelUrl(),
        "--channel-url",
        group="Channels",
        help="Redis that carries the messages of channels between machines: redis://HOST:6379/0, rediss://HOST (TLS) "
        "or unix:///PATH. It needs redis-py. By default they stay within the workers of the service.",
        precedent="Flask-SocketIO message_queue; Django Channels CHANNEL_LAYERS",
    )
    channel_key: str | None = option(
        None,
        Secret(),
        group="Channels",
        help="Secret that signs the messages of channels over Redis, the same on all machines of the service. Messages "
        "with another signature are dropped. By default the password of channel_url signs them.",
        precedent="Django Channels symmetric_encryption_keys",
    )
