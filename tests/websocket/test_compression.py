"""permessage-deflate (RFC 7692) on the wire: offers, messages in both directions, and input that is wrong."""

from __future__ import annotations

import os
import random
import shutil
import zlib
from pathlib import Path

import pytest

from frames import BINARY, CLOSE, COMPRESSED, FIN, HANDSHAKE, PING, PONG, TEXT, Client, frame, text
from serving import Process, Serve, Server, request

APPLICATION = """
    import os
    from rmeinheld.coroutine import sleep, spawn
    from rmeinheld.websocket import broadcast

    members = []

    def app(environ, start_response):
        websocket, path = environ.get("wsgi.websocket"), environ["PATH_INFO"]
        if websocket is None:
            if path == "/result":
                print("result:", environ["QUERY_STRING"], flush=True)
            start_response("200 OK", [("Content-Type", "text/html")])
            return [PAGE]
        HANDLERS[path](websocket)
        return []

    def echo(websocket, **options):
        websocket.accept(**options)
        for message in websocket:
            websocket.send(message)

    def wrong(websocket):
        for value in ("maybe", "ON", 1, b"on"):
            try:
                websocket.accept(compression=value)
            except (TypeError, ValueError) as error:
                print(type(error).__name__, error, flush=True)
        echo(websocket)

    def silent(websocket):
        websocket.accept()
        while not websocket.closed:
            sleep(0.05)

    def large(websocket):
        '''Counts the turns of another coroutine while a message is compressed.'''
        websocket.accept()
        turns, done = 0, False
        def count():
            nonlocal turns
            while not done:
                turns += 1
                sleep(0)
        spawn(count)
        sleep(0.01)
        before, message = turns, os.urandom(4 << 20).hex()
        websocket.send(message)
        done, turns = True, turns - before
        websocket.send(str(turns))
        websocket.receive()

    def room(websocket):
        websocket.accept()
        members.append(websocket)
        for message in websocket:
            broadcast(members, message)
            websocket.send("thanks, " + message[:60])

    HANDLERS = {
        "/echo": echo,
        "/off": lambda websocket: echo(websocket, compression=False),
        "/on": lambda websocket: echo(websocket, compression=True),
        "/takeover": lambda websocket: echo(websocket, compression="takeover"),
        "/wrong": wrong,
        "/silent": silent,
        "/large": large,
        "/room": room,
    }

    PAGE = b'''<script>
    const socket = new WebSocket(`ws://${location.host}/echo`);
    const sent = ["short", "long ".repeat(1000), "again ".repeat(1000), ""];
    const heard = [];
    socket.onopen = () => sent.forEach((message) => socket.send(message));
    socket.onmessage = (event) => {
        heard.push(event.data);
        if (heard.length == sent.length)
            fetch(`/result?${socket.extensions}.${JSON.stringify(heard) == JSON.stringify(sent)}`);
    };
    </script>'''
"""

LIMIT = 100_000
OFFER = "Sec-WebSocket-Extensions: permessage-deflate"
ALONE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
TAIL = b"\0\0\xff\xff"


@pytest.fixture(scope="module")
def on(serve_module: Serve) -> Server:
    """A server that compresses each message for itself."""
    return serve_module(
        APPLICATION,
        websocket_compression="on",
        websocket_max_message_size=LIMIT,
        websocket_close_timeout=1,
        log_level="debug",
    )


@pytest.fixture(scope="module")
def takeover(serve_module: Serve) -> Server:
    """A server that keeps the context of a connection."""
    return serve_module(APPLICATION, websocket_compression="takeover", websocket_close_timeout=1)


@pytest.fixture(scope="module")
def off(serve_module: Serve) -> Server:
    """A server that does not compress unless a route does."""
    return serve_module(APPLICATION, websocket_close_timeout=1)


