"""Names of options in files and variables, and Gunicorn's settings that are no options here."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..settings import OPTIONS, PREFIX, Option

__all__ = [
    "ARBITER_SETTINGS",
    "GLOBALS",
    "HOOKS",
    "INERT_SETTINGS",
    "KEYS",
    "NOT_GLOBALS",
    "VARIABLES",
    "WORKER_CLASSES",
    "nearest",
    "refusal",
]

_TAKEN: Final = [option for option in OPTIONS.values() if option.scope != "run"]

KEYS: Final[dict[str, Option]] = {name: option for option in _TAKEN for name in option.spellings}
"""Options by each of their names in a TOML file. A key may have dashes for underscores."""

VARIABLES: Final[dict[str, Option]] = {
    PREFIX + name.upper(): option for name, option in KEYS.items() if option.environment
}
"""Options by each of their variables of the environment."""

NOT_GLOBALS: Final = frozenset({"env", "pid", "config"})
"""Names of options that a Python file may well use for something else. Gunicorn's `raw_env` and `pidfile` count."""

GLOBALS: Final[dict[str, Option]] = {
    name: option
    for option in _TAKEN
    for name in (option.name, option.gunicorn, *option.aliases)
    if name and name not in NOT_GLOBALS
}
"""Options by each of their names in a Python file such as gunicorn.conf.py."""

HOOKS: Final = frozenset(
    {
        "child_exit", "dirty_post_fork", "dirty_worker_exit", "dirty_worker_init", "nworkers_changed",
        "on_dirty_starting", "on_exit", "on_reload", "on_starting", "post_fork", "post_request", "post_worker_init",
        "pre_exec", "pre_fork", "pre_request", "when_ready", "worker_abort", "worker_exit", "worker_int",
    }
)  # fmt: skip
"""Functions of gunicorn.conf.py that Gunicorn's arbiter and its workers call."""

ARBITER_SETTINGS: Final = HOOKS | {
    "default_proc_name", "dirty_apps", "dirty_graceful_timeout", "dirty_threads", "dirty_timeout", "dirty_workers",
    "logconfig_dict",
}  # fmt: skip
"""Settings of gunicorn.conf.py that only Gunicorn's arbiter acts on. They start it."""

INERT_SETTINGS: Final = frozenset(
    {
        "asgi_disconnect_grace_period", "asgi_lifespan", "asgi_loop", "control_socket_disable",
        "do_handshake_on_connect", "http2_initial_window_size", "http2_max_concurrent_streams",
        "http2_max_frame_size", "http2_max_header_list_size", "http_parser", "ssl_version", "tmp_upload_dir",
        "uwsgi_allow_ips",
    }
)  # fmt: skip
"""Settings of Gunicorn without a meaning here. No client could notice that."""

WORKER_CLASSES: Final = frozenset(
    {
        "gunicorn_worker", "egg:rmeinheld#gunicorn_worker", "rmeinheld.gunicorn_worker.Worker",
        "rmeinheld.gunicorn_worker.MeinheldWorker",
    }
)  # fmt: skip
"""Values of Gunicorn's `worker_class` that mean this server's worker."""

_REFUSED: Final[dict[str, tuple[tuple[object, ...], str]]] = {
    "http2_cleartext": ((None, False, "off", "false", "0"), "rmeinheld speaks HTTP/1.1 only"),
    "paste": ((None,), "name the application in Python instead, as in MODULE:APP"),
    "protocol": ((None, "http"), "rmeinheld speaks HTTP only"),
    "raw_paste_global_conf": ((None, [], ()), "name the application in Python instead, as in MODULE:APP"),
    "spew": ((None, False), "rmeinheld does not trace each line"),
    "tolerate_dangerous_framing": ((None, False), "the answer to such framing is always 400"),
}
"""Settings of Gunicorn that cannot be honoured: the values that ask for nothing, and the reason."""


def refusal(name: str, value: object) -> str | None:
    """Return the reason why Gunicorn's setting `name` with `value` is refused; "" if it is harmless.

    None means that `name` is no such setting.
    """
    if name == "http_protocols":
        return "rmeinheld speaks HTTP/1.1 only" if "h2" in str(value) else ""
    if name == "worker_class":
        ours = str(value) in WORKER_CLASSES or (isinstance(value, type) and _is_our_worker(value))
        return "" if ours else "rmeinheld runs its own worker only; remove the setting"
    if name in _REFUSED:
        harmless, reason = _REFUSED[name]
        return "" if value in harmless else reason
    return "" if name in INERT_SETTINGS else None


def _is_our_worker(kind: type) -> bool:
    return any(base.__module__.startswith("rmeinheld.gunicorn_worker") for base in kind.__mro__)


def nearest(name: str, known: Iterable[str], closeness: float = 0.6) -> str:
    """Return the one of `known` that is closest to `name`, or "" if none is close."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=closeness)
    return close[0] if close else ""
