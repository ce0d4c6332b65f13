"""The sockets that clients connect to, and TLS on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..option_kinds import Addresses, CertificateNeed, Count, FileName, Function, Mask, Switch, Text
from .option import option

if TYPE_CHECKING:
    from collections.abc import Callable
    from ssl import SSLContext


class ListeningOptions:
    """Options of the groups Listening, TLS."""

    # --- Listening ------------------------------------------------------------------------------------------------

    bind: tuple[str, ...] = option(
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
        master=True,
    )
    backlog: int = option(
        2048,
        Count(1, 65535),
        "--backlog",
        group="Listening",
        help="Most connections that wait in the kernel to be accepted. The kernel may lower it.",
        unit="connections",
        precedent="Gunicorn backlog; Meinheld set_backlog (4096)",
        gunicorn="backlog",
        master=True,
    )
    reuse_port: bool = option(
        False,
        Switch(),
        "--reuse-port",
        group="Listening",
        help="Set SO_REUSEPORT, so that several processes can listen on the same port.",
        precedent="Gunicorn reuse_port",
        gunicorn="reuse_port",
        master=True,
    )
    umask: int | None = option(
        None,
        Mask(),
        "-m",
        "--umask",
        group="Listening",
        help="Mask of permissions of Unix sockets (and, from the command line, of all files). The default is the mask "
        "of the process.",
        precedent="Gunicorn umask (0)",
        gunicorn="umask",
        master=True,
    )

    # --- TLS ------------------------------------------------------------------------------------------------------

    certfile: str | None = option(
        None,
        FileName(),
        "--certfile",
        group="TLS",
        help="File with the certificate, and those of its issuers, in PEM. With it, the server speaks TLS at every "
        "address.",
        precedent="Gunicorn certfile",
        gunicorn="certfile",
        master=True,
    )
    keyfile: str | None = option(
        None,
        FileName(),
        "--keyfile",
        group="TLS",
        help="File with the private key in PEM. By default it is in the file of the certificate.",
        precedent="Gunicorn keyfile",
        gunicorn="keyfile",
        master=True,
    )
    ca_certs: str | None = option(
        None,
        FileName(),
        "--ca-certs",
        group="TLS",
        help="File with the certificates, in PEM, that must have signed a client's certificate.",
        precedent="Gunicorn ca_certs",
        gunicorn="ca_certs",
        master=True,
    )
    cert_reqs: int = option(
        0,
        CertificateNeed(),
        "--cert-reqs",
        group="TLS",
        help="Must a client have a certificate? none (0), optional (1) or required (2).",
        precedent="Gunicorn cert_reqs",
        gunicorn="cert_reqs",
        master=True,
    )
    ciphers: str | None = option(
        None,
        Text("a list of ciphers as OpenSSL has it"),
        "--ciphers",
        group="TLS",
        help="Ciphers for TLS 1.2, in OpenSSL's form. The default is that of Python's ssl module.",
        precedent="Gunicorn ciphers",
        gunicorn="ciphers",
        master=True,
    )
    suppress_ragged_eofs: bool = option(
        True,
        Switch(),
        "--no-suppress-ragged-eofs",
        group="TLS",
        help="Treat the end of a connection without close_notify of TLS as an error.",
        precedent="Gunicorn suppress_ragged_eofs",
        gunicorn="suppress_ragged_eofs",
        master=True,
    )
    ssl_context: Callable[..., SSLContext] | None = option(
        None,
        Function(),
        group="TLS",
        help="Function that makes the SSLContext, as in Gunicorn: it gets the configuration and a function that "
        "returns the default context. It may set sni_callback. In a file of settings it is only possible in "
        "gunicorn.conf.py.",
        precedent="Gunicorn ssl_context",
        gunicorn="ssl_context",
        master=True,
    )
