"""The cases of `tests/corpus`: requests as data, with what a server sees in them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parents[1] / "corpus"
SUBJECTS = sorted(path.stem for path in CORPUS.glob("*.json"))


def text_of(value: Any) -> str:
    """A string, or the parts that a long one is made of: strings, and `{"repeat": string, "times": number}`."""
    if isinstance(value, str):
        return value
    return "".join(part if isinstance(part, str) else part["repeat"] * part["times"] for part in value)


@dataclass(frozen=True)
class Case:
    """One input and what the server sees in it."""

    name: str
    source: str
    input: bytes
    requests: list[dict[str, Any]]
    error: int | None
    refused: str
    """The method of the request that the error answers."""
    then: str


def load(subject: str) -> list[Case]:
    """The cases of one file."""
    cases = []
    for entry in json.loads((CORPUS / f"{subject}.json").read_text()):
        *requests, last = entry["expect"] or [{"error": None}]
        if "error" not in last:
            requests, last = [*requests, last], {"error": None}
        data = text_of(entry["input"]).encode("latin-1")
        refused = last.get("method", "GET")
        cases.append(Case(entry["name"], entry["source"], data, requests, last["error"], refused, entry["then"]))
    return cases


ALL = {subject: load(subject) for subject in SUBJECTS}
