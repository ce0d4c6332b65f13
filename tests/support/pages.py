"""The documentation's pages, and the code blocks in them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PROJECT_URL: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
"""The one address of the project."""

FENCE = re.compile(r"^(?P<fence>```+|~~~+)(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=fence)$", re.M | re.S)
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A code block: its page (relative to the repository), the line of its first line of text, language and text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Every page of the site that is written by hand, and the project's README."""
    found = (path for path in DOCS.rglob("*.md") if not path.relative_to(DOCS).parts[0].startswith("_"))
    return [ROOT / "README.md", *sorted(found)]


def other_pages() -> list[Path]:
    """Markdown files for developers outside of docs/."""
    top = (ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))
    return [*top, *(ROOT / "tests").glob("*.md"), ROOT / "benches" / "README.md", *(ROOT / "examples").rglob("*.md")]


@cache
def blocks(page: Path) -> list[Block]:
    """The code blocks of the page, in their order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    return [
        Block(name, text.count("\n", 0, match.start("text")) + 1, match["language"], match["text"])
        for match in FENCE.finditer(text)
    ]


def all_blocks(*languages: str) -> list[Block]:
    """The code blocks in these languages, of all pages, and the files in examples/deploy that pages include."""
    of_pages = [block for page in pages() for block in blocks(page)]
    return [block for block in [*of_pages, *deployed()] if block.language in languages]


DEPLOYED = {
    ".service": "systemd",
    ".socket": "systemd",
    "nginx.conf": "nginx",
    "haproxy.cfg": "haproxy",
    "Dockerfile": "dockerfile",
    ".toml": "toml",
}
"""Languages of the files in examples/deploy, by the end of the name."""


def deployed() -> Iterator[Block]:
    """The files in examples/deploy."""
    for path in sorted((ROOT / "examples" / "deploy").iterdir()):
        (language,) = (language for end, language in DEPLOYED.items() if path.name.endswith(end))
        yield Block(f"examples/deploy/{path.name}", 1, language, path.read_text(encoding="utf-8"))


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with what it prints as the page has it. A line may end in a backslash."""
    for part in re.split(r"^\$ ", block.text.replace("\\\n", " "), flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        yield command.strip(), output


def links(page: Path) -> list[str]:
    """Targets of the links and images of the page, outside of code."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [match["target"] for match in LINK.finditer(re.sub(r"`[^`]*`", "", text))]
