"""Limits of requests and responses, and how strictly requests are read."""

from __future__ import annotations

from ..option_kinds import GIB, KIB, MIB, Count, Directory, Seconds, Size, Switch
from .option import option


class LimitOptions:
    """Options of the groups Time limits, Size limits, Leniency, Request bodies."""

    # --- Time limits ----------------------------------------------------------------------------------------------

    keep_alive: float = option(
        5.0,
        Seconds(),
        "--keep-alive",
        group="Time limits",
        help="How long an idle connection waits for its next request. 0: one request per connection.",
        unit="seconds",
        aliases=("keepalive",),
        precedent="Gunicorn keepalive (2); Meinheld set_keepalive (0)",
        gunicorn="keepalive",
    )
    graceful_timeout: float = option(
        30.0,
        Seconds(),
        "--graceful-timeout",
        group="Time limits",
        help="How long requests in progress may go on after SIGTERM, SIGINT or stop().",
        unit="seconds",
        precedent="Gunicorn graceful_timeout",
        gunicorn="graceful_timeout",
        master=True,
    )
    drain_delay: float = option(
        0.0,
        Seconds(),
        "--drain-delay",
        group="Time limits",
        help="How long the server goes on accepting after SIGTERM. Readiness fails at once, so that a load balancer "
        "sends new clients elsewhere. The graceful timeout begins after it.",
        precedent="Kubernetes preStop sleep; HAProxy hard-stop-after",
        unit="seconds",
        master=True,
    )
    keep_alive_requests: int = option(
        0,
        Count(0, 2**31 - 1),
        "--keep-alive-requests",
        group="Time limits",
        help="Most requests on one connection; after the last one it is closed. 0: no limit.",
        unit="requests",
        aliases=("keepalive_requests",),
        precedent="nginx keepalive_requests (1000); Apache MaxKeepAliveRequests (100)",
    )
    client_header_timeout: float = option(
        60.0,
        Seconds(),
        "--client-header-timeout",
        group="Time limits",
        help="How long a client may take to send the whole head of a request. 0: no limit.",
        unit="seconds",
        precedent="nginx client_header_timeout",
    )
    client_body_timeout: float = option(
        60.0,
        Seconds(),
        "--client-body-timeout",
        group="Time limits",
        help="How long a client may pause while it sends a request body. 0: no limit.",
        unit="seconds",
        precedent="nginx client_body_timeout",
    )
    client_body_min_rate: int = option(
        240,
        Count(0, 2**31 - 1),
        "--client-body-min-rate",
        group="Time limits",
        help="Lowest average rate of a request body that the application waits for. The waits may add up to "
        "client_body_timeout and one second for each such number of bytes received. 0: no such rule.",
        unit="bytes a second",
        precedent="Apache RequestReadTimeout body=20,MinRate=500; Kestrel MinRequestBodyDataRate (240)",
    )
    send_timeout: float = option(
        60.0,
        Seconds(),
        "--send-timeout",
        group="Time limits",
        help="How long a client may take nothing of the response, or of a WebSocket's messages. 0: no limit.",
        unit="seconds",
        precedent="nginx send_timeout",
    )
    min_send_rate: int = option(
        500,
        Count(0, 2**31 - 1),
        "--min-send-rate",
        group="Time limits",
        help="Lowest average rate at which a client must take a response, or WebSocket messages, that the application "
        "waits to send. Each such number of bytes buys a second of waiting; at most send_timeout is saved up. 0: no "
        "such rule.",
        unit="bytes a second",
        precedent="Kestrel MinResponseDataRate (240); Apache RequestReadTimeout MinRate=500 for requests",
    )

    request_timeout: float = option(
        0.0,
        Seconds(),
        "--request-timeout",
        group="Time limits",
        help="How long a request may take, from its head to the end of its response. Then it gets RequestTimeout, and "
        "the client 504, or a reset if some of the response was sent. The application moves the limit through "
        'environ["rmeinheld.deadline"]. WebSockets have none by default. 0: no limit.',
        unit="seconds",
        precedent="uWSGI harakiri; Apache ProxyTimeout; Gunicorn timeout ends the whole worker",
    )
    cancel_on_disconnect: bool = option(
        False,
        Switch(),
        "--cancel-on-disconnect",
        group="Time limits",
        help="Raise ClientDisconnected where a request waits whose client resets or hangs up the connection. A client "
        "that ends only its own side may still read.",
        precedent="ASP.NET HttpContext.RequestAborted; Go Request.Context",
    )

    # --- Size limits ----------------------------------------------------------------------------------------------

    limit_request_line: int = option(
        8208,
        Size(0, 16 * MIB),
        "--limit-request-line",
        group="Size limits",
        help="Longest request line; the answer to a longer one is 414. 0: only the limit of the head counts.",
        unit="bytes",
        precedent="Gunicorn limit_request_line (4094); Meinheld takes a target of 8 KiB",
        gunicorn="limit_request_line",
    )
    limit_request_fields: int = option(
        128,
        Count(1, 32768),
        "--limit-request-fields",
        group="Size limits",
        help="Most field lines in the head of a request; the answer to more is 431.",
        unit="fields",
        precedent="Gunicorn limit_request_fields (100); Meinheld 128",
        gunicorn="limit_request_fields",
    )
    limit_request_field_size: int = option(
        8192,
        Size(0, 16 * MIB),
        # Gunicorn spells it with an underscore.
        "--limit-request-field_size",
        "--limit-request-field-size",
        group="Size limits",
        help="Longest field line; the answer to a longer one is 431. 0: only the limit of the head counts.",
        unit="bytes",
        precedent="Gunicorn limit_request_field_size (8190); Meinheld 8 KiB",
        gunicorn="limit_request_field_size",
    )
    limit_request_head: int = option(
        80 * KIB,
        Size(KIB, 16 * MIB),
        "--limit-request-head",
        group="Size limits",
        help="Longest head of a request, with the request line and all fields; the answer to a longer one is 431.",
        unit="bytes",
        precedent="Meinheld, Node.js --max-http-header-size",
    )
    limit_request_body: int = option(
        16 * MIB,
        Size(0, 2**63 - 1),
        "--limit-request-body",
        group="Size limits",
        help="Longest request body; the answer to a longer one is 413. 0: no limit.",
        unit="bytes",
        aliases=("max_content_length",),
        precedent="Apache LimitRequestBody; Meinheld set_max_content_length",
    )
    limit_request_chunk_line: int = option(
        4096,
        Size(16, 16 * MIB),
        "--limit-request-chunk-line",
        group="Size limits",
        help="Longest line with the size of a chunk and its extensions; the answer to a longer one is 400.",
        unit="bytes",
        precedent="Go net/http (4096); hyper takes 16 KiB of extensions in all",
    )
    limit_request_trailer: int = option(
        8192,
        Size(2, 16 * MIB),
        "--limit-request-trailer",
        group="Size limits",
        help="Longest trailer section of a chunked body; the answer to a longer one is 431.",
        unit="bytes",
        precedent="Gunicorn (as the limits of the head)",
    )
    limit_request_trailer_fields: int = option(
        128,
        Count(0, 32768),
        "--limit-request-trailer-fields",
        group="Size limits",
        help="Most field lines of a trailer section; the answer to more is 431.",
        unit="fields",
        precedent="Gunicorn limit_request_fields (100)",
    )

    # --- Leniency -------------------------------------------------------------------------------------------------

    permit_obsolete_folding: bool = option(
        False,
        Switch(),
        "--permit-obsolete-folding",
        group="Leniency",
        help="Join a field line that begins with white space to the line before it, with one space, instead of "
        "answering 400 (RFC 9112 5.2 allows both). A proxy that reads such lines differently sees other fields "
        "(request smuggling). Host, Content-Length, Transfer-Encoding and trailer fields are never joined.",
        precedent="Gunicorn permit_obsolete_folding",
        gunicorn="permit_obsolete_folding",
    )
    strip_header_spaces: bool = option(
        False,
        Switch(),
        "--strip-header-spaces",
        group="Leniency",
        help="Ignore white space between a field's name and the colon, where RFC 9112 5.1 requires 400. A proxy that "
        "treats it as part of the name sees other fields (request smuggling). The answer remains 400 in Host, "
        "Content-Length, Transfer-Encoding and trailer fields.",
        precedent="Gunicorn strip_header_spaces",
        gunicorn="strip_header_spaces",
    )
    permit_unconventional_http_method: bool = option(
        True,
        Switch(),
        "--no-permit-unconventional-http-method",
        group="Leniency",
        help="Answer 400 to methods with small letters or #, or with fewer than 3 or more than 20 bytes. RFC 9110 "
        "allows them, but none is registered.",
        precedent="Gunicorn permit_unconventional_http_method (off)",
        gunicorn="permit_unconventional_http_method",
    )
    permit_connect: bool = option(
        False,
        Switch(),
        "--permit-connect",
        group="Leniency",
        help="Pass CONNECT to the application instead of answering 501. A 2xx answer ends HTTP on the connection: the "
        "items of the result are sent without framing (RFC 9110 9.3.6).",
        precedent="Apache AllowCONNECT; nginx answers 405",
    )
    casefold_http_method: bool = option(
        False,
        Switch(),
        "--casefold-http-method",
        group="Leniency",
        help="Convert methods to capitals, although their case matters. A proxy that forbids DELETE may let delete "
        "pass.",
        precedent="Gunicorn casefold_http_method",
        gunicorn="casefold_http_method",
    )
    permit_unconventional_http_version: bool = option(
        False,
        Switch(),
        "--permit-unconventional-http-version",
        group="Leniency",
        help="Serve requests of HTTP/2.0 and up as HTTP/1.1, and of HTTP/0.9 as HTTP/1.0, instead of answering 505. A "
        "proxy may frame them differently (request smuggling).",
        precedent="Gunicorn permit_unconventional_http_version",
        gunicorn="permit_unconventional_http_version",
    )

    # --- Request bodies -------------------------------------------------------------------------------------------

    chunked_requests: bool = option(
        True,
        Switch(),
        "--no-chunked-requests",
        group="Request bodies",
        help="Answer 411 to a chunked body, for applications that need its length.",
        precedent="mod_wsgi WSGIChunkedRequest (off)",
    )
    request_buffering: bool = option(
        False,
        Switch(),
        "--request-buffering",
        group="Request bodies",
        help="Receive the whole body before the application is called. Then wsgi.input is a seekable file, and a "
        "chunked body has a CONTENT_LENGTH. By default, bodies are streamed.",
        precedent="nginx proxy_request_buffering; uWSGI post-buffering; Meinheld always",
    )
    client_body_buffer_size: int = option(
        512_000,
        Size(0, GIB),
        "--client-body-buffer-size",
        group="Request bodies",
        help="With --request-buffering, the longest body that stays in memory. A longer one goes to a temporary file.",
        unit="bytes",
        precedent="Meinheld set_client_body_buffer_size; nginx client_body_buffer_size",
    )
    client_body_temp_path: str | None = option(
        None,
        Directory(),
        "--client-body-temp-path",
        group="Request bodies",
        help="Directory of those files. The default is that of Python's tempfile (TMPDIR).",
        precedent="nginx client_body_temp_path; Gunicorn worker_tmp_dir is for its heartbeat",
    )
