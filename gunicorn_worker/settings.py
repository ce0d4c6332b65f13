"""Every setting of Gunicorn 24.1 to 27: its effect in the worker, and the option of this server that it decides.

`SETTINGS` is the documentation, which `table()` prints as Markdown. `settings_of` is the mapping to options.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from rmeinheld.access_log import DEFAULT_FORMAT
from rmeinheld.option_kinds import KIB, MIB
from rmeinheld.settings import Settings

from .error_log import Errors
from .sources import options_of_sources

if TYPE_CHECKING:
    from .access_log import Observer

__all__ = ["SETTINGS", "Kind", "settings_of", "table"]

# --- the documentation -----------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """The part of Gunicorn or of this server that acts on a setting."""

    WORKER = "honoured"
    """This worker acts on it."""
    MASTER = "honoured by Gunicorn"
    """Gunicorn's master or its base class of workers acts on it; this worker leaves it alone."""
    NONE = "not applicable"
    """The setting has no meaning here."""


_ASGI: Final = (Kind.NONE, "concerns ASGI only")
_HTTP2: Final = (Kind.NONE, "this server speaks HTTP/1.1")
_DIRTY: Final = (Kind.MASTER, "dirty workers are processes of the master's own")
_MASTER_HOOK: Final = (Kind.MASTER, "called by the master")
_LOGGER: Final = (
    Kind.MASTER,
    "part of Gunicorn's logger, to which the worker writes errors and, if configured, the access log",
)
_PROCESS: Final = (Kind.MASTER, "done before the worker serves")
_ARBITER: Final = (Kind.MASTER, "done by the master")