class Deflate:
    """The client's side: zlib's streams, kept from message to message or not."""

    def __init__(self, *, keeps: bool = False, bits: int = 15) -> None:
        self.keeps, self.bits = keeps, bits
        self.begin()

    def begin(self) -> None:
        """Forget all messages."""
        self.compressor = zlib.compressobj(wbits=-self.bits)
        self.inflater = zlib.decompressobj(wbits=-15)

    def compress(self, message: bytes) -> bytes:
        """The payload of a compressed message."""
        payload = self.compressor.compress(message) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        if not self.keeps:
            self.begin()
        return payload.removesuffix(TAIL)

    def inflate(self, payload: bytes) -> bytes:
        """The message in a compressed payload."""
        message = self.inflater.decompress(payload + TAIL)
        if not self.keeps:
            self.begin()
        return message


def compressed(message: bytes, first: int = FIN | COMPRESSED | TEXT) -> bytes:
    """A message that is compressed for itself."""
    return frame(first, Deflate().compress(message))


# --- the handshake ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "alone", "kept"),
    [
        ("permessage-deflate", ALONE, "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", ALONE, "permessage-deflate; client_max_window_bits=12"),
        (
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
            f"{ALONE}; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
        ),
        (
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            ALONE,
            ALONE,
        ),
        ("permessage-deflate; a, permessage-deflate; server_max_window_bits=8, permessage-deflate", ALONE, None),
        ("permessage-deflate; server_max_window_bits=16", None, None),
        ("permessage-deflate; client_no_context_takeover; client_no_context_takeover", None, None),
        ("x-webkit-deflate-frame", None, None),
    ],
)
def test_an_offer_is_answered_as_the_setting_says(
    on: Server, takeover: Server, off: Server, offer: str, alone: str | None, kept: str | None
) -> None:
    if alone and kept is None:
        kept = "permessage-deflate"
    for server, expected in ((on, alone), (takeover, kept), (off, None)):
        with Client(server, "/echo", f"Sec-WebSocket-Extensions: {offer}") as client:
            assert client.headers.get("Sec-WebSocket-Extensions") == expected
            client.send(text("hello"))
            assert client.text() == "hello"


def test_a_client_that_offers_nothing_gets_no_extension(on: Server) -> None:
    with Client(on, "/echo") as client:
        assert "Sec-WebSocket-Extensions" not in client.headers
        client.send(text("x" * 1000))
        assert client.text() == "x" * 1000
        client.send(compressed(b"x" * 1000))
        client.expect_close(1002)


@pytest.mark.parametrize(
    "field", ["permessage-deflate;", 'permessage-deflate; a="b', "a b", "permessage-deflate; a=,b"]
)
def test_a_field_that_breaks_the_grammar_is_refused(off: Server, on: Server, field: str) -> None:
    for server in (off, on):
        with server.connect() as connection:
            answer = connection.request(request("GET", "/echo", *HANDSHAKE, f"Sec-WebSocket-Extensions: {field}"))
            assert answer.status == 400


def test_a_route_chooses_its_compression(off: Server, on: Server) -> None:
    for server, path, expected in [
        (off, "/on", ALONE),
        (off, "/takeover", "permessage-deflate"),
        (on, "/off", None),
        (on, "/takeover", "permessage-deflate"),
    ]:
        with Client(server, path, OFFER) as client:
            assert client.headers.get("Sec-WebSocket-Extensions") == expected, path
            client.send(text("hello"))
            assert client.text() == "hello"


def test_a_wrong_value_of_accept_is_named(on: Server) -> None:
    with Client(on, "/wrong", OFFER) as client:
        client.send(text("still usable"))
        assert client.text() == "still usable"
    expected = "compression must be True, False or one of off, on, takeover, not"
    for kind, value in (("ValueError", '"maybe"'), ("ValueError", '"ON"'), ("TypeError", "1"), ("TypeError", "b'on'")):
        on.wait_for_log(f"{kind} {expected} {value}\n")


# --- messages --------------------------------------------------------------------------------------------------------


def test_messages_are_compressed_from_256_bytes_on(on: Server) -> None:
    with Client(on, "/echo", OFFER) as client:
        for message in (b"short", b"", b"x" * 255, b"x" * 256, os.urandom(1000), os.urandom(50_000) + b"x" * 50_000):
            client.send(compressed(message, FIN | COMPRESSED | BINARY))
            first, payload = client.frame()
            is_compressed = len(message) >= 256 and b"x" * 100 in message
            assert first == (FIN | BINARY | (COMPRESSED if is_compressed else 0)), len(message)
            assert (Deflate().inflate(payload) if is_compressed else payload) == message
            assert len(payload) <= len(message)


