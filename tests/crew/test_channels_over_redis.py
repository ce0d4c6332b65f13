"""Channels over Redis: messages between processes that have nothing but a Redis in common, and what its loss does."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

redis = pytest.importorskip("redis", reason="pip install redis")

from databases import Redis, running  # noqa: E402
from masters import Service, wait_until  # noqa: E402
from rmeinheld.channel.over_redis.frames import Signer, key_of  # noqa: E402
from rmeinheld.channel.over_redis.numbers import FORGED, Numbers  # noqa: E402
from rmeinheld.channel_options import without_password  # noqa: E402
from serving import TIMEOUT, environment_of_child  # noqa: E402

KEY = "the key of the service"

PROCESS = """
import sys
from rmeinheld import patch
if "--unpatched" not in sys.argv:
    patch.patch_all()
import os, threading, time
from rmeinheld.channel import Channel
from rmeinheld.coroutine import spawn

def until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True

def transport():
    return news._bound().transport

for line in sys.stdin:
    try:
        result = eval(line)
    except BaseException as error:
        result = f"{type(error).__name__}: {error}"
    print(ascii(result), flush=True)
"""


class Node:
    """A process on some machine, which evaluates expressions."""

    def __init__(self, url: str, log: Path, *arguments: str, key: str = KEY) -> None:
        self._log = log
        environment = environment_of_child(log.parent)
        environment |= {"RMEINHELD_CHANNEL_URL": url, "RMEINHELD_CHANNEL_KEY": key}
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROCESS, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
            )
        # Several start side by side: the first expression waits for the answer.
        self._is_starting = False
        self.begin("exec(\"news = Channel('news'); heard = []; gaps = []\", globals())")
        self._is_starting = True

    @property
    def log(self) -> str:
        return self._log.read_text()

    def begin(self, expression: str) -> None:
        """Have the process evaluate an expression. `answer` returns the result."""
        if self._is_starting:
            self._is_starting = False
            assert self.answer() is None
        assert self.process.stdin is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """Return the result of `begin`. An exception is a text."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log
        return ast.literal_eval(line)

    def ask(self, expression: str) -> Any:
        """Have the process evaluate an expression, and return the result."""
        self.begin(expression)
        return self.answer()

    def run(self, source: str) -> None:
        """Have the process run statements."""
        assert self.ask(f"exec({source!r}, globals())") is None

    def listen(self) -> None:
        """Subscribe to the channel. Messages are then in `heard`, and gaps in `gaps`."""
        self.run("subscription = news.subscribe(heard.append, max_queue=10_000, on_gap=gaps.append)")

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


type Start = Callable[..., Node]


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    """A Redis for all tests that do not end it."""
    with running(Redis) as started:
        yield started


@pytest.fixture
def start(server: Redis, tmp_path: Path) -> Iterator[Start]:
    """`start(*arguments) -> Node`: a process with the service's key, and a database of Redis for the test alone."""
    nodes: list[Node] = []
    with redis.Redis(unix_socket_path=server.socket) as client:
        client.flushall()

    def begin(*arguments: str, key: str = KEY, database: int = 0) -> Node:
        nodes.append(Node(f"unix://{server.socket}?db={database}", tmp_path / f"{len(nodes)}.log", *arguments, key=key))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.kill()
        print(node.log)


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", [(), ("--unpatched",)], ids=["patched", "unpatched"])
def test_messages_of_each_kind_reach_other_processes_once_and_in_order(start: Start, option: tuple[str, ...]) -> None:
    one, two = start(*option), start(*option)
    one.listen()
    two.listen()
    sent = ["text \u20ac", b"\x00\xff", {"an": ["object", None]}, "", b"", *range(100)]
    assert one.ask(f"[news.publish(message) for message in {sent!r}]") == [2] * len(sent)
    for node in (one, two):
        assert node.ask(f"until(lambda: len(heard) >= {len(sent)}) and (heard, gaps)") == (sent, [])