SETTINGS: Final[dict[str, tuple[Kind, str]]] = {
    "access_log_format": (Kind.WORKER, "all atoms; lines of a plain file are formatted by the engine"),
    "accesslog": (Kind.WORKER, "the engine writes a plain file that Gunicorn opened; otherwise see logger_class"),
    "asgi_disconnect_grace_period": _ASGI,
    "asgi_lifespan": _ASGI,
    "asgi_loop": _ASGI,
    "backlog": _ARBITER,
    "bind": (Kind.WORKER, "TCP, Unix, fd://, several at once"),
    "ca_certs": (Kind.WORKER, "with certfile; without it an error"),
    "capture_output": _LOGGER,
    "casefold_http_method": (
        Kind.WORKER,
        "as in Gunicorn, it needs permit_unconventional_http_method",
    ),
    "cert_reqs": (Kind.WORKER, "with certfile; without it an error"),
    "certfile": (
        Kind.WORKER,
        "TLS by Python's ssl module; read again when the file changes",
    ),
    "chdir": _PROCESS,
    "check_config": _ARBITER,
    "child_exit": _MASTER_HOOK,
    "ciphers": (Kind.WORKER, "with certfile; without it an error"),
    "config": _ARBITER,
    "control_socket": _ARBITER,
    "control_socket_disable": _ARBITER,
    "control_socket_mode": _ARBITER,
    "daemon": _ARBITER,
    "default_proc_name": _ARBITER,
    "dirty_apps": _DIRTY,
    "dirty_graceful_timeout": _DIRTY,
    "dirty_post_fork": _DIRTY,
    "dirty_threads": _DIRTY,
    "dirty_timeout": _DIRTY,
    "dirty_worker_exit": _DIRTY,
    "dirty_worker_init": _DIRTY,
    "dirty_workers": _DIRTY,
    "disable_redirect_access_to_syslog": (Kind.WORKER, "decides whether Gunicorn's logger writes the access log"),
    "do_handshake_on_connect": (Kind.NONE, "the handshake advances as bytes arrive and never holds up the loop"),
    "dogstatsd_tags": _LOGGER,
    "enable_backlog_metric": _ARBITER,
    "enable_stdio_inheritance": _PROCESS,
    "errorlog": (Kind.WORKER, "errors of requests go to Gunicorn's error log, as does wsgi.errors"),
    "forwarded_allow_ips": (Kind.WORKER, "as in Gunicorn, peers on Unix sockets are trusted too, unless it is empty"),
    "forwarder_headers": (Kind.WORKER, "as in Gunicorn"),
    "graceful_timeout": (
        Kind.WORKER,
        "shared by requests, threads and jobs; after it CoroutineExit and 503. Event streams end at once",
    ),
    "group": _PROCESS,
    "header_map": (Kind.WORKER, "drop, refuse, dangerous"),
    "http2_cleartext": _HTTP2,
    "http2_initial_window_size": _HTTP2,
    "http2_max_concurrent_streams": _HTTP2,
    "http2_max_frame_size": _HTTP2,
    "http2_max_header_list_size": _HTTP2,
    "http_parser": (Kind.NONE, "the parser is the engine's own"),
    "http_protocols": (Kind.NONE, "HTTP/1.1 only; h2 is an error at start"),
    "initgroups": _PROCESS,
    "keepalive": (Kind.WORKER, "seconds; 0: one request for each connection"),
    "keyfile": (Kind.WORKER, "see certfile"),
    "limit_request_field_size": (Kind.WORKER, "bytes of a field line with its CRLF, as in Gunicorn; 431"),
    "limit_request_fields": (Kind.WORKER, "431"),
    "limit_request_line": (Kind.WORKER, "bytes; 414"),
    "logconfig": (Kind.WORKER, "Gunicorn's logger then writes the access log"),
    "logconfig_dict": (Kind.WORKER, "Gunicorn's logger then writes the access log"),
    "logconfig_json": (Kind.WORKER, "Gunicorn's logger then writes the access log"),
    "logger_class": (Kind.WORKER, "gets all messages; writes the access log if it changes the form of a line"),
    "loglevel": (Kind.WORKER, "debug: the default pre_request writes each request"),
    "max_requests": (Kind.WORKER, "accepted connections are served, with Connection: close"),
    "max_requests_jitter": (Kind.WORKER, "added by the base class"),
    "nworkers_changed": _MASTER_HOOK,
    "on_dirty_starting": _DIRTY,
    "on_exit": _MASTER_HOOK,
    "on_reload": _MASTER_HOOK,
    "on_starting": _MASTER_HOOK,
    "paste": _ARBITER,
    "permit_obsolete_folding": (Kind.WORKER, "but never in Host, Content-Length, Transfer-Encoding and trailer fields"),
    "permit_unconventional_http_method": (Kind.WORKER, "off: 400 for small letters, #, lengths not 3 to 20"),
    "permit_unconventional_http_version": (Kind.WORKER, "SERVER_PROTOCOL is HTTP/1.1 then, or HTTP/1.0 for HTTP/0.9"),
    "pidfile": _ARBITER,
    "post_fork": (Kind.MASTER, "called by Gunicorn in the worker, before it serves"),
    "post_request": (Kind.WORKER, "called after each response with worker, request, environ and response"),
    "post_worker_init": (Kind.MASTER, "called by the base class"),
    "pre_exec": _MASTER_HOOK,
    "pre_fork": _MASTER_HOOK,
    "pre_request": (Kind.WORKER, "called before the application; the hook's changes are in the environ"),
    "preload_app": _ARBITER,
    "print_config": _ARBITER,
    "proc_name": _ARBITER,
    "protocol": (Kind.NONE, "HTTP only, not uWSGI's protocol"),
    "proxy_allow_ips": (Kind.WORKER, "others that use the PROXY protocol get 403"),
    "proxy_protocol": (Kind.WORKER, "versions 1 and 2; forwarded_allow_ips then applies to the client that it names"),
    "pythonpath": _PROCESS,
    "raw_env": _PROCESS,
    "raw_paste_global_conf": _ARBITER,
    "reload": (Kind.MASTER, "by the base class; the worker finishes its requests and ends"),
    "reload_engine": (Kind.MASTER, "see reload"),
    "reload_extra_files": (Kind.MASTER, "see reload"),
    "reuse_port": _ARBITER,
    "root_path": (
        Kind.WORKER,
        "SCRIPT_NAME, as the environment variable of that name; removed from the path if present",
    ),
    "secure_scheme_headers": (
        Kind.WORKER,
        "as in Gunicorn; untrusted peers' fields are passed through and do not set the scheme",
    ),
    "sendfile": (Kind.WORKER, "for wsgi.file_wrapper; with TLS, files are read and encrypted"),
    "spew": _PROCESS,
    "ssl_context": (Kind.WORKER, "the hook's SSLContext is used, with its callbacks; without certfile, too"),
    "ssl_version": (Kind.NONE, "Gunicorn itself ignores it since 21; use ssl_context"),
    "statsd_host": (Kind.WORKER, "each request is counted by Gunicorn's logger"),
    "statsd_prefix": _LOGGER,
    "strip_header_spaces": (Kind.WORKER, "but never in Host, Content-Length, Transfer-Encoding and trailer fields"),
    "suppress_ragged_eofs": (Kind.WORKER, "a connection may end without close_notify of TLS"),
    "syslog": (Kind.WORKER, "Gunicorn's logger then writes the access log"),
    "syslog_addr": _LOGGER,
    "syslog_facility": _LOGGER,
    "syslog_prefix": _LOGGER,
    "threads": (Kind.WORKER, "from 2 on: OS threads of rmeinheld.coroutine.offload"),
    "timeout": (Kind.WORKER, "the worker sends its heartbeat only while its loop turns"),
    "tmp_upload_dir": (Kind.NONE, "Gunicorn itself does not use it"),
    "umask": _PROCESS,
    "user": _PROCESS,
    "uwsgi_allow_ips": (Kind.NONE, "uWSGI's protocol is not supported"),
    "websocket_max_message_size": (Kind.WORKER, "bytes; 1009. For more WebSocket options see above"),
    "when_ready": _MASTER_HOOK,
    "worker_abort": (Kind.WORKER, "called at SIGABRT, unless C code holds the interpreter for 0.3 s more"),
    "worker_class": _ARBITER,
    "worker_connections": (Kind.WORKER, "requests in progress; more wait in the kernel's queue"),
    "worker_exit": (Kind.MASTER, "called by Gunicorn in the worker, after SIGABRT too, as worker_abort is"),
    "worker_int": (Kind.WORKER, "called at SIGINT and SIGQUIT"),
    "worker_tmp_dir": (Kind.MASTER, "by the base class"),
    "workers": (Kind.WORKER, "more than one: wsgi.multiprocess is true"),
    "wsgi_app": _ARBITER,
}
"""Kind and remark of each setting, by its name."""


