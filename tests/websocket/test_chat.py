"""The chat in one process, and the examples together."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from pathlib import Path

import pytest

from chat_guests import CHAT, Guest
from frames import Client, frame, text
from serving import Serve, Server, request

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def chat(serve: Serve) -> Server:
    """The chat in one process."""
    return serve("app:app", chdir=str(CHAT))


@pytest.fixture
def fast_chat(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A chat whose members may send as fast as they can."""
    monkeypatch.setenv("CHAT_RATE", "1e9 1e9")
    return serve("app:app", chdir=str(CHAT))


def test_a_message_reaches_every_member_of_its_room(chat: Server) -> None:
    with Guest(chat, "Ann") as ann, Guest(chat, "Bob") as bob, Guest(chat, "Eve", "elsewhere") as eve:
        assert ann.enter()["history"] == []
        ann.await_members("Ann", "Bob")
        assert bob.enter()["missing"] is False
        bob.await_members("Ann", "Bob")
        ann.say("hello")
        bob.say("<b>hi</b>")
        for guest in (ann, bob):
            heard = [guest.hear("message") for _ in range(2)]
            assert sorted((event["name"], event["text"]) for event in heard) == [("Ann", "hello"), ("Bob", "<b>hi</b>")]
            assert heard[0]["id"] < heard[1]["id"]
            assert abs(heard[0]["at"] - time.time()) < 60
        eve.say("alone")
        assert eve.messages(1) == ["alone"]
        ann.end_in_order()
        bob.await_members("Bob")


