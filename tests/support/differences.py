"""Where this server and the parsers of h11 and Gunicorn are known to disagree, and why that is right.

None of these lets a request through in which another reader sees a different one: there, `differential.py` knows no
exception. They are about what is refused, and where a connection ends.
"""

from __future__ import annotations

import re

from differential import Known

H11 = ("h11",)
GUNICORN = ("Gunicorn",)
BOTH = ("h11", "Gunicorn")


def refusal(peers: tuple[str, ...], reason: str, why: str) -> Known:
    """This server refuses, for a reason that its log names, what the peers accept."""
    return Known(peers, f"refused {reason}", "accepted", why)


def members(value: str) -> list[str]:
    """The members of a list, empty ones included."""
    return [member.strip(" \t").lower() for member in value.split(",")]


STRICTER = (
    # Required of a server.
    refusal(GUNICORN, "400: no Host", "400 for HTTP/1.1 without Host is a must (RFC 9112 3.2)"),
    Known(
        H11,
        "refused 400: no Host",
        "accepted",
        "a later minor version is read as 1.1 (RFC 9110 2.5), and needs Host too; h11 asks for it in 1.1 alone",
        lambda place: place.accepted.version not in ("HTTP/1.0", "HTTP/1.1"),
    ),
    refusal(BOTH, "400: an empty Host", "a URI of http without a host is to be rejected (RFC 9110 4.2.1)"),
    refusal(BOTH, "400: invalid Host", "400 for an invalid Host is a must (RFC 9112 3.2)"),
    refusal(H11, "400: a line does not end in CRLF", "taking a bare LF for a line end is a may (RFC 9112 2.2)"),
    refusal(H11, "400: invalid byte in a field value", "control bytes are invalid in a value (RFC 9110 5.5)"),
    refusal(H11, "400: invalid field name", "obs-fold is to be refused or unfolded (RFC 9112 5.2)"),
    refusal(H11, "400: chunk line without CRLF", "a bare CR is invalid (RFC 9112 2.2)"),
    refusal(H11, "400: invalid chunk extension", "the grammar of extensions, and of bad white space (RFC 9112 7.1.1)"),
    refusal(H11, "400: invalid trailer field", "trailer fields have the grammar of fields (RFC 9112 7.1.2)"),
    refusal(BOTH, "400: invalid request target", "not one of the four forms, or with a fragment (RFC 9112 3.2)"),
    refusal(BOTH, "400: CONNECT without host and port", "400 for an empty or invalid port is a must (RFC 9110 9.3.6)"),
    refusal(H11, "417: ", "417 for an expectation that is not supported (RFC 9110 10.1.1)"),
    refusal(BOTH, "505: ", "505 for a version that is not supported (RFC 9110 15.6.6)"),
    refusal(GUNICORN, "501: ", "501 for a transfer coding that is not understood (RFC 9112 6.1)"),
    # The choice of a server, and the safer one.
    refusal(
        H11, "400: Content-Length together with Transfer-Encoding", "ought to be handled as an error (RFC 9112 6.3)"
    ),
    refusal(H11, "400: Content-Length is not one number", "a list of equal lengths may be refused (RFC 9112 6.3)"),
    refusal(H11, "400: more than one Content-Length", "equal lengths may be refused (RFC 9112 6.3)"),
    refusal(H11, "400: Transfer-Encoding in HTTP/1.0", "the framing is faulty (RFC 9112 6.1)"),
    refusal(H11, "400: more than one Content-Type", "a field that is no list is sent once (RFC 9110 5.3)"),
    refusal(BOTH, "400: trailer field that must not be one", "framing, routing, connection (RFC 9110 6.5.1)"),
    # Each server sets its own limits (RFC 9110 4.1 and 15.5.15, RFC 9112 7.1.1, RFC 6585 5).
    refusal(BOTH, "400: chunk-size line over the limit", "limits differ (RFC 9112 7.1.1)"),
    refusal(BOTH, "414: ", "limits differ (RFC 9112 3)"),
    refusal(BOTH, "431: ", "limits differ (RFC 6585 5)"),
)
"""Requests that this server refuses and others accept."""