def table() -> str:
    """Return the table in Markdown."""
    rows = [f"| `{name}` | {kind} | {remark} |\n" for name, (kind, remark) in sorted(SETTINGS.items())]
    return "| setting | | |\n|---|---|---|\n" + "".join(rows)


# --- the mapping -----------------------------------------------------------------------------------------------------

MOST_FIELDS: Final = 32768
"""Fields of a head for which Gunicorn takes any larger number, and any number below 1."""

FIELD_BYTES: Final = 8190
"""Bytes of a field line for which Gunicorn takes 0."""

CRLF_BYTES: Final = len("\r\n")

LONGEST_MESSAGE: Final = 2**31 - 1
"""Bytes of the longest WebSocket message, where Gunicorn's limit is larger or off."""

_OLD_PROXY_PROTOCOLS: Final = {True: "v1", False: "off"}
"""Values of the switch `proxy_protocol` of Gunicorn before 25."""


def settings_of(cfg: Any, observer: Observer | None = None, *, writes_log: bool = True) -> Settings:
    """Return the options of this server for Gunicorn's configuration `cfg`.

    Started by the command `rmeinheld`, a service has them in `cfg.rmeinheld_options`. Under Gunicorn's own command they
    come from `cfg`, from the environment and from gunicorn.conf.py: see `sources`.

    The engine calls `observer` after every request. It writes the access log itself if `writes_log`.

    Raises StartError, ValueError or TypeError naming an option and its bad value.
    """
    options = getattr(cfg, "rmeinheld_options", None)
    if options is None:
        given = options_of_sources(cfg)
        options = {**_from_gunicorn(cfg), **given}
        options = {**_defaults(cfg, options), **options}
    return Settings(
        **{
            **options,
            "wsgi_errors": Errors(cfg),
            "access_logger": observer,
            "access_logfile": cfg.accesslog if writes_log else None,
            "access_logformat": cfg.access_log_format if writes_log else DEFAULT_FORMAT,
        }
    )


