"""Flask-SocketIO in four workers: events reach the clients of every worker. Clients in Python and from npm."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

for library in ("flask_socketio", "socketio", "websocket", "requests"):
    pytest.importorskip(library, reason="pip install flask-socketio 'python-socketio[client]'")

import requests  # noqa: E402

from databases import Redis, running  # noqa: E402
from masters import LISTENING, Service, wait_until  # noqa: E402
from serving import TIMEOUT, environment_of_child  # noqa: E402
from socketio_clients import Listener, in_each_worker  # noqa: E402

APP = "socketio_app:app"
WORKERS = 4


class Chat(Service):
    """A service of Flask-SocketIO."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def await_socket(self) -> None:
        """Wait until the master has imported the application, which takes long on a busy machine."""
        self.port = int(self.wait_for_log(LISTENING, 60)[1])


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chat]:
    """A service of four workers. It logs no error."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="crew") as runtime:
        patch.setenv("RUNTIME_DIRECTORY", runtime)
        service = Chat(
            tmp_path_factory.mktemp("chat"), ("--workers", str(WORKERS), "--preload", "--sticky", "socketio"), APP
        )
        try:
            service.await_start()
            service.await_ready()
            yield service
            service.signal(signal.SIGTERM)
            assert service.wait(60) == 0
            assert "Traceback" not in service.log(), service.log()
            assert "ERROR" not in service.log(), service.log()
        finally:
            service.kill()
            print(service.log())


@pytest.fixture(scope="module")
def four(chat: Chat) -> Iterator[list[Listener]]:
    """A client in each worker."""
    with in_each_worker(chat.url, WORKERS) as listeners:
        yield listeners


@pytest.fixture
def clients(four: list[Listener]) -> list[Listener]:
    """A client in each worker, which has heard nothing."""
    for listener in four:
        listener.heard.clear()
        listener.answers.clear()
    return four


def in_order(clients: list[Listener]) -> None:
    """Have all workers pass on what was emitted before: an event follows it to each client."""
    for number, listener in enumerate(clients):
        listener.call("say", f"end {number}")
    for listener in clients:
        wait_until(lambda listener=listener: sum("end" in str(said) for said in listener.heard) == WORKERS, str)  # type: ignore[misc]
        listener.heard[:] = [said for said in listener.heard if "end" not in str(said)]


def test_an_event_reaches_the_clients_of_all_workers_once(clients: list[Listener]) -> None:
    for number, listener in enumerate(clients):
        assert listener.call("say", {"number": number, "bytes": b"\x00\xff"}) == "ok"
        for other in clients:
            assert other.hears(*({"number": before, "bytes": b"\x00\xff"} for before in range(number + 1)))


def test_events_of_one_worker_come_in_order_to_the_clients_of_the_others(clients: list[Listener]) -> None:
    for number in range(300):
        clients[0].client.emit("say", number)
    for listener in clients:
        listener.hears(*range(300))
        # The server handles events side by side, so their order may differ. It is the same everywhere.
        assert sorted(listener.heard) == list(range(300))


def test_an_event_from_outside_of_a_request_of_any_client_reaches_all(chat: Chat, clients: list[Listener]) -> None:
    pids = set()
    for number in range(8):
        pids.add(requests.post(f"{chat.url}/emit/said", json=number, timeout=TIMEOUT).json()["pid"])
    for listener in clients:
        assert listener.hears(*range(8)) or sorted(listener.heard) == list(range(8))


def test_an_event_reaches_one_client_or_several_of_other_workers(clients: list[Listener]) -> None:
    first, second, third, fourth = clients
    first.call("say to", second.sid, "to the second")
    first.call("say to", [third.sid, fourth.sid], "to two")
    in_order(clients)
    assert [listener.heard for listener in clients] == [[], ["to the second"], ["to two"], ["to two"]]


def test_clients_of_other_workers_enter_and_leave_rooms(clients: list[Listener]) -> None:
    first, second, third, _ = clients
    assert second.call("enter", "blue") == "ok"
    assert first.call("enter", "blue", third.sid) == "ok"
    in_order(clients)
    first.call("say to", "blue", 1)
    in_order(clients)
    assert [listener.heard for listener in clients] == [[], [1], [1], []]
    assert first.call("leave", "blue", third.sid) == "ok"
    in_order(clients)
    first.call("say to", "blue", 2)
    in_order(clients)
    assert first.call("close", "blue") == "ok"
    in_order(clients)
    first.call("say to", "blue", 3)
    in_order(clients)
    assert [listener.heard for listener in clients] == [[], [1, 2], [1], []]


@pytest.mark.parametrize("answer", ["a word", {"an": "object"}, b"\x00\xff"], ids=["text", "object", "bytes"])
def test_the_answer_of_a_client_of_another_worker_comes_back(clients: list[Listener], answer: object) -> None:
    first, second, *_ = clients
    second.client.on("question", lambda question: (question, answer))
    first.client.emit("ask", (second.sid, "why?"))
    wait_until(lambda: bool(first.answers), str)
    assert first.answers == [["why?", answer]]


def test_a_client_of_another_worker_is_disconnected(chat: Chat, clients: list[Listener]) -> None:
    extra = Listener(chat.url)
    other = next(listener for listener in clients if listener.pid != extra.pid)
    assert other.call("throw out", extra.sid) == "ok"
    wait_until(lambda: not extra.client.connected, chat.log)
    # The others stay.
    assert {listener.call("whoami")["pid"] for listener in clients} == {listener.pid for listener in clients}


SOCKET_IO = """
const { io } = require("socket.io-client");
const [url, transports] = [process.argv[2], JSON.parse(process.argv[3])];
const connect = () => new Promise((resolve, reject) => {
    const socket = io(url, { transports, reconnection: false, forceNew: true });
    socket.on("connect", () => resolve(socket));
    socket.on("connect_error", reject);
});
(async () => {
    const found = new Map();
    for (let tries = 0; found.size < 2 && tries < 100; tries++) {
        const socket = await connect();
        const { sid, pid } = await socket.timeout(15000).emitWithAck("whoami");
        if (found.has(pid)) socket.close(); else found.set(pid, { socket, sid });
    }
    const [first, second] = [...found.values()];
    const heard = new Promise((resolve) => second.socket.on("said", resolve));
    const message = { text: "hello", data: Buffer.from([0, 255]) };
    const ok = await first.socket.timeout(15000).emitWithAck("say to", second.sid, message);
    const { text, data } = await heard;
    second.socket.on("question", (question, answer) => answer(question + " because"));
    const answered = new Promise((resolve) => first.socket.on("answered", resolve));
    first.socket.emit("ask", second.sid, "why?");
    const { engine } = second.socket.io;
    if (transports.length > 1 && engine.transport.name === "polling")
        await new Promise((resolve) => engine.once("upgrade", resolve));
    const transport = engine.transport.name;
    console.log(JSON.stringify([ok, text, [...data], await answered, transport]));
    for (const { socket } of found.values()) socket.close();
})().catch((error) => { console.log("failed: " + error); process.exit(1); });
"""


@pytest.fixture(scope="module")
def npm_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with socket.io-client from npm."""
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("needs node and npm (apt install nodejs npm)")
    directory = tmp_path_factory.mktemp("npm")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "socket.io-client@4"]
    subprocess.run(install, cwd=directory, check=True, timeout=100)
    (directory / "client.js").write_text(SOCKET_IO)
    return directory


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="-".join)
def test_the_client_from_npm_talks_to_clients_of_other_workers(
    chat: Chat, npm_client: Path, transports: list[str]
) -> None:
    command = ["node", "client.js", chat.url, json.dumps(transports)]
    done = subprocess.run(command, cwd=npm_client, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (done.stdout, done.stderr, chat.log())
    assert json.loads(done.stdout) == ["ok", "hello", [0, 255], ["why? because"], transports[-1]]


# --- sticky sessions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transports", [["polling"], ["polling", "websocket"]], ids=["polling", "upgraded"])
def test_clients_that_poll_talk_to_clients_of_other_workers(chat: Chat, transports: list[str]) -> None:
    with in_each_worker(chat.url, 2, transports) as [first, second]:
        assert {first.client.transport(), second.client.transport()} == {transports[-1]}
        assert first.call("say to", second.sid, "hello") == "ok"
        assert second.hears("hello")
        second.client.on("question", lambda question: question + " because")
        first.client.emit("ask", (second.sid, "why?"))
        wait_until(lambda: bool(first.answers), chat.log)
        assert first.answers == [["why? because"]]


# --- several machines ------------------------------------------------------------------------------------------------

EMIT = """
from rmeinheld.socketio import CrewManager
CrewManager(write_only=True).emit("said", {"from": "a job"})
"""


def test_two_services_and_a_job_share_events_by_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Redis) as redis:
        monkeypatch.setenv("RMEINHELD_CHANNEL_URL", f"unix://{redis.socket}")
        monkeypatch.setenv("RMEINHELD_CHANNEL_KEY", "the key of the service")
        services = []
        try:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                services.append(Chat(tmp_path / name, ("--workers", "1", "--preload"), APP))
            for service in services:
                service.await_start()
                service.await_ready()
            with in_each_worker(services[0].url, 1) as [here], in_each_worker(services[1].url, 1) as [there]:
                assert here.call("say", "hello") == "ok"
                subprocess.run([sys.executable, "-c", EMIT], check=True, timeout=60, env=environment_of_child(tmp_path))
                for listener in (here, there):
                    assert listener.hears("hello", {"from": "a job"})
                there.client.on("question", lambda question: question + " because")
                here.client.emit("ask", (there.sid, "why?"))
                wait_until(lambda: bool(here.answers), services[0].log)
                assert here.answers == [["why? because"]]
            for service in services:
                service.signal(signal.SIGTERM)
            for service in services:
                assert service.wait(60) == 0
                assert "Traceback" not in service.log()
        finally:
            for service in services:
                service.kill()
                print(service.log())


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "from rmeinheld.socketio import CrewManager\nCrewManager(write_only=True)",
            "RuntimeError: CrewManager(write_only=True) reaches no client: this process is no worker of a service. "
            "Give it the url of a Redis, or set RMEINHELD_CHANNEL_URL, and have the service use the same",
        ),
        (
            "import sys\nsys.modules['socketio'] = None\nimport rmeinheld.socketio",
            "pip install python-socketio",
        ),
    ],
    ids=["write-only", "no python-socketio"],
)
def test_a_manager_that_could_reach_no_client_says_what_it_lacks(tmp_path: Path, source: str, said: str) -> None:
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment_of_child(tmp_path))
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
