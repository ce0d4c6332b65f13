"""Unmodified libraries that speak WebSocket themselves, alone and under Gunicorn; and third-party clients."""

from __future__ import annotations

import contextlib
import json
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from frames import HANDSHAKE
from serving import Connection, Process, Serve, Server, environment_of_child, request, takes

for library in ("flask_sock", "flask_socketio", "django", "websocket", "websockets", "socketio"):
    pytest.importorskip(library, reason="wheels of this library are missing for this Python")

import simple_websocket  # noqa: E402
import socketio  # noqa: E402
import trustme  # noqa: E402
import websocket  # noqa: E402
from websockets.asyncio.client import connect as connect_async  # noqa: E402
from websockets.exceptions import ConnectionClosed  # noqa: E402
from websockets.sync.client import connect  # noqa: E402

APPLICATION = "websocket_libraries_app:app"


class Gunicorn(Process):
    """A master of Gunicorn with one worker of ours."""

    def __init__(self, directory: Path, application: str = APPLICATION, options: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "gunicorn", "--worker-class", "rmeinheld.gunicorn_worker.Worker"]
        command += ["--bind", "127.0.0.1:0", "--graceful-timeout", "8", *options, application]
        super().__init__(command, directory, environment_of_child(directory))
        self.port = int(self.wait_for_log(r"Listening at: https?://127\.0\.0\.1:(\d+)")[1])

    def wait_until_ready(self) -> None:
        """Wait until it answers."""
        with Connection(("127.0.0.1", self.port)) as connection:
            assert connection.request(request("GET", "/nowhere")).status == 404


