"""Certificates made by openssl, and clients that trust them."""

from __future__ import annotations

import socket
import ssl
import subprocess
from collections.abc import Iterator
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


AUTHORITY = """
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = names
[names]
commonName = supplied
"""


def make_expired_certificate(directory: Path) -> Certificate:
    """Make a certificate whose last day is long ago."""
    made = make_certificate(directory)
    for name, text in {"index.txt": "", "serial": "01\n", "authority.cnf": AUTHORITY}.items():
        (directory / name).write_text(text)
    asks = ["openssl", "req", "-new", "-key", "key.pem", "-subj", "/CN=localhost", "-out", "request.pem"]
    signs = ["openssl", "ca", "-batch", "-selfsign", "-notext", "-config", "authority.cnf", "-keyfile", "key.pem"]
    signs += ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    for command in (asks, [*signs, "-in", "request.pem", "-out", "certificate.pem"]):
        subprocess.run(command, check=True, capture_output=True, cwd=directory)
    return made


def bad_renewals(place: Certificate, other: Certificate) -> Iterator[str]:
    """Put one bad renewal after the other into the files of `place`, and yield the part of the error that tells it."""
    certificate, key = str(place.certificate), str(place.key)
    whole = other.certificate.read_bytes()
    for contents, fault in (
        (b"no certificate", f"certfile: {certificate!r} holds no certificate in PEM"),
        (b"", f"certfile: {certificate!r} holds no certificate in PEM"),
        (whole[: len(whole) // 2], f"certfile {certificate!r} with the key in {key!r} cannot be used: "),
        (whole.replace(b"\nMII", b"\nIIM", 1), f"certfile {certificate!r} with the key in {key!r} cannot be used: "),
        (whole, f"keyfile: the key in {key!r} does not belong to the certificate in {certificate!r}"),
    ):
        place.certificate.write_bytes(contents)
        yield fault
    other.put(place)
    place.key.write_bytes(b"no key")
    yield f"keyfile: {key!r} holds no private key in PEM"
    place.key.unlink()
    yield f"keyfile: cannot read {key!r}: No such file or directory"
    other.put(place)
    place.certificate.unlink()
    yield f"certfile: cannot read {certificate!r}: No such file or directory"
    place.certificate.mkdir()
    yield f"certfile: cannot read {certificate!r}: Is a directory"
    place.certificate.rmdir()


def shown_certificate(port: int) -> str:
    """The certificate that a server shows, in PEM. Nothing about it is checked."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=TIMEOUT)


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
