"""Every setting of Gunicorn 22 to 27, and what the worker does with it. `python -m rmeinheld.gunicorn_worker.settings`
prints the table as the documentation has it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["SETTINGS", "Kind", "table"]


class Kind(StrEnum):
    """Who acts on a setting."""

    WORKER = "honoured"
    """This worker does."""
    MASTER = "honoured by Gunicorn"
    """Gunicorn's master or its base class of workers does, and this worker leaves it alone."""
    NONE = "not applicable"
    """Nobody: it means nothing here."""


_ASGI: Final = (Kind.NONE, "concerns ASGI only")
_HTTP2: Final = (Kind.NONE, "this server speaks HTTP/1.1")
_DIRTY: Final = (Kind.MASTER, "dirty workers are processes of the master's own")
_MASTER_HOOK: Final = (Kind.MASTER, "called by the master")
_LOGGER: Final = (Kind.MASTER, "part of Gunicorn's logger, which the worker writes errors and, where asked, access to")
_PROCESS: Final = (Kind.MASTER, "done before the worker serves")
_ARBITER: Final = (Kind.MASTER, "done by the master")

SETTINGS: Final[dict[str, tuple[Kind, str]]] = {
    "access_log_format": (Kind.WORKER, "all atoms; lines of a plain file are formatted by the engine"),
    "accesslog": (Kind.WORKER, "a plain file, as Gunicorn opened it, is written by the engine; else see logger_class"),
    "asgi_disconnect_grace_period": _ASGI,
    "asgi_lifespan": _ASGI,
    "asgi_loop": _ASGI,
    "backlog": _ARBITER,
    "bind": (Kind.WORKER, "TCP, Unix, fd://, several at once"),
    "ca_certs": (Kind.WORKER, "through Gunicorn's own ssl_context()"),
    "capture_output": _LOGGER,
    "casefold_http_method": (Kind.WORKER, "in vain without permit_unconventional_http_method, as in Gunicorn"),
    "cert_reqs": (Kind.WORKER, "through Gunicorn's own ssl_context()"),
    "certfile": (Kind.WORKER, "TLS by Python's ssl module on the engine's sockets; HTTPS=on, wsgi.url_scheme https"),
    "chdir": _PROCESS,
    "check_config": _ARBITER,
    "child_exit": _MASTER_HOOK,
    "ciphers": (Kind.WORKER, "through Gunicorn's own ssl_context()"),
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
    "disable_redirect_access_to_syslog": (Kind.WORKER, "decides whether the access log takes Gunicorn's logger"),
    "do_handshake_on_connect": (Kind.NONE, "the handshake goes on as bytes arrive and never holds up the loop"),
    "dogstatsd_tags": _LOGGER,
    "enable_backlog_metric": _ARBITER,
    "enable_stdio_inheritance": _PROCESS,
    "errorlog": (Kind.WORKER, "errors of requests go to Gunicorn's error log, as does wsgi.errors"),
    "forwarded_allow_ips": (Kind.WORKER, "peers on Unix sockets are believed, as in Gunicorn, unless it is empty"),
    "forwarder_headers": (Kind.WORKER, "as in Gunicorn"),
    "graceful_timeout": (
        Kind.WORKER,
        "shared by requests, threads and jobs; then CoroutineExit and a 503; streams of events end at once",
    ),
    "group": _PROCESS,
    "header_map": (Kind.WORKER, "drop, refuse, dangerous"),
    "http2_cleartext": _HTTP2,
    "http2_initial_window_size": _HTTP2,
    "http2_max_concurrent_streams": _HTTP2,
    "http2_max_frame_size": _HTTP2,
    "http2_max_header_list_size": _HTTP2,
    "http_parser": (Kind.NONE, "the parser is the engine's own"),
    "http_protocols": (Kind.NONE, "HTTP/1.1 only; a warning says so if h2 is asked for, and it is not offered"),
    "initgroups": _PROCESS,
    "keepalive": (Kind.WORKER, "seconds; 0: one request for each connection"),
    "keyfile": (Kind.WORKER, "see certfile"),
    "limit_request_field_size": (Kind.WORKER, "bytes of a field line with its CRLF, as in Gunicorn; 431"),
    "limit_request_fields": (Kind.WORKER, "431"),
    "limit_request_line": (Kind.WORKER, "bytes; 414"),
    "logconfig": (Kind.WORKER, "the access log then takes Gunicorn's logger"),
    "logconfig_dict": (Kind.WORKER, "the access log then takes Gunicorn's logger"),
    "logconfig_json": (Kind.WORKER, "the access log then takes Gunicorn's logger"),
    "logger_class": (Kind.WORKER, "gets all messages, and writes the access log where it changes what a line is like"),
    "loglevel": (Kind.WORKER, "debug: the default pre_request writes each request"),
    "max_requests": (Kind.WORKER, "what was accepted is served, with Connection: close"),
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
    "pre_request": (Kind.WORKER, "called before the application, which finds in the environ what the hook has changed"),
    "preload_app": _ARBITER,
    "print_config": _ARBITER,
    "proc_name": _ARBITER,
    "protocol": (Kind.NONE, "HTTP only, not uWSGI's protocol"),
    "proxy_allow_ips": (Kind.WORKER, "403 for others that speak the PROXY protocol"),
    "proxy_protocol": (Kind.WORKER, "versions 1 and 2; forwarded_allow_ips is then about the client that it names"),
    "pythonpath": _PROCESS,
    "raw_env": _PROCESS,
    "raw_paste_global_conf": _ARBITER,
    "reload": (Kind.MASTER, "by the base class; the worker drains and ends"),
    "reload_engine": (Kind.MASTER, "see reload"),
    "reload_extra_files": (Kind.MASTER, "see reload"),
    "reuse_port": _ARBITER,
    "root_path": (Kind.WORKER, "SCRIPT_NAME, as is the environment variable SCRIPT_NAME; taken off the path if there"),
    "secure_scheme_headers": (Kind.WORKER, "as in Gunicorn; of others they are passed on, and not believed"),
    "sendfile": (Kind.WORKER, "for wsgi.file_wrapper; with TLS files are read and enciphered"),
    "spew": _PROCESS,
    "ssl_context": (Kind.WORKER, "the hook's SSLContext is used, with its callbacks"),
    "ssl_version": (Kind.NONE, "Gunicorn itself ignores it since 21; use ssl_context"),
    "statsd_host": (Kind.WORKER, "each request is counted by Gunicorn's logger"),
    "statsd_prefix": _LOGGER,
    "strip_header_spaces": (Kind.WORKER, "but never in Host, Content-Length, Transfer-Encoding and trailer fields"),
    "suppress_ragged_eofs": (Kind.WORKER, "a connection may end without TLS's goodbye"),
    "syslog": (Kind.WORKER, "the access log then takes Gunicorn's logger"),
    "syslog_addr": _LOGGER,
    "syslog_facility": _LOGGER,
    "syslog_prefix": _LOGGER,
    "threads": (Kind.WORKER, "from 2 on: OS threads of rmeinheld.coroutine.offload"),
    "timeout": (Kind.WORKER, "the worker beats only while its loop turns"),
    "tmp_upload_dir": (Kind.NONE, "Gunicorn itself makes no use of it"),
    "tolerate_dangerous_framing": (Kind.NONE, "of Gunicorn 22; such framing is always a 400"),
    "umask": _PROCESS,
    "user": _PROCESS,
    "uwsgi_allow_ips": (Kind.NONE, "uWSGI's protocol is not spoken"),
    "websocket_max_message_size": (Kind.WORKER, "bytes; 1009. More options of WebSockets: see above"),
    "when_ready": _MASTER_HOOK,
    "worker_abort": (Kind.WORKER, "called at SIGABRT, unless C code holds the interpreter 0.3 s longer"),
    "worker_class": _ARBITER,
    "worker_connections": (Kind.WORKER, "requests in progress; beyond that they wait in the kernel's queue"),
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


if __name__ == "__main__":
    print(table(), end="")
