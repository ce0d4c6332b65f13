"""Memory of a server during ten million requests: `make soak-memory`, or with other numbers: see --help.

The requests are GET, POST and chunked POST in turn, on connections that end after 100 requests. After each million come
bad heads, requests for a path that raises, and connections that end within a head. The memory after the first million
is compared with that after each later one: the exit status is 1 if it has grown by more than 1 MB. Writes
results/many_requests.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
from pathlib import Path

from load import Load, LoadError, run_rate_client
from loads import FIELDS, get, post
from machine import choose_cores, facts
from measure import memory
from results import origin
from servers import RMEINHELD, Running, Task, running_server
from toolchain import BENCHES, MissingTool, compile_program

MILLION = 1_000_000
ALLOWED_KIB = 1024
SLICE_SECONDS = 2.0
FAULTS = 300  # of each kind after each million
REQUESTS = (
    get("/"),
    post("/", "Content-Length: 5\r\n", b"hello"),
    get("/other?query=string", "User-Agent: bench\r\nAccept: */*\r\n"),
    post("/", "Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
)
LOAD = Load(REQUESTS, 64, per_connection=100)
# Bytes that are sent on a connection of its own, and the beginning of the answer.
FAULTY = (
    (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
    (f"GET /error HTTP/1.1\r\n{FIELDS}\r\n".encode(), b"HTTP/1.1 500 "),
    (b"GET / HTT", b""),
)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=10)
    parser.add_argument("--output", type=Path, default=BENCHES / "results" / "many_requests.json")
    return parser.parse_args()


def send_faults(port: int) -> None:
    """Send what has to fail; raises LoadError if the answer is another one."""
    for request, expected in FAULTY * FAULTS:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(request)
            if expected and not (answer := connection.recv(65536)).startswith(expected):
                raise LoadError(f"{request!r} was answered by {answer[:100]!r}")


def send_a_million(client: Path, server: Running, core: int) -> int:
    """The requests that were answered: a million, and those of the last slice beyond."""
    count = 0
    while count < MILLION:
        count += int(run_rate_client(client, LOAD, server.port, SLICE_SECONDS, core)["requests"])
    send_faults(server.port)
    return count


def main() -> int:
    """Run, print the memory after each million, and write the file; 1 if it has grown or a request failed."""
    options = arguments()
    server_core, client_core = choose_cores()
    try:
        client = compile_program("rate_client")
    except MissingTool as error:
        sys.exit(str(error))
    known = facts()
    os.sched_setaffinity(0, {client_core})
    total, resident = 0, list[int]()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(running_server(RMEINHELD, Task("drain"), server_core))
        for number in range(1, options.millions + 1):
            try:
                total += send_a_million(client, server, client_core)
            except LoadError as error:
                print(error, file=sys.stderr)
                return 1
            resident.append(memory(server.pid).resident)
            print(f"{number:3} million: {resident[-1]:,} KiB, {resident[-1] - resident[0]:+,}", flush=True)
    grown = max(resident) - resident[0]
    result = {
        **origin(known),
        "requests": total,
        "faulty_requests": options.millions * FAULTS * len(FAULTY),
        "resident_kib": resident,
        "grown_kib": grown,
        "allowed_kib": ALLOWED_KIB,
    }
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{total:,} requests; the memory has grown by {grown:,} KiB after the first million, of {ALLOWED_KIB:,}")
    return 1 if grown > ALLOWED_KIB else 0


if __name__ == "__main__":
    sys.exit(main())
