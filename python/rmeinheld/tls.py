"""TLS: the `ssl.SSLContext` of new connections. It is made anew when the files of its settings change.

A connection keeps the context that it began with. The hook `ssl_context` may return any context, for example one with
an `sni_callback` that chooses a certificate by the name that the client asks for.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from . import _rmeinheld
from .error_log import LOGGER_NAME

if TYPE_CHECKING:
    from ssl import MemoryBIO, SSLContext, SSLError, SSLObject

__all__ = ["CHECK_SECONDS", "ContextHook", "Tls", "TlsSettings", "describe", "tls_of"]

CHECK_SECONDS: Final = 5.0
"""Time between two looks at the files. A change counts when two looks have seen the same."""

type ContextHook = Callable[[Any, Callable[[], SSLContext]], SSLContext]
"""Gets the settings and a function that makes the usual context. Returns the context of new connections."""


class TlsSettings(Protocol):
    """The settings of TLS. Gunicorn's configuration has them under the same names."""

    @property
    def certfile(self) -> str | None: ...
    @property
    def keyfile(self) -> str | None: ...
    @property
    def ca_certs(self) -> str | None: ...
    @property
    def cert_reqs(self) -> int: ...
    @property
    def ciphers(self) -> str | None: ...


def tls_of(settings: TlsSettings, hook: ContextHook | None = None) -> Tls | None:
    """Return the TLS of a server with these settings, or None if the server speaks none.

    Raises the exceptions of `Tls`. A setting that has no effect without a certificate is such an error.
    """
    _check(settings, hook)
    return None if settings.certfile is None and hook is None else Tls(settings, hook)


