"""The workers of a service, their replacement, and probes."""

from __future__ import annotations

from ..option_kinds import Choice, CollectorUrl, Count, Directory, FileName, Mask, Named, Seconds, Switch, Texts
from .option import option


class WorkerOptions:
    """Options of the groups Workers, Health, Development."""

    # --- Workers --------------------------------------------------------------------------------------------------

    workers: int = option(
        1,
        Count(1, 1024),
        "-w",
        "--workers",
        group="Workers",
        help="Processes that serve the application. With more than one, Gunicorn's arbiter starts and replaces them. "
        "The default is the environment variable WEB_CONCURRENCY if it is set.",
        precedent="Gunicorn workers, WEB_CONCURRENCY",
        unit="processes",
        gunicorn="workers",
        master=True,
        scope="service",
    )
    timeout: float = option(
        30.0,
        Seconds(),
        "-t",
        "--timeout",
        group="Workers",
        help="How long a worker's loop may stand still before the arbiter kills it. 0: no limit.",
        precedent="Gunicorn timeout",
        unit="seconds",
        gunicorn="timeout",
        master=True,
        scope="service",
    )
    replace_first: bool = option(
        True,
        Switch(),
        "--replace-first",
        "--no-replace-first",
        group="Workers",
        help="Start a replacement, and wait until it is ready, before a worker leaves. For the time between there is "
        "one worker more. Without it, a worker leaves first.",
        precedent="none; Gunicorn's worker leaves first",
        scope="service",
    )
    max_requests: int = option(
        0,
        Count(0, 2**31 - 1),
        "--max-requests",
        group="Workers",
        help="Requests after which a worker is replaced. 0: never.",
        precedent="Gunicorn max_requests",
        unit="requests",
        gunicorn="max_requests",
        master=True,
        scope="service",
    )
    max_requests_jitter: int = option(
        0,
        Count(0, 2**31 - 1),
        "--max-requests-jitter",
        group="Workers",
        help="Most requests that chance adds to max_requests, for each worker.",
        precedent="Gunicorn max_requests_jitter",
        unit="requests",
        gunicorn="max_requests_jitter",
        master=True,
        scope="service",
    )
    max_worker_memory: int = option(
        0,
        Count(0, 2**24),
        "--max-worker-memory",
        group="Workers",
        help="Memory of a worker, in MiB, above which it is replaced. 0: no limit.",
        precedent="uWSGI reload-on-rss; Granian --workers-max-rss",
        unit="MiB",
        scope="service",
    )
    max_worker_memory_jitter: int = option(
        0,
        Count(0, 2**24),
        "--max-worker-memory-jitter",
        group="Workers",
        help="Most memory that chance adds to max_worker_memory, for each worker.",
        precedent="none",
        unit="MiB",
        scope="service",
    )
    max_worker_lifetime: float = option(
        0.0,
        Seconds(),
        "--max-worker-lifetime",
        group="Workers",
        help="Age of a worker at which it is replaced. 0: no limit.",
        precedent="uWSGI max-worker-lifetime; Granian --workers-lifetime",
        unit="seconds",
        scope="service",
    )
    max_worker_lifetime_jitter: float = option(
        0.0,
        Seconds(),
        "--max-worker-lifetime-jitter",
        group="Workers",
        help="Longest time that chance adds to max_worker_lifetime, for each worker.",
        precedent="uWSGI max-worker-lifetime-delta",
        unit="seconds",
        scope="service",
    )
    preload_app: bool = option(
        False,
        Switch(),
        "--preload",
        "--preload-app",
        group="Workers",
        help="Import the application once, before the workers are forked. They share its memory. SIGHUP then does not "
        "load changed code.",
        precedent="Gunicorn preload_app, --preload",
        gunicorn="preload_app",
        master=True,
        scope="service",
    )
    worker_tmp_dir: str | None = option(
        None,
        Directory(),
        "--worker-tmp-dir",
        group="Workers",
        help="Directory of the workers' heartbeat files. By default they are in memory.",
        precedent="Gunicorn worker_tmp_dir",
        gunicorn="worker_tmp_dir",
        master=True,
        scope="service",
    )
    control_socket: str | None = option(
        None,
        FileName(),
        "--control-socket",
        group="Workers",
        help="Path of Gunicorn's control socket, for gunicornc. By default there is none.",
        precedent="Gunicorn control_socket (on)",
        gunicorn="control_socket",
        master=True,
        scope="service",
    )
    control_socket_mode: int = option(
        0o600,
        Mask(),
        "--control-socket-mode",
        group="Workers",
        help="Permissions of Gunicorn's control socket.",
        precedent="Gunicorn control_socket_mode",
        gunicorn="control_socket_mode",
        master=True,
        scope="service",
    )

    # --- Health ---------------------------------------------------------------------------------------------------

    admin_bind: str | None = option(
        None,
        Named("an address", "ADDRESS"),
        "--admin-bind",
        group="Health",
        help="Address of /live, /ready and /metrics, in the forms of --bind. They answer while Python computes, too. "
        "By default there is none.",
        precedent="Kubernetes probes; none in Gunicorn",
        scope="command",
    )
    metrics: bool = option(
        True,
        Switch(),
        "--metrics",
        "--no-metrics",
        group="Health",
        help="Measure requests and the loop, for /metrics at admin_bind, statsd_host and otlp_endpoint. Without any of "
        "these options nothing is measured.",
        precedent="none in Gunicorn; Granian --metrics (off)",
        scope="command",
    )
    otlp_endpoint: str | None = option(
        None,
        CollectorUrl(),
        "--otlp-endpoint",
        group="Health",
        help="OpenTelemetry collector that gets the metrics by OTLP over HTTP, as http://HOST:4318. The word "
        "environment takes it from OTEL_EXPORTER_OTLP_METRICS_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT. Needs the "
        "extra rmeinheld[otlp]. By default there is none.",
        precedent="OpenTelemetry OTEL_EXPORTER_OTLP_ENDPOINT; none in Gunicorn",
        scope="command",
    )
    ready_workers: int = option(
        1,
        Count(1, 1024),
        "--ready-workers",
        group="Health",
        help="Workers that must be ready for /ready to answer 200.",
        precedent="none",
        unit="workers",
        scope="service",
    )

    ready_turn_limit: float = option(
        5.0,
        Seconds(),
        "--ready-turn-limit",
        group="Health",
        help="How long a worker may compute, without a turn of its event loop, and count as ready. 0 is no limit.",
        precedent="none",
        unit="s",
        scope="command",
    )

    # --- Inspection -----------------------------------------------------------------------------------------------

    inspect_socket: str | None = option(
        None,
        FileName(),
        "--inspect-socket",
        group="Inspection",
        help="Unix socket where `rmeinheld top`, `ctl` and `dump` ask for the state of all workers. Only the user who "
        "starts the server and root may connect. By default there is none.",
        precedent="uWSGI's stats server; Gunicorn's control_socket is for its arbiter alone",
        plain=True,
        scope="command",
    )

    # --- Development ----------------------------------------------------------------------------------------------

    reload: bool = option(
        False,
        Switch(),
        "--reload",
        group="Development",
        help="Load the application anew when its code changes. While the new code cannot be imported, the old one goes "
        "on serving.",
        precedent="Gunicorn reload",
        gunicorn="reload",
        master=True,
        scope="service",
    )
    reload_engine: str = option(
        "auto",
        Choice(("auto", "poll"), what="HOW"),
        "--reload-engine",
        group="Development",
        help="How changes are noticed: poll, which looks at the files five times a second, or auto, which is the same.",
        precedent="Gunicorn reload_engine, which has inotify, too",
        gunicorn="reload_engine",
        master=True,
        scope="service",
    )
    reload_extra_files: tuple[str, ...] = option(
        (),
        Texts("file names or patterns"),
        "--reload-extra-file",
        "--reload-extra-files",
        group="Development",
        help="Further file, or pattern of files, to watch with --reload. May be repeated.",
        precedent="Gunicorn reload_extra_files, --reload-extra-file",
        gunicorn="reload_extra_files",
        master=True,
        scope="service",
    )