MORE_LENIENT = (
    Known(
        GUNICORN,
        "accepted",
        "refused InvalidRequestMethod",
        "a method is any token (RFC 9110 9.1); Gunicorn wants 3 to 20 characters, and no small letters",
        lambda place: bool(re.search("[a-z#]", place.accepted.method)) or not 3 <= len(place.accepted.method) <= 20,
    ),
    Known(
        GUNICORN,
        "accepted",
        "refused ExpectationFailed",
        "Expect is a list, with empty members (RFC 9110 5.6.1.2, 10.1.1), and HTTP/1.0 does not have it",
        lambda place: (
            place.accepted.version == "HTTP/1.0"
            or "" in members(place.accepted.fields["HTTP_EXPECT"])
            or len(members(place.accepted.fields["HTTP_EXPECT"])) > 1
        ),
    ),
    Known(
        GUNICORN,
        "accepted",
        "refused InvalidHeaderName",
        "a trailer field may be dropped, whatever its name (RFC 9110 6.5.1)",
        lambda place: bool(re.search(rb"^(TE|Trailer|Authorization):", place.stream, re.M | re.I)),
    ),
    Known(
        GUNICORN,
        "accepted",
        "refused InvalidHeader CONTENT-TYPE",
        "a trailer field may be dropped, also one that comes twice (RFC 9110 6.5.1)",
        lambda place: len(re.findall(rb"^Content-Type:", place.stream, re.M | re.I)) > 1,
    ),
    Known(
        H11,
        "accepted",
        "refused bad Content-Length",
        "1*DIGIT, also with many zeros in front (RFC 9110 8.6); h11 has at most 20 digits",
        lambda place: len(place.accepted.fields["CONTENT_LENGTH"]) > 20,
    ),
    Known(
        H11,
        "accepted",
        "refused illegal chunk header",
        "1*HEXDIG, also with many zeros in front, and bad white space before ';' (RFC 9112 7.1); h11 has neither",
        lambda place: bool(re.search(rb"^0{20}|^[0-9a-fA-F]+[ \t]+;", place.stream, re.M)),
    ),
    Known(
        H11,
        "accepted",
        "refused no request line received",
        "a server should ignore at least one empty line before a request (RFC 9112 2.2)",
    ),
    Known(GUNICORN, "accepted", "refused LimitRequest", "limits differ (RFC 9112 3, RFC 6585 5)"),
)
"""Requests that this server accepts, as it should, and others refuse."""

ENDS = (
    Known(
        GUNICORN,
        "closed",
        "accepted",
        "Connection is a list, and close anywhere in it ends the connection (RFC 9112 9.3)",
        lambda place: "close" in members(place.connection) and place.connection.strip(" \t").lower() != "close",
    ),
    Known(
        GUNICORN,
        "accepted",
        "closed",
        "Connection is a list, also in HTTP/1.0 (RFC 9112 9.3)",
        lambda place: (
            place.before is not None
            and place.before.version == "HTTP/1.0"
            and "keep-alive" in members(place.connection)
            and place.connection.lower() != "keep-alive"
        ),
    ),
    Known(
        H11,
        "accepted",
        "closed",
        "a server may keep a connection of HTTP/1.0 that asks for it (RFC 9112 9.3); h11 does not",
        lambda place: (
            place.before is not None
            and place.before.version == "HTTP/1.0"
            and "keep-alive" in members(place.connection)
        ),
    ),
    Known(
        H11,
        "closed",
        "accepted",
        "what follows CONNECT is not a request: an optimistic client may have sent it into the tunnel (RFC 9110 9.3.6)",
        lambda place: place.before is not None and place.before.method == "CONNECT",
    ),
)
"""Where a connection ends for one and goes on for the other, as the answer says by `Connection: close`."""

KNOWN = (*STRICTER, *MORE_LENIENT, *ENDS)