def describe(error: Exception) -> str:
    """Return the message of an error of `tls_of` as one line, without the number of an OSError."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return " ".join((text or "").splitlines()) or type(error).__name__


class Tls:
    """The TLS of one server: the context of new connections, and the files that it is made of.

    `settings` name the files. `hook` (None: the usual context) makes the context.

    Raises OSError or ValueError that names the setting and the file. Raises TypeError if the hook returns no context.
    An exception of the hook passes through.
    """

    def __init__(self, settings: TlsSettings, hook: ContextHook | None = None) -> None:
        self._settings, self._hook = settings, hook
        # Absolute, because the application may change the directory before the files are read again.
        self._files = {
            name: os.path.abspath(path)
            for name in ("certfile", "keyfile", "ca_certs")
            if (path := getattr(settings, name)) is not None
        }
        self._read = self._fingerprint()
        self._seen = self._read
        self._context = self._make()

    def wrap_bio(self, incoming: MemoryBIO, outgoing: MemoryBIO, *, server_side: bool) -> SSLObject:
        """Begin a connection with the context of this moment: see `ssl.SSLContext.wrap_bio`."""
        return self._context.wrap_bio(incoming, outgoing, server_side=server_side)

    def read_again(self) -> None:
        """Make the context of new connections anew. After a failure, which is logged, the present one stays in use."""
        logger = logging.getLogger(LOGGER_NAME)
        self._read = self._seen = self._fingerprint()
        try:
            self._context = self._make()
        except Exception as error:
            logger.error("TLS: %s; the certificates that were read before stay in use", describe(error))
        else:
            logger.info("TLS: read the certificates again; new connections use them")

    def watch(self) -> _rmeinheld.Coroutine[NoReturn]:
        """Start a coroutine that reads the files again when they have changed."""
        return _rmeinheld.spawn(self._watch)

    def _watch(self) -> NoReturn:
        while True:
            _rmeinheld.sleep(CHECK_SECONDS)
            before, self._seen = self._seen, self._fingerprint()
            # Certificate and key are two files. A change is complete when the next look sees the same.
            if self._seen == before != self._read:
                self.read_again()

    def _fingerprint(self) -> tuple[object, ...]:
        return tuple(_state_of(path) for path in self._files.values())

    def _make(self) -> SSLContext:
        from ssl import SSLContext

        if self._hook is None:
            return self._usual()
        context: object = self._hook(self._settings, self._usual)
        if not isinstance(context, SSLContext):
            raise TypeError(f"the hook ssl_context must return an ssl.SSLContext, not {type(context).__name__}")
        return context

    def _usual(self) -> SSLContext:
        import ssl

        if "certfile" not in self._files:
            raise ValueError("certfile is not given, so there is no certificate to serve with")
        for name, path in self._files.items():
            _check_readable(name, path)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._load_certificate(context)
        if authorities := self._files.get("ca_certs"):
            try:
                context.load_verify_locations(authorities)
            except ssl.SSLError as error:
                raise ValueError(f"ca_certs: {authorities!r} holds no certificates in PEM ({_reason(error)})") from None
        context.verify_mode = ssl.VerifyMode(self._settings.cert_reqs)
        if (ciphers := self._settings.ciphers) is not None:
            try:
                context.set_ciphers(ciphers)
            except ssl.SSLError:
                raise ValueError(f"ciphers: OpenSSL knows no cipher in {ciphers!r}") from None
        context.set_alpn_protocols(["http/1.1"])
        return context

    def _load_certificate(self, context: SSLContext) -> None:
        import ssl

        certificate = self._files["certfile"]
        name = "keyfile" if "keyfile" in self._files else "certfile"
        key = self._files[name]
        is_encrypted = False

        def password() -> str:
            # OpenSSL would ask on the terminal.
            nonlocal is_encrypted
            is_encrypted = True
            return ""

        try:
            context.load_cert_chain(certificate, key, password)
        except ssl.SSLError as error:
            if is_encrypted:
                cure = f"decrypt it with 'openssl pkey -in {key} -out FILE', or load it in the hook ssl_context"
                raise ValueError(f"{name}: the key in {key!r} is protected by a password; {cure}") from None
            if error.reason == "KEY_VALUES_MISMATCH":
                text = f"{name}: the key in {key!r} does not belong to the certificate in {certificate!r}"
                raise ValueError(text) from None
            if not _has_part(certificate, b"CERTIFICATE-----"):
                raise ValueError(f"certfile: {certificate!r} holds no certificate in PEM") from None
            if not _has_part(key, b"PRIVATE KEY-----"):
                hint = "" if name == "keyfile" else "; keyfile names the file with the key"
                raise ValueError(f"{name}: {key!r} holds no private key in PEM{hint}") from None
            raise ValueError(
                f"certfile {certificate!r} with the key in {key!r} cannot be used: {_reason(error)}"
            ) from None


def _check(settings: TlsSettings, hook: ContextHook | None) -> None:
    """Raise ValueError for settings that would have no effect, or that no client could meet."""
    if settings.cert_reqs not in (0, 1, 2):
        raise ValueError(f"cert_reqs must be 0 (none), 1 (optional) or 2 (required), not {settings.cert_reqs!r}")
    if hook is not None:
        # It may load what the settings do not name.
        return
    if settings.certfile is None:
        for name in ("keyfile", "ca_certs", "cert_reqs", "ciphers"):
            if value := getattr(settings, name):
                raise ValueError(f"{name} ({value!r}) needs certfile, without which the server does not speak TLS")
    elif settings.cert_reqs and settings.ca_certs is None:
        value = int(settings.cert_reqs)
        raise ValueError(f"cert_reqs ({value}) needs ca_certs, the file of the authorities that clients are checked by")


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise OSError(error.errno, f"{name}: cannot read {path!r}: {error.strerror}") from None


def _has_part(path: str, mark: bytes) -> bool:
    with open(path, "rb") as file:
        return mark in file.read()


def _reason(error: SSLError) -> str:
    return error.reason or str(error)


def _state_of(path: str) -> tuple[int, int, int] | None:
    with suppress(OSError):
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size, status.st_ino
    return None