@pytest.fixture(scope="module", params=["standalone", "gunicorn"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server of the libraries: ours, or Gunicorn with our worker. It logs only its start and its end."""
    if request.param == "standalone":
        server: Server = request.getfixturevalue("serve_module")(APPLICATION)
        yield server.port
        log = server.log()
    else:
        gunicorn = Gunicorn(tmp_path_factory.mktemp("gunicorn"))
        try:
            gunicorn.wait_until_ready()
            yield gunicorn.port
            gunicorn.signal(15)
            assert gunicorn.wait() == 0, gunicorn.log()
            log = gunicorn.log()
        finally:
            gunicorn.kill()
    log = "\n".join(line for line in log.splitlines() if "runs as root" not in line)
    for word in ("Traceback", "ERROR", "Error", "WARNING"):
        assert word not in log, log


# --- libraries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["flask-sock", "simple-websocket", "django"])
def test_an_echo_of_each_library_closes_properly_from_either_side(port: int, path: str) -> None:
    for ending in ("client", "server"):
        client = websocket.create_connection(f"ws://127.0.0.1:{port}/{path}", timeout=15)
        for message in ("hello", "x" * 100_000, "\u20ac"):
            client.send(message)
            assert client.recv() == message
        client.send_binary(b"\x00\xff")
        assert client.recv() == b"\x00\xff"
        if ending == "server":
            client.send("close")
            opcode, data = client.recv_data()
            assert (opcode, data) == (websocket.ABNF.OPCODE_CLOSE, b"\x0f\xa1as you wish")
        client.close()


@pytest.mark.parametrize("path", ["flask-sock", "simple-websocket", "django"])
def test_a_library_serves_many_clients_at_once(port: int, path: str) -> None:
    clients = [websocket.create_connection(f"ws://127.0.0.1:{port}/{path}", timeout=15) for _ in range(50)]
    for number, client in enumerate(clients):
        client.send(f"from {number}")
    for number, client in enumerate(clients):
        assert client.recv() == f"from {number}"
    for client in clients:
        client.close()


@pytest.mark.parametrize("transports", [["websocket"], ["polling", "websocket"]], ids=["websocket", "upgraded"])
def test_flask_socketio_broadcasts(port: int, transports: list[str]) -> None:
    said = threading.Semaphore(0)
    heard: list[Any] = []
    clients = []

    def hear(data: Any) -> None:
        heard.append(data)
        said.release()

    try:
        for _ in range(5):
            client = socketio.Client(reconnection=False)
            client.on("said", hear)
            client.connect(f"http://127.0.0.1:{port}", transports=transports, wait_timeout=15)
            assert client.transport() == "websocket"
            clients.append(client)
        assert clients[0].call("say", {"text": "hello"}, timeout=15) == "ok"
        for _ in clients:
            assert said.acquire(timeout=15)
        assert heard == [{"text": "hello"}] * 5
    finally:
        for client in clients:
            client.disconnect()


@pytest.mark.parametrize(
    ("application", "path"), [(APPLICATION, "flask-sock"), ("websocket_app:app", "echo")], ids=["flask-sock", "ours"]
)
def test_a_library_works_over_tls(tmp_path: Path, application: str, path: str) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "certificate.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    gunicorn = Gunicorn(tmp_path, application, ["--certfile", str(certificate), "--keyfile", str(certificate)])
    try:
        # The request waits in the queue of the socket until the worker runs.
        with connect(f"wss://localhost:{gunicorn.port}/{path}", ssl=context, open_timeout=15) as client:
            for message in ("hello", "x" * 500_000, "\u20ac"):
                client.send(message)
                assert client.recv(timeout=15) == message
        gunicorn.signal(15)
        assert gunicorn.wait() == 0
        assert "Traceback" not in gunicorn.log()
    finally:
        gunicorn.kill()
        print(gunicorn.log())


def test_connections_taken_over_by_libraries_end_at_a_stop(serve: Serve) -> None:
    server = serve(APPLICATION, graceful_timeout=4)
    heard = threading.Event()
    events = socketio.Client(reconnection=False)
    events.on("disconnect", lambda *_: heard.set())
    events.connect(server.url, transports=["websocket"], wait_timeout=15)
    urls = [f"ws://127.0.0.1:{server.port}/{path}" for path in ("flask-sock", "simple-websocket", "django")]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(url, open_timeout=15)) for url in urls]
        for client in clients:
            client.send("hello")
            assert client.recv(timeout=15) == "hello"
        server.signal(15)
        with takes(0, 10):
            for client in clients:
                with pytest.raises(ConnectionClosed):
                    client.recv(timeout=15)
            assert heard.wait(15)
    assert server.wait(40) == 0
    # The service task of engineio waits in a daemon thread, and logs exceptions other than SystemExit.
    assert "Traceback" not in server.log()


def test_an_unpatched_library_is_warned_of(serve: Serve) -> None:
    server = serve(
        """
        def app(environ, start_response):
            socket = environ["gunicorn.socket"]
            socket.sendall(b"HTTP/1.1 101 X\\r\\n\\r\\n")
            raise StopIteration
    """,
        no_patch=True,
    )
    for _ in range(2):
        with server.connect() as connection:
            connection.send(request("GET", "/", *HANDSHAKE))
            connection.read_head()
            connection.expect_end()
    server.wait_for_log(r"WARNING.*gunicorn\.socket.*Call rmeinheld\.patch\.patch_all\(\)")
    assert server.log().count("patch_all()") == 1


# --- clients ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo(serve_module: Serve) -> str:
    """The address of an echo on our own WebSocket."""
    return f"ws://127.0.0.1:{serve_module('websocket_app:app').port}"


MESSAGES: list[str | bytes] = ["hello", "", "\u20ac\U0001f600", "x" * 200_000, b"", b"\x00\xff" * 50_000]


def test_the_client_websockets_works_with_threads(echo: str) -> None:
    with connect(f"{echo}/echo", compression="deflate") as client:
        for message in MESSAGES:
            client.send(message)
            assert client.recv(timeout=15) == message
        client.send(["in ", "three ", "fragments"])
        assert client.recv(timeout=15) == "in three fragments"
        assert client.ping().wait(15)
        client.close(3000, "enough")
        assert (client.close_code, client.protocol.close_rcvd_then_sent) == (3000, False)
    with connect(f"{echo}/subprotocol", subprotocols=["soap", "chat"]) as client:  # type: ignore[list-item]
        assert client.subprotocol == "chat"
    with connect(f"{echo}/raises") as client:
        assert client.recv(timeout=15) == "before"
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=15)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1011


def test_the_client_websockets_works_with_asyncio(echo: str) -> None:
    import asyncio

    async def talk() -> None:
        async with connect_async(f"{echo}/echo") as client:
            for message in MESSAGES:
                await client.send(message)
                assert await asyncio.wait_for(client.recv(), 15) == message
            await asyncio.wait_for(await client.ping(), 15)

    asyncio.run(talk())


def test_the_client_websocket_client_works(echo: str) -> None:
    client = websocket.create_connection(f"{echo}/echo", timeout=15)
    for message in MESSAGES:
        if isinstance(message, str):
            client.send(message)
        else:
            client.send_binary(message)
        assert client.recv() == message
    client.ping("payload")
    assert client.recv_data_frame(control_frame=True)[1].data == b"payload"
    client.close(status=3000, reason=b"enough")
    client = websocket.create_connection(f"{echo}/subprotocol", subprotocols=["chat"], timeout=15)
    assert client.subprotocol == "chat"
    client.close()


def test_the_client_of_simple_websocket_works(echo: str) -> None:
    client = simple_websocket.Client(f"{echo}/echo")
    client.send("hello")
    assert client.receive(timeout=15) == "hello"
    client.close()


def test_the_client_of_aiohttp_works(echo: str) -> None:
    import asyncio

    aiohttp = pytest.importorskip("aiohttp", reason="wheels of this library are missing for this Python")

    async def talk() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{echo}/echo", compress=15) as client:
            for message in MESSAGES:
                if isinstance(message, str):
                    await client.send_str(message)
                else:
                    await client.send_bytes(message)
                assert (await client.receive(15)).data == message
            await client.close(code=3000)
            assert client.close_code == 3000

    asyncio.run(talk())


WS = """
const WebSocket = require("ws");
const client = new WebSocket(process.argv[2] + "/echo", ["chat"]);
const messages = JSON.parse(process.argv[3]);
const heard = [];
client.on("open", () => { for (const message of messages) client.send(message); client.ping("p"); });
const note = (what) => { if (heard.push(what) === messages.length + 1) client.close(3000, "enough"); };
client.on("pong", (data) => note("pong " + data));
client.on("message", (data, isBinary) => note(isBinary ? "binary" : data.toString()));
client.on("close", (code) => { console.log(JSON.stringify([heard, code])); });
client.on("error", (error) => { console.log("error " + error); });
"""


def test_the_client_ws_from_npm_works(echo: str, tmp_path: Path) -> None:
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("needs node and npm (apt install nodejs npm)")
    subprocess.run(
        ["npm", "install", "--silent", "--no-audit", "--no-fund", "ws@8"], cwd=tmp_path, check=True, timeout=120
    )
    (tmp_path / "client.js").write_text(WS)
    messages = ["hello", "x" * 50_000, ""]

    def talk() -> str:
        command = ["node", "client.js", echo, json.dumps(messages)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True).stdout

    # The server chooses no subprotocol, which is an error for this client.
    output = talk()
    assert "error Error: Server sent no subprotocol" in output, output
    (tmp_path / "client.js").write_text(WS.replace(', ["chat"]', ""))
    heard, code = json.loads(talk())
    assert sorted(heard) == sorted([*messages, "pong p"])
    assert code == 3000