def test_a_compressed_message_comes_in_fragments_with_pings_between_them(on: Server) -> None:
    payload = Deflate().compress(b"word " * 100)
    fragments = [frame(COMPRESSED | TEXT, payload[:3]), frame(FIN | PING, b"?"), frame(0), frame(0, payload[3:])]
    with Client(on, "/echo", OFFER) as client:
        for byte in b"".join([*fragments, frame(FIN)]):
            client.send(bytes([byte]))
        assert client.frame() == (FIN | PONG, b"?")
        first, payload = client.frame()
        assert (first, Deflate().inflate(payload)) == (FIN | COMPRESSED | TEXT, b"word " * 100)


@pytest.mark.parametrize(("parameters", "bits"), [("", 15), ("; client_max_window_bits=9", 9), ("", 12)])
def test_with_takeover_messages_refer_to_those_before_them(takeover: Server, parameters: str, bits: int) -> None:
    deflate = Deflate(keeps=True, bits=bits)
    chooser = random.Random(bits)
    with Client(takeover, "/echo", OFFER + parameters) as client:
        sizes = []
        for number in range(60):
            message = f'{{"user": {number}, "text": "{" ".join(chooser.choices("abcdefgh", k=20))}"}}'.encode()
            # Messages that are not compressed are in no context, and long ones are compressed without it.
            for one in (message, os.urandom(100), b"tiny", message * chooser.choice((1, 1, 700))):
                client.send(frame(FIN | COMPRESSED | BINARY, deflate.compress(one)))
                first, payload = client.frame()
                assert (deflate.inflate(payload) if first & COMPRESSED else payload) == one
                if one == message:
                    sizes.append(len(payload))
        assert sum(sizes[20:]) / len(sizes[20:]) < 40, sizes


def test_a_long_message_is_compressed_while_others_run(on: Server) -> None:
    with Client(on, "/large", OFFER) as client:
        assert client.frame().first == FIN | COMPRESSED | TEXT
        assert int(client.text()) >= 3


def test_a_broadcast_suits_every_member(takeover: Server) -> None:
    offers = ["X: y", OFFER, f"{OFFER}; server_max_window_bits=9", f"{OFFER}; server_no_context_takeover"]
    clients = [Client(takeover, "/room", offer) for offer in offers]
    states = [Deflate(keeps="no_context" not in offer) for offer in offers]

    def take(number: int) -> str:
        first, payload = clients[number].frame()
        if first & COMPRESSED:
            payload = states[number].inflate(payload)
        assert first & ~COMPRESSED == FIN | TEXT
        return payload.decode()

    for client in clients:
        client.send(text(""))
    # All have come in once each has had its own thanks.
    for number in range(len(clients)):
        while take(number) != "thanks, ":
            pass
    for turn in range(3):
        for sender, client in enumerate(clients):
            message = f"{turn} {sender} " + " ".join(f"a message to all, part {part}" for part in range(100))
            client.send(text(message))
            for number in range(len(clients)):
                while (heard := take(number)) == "":
                    pass
                assert heard == message
            assert take(sender) == f"thanks, {message[:60]}"
    for client in clients:
        client.connection.close()