def test_publishing_returns_once_redis_has_the_message_and_a_burst_loses_none(start: Start) -> None:
    one, two = start(), start()
    two.listen()
    one.run("""
acknowledged = []

def publish(sender):
    for number in range(200):
        news.publish(f"{sender} {number}")
        acknowledged.append(f"{sender} {number}")

for coroutine in [spawn(publish, sender) for sender in range(20)]:
    coroutine.join()
""")
    acknowledged = one.ask("acknowledged")
    assert len(acknowledged) == 4000
    heard = two.ask("until(lambda: len(heard) == 4000) and heard")
    assert sorted(heard) == sorted(acknowledged)
    for sender in range(20):
        own = [text for text in heard if text.startswith(f"{sender} ")]
        assert own == [f"{sender} {number}" for number in range(200)]
    assert two.ask("gaps") == []


def test_one_connection_receives_whatever_the_number_of_channels(start: Start, server: Redis) -> None:
    one, two = start(), start()
    one.run("subscriptions = [Channel(f'room {number}').subscribe() for number in range(50)]")
    with redis.Redis(unix_socket_path=server.socket) as client:
        assert sum(int(found["sub"]) > 0 for found in client.client_list()) == 1
        assert len(client.client_list()) == 3
    assert two.ask("[Channel(f'room {number}').publish(number) for number in range(51)]") == [1] * 50 + [0]
    assert one.ask("[subscription.get(15) for subscription in subscriptions]") == list(range(50))
    one.run("[subscription.close() for subscription in subscriptions]")
    assert two.ask("until(lambda: news.publish(1) == Channel('room 7').publish(7) == 0)")
    # A channel that is left and entered again.
    one.run("subscription = Channel('room 7').subscribe()")
    assert two.ask("Channel('room 7').publish('again')") == 1
    assert one.ask("subscription.get(15)") == "again"


def test_databases_of_one_redis_are_apart(start: Start) -> None:
    one, other = start(), start(database=1)
    one.listen()
    assert other.ask("news.publish('not for them')") == 0
    assert one.ask("news.publish('own'), until(lambda: heard == ['own'])") == (1, True)


# --- gaps ------------------------------------------------------------------------------------------------------------


def test_messages_that_are_missed_while_the_connection_is_lost_are_counted(start: Start, server: Redis) -> None:
    one, two = start(), start()
    two.listen()
    assert one.ask("news.publish('first'), news.publish('second')") == (1, 1)
    assert two.ask("until(lambda: len(heard) == 2)")
    with redis.Redis(unix_socket_path=server.socket) as client:
        # It cannot connect again while it is stopped.
        os.kill(two.process.pid, signal.SIGSTOP)
        assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 2
        assert one.ask("[news.publish(number) for number in range(7)]") == [0] * 7
        os.kill(two.process.pid, signal.SIGCONT)
    # The gap is found although no message follows.
    assert two.ask("until(lambda: gaps == [7]) and (subscription.gaps, subscription.missed)") == (1, 7)
    assert one.ask("news.publish('last')") == 1
    assert two.ask("until(lambda: heard == ['first', 'second', 'last']) and gaps") == [7]


def test_a_restart_of_redis_is_survived_and_is_an_error_for_publishers_meanwhile(tmp_path: Path) -> None:
    with running(Redis) as server:
        nodes = []
        try:
            url = f"redis://:@127.0.0.1:{server.port}/0"
            nodes = [Node(url, tmp_path / f"{number}.log") for number in range(2)]
            one, two = nodes
            two.listen()
            assert one.ask("news.publish('before')") == 1
            assert two.ask("until(lambda: heard == ['before'])")
            server.kill()
            failure = one.ask("news.publish('lost')")
            assert failure.startswith(f"ConnectionError: channel_url redis://***@127.0.0.1:{server.port}/0: ")
            assert one.ask("news.publish('lost, too')").startswith("ConnectionError: channel_url ")
            server.start()
            one.run("""
def publish():
    try:
        return news.publish("after") == 1
    except ConnectionError:
        return False
""")
            assert one.ask("until(publish)")
            assert two.ask("until(lambda: heard[-1] == 'after') and (heard, gaps)") == (["before", "after"], [None])
            assert "cannot receive" in two.log and "receive again, after" in two.log
        finally:
            for node in nodes:
                node.kill()
                print(node.log)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([(1, 5, 1, 7), (1, 6, 1, 8)], [0, 0]),
        ([(1, 5, 1, 7), (2, 1, 1, 8), (1, 8, 1, 11)], [0, 0, 2]),
        # The same message twice, and an earlier one.
        ([(1, 5, 1, 7), (1, 5, 1, 8), (1, 4, 1, 8)], [0, FORGED, FORGED]),
        # Redis has forgotten a channel on which nothing was said for a day.
        ([(1, 5, 1, 7), (1, 6, 2, 1), (1, 7, 2, 3)], [0, 0, 1]),
    ],
)
def test_gaps_are_found_by_numbers(seen: list[tuple[int, int, int, int]], expected: list[int]) -> None:
    numbers = Numbers()
    found = [numbers.message(b"%d" % peer, number, epoch, at) for peer, number, epoch, at in seen]
    assert found == expected


