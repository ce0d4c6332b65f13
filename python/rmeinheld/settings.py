"""Every option of the server, in one table: the fields of `Settings`.

The table is the source of the keyword options of `rmeinheld.run`, of the command line and its help, and of the settings
reference. It also has the environment variables of a Gunicorn worker, and the checks of the `set_*` functions. An
option is named after its flag (`--keep-alive` is `keep_alive`). A bad value raises ValueError or TypeError that names
the option, its range and the value. No value is corrected silently.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from .access_log import DEFAULT_FORMAT, AccessLogger, ErrorLogger
from .option_kinds import (
    GIB,
    KIB,
    MIB,
    Addresses,
    Assignments,
    Caller,
    Choice,
    Count,
    Directories,
    Directory,
    FieldNames,
    FileName,
    Kind,
    LogFormat,
    Mask,
    Networks,
    Origins,
    SchemeFields,
    Seconds,
    Size,
    Switch,
)

if TYPE_CHECKING:
    from wsgiref.types import ErrorStream

__all__ = ["GROUPS", "OPTIONS", "PREFIX", "Option", "Settings", "find_option", "resolve"]

# --- the table -------------------------------------------------------------------------------------------------------

GROUPS: Final = (
    "Listening",
    "Time limits",
    "Size limits",
    "Leniency",
    "Request bodies",
    "Behind a proxy",
    "WebSocket",
    "Concurrency",
    "Logging",
    "Process",
)
"""Groups of options, in the order of the help."""

PREFIX: Final = "RMEINHELD_"
"""Start of the environment variables that set options in a Gunicorn worker."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One row of the table.

    `flags` is empty for an option that only `run` takes. `scope` is "command" for an option of the command line alone:
    an application that calls `run` does that work itself. `unit` follows the default in the help. An option whose
    default is None takes None. `precedent` names the servers that have the option, with their names and defaults.
    `gunicorn` is the Gunicorn setting that decides the option in a Gunicorn worker. An option without one has an
    environment variable there.
    """

    name: str = ""
    kind: Kind
    default: object
    group: str
    help: str
    precedent: str
    flags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    unit: str = ""
    gunicorn: str = ""
    scope: Literal["server", "command"] = "server"

    @property
    def environment(self) -> str:
        """The environment variable that sets the option in a worker of Gunicorn; empty if none does."""
        return PREFIX + self.name.upper() if self.flags and not self.gunicorn else ""

    def check(self, value: object, label: str | None = None) -> object:
        """Return `value` in its final type. Raises ValueError, TypeError or AttributeError naming `label`."""
        if value is None and self.default is None:
            return None
        return self.kind.check(label or self.name, value)

    @property
    def flag(self) -> str:
        """The flag that messages use as the name of the option."""
        return next((flag for flag in self.flags if flag.startswith("--")), self.name)


def _option(
    default: object,
    kind: Kind,
    *flags: str,
    group: str,
    help: str,
    precedent: str,
    aliases: tuple[str, ...] = (),
    unit: str = "",
    gunicorn: str = "",
    scope: Literal["server", "command"] = "server",
) -> Any:
    row = Option(
        kind=kind,
        default=default,
        group=group,
        help=help,
        precedent=precedent,
        flags=flags,
        aliases=aliases,
        unit=unit,
        gunicorn=gunicorn,
        scope=scope,
    )
    return dataclasses.field(default=default, metadata={"option": row})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The checked options of one server. The fields are the table of options.

    Raises ValueError, TypeError or AttributeError that names the option, its range and the value.

    >>> Settings(keep_alive=2).keep_alive
    2.0
    >>> Settings(backlog=0)
    Traceback (most recent call last):
        ...
    ValueError: backlog must be an integer from 1 to 65535, not 0
    """

    bind: tuple[str, ...] = _option(
        ("127.0.0.1:8000",),
        Addresses(),
        "-b",
        "--bind",
        group="Listening",
        help="Address to listen on: HOST:PORT, HOST, :PORT (all IPv4 addresses), PORT (127.0.0.1), [IPV6]:PORT "
        "([::]:PORT is all addresses, or only the IPv6 ones if the list has an IPv4 address with that port), "
        "unix:PATH, unix:@NAME (abstract) or fd://N (inherited). May be repeated. Port 0 takes a free one. Without "
        "it, sockets passed by systemd are used if there are any.",
        precedent="Gunicorn bind",
        gunicorn="bind",
    )
    backlog: int = _option(
        2048,
        Count(1, 65535),
        "--backlog",
        group="Listening",
        help="Most connections that wait in the kernel to be accepted. The kernel may lower it.",
        unit="connections",
        precedent="Gunicorn backlog; Meinheld set_backlog (4096)",
        gunicorn="backlog",
    )
    reuse_port: bool = _option(
        False,
        Switch(),
        "--reuse-port",
        group="Listening",
        help="Set SO_REUSEPORT, so that several processes can listen on the same port.",
        precedent="Gunicorn reuse_port",
        gunicorn="reuse_port",
    )
    umask: int | None = _option(
        None,
        Mask(),
        "-m",
        "--umask",
        group="Listening",
        help="Mask of permissions of Unix sockets (and, from the command line, of all files). The default is the mask "
        "of the process.",
        precedent="Gunicorn umask (0)",
        gunicorn="umask",
    )

    keep_alive: float = _option(
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
    graceful_timeout: float = _option(
        30.0,
        Seconds(),
        "--graceful-timeout",
        group="Time limits",
        help="How long requests in progress may go on after SIGTERM, SIGINT or stop().",
        unit="seconds",
        precedent="Gunicorn graceful_timeout",
        gunicorn="graceful_timeout",
    )
    keep_alive_requests: int = _option(
        0,
        Count(0, 2**31 - 1),
        "--keep-alive-requests",
        group="Time limits",
        help="Most requests on one connection; after the last one it is closed. 0: no limit.",
        unit="requests",
        aliases=("keepalive_requests",),
        precedent="nginx keepalive_requests (1000); Apache MaxKeepAliveRequests (100)",
    )
    client_header_timeout: float = _option(
        60.0,
        Seconds(),
        "--client-header-timeout",
        group="Time limits",
        help="How long a client may take to send the whole head of a request. 0: no limit.",
        unit="seconds",
        precedent="nginx client_header_timeout",
    )
    client_body_timeout: float = _option(
        60.0,
        Seconds(),
        "--client-body-timeout",
        group="Time limits",
        help="How long a client may pause while it sends a request body. 0: no limit.",
        unit="seconds",
        precedent="nginx client_body_timeout",
    )
    client_body_min_rate: int = _option(
        240,
        Count(0, 2**31 - 1),
        "--client-body-min-rate",
        group="Time limits",
        help="Lowest average rate of a request body that the application waits for. The waits may add up to "
        "client_body_timeout and one second for each such number of bytes received. 0: no such rule.",
        unit="bytes a second",
        precedent="Apache RequestReadTimeout body=20,MinRate=500; Kestrel MinRequestBodyDataRate (240)",
    )
    send_timeout: float = _option(
        60.0,
        Seconds(),
        "--send-timeout",
        group="Time limits",
        help="How long a client may take nothing of the response, or of a WebSocket's messages. 0: no limit.",
        unit="seconds",
        precedent="nginx send_timeout",
    )
    min_send_rate: int = _option(
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

    limit_request_line: int = _option(
        8208,
        Size(0, 16 * MIB),
        "--limit-request-line",
        group="Size limits",
        help="Longest request line; the answer to a longer one is 414. 0: only the limit of the head counts.",
        unit="bytes",
        precedent="Gunicorn limit_request_line (4094); Meinheld takes a target of 8 KiB",
        gunicorn="limit_request_line",
    )
    limit_request_fields: int = _option(
        128,
        Count(1, 32768),
        "--limit-request-fields",
        group="Size limits",
        help="Most field lines in the head of a request; the answer to more is 431.",
        unit="fields",
        precedent="Gunicorn limit_request_fields (100); Meinheld 128",
        gunicorn="limit_request_fields",
    )
    limit_request_field_size: int = _option(
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
    limit_request_head: int = _option(
        80 * KIB,
        Size(KIB, 16 * MIB),
        "--limit-request-head",
        group="Size limits",
        help="Longest head of a request, with the request line and all fields; the answer to a longer one is 431.",
        unit="bytes",
        precedent="Meinheld, Node.js --max-http-header-size",
    )
    limit_request_body: int = _option(
        16 * MIB,
        Size(0, 2**63 - 1),
        "--limit-request-body",
        group="Size limits",
        help="Longest request body; the answer to a longer one is 413. 0: no limit.",
        unit="bytes",
        aliases=("max_content_length",),
        precedent="Apache LimitRequestBody; Meinheld set_max_content_length",
    )
    limit_request_chunk_line: int = _option(
        4096,
        Size(16, 16 * MIB),
        "--limit-request-chunk-line",
        group="Size limits",
        help="Longest line with the size of a chunk and its extensions; the answer to a longer one is 400.",
        unit="bytes",
        precedent="Go net/http (4096); hyper takes 16 KiB of extensions in all",
    )
    limit_request_trailer: int = _option(
        8192,
        Size(2, 16 * MIB),
        "--limit-request-trailer",
        group="Size limits",
        help="Longest trailer section of a chunked body; the answer to a longer one is 431.",
        unit="bytes",
        precedent="Gunicorn (as the limits of the head)",
    )
    limit_request_trailer_fields: int = _option(
        128,
        Count(0, 32768),
        "--limit-request-trailer-fields",
        group="Size limits",
        help="Most field lines of a trailer section; the answer to more is 431.",
        unit="fields",
        precedent="Gunicorn limit_request_fields (100)",
    )

    permit_obsolete_folding: bool = _option(
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
    strip_header_spaces: bool = _option(
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
    permit_unconventional_http_method: bool = _option(
        True,
        Switch(),
        "--no-permit-unconventional-http-method",
        group="Leniency",
        help="Answer 400 to methods with small letters or #, or with fewer than 3 or more than 20 bytes. RFC 9110 "
        "allows them, but none is registered.",
        precedent="Gunicorn permit_unconventional_http_method (off)",
        gunicorn="permit_unconventional_http_method",
    )
    permit_connect: bool = _option(
        False,
        Switch(),
        "--permit-connect",
        group="Leniency",
        help="Pass CONNECT to the application instead of answering 501. A 2xx answer ends HTTP on the connection: the "
        "items of the result are sent without framing (RFC 9110 9.3.6).",
        precedent="Apache AllowCONNECT; nginx answers 405",
    )
    casefold_http_method: bool = _option(
        False,
        Switch(),
        "--casefold-http-method",
        group="Leniency",
        help="Convert methods to capitals, although their case matters. A proxy that forbids DELETE may let delete "
        "pass.",
        precedent="Gunicorn casefold_http_method",
        gunicorn="casefold_http_method",
    )
    permit_unconventional_http_version: bool = _option(
        False,
        Switch(),
        "--permit-unconventional-http-version",
        group="Leniency",
        help="Serve requests of HTTP/2.0 and up as HTTP/1.1, and of HTTP/0.9 as HTTP/1.0, instead of answering 505. A "
        "proxy may frame them differently (request smuggling).",
        precedent="Gunicorn permit_unconventional_http_version",
        gunicorn="permit_unconventional_http_version",
    )

    chunked_requests: bool = _option(
        True,
        Switch(),
        "--no-chunked-requests",
        group="Request bodies",
        help="Answer 411 to a chunked body, for applications that need its length.",
        precedent="mod_wsgi WSGIChunkedRequest (off)",
    )
    request_buffering: bool = _option(
        False,
        Switch(),
        "--request-buffering",
        group="Request bodies",
        help="Receive the whole body before the application is called. Then wsgi.input is a seekable file, and a "
        "chunked body has a CONTENT_LENGTH. By default, bodies are streamed.",
        precedent="nginx proxy_request_buffering; uWSGI post-buffering; Meinheld always",
    )
    client_body_buffer_size: int = _option(
        512_000,
        Size(0, GIB),
        "--client-body-buffer-size",
        group="Request bodies",
        help="With --request-buffering, the longest body that stays in memory. A longer one goes to a temporary file.",
        unit="bytes",
        precedent="Meinheld set_client_body_buffer_size; nginx client_body_buffer_size",
    )
    client_body_temp_path: str | None = _option(
        None,
        Directory(),
        "--client-body-temp-path",
        group="Request bodies",
        help="Directory of those files. The default is that of Python's tempfile (TMPDIR).",
        precedent="nginx client_body_temp_path; Gunicorn worker_tmp_dir is for its heartbeat",
    )

    forwarded_allow_ips: tuple[str, ...] = _option(
        (),
        Networks(),
        "--forwarded-allow-ips",
        group="Behind a proxy",
        help="Addresses and networks of the proxies that are trusted to speak for other clients, separated by commas; "
        "'*' is all peers. If there is one, peers on Unix sockets are trusted, too. By default no peer is trusted.",
        precedent="Gunicorn forwarded_allow_ips (127.0.0.1,::1)",
        gunicorn="forwarded_allow_ips",
    )
    trusted_proxy_headers: tuple[str, ...] = _option(
        ("x-forwarded-for",),
        FieldNames(known=("x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "forwarded")),
        "--trusted-proxy-headers",
        group="Behind a proxy",
        help="Fields that those proxies set, separated by commas; they must remove all others. x-forwarded-for sets "
        "REMOTE_ADDR, x-forwarded-host and x-forwarded-port set the host. forwarded (RFC 7239) sets these and the "
        "scheme.",
        precedent="Waitress trusted_proxy_headers",
    )
    clear_untrusted_proxy_headers: bool = _option(
        True,
        Switch(),
        "--no-clear-untrusted-proxy-headers",
        group="Behind a proxy",
        help="Leave the fields of those proxies in the environ when untrusted peers send them. By default they are "
        "removed if there is a trusted proxy.",
        precedent="Waitress clear_untrusted_proxy_headers; Gunicorn leaves them",
    )
    secure_scheme_headers: tuple[tuple[str, str], ...] = _option(
        (("X-FORWARDED-PROTOCOL", "ssl"), ("X-FORWARDED-PROTO", "https"), ("X-FORWARDED-SSL", "on")),
        SchemeFields(),
        group="Behind a proxy",
        help="Fields of those proxies, each with the value that makes wsgi.url_scheme https, as a dictionary.",
        precedent="Gunicorn secure_scheme_headers",
        gunicorn="secure_scheme_headers",
    )
    forwarder_headers: tuple[str, ...] = _option(
        ("SCRIPT_NAME", "PATH_INFO"),
        FieldNames(),
        "--forwarder-headers",
        group="Behind a proxy",
        help="Fields with an underscore in their name that those proxies may send, separated by commas; '*' is all. "
        "SCRIPT_NAME is removed from the path.",
        precedent="Gunicorn forwarder_headers",
        gunicorn="forwarder_headers",
    )
    header_map: str = _option(
        "drop",
        Choice(("drop", "refuse", "dangerous"), what="HOW"),
        "--header-map",
        group="Behind a proxy",
        help="Treatment of other fields with an underscore in their name, which an application cannot tell from "
        "fields with a dash: drop them, refuse the request, or (dangerous) pass them on.",
        precedent="Gunicorn header_map",
        gunicorn="header_map",
    )
    proxy_protocol: str = _option(
        "off",
        Choice(("off", "v1", "v2", "auto"), what="MODE", switch=("auto", "off")),
        "--proxy-protocol",
        group="Behind a proxy",
        help="Version of the PROXY protocol in which a connection may name its client: off, v1, v2 or auto (both). "
        "Without a value: auto.",
        precedent="Gunicorn proxy_protocol",
        gunicorn="proxy_protocol",
    )
    proxy_allow_ips: tuple[str, ...] = _option(
        ("127.0.0.1", "::1"),
        Networks(),
        "--proxy-allow-ips",
        "--proxy-allow-from",
        group="Behind a proxy",
        help="Addresses and networks that may use it, separated by commas; '*' is all peers. Others get 403.",
        precedent="Gunicorn proxy_allow_ips, --proxy-allow-from",
        gunicorn="proxy_allow_ips",
    )

    websocket_max_message_size: int = _option(
        MIB,
        Size(1, 2**31 - 1),
        "--websocket-max-message-size",
        group="WebSocket",
        help="Longest message from a client. A longer one closes the WebSocket with 1009, before it is in memory.",
        unit="bytes",
        precedent="websockets max_size (1 MiB); Gunicorn websocket_max_message_size (16 MiB)",
    )
    websocket_max_queue_size: int = _option(
        64 * KIB,
        Size(1, GIB),
        "--websocket-max-queue-size",
        group="WebSocket",
        help="Most bytes that wait for a slow client before send() waits, too. A message is always queued whole.",
        unit="bytes",
        precedent="websockets write_limit (32 KiB); aiohttp (64 KiB)",
    )
    websocket_ping_interval: float = _option(
        0.0,
        Seconds(),
        "--websocket-ping-interval",
        group="WebSocket",
        help="How long a client may be silent before it is pinged. 0: it is never pinged.",
        unit="seconds",
        precedent="websockets ping_interval (20); Uvicorn --ws-ping-interval (20)",
    )
    websocket_ping_timeout: float = _option(
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
    websocket_close_timeout: float = _option(
        10.0,
        Seconds(),
        "--websocket-close-timeout",
        group="WebSocket",
        help="How long the closing handshake may take; then the connection is cut. When the server stops, the "
        "application first has the same time to receive and answer pending messages. 0: no limit.",
        unit="seconds",
        precedent="websockets close_timeout (10)",
    )
    websocket_origins: tuple[str, ...] | None = _option(
        None,
        Origins(),
        "--websocket-origins",
        group="WebSocket",
        help="Origins from which browsers may open a WebSocket, such as https://shop.example, separated by commas; "
        "others get 403. Clients without an Origin are no browsers, and may open one. By default every page may.",
        precedent="websockets origins; Django Channels AllowedHostsOriginValidator",
    )

    worker_connections: int = _option(
        1000,
        Count(1, 1_000_000),
        "--worker-connections",
        group="Concurrency",
        help="Most requests in progress at once; more wait in the kernel. Idle connections do not count.",
        unit="requests",
        precedent="Gunicorn worker_connections",
        gunicorn="worker_connections",
    )
    max_connections: int | None = _option(
        None,
        Count(1, 1_000_000),
        "--max-connections",
        group="Concurrency",
        help="Most connections open at once. At the limit, a new connection replaces the one that has been idle for "
        "longest; if none is idle, it waits in the kernel. The default is the limit of open files (ulimit -n), less "
        "the files open at the start and a reserve for the application: an eighth, from 16 to 1000.",
        unit="connections",
        precedent="nginx worker_connections; Waitress connection_limit (100)",
    )
    turn_budget: float = _option(
        0.01,
        Seconds(),
        "--turn-budget",
        group="Concurrency",
        help="How long a coroutine may run without a wait. After that, its next cooperative call, read or write lets "
        "the others run first. 0: no limit, so one busy client can hold up all others.",
        unit="seconds",
        precedent="none; asyncio's slow_callback_duration (0.1) only reports",
    )
    stack_size: int = _option(
        8 * MIB,
        Size(256 * KIB, GIB),
        "--stack-size",
        group="Concurrency",
        help="Stack of a coroutine. It is address space: it takes memory only as far as it is used.",
        unit="bytes",
        precedent="ulimit -s, threading.stack_size",
    )
    sendfile: bool = _option(
        True,
        Switch(),
        "--no-sendfile",
        group="Concurrency",
        help="Do not use sendfile(2) for wsgi.file_wrapper.",
        precedent="Gunicorn sendfile, --no-sendfile",
        gunicorn="sendfile",
    )
    multiprocess: bool = _option(
        False,
        Switch(),
        group="Concurrency",
        help="Do other processes serve the same application? The value of wsgi.multiprocess.",
        precedent="PEP 3333 wsgi.multiprocess",
        gunicorn="workers",
    )

    access_logfile: str | None = _option(
        None,
        FileName("a file name, or '-' for standard output"),
        "--access-logfile",
        group="Logging",
        help="File of the access log, '-' for standard output. By default there is no access log.",
        precedent="Gunicorn accesslog, --access-logfile",
        gunicorn="accesslog",
    )
    access_logformat: str = _option(
        DEFAULT_FORMAT,
        LogFormat(),
        "--access-logformat",
        group="Logging",
        help="Format of the access log, in Gunicorn's atoms (see rmeinheld.access_log).",
        aliases=("access_log_format",),
        precedent="Gunicorn access_log_format, --access-logformat",
        gunicorn="access_log_format",
    )
    error_logfile: str = _option(
        "-",
        FileName("a file name, or '-' for standard error"),
        "--error-logfile",
        "--log-file",
        group="Logging",
        help="File of the error log, '-' for standard error.",
        precedent="Gunicorn errorlog, --error-logfile, --log-file",
        gunicorn="errorlog",
    )
    log_level: str = _option(
        "info",
        Choice(("debug", "info", "warning", "error", "critical")),
        "--log-level",
        group="Logging",
        help="Least severe level in the error log: debug, info, warning, error or critical.",
        precedent="Gunicorn loglevel, --log-level",
        gunicorn="loglevel",
    )
    access_logger: AccessLogger | None = _option(  # noqa: RUF009 (a field(), which ruff cannot see)
        None,
        Caller("access"),
        group="Logging",
        help="Object whose access(environ) is called after each response.",
        precedent="Meinheld set_access_logger",
    )
    error_logger: ErrorLogger | None = _option(  # noqa: RUF009 (a field(), which ruff cannot see)
        None,
        Caller("error"),
        group="Logging",
        help="Object whose error(exc_type, exc, tb) is called for errors of the application, instead of the logger "
        "rmeinheld.error.",
        precedent="Meinheld set_error_logger",
    )
    wsgi_errors: ErrorStream | None = _option(  # noqa: RUF009 (a field(), which ruff cannot see)
        None,
        Caller("write"),
        group="Logging",
        help="Text stream that applications find as wsgi.errors. The default is sys.stderr, or the error log if that "
        "is closed.",
        precedent="PEP 3333 wsgi.errors",
    )

    chdir: str | None = _option(
        None,
        Directory(),
        "--chdir",
        group="Process",
        help="Change to this directory before the application is imported.",
        precedent="Gunicorn chdir",
        gunicorn="chdir",
        scope="command",
    )
    pythonpath: str | None = _option(
        None,
        Directories(),
        "--pythonpath",
        group="Process",
        help="Directories, separated by commas, to insert at the front of sys.path.",
        precedent="Gunicorn pythonpath",
        gunicorn="pythonpath",
        scope="command",
    )
    env: tuple[str, ...] = _option(
        (),
        Assignments(),
        "-e",
        "--env",
        group="Process",
        help="Environment variable to set before the application is imported. May be repeated.",
        precedent="Gunicorn raw_env, --env",
        gunicorn="raw_env",
        scope="command",
    )
    pid: str | None = _option(
        None,
        FileName(),
        "-p",
        "--pid",
        group="Process",
        help="File that holds the process id while the server runs.",
        precedent="Gunicorn pidfile, --pid",
        gunicorn="pidfile",
        scope="command",
    )
    check_config: bool = _option(
        False,
        Switch(),
        "--check-config",
        group="Process",
        help="Check the options, import the application, and exit without serving.",
        precedent="Gunicorn check_config",
        gunicorn="check_config",
        scope="command",
    )

    def __post_init__(self) -> None:
        for option in OPTIONS.values():
            object.__setattr__(self, option.name, option.check(getattr(self, option.name)))
        # 0 means that only the limit of the head counts. With that number, the parser needs no rule for 0.
        for name in ("limit_request_line", "limit_request_field_size"):
            if getattr(self, name) == 0:
                object.__setattr__(self, name, self.limit_request_head)
        if "forwarded" in self.trusted_proxy_headers and len(self.trusted_proxy_headers) > 1:
            raise ValueError(
                "trusted_proxy_headers must have 'forwarded' alone or other fields without it, "
                f"not {self.trusted_proxy_headers!r}"
            )

    @property
    def access_log_format(self) -> str:
        """The format of the access log, under Gunicorn's name of the setting."""
        return self.access_logformat

    @classmethod
    def from_options(cls, options: Mapping[str, object], defaults: Mapping[str, object] | None = None) -> Settings:
        """Return settings from the keyword options of `run`, which win over `defaults` (by name, no aliases).

        Raises the exceptions of `resolve` and `Settings`.
        """
        return cls(**cast(dict[str, Any], {**(defaults or {}), **resolve(options)}))


OPTIONS: Final[dict[str, Option]] = {
    field.name: dataclasses.replace(field.metadata["option"], name=field.name) for field in dataclasses.fields(Settings)
}
"""The table: options by name, in the order of the help."""

_NAMES: Final[dict[str, Option]] = {
    name: option for option in OPTIONS.values() for name in (option.name, *option.aliases)
}


def find_option(name: str) -> Option:
    """Return the option called `name`, which may be an alias.

    Raises TypeError naming it, with the nearest name that exists.
    """
    option = _NAMES.get(name)
    if option is None:
        raise TypeError(f"unknown option {name!r}{suggestion(name, _NAMES)}")
    return option


def resolve(options: Mapping[str, object]) -> dict[str, object]:
    """Replace aliases among the keyword options of `run` by the names of the table.

    Raises TypeError for an unknown option, for an option of the command line alone, and for two names of one option.
    """
    resolved: dict[str, object] = {}
    given: dict[str, str] = {}
    for name, value in options.items():
        option = find_option(name)
        if option.scope == "command":
            raise TypeError(f"option {name!r} belongs to the command line ({option.flag}); run() does not take it")
        if option.name in given:
            raise TypeError(f"options {given[option.name]!r} and {name!r} are the same option; give only one")
        given[option.name] = name
        resolved[option.name] = option.check(value, label=name)
    return resolved


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean ...?" if one of `known` is close to `name`, otherwise an empty string."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
