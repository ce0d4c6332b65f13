"""The standard library's blocking calls, made to park the coroutine instead of the process.

    from rmeinheld import patch
    patch.patch_all()

To be called first of all, before the application's modules are imported. Afterwards ordinary blocking code (requests,
redis-py, PyMySQL, smtplib, subprocess, ...) runs in many coroutines at once. Outside of the loop thread, and in a
forked child, every patched call does the real, blocking thing.

What can be is changed in place: `socket.socket` and `ssl.SSLContext` stay the classes that they are. What was imported
by name before (`from time import sleep`) is exchanged where it was imported. What cannot be repaired is in the report.
"""

from __future__ import annotations

import importlib
import logging
from types import ModuleType

from ._state import Finding, get_original, is_patched, rebind

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
"""The parts of `patch_all`, in the order in which they are patched, and the modules here that do it."""

_done: set[str] = set()


def patch_all(*, aggressive: bool = True, **which: object) -> list[Finding]:
    """Patch all parts but those given as False: `patch_all(thread=False)`. A second call patches what is left.

    `futures="native"` keeps the workers of `concurrent.futures.ThreadPoolExecutor` OS threads, for what computes.

    Returns what was found to have been imported or made before; the list is empty for a call that comes first, and else
    it is also logged (logger "rmeinheld.patch"): as a warning, if something cannot be repaired. `aggressive` is
    Meinheld's and has no meaning here. Raises TypeError for a part that does not exist.
    """
    unknown = sorted(which.keys() - PARTS.keys())
    if unknown:
        raise TypeError(f"patch_all() knows no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    findings: list[Finding] = []
    for part in PARTS:
        option = which.get(part, True)
        if option is not False:
            findings += _patch(part, option)
    findings += rebind()
    _log(findings)
    return findings


def patch_thread() -> list[Finding]:
    """Patch `threading` and `_thread`: threads started in coroutines are coroutines, locks tell coroutines apart."""
    return _patch_one("thread")


def patch_libraries() -> list[Finding]:
    """Have psycopg2 and psycopg 3 wait in coroutines; warn of libraries that cannot, when they are imported."""
    return _patch_one("libraries")


def patch_dns() -> list[Finding]:
    """Patch `socket.getaddrinfo` and its kin: they run on OS threads."""
    return _patch_one("dns")


def patch_ssl() -> list[Finding]:
    """Patch TLS over sockets. `SSLContext` and `SSLSocket` stay the classes that they are."""
    return _patch_one("ssl")


def patch_select() -> list[Finding]:
    """Patch `select` and `selectors`: `select`, `poll` and `epoll` are kept, and park."""
    return _patch_one("select")


def patch_queue() -> list[Finding]:
    """Patch `queue.SimpleQueue`. The other queues park when `threading` is patched."""
    return _patch_one("queue")


def patch_signal() -> list[Finding]:
    """Patch what takes a thread's number, such as `signal.pthread_kill`, and waits for signals, such as `sigwait`."""
    return _patch_one("signal")


def patch_futures(option: object = "coroutines") -> list[Finding]:
    """Have the workers of `ThreadPoolExecutor` be coroutines, or, with "native", OS threads."""
    return _patch_one("futures", option)


def patch_sqlite3() -> list[Finding]:
    """Patch connections and cursors of `sqlite3`: coroutines that wait for a locked database park."""
    return _patch_one("sqlite3")


def patch_os() -> list[Finding]:
    """Patch reads and writes of pipes and terminals, and waits for children."""
    return _patch_one("os")


def patch_fcntl() -> list[Finding]:
    """Patch waits for locks of files: `flock`, `lockf` and those of `fcntl`."""
    return _patch_one("fcntl")


def patch_io() -> list[Finding]:
    """Patch files of pipes, sockets and terminals, the standard streams, `input`, and the locks of buffered files."""
    return _patch_one("io")


def patch_subprocess() -> list[Finding]:
    """Patch the pipes of `subprocess.Popen`, as `patch_io` does; needs `patch_os` too."""
    return _patch_one("subprocess")


def patch_multiprocessing() -> list[Finding]:
    """Patch the locks and semaphores of `multiprocessing`, and with them its queues."""
    return _patch_one("multiprocessing")


def patch_socket(aggressive: bool = True) -> list[Finding]:
    """Patch the methods of `socket.socket`. `aggressive` is Meinheld's and has no meaning here."""
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
