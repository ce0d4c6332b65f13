"""Requests at once."""

from __future__ import annotations

from ..option_kinds import GIB, KIB, MIB, Count, Seconds, Size, Switch
from .option import option


class ConcurrencyOptions:
    """Options of the group Concurrency."""

    worker_connections: int = option(
        1000,
        Count(1, 1_000_000),
        "--worker-connections",
        group="Concurrency",
        help="Most requests in progress at once; more wait in the kernel. Idle connections do not count.",
        unit="requests",
        precedent="Gunicorn worker_connections",
        gunicorn="worker_connections",
    )
    max_connections: int | None = option(
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
    turn_budget: float = option(
        0.01,
        Seconds(),
        "--turn-budget",
        group="Concurrency",
        help="How long a coroutine may run without a wait. After that, its next cooperative call, read or write lets "
        "the others run first. 0: no limit, so one busy client can hold up all others.",
        unit="seconds",
        precedent="none; asyncio's slow_callback_duration (0.1) only reports",
    )
    hold_answers: int = option(
        300,
        Count(0, 1000),
        "--hold-answers",
        group="Concurrency",
        help="How long complete answers of up to 16 KiB may be held while other requests run that arrived at the same "
        "time. A client with many connections then wakes once for several answers. Applies while most requests "
        "take over 20 microseconds and connections are kept alive, without TLS. 0: answers are sent at once.",
        unit="microseconds",
        precedent="none; Bjoern sends at the end of a batch",
    )
    block_warning: float = option(
        1.0,
        Seconds(),
        "--block-warning",
        group="Concurrency",
        help="How long a coroutine may block the loop until a warning names it, with its stack and the cure. After ten "
        "times as long all stacks are written. 0: no report.",
        unit="seconds",
        precedent="none; Gunicorn's timeout (30) ends the worker",
    )
    stack_size: int = option(
        8 * MIB,
        Size(256 * KIB, GIB),
        "--stack-size",
        group="Concurrency",
        help="Stack of a coroutine. It is address space: it takes memory only as far as it is used.",
        unit="bytes",
        precedent="ulimit -s, threading.stack_size",
    )
    sendfile: bool = option(
        True,
        Switch(),
        "--no-sendfile",
        group="Concurrency",
        help="Do not use sendfile(2) for wsgi.file_wrapper.",
        precedent="Gunicorn sendfile, --no-sendfile",
        gunicorn="sendfile",
    )
    threads: int = option(
        1,
        Count(1, 1024),
        "--threads",
        group="Concurrency",
        help="From 2 on: OS threads for rmeinheld.coroutine.offload. 1 leaves the default: the number of processors + "
        "4, but at most 32. Requests never run in them.",
        precedent="Gunicorn threads",
        unit="threads",
        gunicorn="threads",
        scope="command",
    )
    multiprocess: bool = option(
        False,
        Switch(),
        group="Concurrency",
        help="Do other processes serve the same application? The value of wsgi.multiprocess.",
        precedent="PEP 3333 wsgi.multiprocess",
        gunicorn="workers",
        scope="run",
    )
