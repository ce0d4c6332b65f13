"""Uses `environ["gunicorn.socket"]` as a library does, and prints the results."""

import select
import socket
import time

import rmeinheld.coroutine

HEAD = b"HTTP/1.1 101 Mine\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def outcome(call, *args):
    try:
        return call(*args)
    except Exception as error:
        return type(error).__name__


def flags(client):
    PEEK, ALL, DONTWAIT = socket.MSG_PEEK, socket.MSG_WAITALL, socket.MSG_DONTWAIT
    client.settimeout(10)
    yield client.recv(100, PEEK), client.recv(3, PEEK), client.recv(3), client.recv(100)  # came early
    client.sendall(b"next")
    yield client.recv(2, PEEK), select.select([client], [], [], 10)[0] == [client]
    yield client.recv(4, PEEK), client.recv(4)
    yield outcome(client.recv, 4, DONTWAIT), outcome(client.recv, 1, PEEK | DONTWAIT)
    client.sendall(b"next")
    yield client.recv(10, ALL)
    client.sendall(b"next")
    buffer = bytearray(4)
    yield client.recv_into(buffer, 0, PEEK), bytes(buffer), client.recv_into(buffer), bytes(buffer)
    yield [outcome(client.recv, 1, flag) for flag in (socket.MSG_OOB, socket.MSG_TRUNC, 1 << 24)]
    yield outcome(client.send, b"x", socket.MSG_OOB), outcome(client.sendall, b"x", socket.MSG_DONTROUTE)
    client.settimeout(0)
    yield outcome(client.recv, 1), outcome(client.recv, 1, PEEK), outcome(client.recv, 1, ALL)


def full(client):
    much = bytes(50_000_000)
    for timeout in (0, 0.2):
        client.settimeout(timeout)
        started = time.monotonic()
        yield outcome(client.sendall, much), time.monotonic() - started < 5
    client.settimeout(0)
    yield [outcome(client.send, much) for _ in range(50)][-1]
    client.settimeout(None)
    yield [outcome(client.send, much, socket.MSG_DONTWAIT) for _ in range(50)][-1]


def drips(client):
    # The timeout limits the whole call.
    client.settimeout(0.5)
    started = time.monotonic()
    yield outcome(client.sendall, bytes(50_000_000)), time.monotonic() - started < 5


def shut(client):
    client.shutdown(socket.SHUT_RD)
    yield client.recv(100), client.recv(100)


def app(environ, start_response):
    client, path = environ["gunicorn.socket"], environ["PATH_INFO"]
    client.sendall(HEAD)
    if path == "/reads":  # until the end, then says goodbye
        data = b""
        while more := client.recv(7):
            data += more
            rmeinheld.coroutine.sleep(0.01)
        client.sendall(b"read %d bytes" % len(data))
        return []
    if path == "/waits":
        rmeinheld.coroutine.sleep(0.5)
        client.sendall(b"read " + client.recv(10))
        return []
    for number, result in enumerate(globals()[path[1:]](client)):
        print(path, number, result, flush=True)
    return []