def test_joins_and_leaves_come_as_differences(chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        assert ann.enter()["members"] == ["Ann"]
        with Guest(chat, "Bob") as bob:
            bob.enter()
            while "Bob" not in (event := ann.hear("members"))["came"]:
                pass
            assert event["left"] == []
            bob.end_in_order()
        assert ann.hear("members") == {"kind": "members", "came": [], "left": ["Bob"]}


def test_many_joins_at_once_make_few_events(chat: Server) -> None:
    with contextlib.ExitStack() as stack:
        ann = stack.enter_context(Guest(chat, "Ann"))
        ann.enter()
        others = [f"n{number}" for number in range(100)]
        for name in others:
            stack.enter_context(Guest(chat, name))
        count = 0
        while ann.members != {"Ann", *others}:
            ann.hear("members")
            count += 1
        # One each ANNOUNCE_SECONDS, however slow this machine is.
        assert count < 50


def test_a_client_that_joins_later_gets_the_history(fast_chat: Server) -> None:
    with Guest(fast_chat, "Ann") as ann:
        for number in range(60):
            ann.say_and_wait(str(number))
        with Guest(fast_chat, "Bob") as bob:
            history = bob.enter()["history"]
            assert [event["text"] for event in history] == [str(number) for number in range(10, 60)]
            ids = [event["id"] for event in history]
            assert ids == sorted(ids)


def test_a_client_that_comes_back_learns_whether_it_has_missed_messages(fast_chat: Server) -> None:
    with Guest(fast_chat, "Ann") as ann, Guest(fast_chat, "Bob") as bob:
        ann.say("first")
        first = bob.hear("message")["id"]
        bob.end_in_order()
        ann.say_and_wait("second")
        with Guest(fast_chat, "Bob", last=first) as again:
            welcome = again.enter()
            assert not welcome["missing"]
            assert [event["text"] for event in welcome["history"]] == ["first", "second"]
            again.end_in_order()
        for number in range(60):
            ann.say_and_wait(str(number))
        with Guest(fast_chat, "Bob", last=first) as again:
            assert again.enter()["missing"]
    with Guest(fast_chat, "Ann", "another room", last=first) as ann:
        assert ann.enter()["missing"]


def test_a_long_history_makes_no_client_too_slow(fast_chat: Server) -> None:
    with Guest(fast_chat, "Ann") as ann:
        for letter in "xyz":
            for _ in range(15):
                ann.say_and_wait(letter * 1000 + "\u2603" * 1000)
        with Guest(fast_chat, "Bob", receive_buffer=4096) as bob:
            payload = bob.frame().payload
            # Less than websocket_max_queue_size, at which a broadcast closes a client.
            assert len(payload) < 40 * 1024
            history = json.loads(payload)["history"]
            assert len(history) == 7
            assert {event["text"] for event in history} == {"z" * 1000 + "\u2603" * 1000}
            ann.say("go on")
            assert bob.messages(1) == ["go on"]


def test_only_the_latest_empty_rooms_are_remembered(chat: Server) -> None:
    def histories(rooms: range) -> list[list[str]]:
        found = []
        for number in rooms:
            with Guest(chat, "Ann", f"room {number}") as ann:
                found.append([event["text"] for event in ann.enter()["history"]])
                ann.end_in_order()
        return found

    with Guest(chat, "Bob", "room 0") as bob:
        bob.say_and_wait("here I stay")
        for number in range(1, 120):
            with Guest(chat, "Ann", f"room {number}") as ann:
                ann.say_and_wait("hello")
                ann.end_in_order()
        assert histories(range(2)) == [["here I stay"], []]
        assert histories(range(110, 120)) == [["hello"]] * 10


def test_a_name_is_taken_once_and_free_after_its_client_left(chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        ann.enter()
        with Guest(chat, "Ann") as other:
            other.expect_close_from_server(4001, "this name is taken")
        ann.end_in_order()
    with Guest(chat, "Ann") as again:
        assert again.enter()["members"] == ["Ann"]


@pytest.mark.parametrize(
    ("name", "room"),
    [
        ("", "lobby"),
        (" ", "lobby"),
        ("x" * 31, "lobby"),
        ("Ann", ""),
        ("Ann", "<room>"),
        ("a\nb", "lobby"),
        ("a\tb", "x"),
    ],
)
def test_names_that_are_empty_or_not_allowed_are_refused(chat: Server, name: str, room: str) -> None:
    with Guest(chat, name, room) as guest:
        guest.expect_close_from_server(4000, "names have 1 to 30 letters, digits, spaces, dots or dashes")


def test_a_client_without_a_name_is_refused(chat: Server) -> None:
    with Client(chat, "/socket?room=lobby") as client:
        client.expect_close_from_server(4000)


def test_an_invalid_message_is_answered_with_the_reason(chat: Server) -> None:
    with Guest(chat, "Ann") as ann:
        for sent, problem in [
            (text("no JSON"), 'send {"say": "some text"}'),
            (text("[]"), 'send {"say": "some text"}'),
            (frame(0x82, b"\xff"), 'send {"say": "some text"}'),
            (text('{"say": 1}'), 'send {"say": "some text"}'),
            (text('{"say": " "}'), "there is nothing in it"),
            (text(json.dumps({"say": "x" * 2001})), "it has over 2000 characters"),
            (text("[" * 100_000), 'send {"say": "some text"}'),
        ]:
            ann.send(sent)
            assert ann.hear("error")["text"] == problem
        # Half of a surrogate pair is valid JSON, but cannot be UTF-8.
        ann.send(text(r'{"say": "still \ud83d here", "ref": "r"}'))
        heard = [ann.hear() for _ in range(2)]
        assert [event["text"] for event in heard if event["kind"] == "message"] == ["still ? here"]
        assert {"kind": "sent", "ref": "r"} in heard


def test_a_member_that_sends_too_fast_hears_so_and_nothing_acknowledged_is_lost(chat: Server) -> None:
    with Guest(chat, "Fast") as fast, Guest(chat, "Bob") as bob:
        bob.enter()
        for number in range(60):
            fast.say(f"text {number + 1}")
        sent: set[int] = set()
        refused: set[int] = set()
        while len(sent) + len(refused) < 60:
            event = fast.hear()
            if event["kind"] == "sent":
                sent.add(event["ref"])
            elif event["kind"] == "error":
                assert event["text"] == "that was too fast: 5 messages a second, please"
                refused.add(event["ref"])
        # The burst, and what comes during a second or more on a busy machine.
        assert 20 <= len(sent) < 60
        assert bob.messages(len(sent)) == [f"text {number}" for number in sorted(sent)]


def test_a_member_that_does_not_stop_is_closed(chat: Server) -> None:
    with Guest(chat, "Fast") as fast:
        fast.send(text('{"say": "x"}') * 500)
        while (received := fast.frame()).first != 0x88:
            pass
        assert received.payload == b"\x03\xf0too many messages"


def test_a_slow_client_is_closed_and_holds_up_no_other(fast_chat: Server) -> None:
    with Guest(fast_chat, "Ann") as ann, Guest(fast_chat, "Slow", receive_buffer=4096) as slow:
        ann.enter()
        ann.await_members("Ann", "Slow")
        slow.enter()
        count = 0
        # The kernel takes some megabytes for a client that does not read.
        while "Slow" in ann.members:
            ann.say(f"{count:2000}")
            ann.hear()
            count += 1
            assert count < 20_000
        numbers = []
        while (received := slow.frame()).first == 0x81:
            event = json.loads(received.payload)
            if event["kind"] == "message":
                numbers.append(int(event["text"]))
        assert received.payload == b"\x03\xf5too slow"
        # No earlier message is missing.
        assert numbers == list(range(len(numbers)))


def test_a_flood_in_one_room_holds_up_no_other_and_loses_nothing(fast_chat: Server) -> None:
    with (
        Guest(fast_chat, "Flood") as flood,
        Guest(fast_chat, "Ann") as ann,
        Guest(fast_chat, "Bob", "elsewhere") as bob,
    ):
        is_over = threading.Event()

        def send() -> None:
            with contextlib.suppress(OSError):
                while not is_over.is_set():
                    flood.send(text('{"say": "x"}') * 1000)

        def take() -> None:
            with contextlib.suppress(OSError):
                while flood.connection.socket.recv(1 << 20):
                    pass

        threads = [threading.Thread(target=work) for work in (send, take)]
        for thread in threads:
            thread.start()
        times = []
        for number in range(20):
            for guest in (ann, bob):
                started = time.monotonic()
                guest.say(f"number {number};")
                # The answer comes behind everything that the other client says meanwhile.
                guest.connection.read_until(b"number %d;" % number, limit=1 << 26)
                times.append(time.monotonic() - started)
        is_over.set()
        flood.connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        # Without fairness each round trip took two seconds or more.
        assert sorted(times)[len(times) // 2] < 0.5, times


def test_the_page_is_served_and_other_paths_are_not(chat: Server) -> None:
    with chat.connect() as connection:
        assert b"<title>Chat</title>" in connection.request(request()).body
        assert connection.request(request("GET", "/socket")).status == 426
        assert connection.request(request("GET", "/nothing")).status == 404


def test_all_examples_are_served_together(serve: Serve) -> None:
    server = serve("app:app", chdir=str(EXAMPLES))
    with server.connect() as connection:
        assert b'href="/chat/"' in connection.request(request()).body
        moved = connection.request(request("GET", "/chat"))
        assert (moved.status, moved.header("Location")) == (308, "/chat/")
        assert b"<title>Chat</title>" in connection.request(request("GET", "/chat/")).body
        assert b"<title>Server-sent events</title>" in connection.request(request("GET", "/events/")).body
        assert connection.request(request("GET", "/hello")).status == 200
    with Client(server, "/chat/socket?room=lobby&name=Ann") as ann:
        assert json.loads(ann.text())["members"] == ["Ann"]
