"""Certificates made by openssl, and clients that trust them."""

from __future__ import annotations

import socket
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from serving import TIMEOUT, Response, parse_head, request


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate and its key."""

    certificate: Path
    key: Path

    def put(self, place: Certificate) -> None:
        """Replace the files of `place`, as a client of an authority does after a renewal."""
        for source, target in ((self.certificate, place.certificate), (self.key, place.key)):
            fresh = target.with_name(f".{target.name}.new")
            fresh.write_bytes(source.read_bytes())
            fresh.replace(target)


def make_certificate(directory: Path, name: str = "localhost", password: str = "") -> Certificate:
    """Make a certificate for the host `name` in `directory`. Its key may be protected by a password."""
    directory.mkdir(exist_ok=True, parents=True)
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-passout", f"pass:{password}"] if password else ["-nodes"]
    command += ["-keyout", str(made.key), "-out", str(made.certificate), "-days", "2", "-subj", f"/CN={name}"]
    command += ["-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return made


def open_tls(port: int, trusted: Certificate, name: str = "localhost", own: Certificate | None = None) -> ssl.SSLSocket:
    """Connect to `port` as a client that trusts one certificate, and has one itself if `own` is given."""
    context = ssl.create_default_context(cafile=trusted.certificate)
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    plain = socket.create_connection(("127.0.0.1", port), TIMEOUT)
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


def get_tls(connection: ssl.SSLSocket, target: str = "/") -> Response:
    """Ask once on a connection, which the server then closes."""
    connection.sendall(request("GET", target, "Connection: close"))
    data = b""
    while more := connection.recv(65536):
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    return Response(*parse_head(head), framing="close", body=body)