@pytest.mark.parametrize(
    ("found", "then", "missed"),
    [((1, 7), (), 0), ((1, 9), (), 2), ((2, 1), (), None), ((0, 0), (), None), ((0, 0), (1, 6, 2, 1), 0)],
)
def test_gaps_at_the_end_are_found_after_a_connection_was_lost(
    found: tuple[int, int], then: tuple[int, ...], missed: int | None
) -> None:
    numbers = Numbers()
    assert numbers.reached(0, 0) == 0
    assert numbers.message(b"1", 5, 1, 7) == 6
    numbers.disconnected()
    if then:
        assert numbers.message(b"1", *then[1:]) is None
    assert numbers.reached(*found) == missed


# --- signatures ------------------------------------------------------------------------------------------------------


def test_a_message_with_a_wrong_signature_or_a_used_number_is_dropped_and_counted(start: Start, server: Redis) -> None:
    one, two, stranger = start(), start(), start(key="another key")
    two.listen()
    with redis.Redis(unix_socket_path=server.socket) as client, client.pubsub() as spy:
        spy.subscribe("rmeinheld:0:m:news")
        assert one.ask("news.publish('right')") == 2
        assert stranger.ask("news.publish('wrong')") == 2
        deadline = time.monotonic() + TIMEOUT
        copies: list[bytes] = []
        while len(copies) < 2 and time.monotonic() < deadline:
            message = spy.get_message(timeout=1)
            if message is not None and message["type"] == "message":
                copies.append(message["data"])
        client.publish("rmeinheld:0:m:news", copies[0])
        client.publish("rmeinheld:0:m:news", b"no message of ours")
        client.publish("rmeinheld:0:m:news", b"")
    assert one.ask("news.publish('last')") == 1
    assert two.ask("until(lambda: heard[-1:] == ['last']) and (heard, transport().refused >= 4)") == (
        ["right", "last"],
        True,
    )
    lines = [line for line in two.log.splitlines() if "Dropped a message over unix://" in line]
    assert len(lines) == 1 and "RMEINHELD_CHANNEL_KEY" in lines[0]
    assert KEY not in two.log


def test_a_message_cannot_be_moved_or_changed_or_cut() -> None:
    signer = Signer(key_of("secret"), b"p" * 16)
    packed = b"12:3 " + signer.pack(b"channel", 1, 9, b"payload")
    frame = signer.unpack(b"channel", packed)
    assert frame is not None
    assert (frame[:5], bytes(frame.payload)) == ((1, b"p" * 16, 9, 12, 3), b"payload")
    assert signer.unpack(b"channe", packed) is None
    assert Signer(key_of("Secret"), b"p" * 16).unpack(b"channel", packed) is None
    for position in range(len(b"12:3 "), len(packed)):
        changed = bytearray(packed)
        changed[position] ^= 1
        assert signer.unpack(b"channel", bytes(changed)) is None
    for length in range(len(packed)):
        assert signer.unpack(b"channel", packed[:length]) is None


# --- presence --------------------------------------------------------------------------------------------------------


def test_the_presence_of_processes_ends_with_them(start: Start) -> None:
    one, two, three = start(), start(), start()
    assert two.ask("news.presence.join('two', {'of': 2})") is None
    assert three.ask("news.presence.join('three')") is None
    assert one.ask("until(lambda: news.presence.members() == {'two': {'of': 2}, 'three': None})")
    # An end in order.
    three.run("transport().close()")
    assert one.ask("until(lambda: list(news.presence.members()) == ['two'], 2)")
    # A machine that dies.
    two.kill()
    assert one.ask("until(lambda: not news.presence.members(), 8)")