PARAMETERS = [
    {},
    {"server_no_context_takeover": True, "client_no_context_takeover": True},
    {"server_max_window_bits": 9, "client_max_window_bits": 9},
    {"server_max_window_bits": 15, "client_max_window_bits": None},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_the_client_websockets_talks_compressed(
    on: Server, takeover: Server, parameters: dict[str, int | None]
) -> None:
    client_module = pytest.importorskip("websockets.sync.client")
    deflate = pytest.importorskip("websockets.extensions.permessage_deflate")
    for server in (on, takeover):
        offer = deflate.ClientPerMessageDeflateFactory(**parameters)
        address = f"ws://127.0.0.1:{server.port}/echo"
        with client_module.connect(address, compression=None, extensions=[offer]) as client:
            assert client.protocol.extensions
            for message in ["hello", "", "\u20ac" * 2000, "x" * 90_000, os.urandom(9000), *["a chat's line"] * 20]:
                client.send(message)
                assert client.recv(timeout=15) == message
            client.send(["in ", "three ", "fragments" * 100])
            assert client.recv(timeout=15) == "in three " + "fragments" * 100


def test_chromium_talks_compressed(on: Server, takeover: Server, tmp_path: Path) -> None:
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("needs Chromium (apt install chromium)")
    for server, extensions in ((on, ALONE), (takeover, "permessage-deflate; client_max_window_bits=12")):
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += [f"--user-data-dir={tmp_path / 'profile'}", "--remote-debugging-port=0"]
        browser = Process([program, *options, server.url], tmp_path, {**os.environ, "HOME": str(tmp_path)})
        try:
            answer = extensions.replace(" ", "%20") if " " in extensions else extensions
            server.wait_for_log(f"result: {answer}.true\n", timeout=60)
        finally:
            browser.kill()


# --- input that is wrong ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sent"),
    [
        (1002, frame(FIN | COMPRESSED | PING)),
        (1002, frame(FIN | COMPRESSED | CLOSE)),
        (1002, frame(TEXT, b"a") + frame(FIN | COMPRESSED, b"b")),
        (1002, frame(COMPRESSED | TEXT, b"\xf2\x48") + frame(FIN | COMPRESSED, b"\xcd\xc9\xc9\x07\0")),
        (1002, frame(FIN | COMPRESSED | 0x20 | TEXT, b"\0")),
        (1007, frame(FIN | COMPRESSED | TEXT, b"hello")),
        (1007, frame(FIN | COMPRESSED | TEXT)),
        # A reference to bytes before the message, as with a context that the server does not keep.
        (1007, frame(FIN | COMPRESSED | TEXT, b"\xf2\0\x11\0\0")),
        (1007, compressed(b"not UTF-8: \xff")),
        (1007, compressed(b"\xc3")),
        (1009, compressed(b"x" * (LIMIT + 1))),
        (1009, compressed(bytes(64 << 20), FIN | COMPRESSED | BINARY)),
    ],
)
def test_a_broken_rule_closes_with_its_code(on: Server, code: int, sent: bytes) -> None:
    with Client(on, "/echo", OFFER) as client:
        client.send(text("before") + sent)
        assert client.text() == "before"
        client.expect_close(code)


def test_a_bomb_is_refused_at_the_limit_before_the_message_has_come(on: Server) -> None:
    payload = Deflate().compress(bytes(64 << 20))
    with Client(on, "/echo", OFFER) as client:
        client.send(frame(FIN | COMPRESSED | BINARY, payload)[:1000])
        client.expect_close(1009)


def test_a_window_larger_than_agreed_on_reaches_no_earlier_message(takeover: Server) -> None:
    noise, deflate = os.urandom(3000), Deflate(keeps=True)
    with Client(takeover, "/echo", f"{OFFER}; client_max_window_bits=9") as client:
        client.send(frame(FIN | COMPRESSED | BINARY, deflate.compress(noise)))
        assert client.frame() == (FIN | BINARY, noise)
        client.send(frame(FIN | COMPRESSED | BINARY, deflate.compress(noise)))
        client.expect_close(1007)


def test_bombs_that_wait_for_the_application_take_no_memory(on: Server) -> None:
    message = compressed(bytes(LIMIT), FIN | COMPRESSED | BINARY)
    with Client(on, "/silent", OFFER) as client:
        before = on.resident_kib()
        # 1,000 messages of 100 KB, in 130 KB.
        client.send(message * 1000)
        with Client(on, "/echo", OFFER) as other:
            for _ in range(20):
                other.send(text("hello"))
                assert other.text() == "hello"
        assert on.resident_kib() - before < 8 * 1024


def test_idle_connections_keep_no_state_of_zlib(on: Server) -> None:
    clients = [Client(on, "/echo", OFFER) for _ in range(100)]
    before = on.resident_kib()
    for client in clients:
        client.send(compressed(b"hello " * 100))
        assert client.frame().first == FIN | COMPRESSED | TEXT
    # One state to compress takes 300 KiB, one to inflate 40 KiB.
    assert on.resident_kib() - before < 100 * 20
    for client in clients:
        client.connection.close()
