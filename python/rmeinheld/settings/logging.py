"""Logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..access_log import DEFAULT_FORMAT, AccessLogger, ErrorLogger
from ..option_kinds import Caller, Choice, FileName, LogFormat, Named, Seconds, Switch, Text
from .option import option

if TYPE_CHECKING:
    from wsgiref.types import ErrorStream


class LoggingOptions:
    """Options of the group Logging."""

    access_logfile: str | None = option(
        None,
        FileName("a file name, or '-' for standard output"),
        "--access-logfile",
        group="Logging",
        help="File of the access log, '-' for standard output. By default there is none, except that the command line "
        "prints requests on a terminal.",
        precedent="Gunicorn accesslog, --access-logfile",
        gunicorn="accesslog",
        master=True,
    )
    access_logformat: str = option(
        DEFAULT_FORMAT,
        LogFormat(),
        "--access-logformat",
        group="Logging",
        help="Format of the access log: json, readable, or text with Gunicorn's atoms (see rmeinheld.access_log).",
        aliases=("access_log_format",),
        precedent="Gunicorn access_log_format, --access-logformat",
        gunicorn="access_log_format",
        master=True,
    )
    access_log: bool = option(
        True,
        Switch(),
        "--no-access-log",
        group="Logging",
        help="Write no access log, neither on a terminal nor to a file.",
        precedent="Uvicorn --no-access-log",
        master=True,
    )
    request_id: str = option(
        "off",
        Choice(("off", "on", "respond"), what="MODE", switch=("on", "off")),
        "--request-id",
        group="Logging",
        help="Ids for each request, in the environ and in logs: X-Request-ID and traceparent, taken from trusted "
        "proxies or made. off, on, or respond (the response has X-Request-ID, too). Without a value: on.",
        precedent="nginx $request_id; Envoy generate_request_id, always_set_request_id_in_response",
    )
    slow_request: float = option(
        0.0,
        Seconds(),
        "--slow-request",
        group="Logging",
        help="Time after which a request is slow: the error log has its phases, its waits, and its stack at that "
        "moment. 0 is off.",
        precedent="PHP-FPM request_slowlog_timeout",
        unit="seconds",
    )
    error_logfile: str = option(
        "-",
        FileName("a file name, or '-' for standard error"),
        "--error-logfile",
        "--log-file",
        group="Logging",
        help="File of the error log, '-' for standard error.",
        precedent="Gunicorn errorlog, --error-logfile, --log-file",
        gunicorn="errorlog",
        master=True,
    )
    log_level: str = option(
        "info",
        Choice(("debug", "info", "warning", "error", "critical")),
        "--log-level",
        group="Logging",
        help="Least severe level in the error log: debug, info, warning, error or critical.",
        precedent="Gunicorn loglevel, --log-level",
        gunicorn="loglevel",
        master=True,
    )
    access_logger: AccessLogger | None = option(
        None,
        Caller("access"),
        group="Logging",
        help="Object whose access(environ) is called after each response.",
        precedent="Meinheld set_access_logger",
        scope="run",
    )
    error_logger: ErrorLogger | None = option(
        None,
        Caller("error"),
        group="Logging",
        help="Object whose error(exc_type, exc, tb) is called for errors of the application, instead of the logger "
        "rmeinheld.error.",
        precedent="Meinheld set_error_logger",
        scope="run",
    )
    wsgi_errors: ErrorStream | None = option(
        None,
        Caller("write"),
        group="Logging",
        help="Text stream that applications find as wsgi.errors. The default is sys.stderr, or the error log if that "
        "is closed.",
        precedent="PEP 3333 wsgi.errors",
        scope="run",
    )
    capture_output: bool = option(
        False,
        Switch(),
        "--capture-output",
        group="Logging",
        help="Write standard output and standard error to the error log.",
        precedent="Gunicorn capture_output",
        gunicorn="capture_output",
        master=True,
        scope="service",
    )
    enable_stdio_inheritance: bool = option(
        False,
        Switch(),
        "-R",
        "--enable-stdio-inheritance",
        group="Logging",
        help="Keep standard output and standard error open with --daemon.",
        precedent="Gunicorn enable_stdio_inheritance",
        gunicorn="enable_stdio_inheritance",
        master=True,
        scope="service",
    )
    logger_class: str = option(
        "gunicorn.glogging.Logger",
        Named("the name of a class", "CLASS"),
        "--logger-class",
        group="Logging",
        help="Gunicorn's logger, or a class derived from it.",
        precedent="Gunicorn logger_class",
        gunicorn="logger_class",
        master=True,
        scope="service",
    )
    logconfig: str | None = option(
        None,
        FileName(),
        "--log-config",
        "--logconfig",
        group="Logging",
        help="File with the configuration of Python's logging, in its INI form.",
        precedent="Gunicorn logconfig, --log-config",
        gunicorn="logconfig",
        master=True,
        scope="service",
    )
    logconfig_json: str | None = option(
        None,
        FileName(),
        "--log-config-json",
        "--logconfig-json",
        group="Logging",
        help="File with the configuration of Python's logging, in JSON.",
        precedent="Gunicorn logconfig_json, --log-config-json",
        gunicorn="logconfig_json",
        master=True,
        scope="service",
    )
    syslog: bool = option(
        False,
        Switch(),
        "--log-syslog",
        "--syslog",
        group="Logging",
        help="Send the logs to syslog, too.",
        precedent="Gunicorn syslog, --log-syslog",
        gunicorn="syslog",
        master=True,
        scope="service",
    )
    syslog_addr: str | None = option(
        None,
        Named("an address of syslog", "ADDRESS"),
        "--log-syslog-to",
        "--syslog-addr",
        group="Logging",
        help="Address of syslog: udp://HOST:PORT, tcp://HOST:PORT or unix://PATH. The default is the system's own.",
        precedent="Gunicorn syslog_addr, --log-syslog-to",
        gunicorn="syslog_addr",
        master=True,
        scope="service",
    )
    syslog_prefix: str | None = option(
        None,
        Text(),
        "--log-syslog-prefix",
        "--syslog-prefix",
        group="Logging",
        help="Name of the program in syslog.",
        precedent="Gunicorn syslog_prefix, --log-syslog-prefix",
        gunicorn="syslog_prefix",
        master=True,
        scope="service",
    )
    syslog_facility: str = option(
        "user",
        Text(),
        "--log-syslog-facility",
        "--syslog-facility",
        group="Logging",
        help="Facility in syslog.",
        precedent="Gunicorn syslog_facility, --log-syslog-facility",
        gunicorn="syslog_facility",
        master=True,
        scope="service",
    )
    disable_redirect_access_to_syslog: bool = option(
        False,
        Switch(),
        "--disable-redirect-access-to-syslog",
        group="Logging",
        help="Do not send the access log to syslog.",
        precedent="Gunicorn disable_redirect_access_to_syslog",
        gunicorn="disable_redirect_access_to_syslog",
        master=True,
        scope="service",
    )
    statsd_host: str | None = option(
        None,
        Named("an address of statsd", "ADDRESS"),
        "--statsd-host",
        group="Logging",
        help="Address of statsd, HOST:PORT or unix://PATH, which gets the number and times of requests.",
        precedent="Gunicorn statsd_host",
        gunicorn="statsd_host",
        master=True,
        scope="service",
    )
    statsd_prefix: str | None = option(
        None,
        Text(),
        "--statsd-prefix",
        group="Logging",
        help="Start of the names that statsd gets.",
        precedent="Gunicorn statsd_prefix",
        gunicorn="statsd_prefix",
        master=True,
        scope="service",
    )
    dogstatsd_tags: str | None = option(
        None,
        Text(),
        "--dogstatsd-tags",
        group="Logging",
        help="Tags, separated by commas, that are sent to statsd in the form of Datadog.",
        precedent="Gunicorn dogstatsd_tags",
        gunicorn="dogstatsd_tags",
        master=True,
        scope="service",
    )
    enable_backlog_metric: bool = option(
        False,
        Switch(),
        "--enable-backlog-metric",
        group="Logging",
        help="Send the length of the kernel's queue of connections to statsd.",
        precedent="Gunicorn enable_backlog_metric",
        gunicorn="enable_backlog_metric",
        master=True,
        scope="service",
    )
