"""The URL and the key of channels: those of the running server's options, or else of the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .settings import Settings

__all__ = ["KEY_VARIABLE", "SCHEMES", "URL_VARIABLE", "configure", "key", "url", "without_password"]

URL_VARIABLE: Final = "RMEINHELD_CHANNEL_URL"
KEY_VARIABLE: Final = "RMEINHELD_CHANNEL_KEY"

SCHEMES: Final = ("redis", "rediss", "unix")
"""The schemes of URLs of channels, which are those of redis-py."""

_url: str | None = None
_key: str | None = None


def configure(settings: Settings) -> None:
    """Take the options of the server that this process runs."""
    global _url, _key
    _url, _key = settings.channel_url, settings.channel_key


def url() -> str:
    """Return the URL of channels that are made without one; "" if there is none."""
    return os.environ.get(URL_VARIABLE, "") if _url is None else _url


def key() -> str:
    """Return the key of the service; "" if there is none."""
    return os.environ.get(KEY_VARIABLE, "") if _key is None else _key


def without_password(url: str) -> str:
    """Return a URL for messages. Its query may have a password, too."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition(":")[0] + ":..."
    host = parts.netloc.rpartition("@")[2]
    user = "***@" if "@" in parts.netloc else ""
    return f"{parts.scheme}://{user}{host}{parts.path}{'?...' if parts.query else ''}" if parts.scheme else url
