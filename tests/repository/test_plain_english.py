"""The lint of English finds prose in every kind of file, and complains about each of its rules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / ".ci"))

import plain_english  # noqa: E402


def words(path: str, source: str) -> list[str]:
    return [finding.words for finding in plain_english.findings_in(path, source)]


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("The leader wakes, the client sends.", []),
        ("The peer is believed.", ["believed"]),
        ("Half of\nthem are idle.", ["of them"]),
        ("Closes the socket, and not the file.", ["and not"]),
        ("It is `told` and `beside`.", []),
        ("A besides-the-point word is no finding.", []),
        ("What a head may cost.", ["What"]),
        ("What may a head cost?", []),
        ("It ends. That is noticed.", ["That"]),
        ("So a room is a set.", ["So"]),
        ("Whether it is idle.", []),
        ("Whether it is idle; if not, it is closed.", ["Whether ...;"]),
        ("One; two; three.", [";"]),
        (" ".join(["word"] * 30) + ".", []),
        (" ".join(["word"] * 31) + ".", ["..."]),
    ],
)
def test_a_sentence_is_judged(sentence: str, found: list[str]) -> None:
    assert words("a.md", sentence) == found
    assert words("a.rs", "".join(f"// {line}\n" for line in sentence.split("\n"))) == found
    assert words("a.py", "".join(f"# {line}\n" for line in sentence.split("\n"))) == found
    assert words("a.sh", "".join(f"# {line}\n" for line in sentence.split("\n"))) == found


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("a.rs", "//! Who is there.\n/// Counts one.\nfn f() {}", ["Who", "..."]),
        ("a.rs", "fn nobody_is_served() {}\nfn f() { told(); }", ["nobody"]),
        ("src/a.rs", 'warn!("nobody listens at {}", address);', ["nobody"]),
        ("tests/a.rs", 'const BODY: &str = "nobody listens at all";', []),
        ("a.rs", "/// ```\n/// // told\n/// ```\nfn f() {}", []),
        ("a.rs", "/* Who is there. */", ["Who"]),
        ("a.py", 'def f():\n    """Tells them."""', ["..."]),
        ("a.py", 'def test_nobody_is_served():\n    x = "somebody is here"', ["nobody"]),
        ("python/rmeinheld/a.py", 'raise ValueError(f"{x} is told of y")', ["told"]),
        ("Makefile", "a: b ## What it does.\n\t@echo told", ["What"]),
        ("a.md", "```\ntold\n```\n\n    told\n\n| told | b |\n", ["told"]),
        ("a.md", "- one, and\n  not two\n- told\n", ["and not", "told"]),
    ],
)
def test_prose_is_found_where_it_stands(path: str, source: str, found: list[str]) -> None:
    assert words(path, source) == found


def test_a_commit_message_needs_a_reason(tmp_path: Path) -> None:
    message = tmp_path / "message"
    message.write_text("One line\n")
    assert plain_english.check_message(str(message)) == 1
    message.write_text("One line\n\nThe reason for it.\n# told\n")
    assert plain_english.check_message(str(message)) == 0
