"""Sticky sessions: the option, and its kind."""

from __future__ import annotations

from ..option_kinds import Secret, Text
from .option import option

SHORTEST_KEY = 16
"""Characters that a key needs at least."""


WITHOUT_EFFECT = "sticky = %r has no effect with one worker"
"""Line of the log for a service that needs no hand-overs."""


class Session(Text):
    """The property of a request that names its session: a word, or a word and its argument."""

    what = "socketio, cookie:NAME, header:NAME, ip or path:REGEX"
    metavar = "HOW"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        text = super().check(label, value)
        from .._rmeinheld import check_sticky

        try:
            check_sticky(text)
        except ValueError as error:
            raise ValueError(f"{label} must be {self.expected}, not {text!r}: {error}") from None
        return text


class StickyOptions:
    """Options of the group Workers."""

    sticky: str | None = option(
        None,
        Session(),
        "--sticky",
        group="Workers",
        help="Property of a request that decides which worker serves it, for sessions in a worker's memory: socketio, "
        "cookie:NAME (a cookie of the server's own), header:NAME, ip or path:REGEX. By default any worker may.",
        precedent="nginx ip_hash, sticky; HAProxy cookie insert; none in Gunicorn",
        scope="command",
    )
    sticky_key: str | None = option(
        None,
        Secret(SHORTEST_KEY),
        group="Workers",
        help="Secret that signs the cookies of sticky. By default a random one, which is new at each start.",
        precedent="none",
        scope="command",
    )


def check_sticky_with_tls(sticky: str | None, *, is_tls: bool) -> None:
    """Raise ValueError if TLS in the server hides what decides where a request is served."""
    if is_tls and sticky not in (None, "ip"):
        raise ValueError(
            f"sticky must be ip with certfile, not {sticky!r}: TLS in the server hides the request until the worker "
            "that accepted it has shaken hands, and such a connection cannot be handed over; leave TLS to a proxy"
        )
