"""Clients of the chat in examples/chat."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from frames import Client, text
from proxying import Front
from serving import Server

CHAT = Path(__file__).parents[2] / "examples" / "chat"


class Guest(Client):
    """A client in a room."""

    def __init__(
        self,
        server: Server | Front,
        name: str,
        room: str = "lobby",
        *,
        last: str = "",
        receive_buffer: int | None = None,
    ) -> None:
        target = "/socket?" + urlencode({"room": room, "name": name, "last": last})
        super().__init__(server, target, receive_buffer=receive_buffer)
        self.name = name
        self.numbers = itertools.count(1)
        self.members: set[str] = set()
        """The members by the events so far."""

    def hear(self, kind: str | None = None) -> dict[str, Any]:
        """Return the next event, or the next one of a kind."""
        while True:
            event: dict[str, Any] = json.loads(self.text())
            if event["kind"] == "welcome":
                self.members = set(event["members"])
            elif event["kind"] == "members":
                self.members = (self.members | set(event["came"])) - set(event["left"])
            if kind is None or event["kind"] == kind:
                return event

    def enter(self) -> dict[str, Any]:
        """Return the welcome, which can come after messages."""
        return self.hear("welcome")

    def await_members(self, *names: str) -> None:
        """Wait until these are the members."""
        while self.members != set(names):
            self.hear("members")

    def say(self, what: object) -> int:
        """Send a text. Returns its ref."""
        number = next(self.numbers)
        self.send(text(json.dumps({"say": what, "ref": number})))
        return number

    def say_and_wait(self, what: object) -> None:
        """Send a text, and wait until it is acknowledged."""
        number = self.say(what)
        while self.hear("sent")["ref"] != number:
            pass

    def messages(self, count: int) -> list[str]:
        """Return the texts of the next messages."""
        return [self.hear("message")["text"] for _ in range(count)]