PRESENCE_APP = """
import json, os
from rmeinheld.channel import Channel

room = Channel("room")

def app(environ, start_response):
    if environ["PATH_INFO"] == "/join":
        room.presence.join(str(os.getpid()))
    answer = json.dumps({"pid": os.getpid(), "members": sorted(room.presence.members())}).encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""


def test_the_presence_of_a_worker_that_dies_ends_within_a_second(
    start: Start, server: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMEINHELD_CHANNEL_URL", f"unix://{server.socket}")
    monkeypatch.setenv("RMEINHELD_CHANNEL_KEY", KEY)
    (tmp_path / "presence_app.py").write_text(PRESENCE_APP)
    elsewhere = start()
    elsewhere.run("room = Channel('room'); room.presence.members()")
    service = Service(tmp_path, ("--workers", "2", "--chdir", str(tmp_path)), "presence_app:app")
    try:
        service.await_start()
        service.await_ready()
        first, second = map(str, service.running())
        wait_until(lambda: {first, second} <= set(service.get("/join")["members"]), service.log)
        assert elsewhere.ask(f"until(lambda: set(room.presence.keys()) >= {{ {first!r}, {second!r} }})")
        begun = time.monotonic()
        os.kill(int(first), signal.SIGKILL)
        assert elsewhere.ask(f"until(lambda: {first!r} not in room.presence)")
        # Without its sibling it would take three seconds. The rest is for a busy machine.
        assert time.monotonic() - begun < 2.5
        assert elsewhere.ask(f"{second!r} in room.presence")
        service.signal(signal.SIGTERM)
        assert service.wait(60) == 0
        assert elsewhere.ask("until(lambda: len(room.presence) == 0)")
    finally:
        service.kill()
        print(service.log())


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "import sys; sys.modules['redis'] = None\nChannel('a', url='redis://:word@localhost').publish('b')",
            "ImportError: the URL of a channel is 'redis://***@localhost', which needs redis-py, and that cannot be "
            "imported (import of redis halted; None in sys.modules): pip install redis",
        ),
        (
            "Channel('a', url='http://:word@localhost').publish('b')",
            "ValueError: the URL of a channel must begin with one of redis://, rediss://, unix://, not "
            "'http://***@localhost'",
        ),
        (
            "Channel('a', url='redis://:word@localhost:port').publish('b')",
            "ValueError: the URL of a channel 'redis://***@localhost:port' is no URL of Redis",
        ),
        (
            "Channel('a', url='unix:///nowhere/redis.sock').subscribe()",
            "ConnectionError: the URL of a channel unix:///nowhere/redis.sock: ",
        ),
    ],
    ids=["no redis-py", "no scheme of Redis", "no port", "no Redis"],
)
def test_a_mistake_is_named_with_the_url_and_without_its_password(tmp_path: Path, source: str, said: str) -> None:
    command = [sys.executable, "-c", f"from rmeinheld.channel import Channel\n{source}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment_of_child(tmp_path))
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1], done.stderr
    assert ":word" not in done.stderr.splitlines()[-1]


def test_a_wrong_setting_is_an_error_at_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rmeinheld", "--channel-url", "amqp://u:word@host", "wsgi_app:app"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment_of_child(tmp_path))
    assert done.returncode != 0
    assert "--channel-url must be a URL that begins with redis://, rediss://, unix://, not 'amqp://***@host'" in (
        done.stderr
    )


def test_the_report_of_the_configuration_shows_no_secret(tmp_path: Path) -> None:
    environment = environment_of_child(tmp_path)
    environment |= {"RMEINHELD_CHANNEL_KEY": KEY, "RMEINHELD_CHANNEL_URL": "redis://:word@host/1?password=word"}
    command = [sys.executable, "-m", "rmeinheld", "--print-config", "wsgi_app:app"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert "(secret)" in done.stdout and "redis://***@host/1?..." in done.stdout
    assert KEY not in done.stdout and "word" not in done.stdout.replace("password", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost"),
        ("rediss://user:word@host:1/2?ssl_cert_reqs=none", "rediss://***@host:1/2?..."),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("no URL", "no URL"),
        ("redis://[::1", "redis:..."),
    ],
)
def test_the_password_of_a_url_is_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