def _from_gunicorn(cfg: Any) -> dict[str, Any]:
    """Options that a Gunicorn setting decides."""
    return {
        "keep_alive": cfg.keepalive,
        "worker_connections": cfg.worker_connections,
        "limit_request_line": cfg.limit_request_line,
        "limit_request_fields": _most_fields(cfg),
        # Gunicorn counts the line's CRLF. A field line has at least one byte.
        "limit_request_field_size": max(_field_bytes(cfg) - CRLF_BYTES, 1),
        "casefold_http_method": cfg.casefold_http_method,
        "permit_obsolete_folding": cfg.permit_obsolete_folding,
        "permit_unconventional_http_method": cfg.permit_unconventional_http_method,
        "permit_unconventional_http_version": cfg.permit_unconventional_http_version,
        "strip_header_spaces": cfg.strip_header_spaces,
        "header_map": cfg.header_map,
        "forwarder_headers": tuple(cfg.forwarder_headers),
        "forwarded_allow_ips": tuple(cfg.forwarded_allow_ips),
        "secure_scheme_headers": cfg.secure_scheme_headers,
        "proxy_protocol": _OLD_PROXY_PROTOCOLS.get(cfg.proxy_protocol, cfg.proxy_protocol),
        "proxy_allow_ips": tuple(cfg.proxy_allow_ips),
        "sendfile": cfg.sendfile is not False,
        "multiprocess": cfg.workers > 1,
        # They have no effect in the engine, but in the worker.
        "graceful_timeout": cfg.graceful_timeout,
        "threads": max(cfg.threads, 1),
        "root_path": getattr(cfg, "root_path", "") or None,
    }


def _defaults(cfg: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of options that differ under Gunicorn. The environment can change them."""
    fields = options["limit_request_fields"] * (options["limit_request_field_size"] + 2 * CRLF_BYTES)
    head_bytes = options["limit_request_line"] + fields + 2 * CRLF_BYTES
    defaults: dict[str, Any] = {
        "limit_request_head": min(max(head_bytes, 80 * KIB), 16 * MIB),
        # Gunicorn does not limit a body.
        "limit_request_body": 0,
        # Gunicorn never changes REMOTE_ADDR because of a field.
        "trusted_proxy_headers": (),
        # Applications behind a proxy read these fields themselves, because Gunicorn does not act on them.
        "clear_untrusted_proxy_headers": False,
    }
    # Gunicorn has it since 25; 0 is no limit.
    limit = getattr(cfg, "websocket_max_message_size", None)
    if limit is not None:
        defaults["websocket_max_message_size"] = min(limit or LONGEST_MESSAGE, LONGEST_MESSAGE)
    return defaults


def _most_fields(cfg: Any) -> int:
    return cfg.limit_request_fields if 0 < cfg.limit_request_fields < MOST_FIELDS else MOST_FIELDS


def _field_bytes(cfg: Any) -> int:
    return cfg.limit_request_field_size or FIELD_BYTES
