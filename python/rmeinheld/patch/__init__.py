"""Makes the blocking calls of the standard library park the coroutine instead of blocking the process.

    from rmeinheld import patch
    patch.patch_all()

Call it first, before the modules of the application are imported. Afterwards ordinary blocking code (requests,
redis-py, PyMySQL, smtplib, subprocess, ...) runs in many coroutines at once. Outside the loop thread, and in a forked
child, every patched call blocks as usual.

Most changes are made in place: `socket.socket` and `ssl.SSLContext` stay the same classes. Names that modules imported
earlier (`from time import sleep`) are replaced in those modules. The report lists everything that cannot be repaired.
"""

from __future__ import annotations

import importlib
import logging
from types import ModuleType

from ._state import Finding, get_original, is_patched, one_scan, rebind

__all__ = [
    "PARTS",
    "Finding",
    "get_original",
    "is_patched",
    "patch_all",
    "patch_dns",
    "patch_fcntl",
    "patch_futures",
    "patch_io",
    "patch_libraries",
    "patch_multiprocessing",
    "patch_os",
    "patch_queue",
    "patch_select",
    "patch_signal",
    "patch_socket",
    "patch_sqlite3",
    "patch_ssl",
    "patch_subprocess",
    "patch_thread",
    "patch_time",
]

PARTS = {
    "thread": "_threading",
    "time": "_time",
    "queue": "_queue",
    "socket": "_socket",
    "dns": "_dns",
    "ssl": "_ssl",
    "select": "_select",
    "os": "_os",
    "io": "_io",
    "fcntl": "_fcntl",
    "subprocess": "_subprocess",
    "multiprocessing": "_multiprocessing",
    "signal": "_signal",
    "futures": "_futures",
    "sqlite3": "_sqlite",
    "libraries": "_libraries",
}
"""The parts of `patch_all` in the order of patching, each with its module in this package."""

_done: set[str] = set()


def patch_all(*, aggressive: bool = True, **which: object) -> list[Finding]:
    """Patch all parts except those given as False: `patch_all(thread=False)`. A second call patches the other parts.

    With `futures="native"` the workers of `ThreadPoolExecutor` stay OS threads, for jobs that compute.

    Returns a finding for each object that was imported or made before the patch. The list is empty if the call comes
    first. Findings are also logged (logger "rmeinheld.patch"), as a warning if one cannot be repaired. `aggressive` is
    accepted for Meinheld and has no effect. Raises TypeError for an unknown part.
    """
    unknown = sorted(which.keys() - PARTS.keys())
    if unknown:
        raise TypeError(f"patch_all() knows no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    chosen = {part: option for part in PARTS if (option := which.get(part, True)) is not False}
    if chosen.keys() <= _done:
        return []
    for part in chosen:
        importlib.import_module(f".{PARTS[part]}", __name__)
    findings: list[Finding] = []
    with one_scan():
        for part, option in chosen.items():
            findings += _patch(part, option)
        findings += rebind()
    _log(findings)
    return findings


def patch_thread() -> list[Finding]:
    """Patch `threading` and `_thread`: threads started in coroutines are coroutines, locks tell coroutines apart."""
    return _patch_one("thread")


def patch_libraries() -> list[Finding]:
    """Make psycopg2, psycopg 3 and pyOpenSSL park; warn about libraries that block, when they are imported."""
    return _patch_one("libraries")


def patch_dns() -> list[Finding]:
    """Patch `socket.getaddrinfo` and the other resolver functions: they run on OS threads."""
    return _patch_one("dns")


def patch_ssl() -> list[Finding]:
    """Patch TLS over sockets. `SSLContext` and `SSLSocket` stay the same classes."""
    return _patch_one("ssl")


def patch_select() -> list[Finding]:
    """Patch `select` and `selectors`: `select`, `poll` and `epoll` stay available, and park."""
    return _patch_one("select")


def patch_queue() -> list[Finding]:
    """Patch `queue.SimpleQueue`. The other queues park when `threading` is patched."""
    return _patch_one("queue")


def patch_signal() -> list[Finding]:
    """Patch functions that take a thread's number (`signal.pthread_kill`) or wait for signals (`signal.sigwait`)."""
    return _patch_one("signal")


def patch_futures(option: object = "coroutines") -> list[Finding]:
    """Make the workers of `ThreadPoolExecutor` coroutines, or, with "native", OS threads."""
    return _patch_one("futures", option)


def patch_sqlite3() -> list[Finding]:
    """Patch connections and cursors of `sqlite3`: coroutines that wait for a locked database park."""
    return _patch_one("sqlite3")


def patch_os() -> list[Finding]:
    """Patch reads and writes of pipes and terminals, and waits for children."""
    return _patch_one("os")


def patch_fcntl() -> list[Finding]:
    """Patch waits for file locks: `flock`, `lockf` and the lock commands of `fcntl`."""
    return _patch_one("fcntl")


def patch_io() -> list[Finding]:
    """Patch files of pipes, sockets and terminals, the standard streams, `input`, and the locks of buffered files."""
    return _patch_one("io")


def patch_subprocess() -> list[Finding]:
    """Patch the pipes of `subprocess.Popen`, as `patch_io` does; needs `patch_os` too."""
    return _patch_one("subprocess")


def patch_multiprocessing() -> list[Finding]:
    """Patch the locks and semaphores of `multiprocessing`, which its queues use too."""
    return _patch_one("multiprocessing")


def patch_socket(aggressive: bool = True) -> list[Finding]:
    """Patch the methods of `socket.socket`. `aggressive` is accepted for Meinheld and has no effect."""
    return _patch_one("socket")


def patch_time() -> list[Finding]:
    """Patch `time.sleep`."""
    return _patch_one("time")


def _patch_one(part: str, option: object = True) -> list[Finding]:
    findings = _patch(part, option)
    findings += rebind()
    _log(findings)
    return findings


def _patch(part: str, option: object) -> list[Finding]:
    if part in _done:
        return []
    _done.add(part)
    module: ModuleType = importlib.import_module(f".{PARTS[part]}", __name__)
    found = module.patch() if option is True else module.patch(option)
    return list(found or ())


def _log(findings: list[Finding]) -> None:
    if findings:
        level = logging.INFO if all(finding.fixed for finding in findings) else logging.WARNING
        text = "; ".join(map(str, findings))
        logging.getLogger("rmeinheld.patch").log(level, "patched late, after these were imported or made: %s", text)
