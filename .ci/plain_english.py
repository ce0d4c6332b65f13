"""The lint of English: words and sentence patterns that docs/development/style.md rules out.

    python .ci/plain_english.py                   check every file that is not listed as unclean
    python .ci/plain_english.py PATH...           check these files and directories, listed or not
    python .ci/plain_english.py --count           print the number of findings of each file
    python .ci/plain_english.py --prune           remove what is clean from the list of unclean files and directories
    python .ci/plain_english.py --message FILE    check a commit message

It reads comments, docstrings and messages in Rust and Python, other files' comments, and the prose of Markdown. Code in
backticks and in blocks is left out. Names of functions and types are split into words and checked, too.

A finding that is right as it stands gets a line in `.ci/plain_english_exceptions.txt`: `path | the words | the reason`.
An exception that matches nothing is a finding itself.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXCEPTIONS = ROOT / ".ci" / "plain_english_exceptions.txt"
UNCLEAN = ROOT / ".ci" / "plain_english_unclean.txt"

WORDS = {
    "told": "name the log line, the setting or the notification",
    "believed": "trusted",
    "somebody": "name the client, the caller, the thread",
    "nobody": "name the client, the caller, the thread",
    "whoever": "name the client, the caller, the thread",
    "beside": "next to, compared with, in addition to",
    "so many": "give the number, or say 'that number of'",
    "of them": "repeat the noun",
    "such that": "so that",
    "and not": "instead of",
}
"""Words and phrases that are not used, each with the cure."""

NAME_WORDS = ("told", "believed", "somebody", "nobody", "whoever", "beside")
"""The words that names of functions and types do not contain either."""

HEADLESS = ("What", "Who", "Whose", "Whoever", "Whatever", "That", "So")
"""Words that no sentence begins with, unless it is a question."""

LONGEST_SENTENCE = 30
"""Words. The aim is 20; this limit catches the sentences that have to be read twice."""

MOST_SEMICOLONS = 1
"""In one sentence."""

SUFFIXES = {".rs", ".py", ".pyi", ".sh", ".md", ".yml", ".yaml", ".toml", ".c"}
SCRIPTS = {"Makefile", "run", "check-rust", "find-python", "in-debian-sid", "test-matrix"}
GENERATED = ("tests/suites/reports/", "tests/fuzz/regressions/", "benches/results/", "tests/corpus/")


@dataclass(frozen=True)
class Passage:
    """A stretch of prose, as one line of text, and the line where it begins."""

    line: int
    text: str
    is_documentation: bool = False
    has_sentences: bool = True


@dataclass(frozen=True)
class Finding:
    """A fault in a passage."""

    path: str
    line: int
    words: str
    cure: str
    context: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.words!r}: {self.cure} [{self.context}]"


# --- prose in files --------------------------------------------------------------------------------------------------

RUST = re.compile(
    r"""
      (?P<doc> //[/!] [^\n]* )
    | (?P<comment> // [^\n]* )
    | (?P<block> /\* .*? \*/ )
    | (?P<string> \b(?:br|cr|r)(?P<hashes>\#*)".*?"(?P=hashes) | "(?:\\.|[^"\\])*" )
    | (?P<character> '(?: \\u\{[^}]*\} | \\x.. | \\. | [^\\'\n] )' )
    """,
    re.VERBOSE | re.DOTALL,
)


def passages_of(path: str, source: str) -> Iterator[Passage]:
    """The prose of a file."""
    if path.endswith(".md"):
        yield from of_markdown(source.splitlines(), 1)
    elif path.endswith((".py", ".pyi")):
        yield from of_python(source, has_messages=path.startswith(("python/", "gunicorn_worker/")))
    elif path.endswith((".rs", ".c")):
        yield from of_rust(source, has_messages=path.startswith("src/"))
    else:
        yield from of_comments(
            (number, found[2], "after code" if found[1].strip() else "")
            for number, line in enumerate(source.splitlines(), 1)
            if (found := re.match(r"(\s*|[^'\"#]*\s)##?(\s.*|$)", line)) and found[2]
        )


def of_markdown(lines: Iterable[str], first: int, is_documentation: bool = False) -> Iterator[Passage]:
    """Paragraphs, headings, list items and cells of tables, without code."""
    text: list[str] = []
    start = first
    fence = ""
    after_blank = True

    def flush() -> Iterator[Passage]:
        nonlocal is_documentation
        if text:
            yield Passage(start, " ".join(text), is_documentation)
            is_documentation = False
            text.clear()

    for number, line in enumerate(lines, first):
        stripped = line.strip()
        if fence:
            if stripped.startswith(fence):
                fence = ""
            continue
        if opening := re.match(r"(`{3,}|~{3,}|:{3,})", stripped):
            yield from flush()
            # A directive in braces holds prose; a language's name, or nothing, stands before code.
            fence = (
                "" if re.match(r"(:{3,}|`{3,}\{(?:note|tip|warning|important|admonition))", stripped) else opening[1]
            )
            continue
        is_code = (
            after_blank and line.startswith(("  ", "\t")) and not text and not re.match(r"\s+(?:[-*+]|\d+\.)\s", line)
        )
        after_blank = not stripped or is_code
        if is_code:
            continue
        if not stripped or stripped.startswith(("#", "|", "<!--", "%", "> ")) or stripped == ">":
            yield from flush()
            if stripped.startswith("|"):
                for cell in re.split(r"(?<!\\)\|", stripped)[1:-1]:
                    if cell.strip(" -:"):
                        yield Passage(number, cell.strip(), has_sentences=True)
            elif stripped.startswith("#"):
                yield Passage(number, stripped.lstrip("# "))
            continue
        if item := re.match(r"(?:[-*+]|\d+\.)\s+(.*)", stripped):
            yield from flush()
            stripped = item[1]
        if not text:
            start = number
        text.append(stripped)
    yield from flush()


def of_comments(lines: Iterable[tuple[int, str, str]]) -> Iterator[Passage]:
    """Comment lines, joined where they follow each other and are of one kind, read as Markdown."""
    block: list[str] = []
    first = last = 0
    kind = ""
    for number, text, its_kind in [*lines, (-1, "", "")]:
        if block and (number != last + 1 or its_kind != kind or kind == "after code"):
            yield from of_markdown(block, first, kind.startswith("doc"))
            block.clear()
        if not block:
            first = number
        kind = its_kind
        last = number
        block.append(text.removeprefix(" "))


def of_rust(source: str, has_messages: bool) -> Iterator[Passage]:
    comments: list[tuple[int, str, str]] = []
    for found in RUST.finditer(source):
        line = source.count("\n", 0, found.start()) + 1
        is_alone = not source[source.rfind("\n", 0, found.start()) + 1 : found.start()].strip()
        if found["doc"]:
            comments.append((line, found[0][3:], f"doc{found[0][2]}"))
        elif found["comment"]:
            comments.append((line, found[0][2:], "" if is_alone else "after code"))
        elif found["block"]:
            lines = found[0][2:-2].splitlines()
            comments += [(line + offset, re.sub(r"^\s*\*?", "", text), "block") for offset, text in enumerate(lines)]
        elif found["string"] and has_messages:
            yield from of_message(line, re.sub(r"\\\n\s*", "", found[0].strip('"')))
    yield from of_comments(comments)
    code = RUST.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), source)
    yield from of_names(code, r"\b(?:fn|struct|enum|trait|mod|const)\s+(\w+)")


NO_PROSE = re.compile(r"#(?:!|\s*(?:type|noqa|ruff|mypy|pragma)\b|.*---$)")


def of_python(source: str, has_messages: bool) -> Iterator[Passage]:
    comments = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not NO_PROSE.match(token.string):
            text = re.sub(r"\s*#\s*(?:noqa|type:).*", "", token.string[1:])
            comments.append((token.start[0], text, "after code" if token.line[: token.start[1]].strip() else ""))
    yield from of_comments(comments)
    tree = ast.parse(source)
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                if isinstance(statement.value.value, str):
                    yield from of_markdown(unindented(statement.value.value), statement.lineno, True)
        if has_messages and isinstance(node, ast.JoinedStr):
            yield from of_message(node.lineno, "".join(map(text_of, node.values)))
        elif has_messages and isinstance(node, ast.Constant) and node not in parts:
            yield from of_message(node.lineno, text_of(node))
    yield from of_names(source, r"^\s*(?:def|class)\s+(\w+)")


def text_of(part: ast.expr) -> str:
    """A part of an f-string, with a word in the place of a value."""
    if isinstance(part, ast.Constant):
        return part.value if isinstance(part.value, str) else ""
    return "X"


def unindented(docstring: str) -> list[str]:
    first, *rest = docstring.splitlines() or [""]
    margin = min((len(line) - len(line.lstrip()) for line in rest if line.strip()), default=0)
    return [first, *(line[margin:] for line in rest)]


def of_message(line: int, text: str) -> Iterator[Passage]:
    """Text that looks like a sentence: several words on one line."""
    if text.count(" ") >= 2 and "\n" not in text.strip():
        yield Passage(line, re.sub(r"\{[^}]*\}", "X", text), has_sentences=False)


def of_names(code: str, pattern: str) -> Iterator[Passage]:
    for found in re.finditer(pattern, code, re.MULTILINE):
        words = re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", found[1])
        if set(words.lower().split()) & set(NAME_WORDS):
            yield Passage(code.count("\n", 0, found.start(1)) + 1, words.lower(), has_sentences=False)


# --- the rules -------------------------------------------------------------------------------------------------------

ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|cf|vs|etc|approx|No|St)\.")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+(?=[\"'(\[*_`]*[A-Z`])")
LEANING = re.compile(
    r"(?:\w+s (?:it|them|one|this|that|those|him|both|all)\.?$|The same\b[,.:]|Likewise\b|Ditto\b|As above\b)"
)


def without_code(text: str) -> str:
    text = re.sub(r"(`+)(?:.*?)\1", "`x`", text)
    text = re.sub(r"<[^>]*>|\{[\w:-]+\}(?=`)", "", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def sentences_of(text: str) -> list[str]:
    return SENTENCE_END.split(ABBREVIATIONS.sub(lambda found: found[1].replace(".", "") + "·", text))


def faults(passage: Passage) -> Iterator[tuple[str, str, str]]:
    """The words at fault, the cure, and the sentence that they stand in."""
    text = without_code(passage.text)
    for sentence in sentences_of(text):
        for words, cure in WORDS.items():
            if re.search(rf"(?<![\w-]){words}(?![\w-])", sentence, re.IGNORECASE):
                yield words, f"write: {cure}" if "'" not in cure else cure, sentence
        if not passage.has_sentences:
            continue
        bare = sentence.lstrip("\"'([*_ ")
        is_question = sentence.rstrip("\"')]*_ ").endswith("?")
        begins = re.match(r"[A-Za-z]+", bare)
        if begins and begins[0] in HEADLESS and not is_question:
            yield begins[0], "start with the noun or the verb", sentence
        if re.match(r"Whether\b.*;", bare):
            yield "Whether ...;", "make it two sentences", sentence
        if len(re.findall(r"[\w`'/-]+", sentence)) > LONGEST_SENTENCE:
            yield "...", f"longer than {LONGEST_SENTENCE} words: make it two sentences", sentence
        if sentence.count(";") > MOST_SEMICOLONS:
            yield ";", "a chain of semicolons: make it several sentences", sentence
    if passage.is_documentation and LEANING.match(sentences_of(text)[0].strip()):
        yield "...", "a doc comment stands alone: name its subject", text


def findings_in(path: str, source: str) -> list[Finding]:
    found = [
        Finding(path, passage.line, words, cure, shortened(sentence))
        for passage in passages_of(path, source)
        for words, cure, sentence in faults(passage)
    ]
    return sorted(set(found), key=lambda finding: (finding.line, finding.words))


def shortened(sentence: str) -> str:
    return sentence if len(sentence) <= 90 else sentence[:87] + "..."


# --- files and lists -------------------------------------------------------------------------------------------------


def files(arguments: list[str]) -> Iterator[str]:
    """Paths from the root of the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--deduplicate"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    wanted = [Path(argument).resolve().relative_to(ROOT).as_posix() for argument in arguments]
    for path in sorted(listed):
        if Path(path).suffix not in SUFFIXES and Path(path).name not in SCRIPTS:
            continue
        if path.startswith(GENERATED) or not (ROOT / path).is_file() or (ROOT / path).is_symlink():
            continue
        if not wanted or any(path == one or path.startswith(f"{one}/") or one == "." for one in wanted):
            yield path


def lines_of(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def exceptions() -> list[tuple[str, str]]:
    """Path and words of each exception."""
    rows = [[cell.strip() for cell in line.split("|")] for line in lines_of(EXCEPTIONS)]
    for row in rows:
        if len(row) != 3 or not all(row):
            sys.exit(f"{EXCEPTIONS.relative_to(ROOT)}: not `path | words | reason`: {' | '.join(row)}")
    return [(row[0], row[1]) for row in rows]


def check(paths: list[str], unclean: set[str]) -> tuple[list[Finding], set[tuple[str, str]]]:
    """The findings outside of the listed files, and the exceptions that were needed."""
    allowed = exceptions()
    needed: set[tuple[str, str]] = set()
    found = []
    for path in paths:
        source = (ROOT / path).read_text(encoding="utf-8")
        for finding in findings_in(path, source):
            if (excuse := next((one for one in allowed if excuses(one, finding)), None)) is not None:
                needed.add(excuse)
            elif not any(is_in(path, entry) for entry in unclean):
                found.append(finding)
    return found, needed


def is_in(path: str, entry: str) -> bool:
    """Is the path an entry of the list of unclean files, or in the directory that an entry names?"""
    return path == entry or (entry.endswith("/") and path.startswith(entry))


def excuses(exception: tuple[str, str], finding: Finding) -> bool:
    path, words = exception
    return finding.path == path and (words == finding.words or words in finding.context)


def check_message(path: str) -> int:
    """Check a commit message, up to where Git's own comments begin."""
    lines = Path(path).read_text(encoding="utf-8").split("\n# ------------------------ >8")[0].splitlines()
    prose = "\n".join(line for line in lines if not line.startswith("#"))
    found = [
        Finding("commit message", passage.line, words, cure, shortened(sentence))
        for passage in of_markdown(prose.splitlines(), 1)
        for words, cure, sentence in faults(passage)
    ]
    if not prose.strip().split("\n\n", 1)[1:]:
        found.append(Finding("commit message", 2, "", "a body says why the change is made", ""))
    print(*found, sep="\n")
    return bool(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", help="files and directories")
    parser.add_argument("--prune", action="store_true", help="remove clean files from the list of unclean ones")
    parser.add_argument("--count", action="store_true", help="print the number of findings of each file")
    parser.add_argument("--message", metavar="FILE", help="check a commit message")
    arguments = parser.parse_args()
    if arguments.message:
        return check_message(arguments.message)
    paths = list(files(arguments.paths))
    unclean = set() if arguments.paths or arguments.prune or arguments.count else set(lines_of(UNCLEAN))
    found, needed = check(paths, unclean)
    if arguments.prune:
        still = [entry for entry in lines_of(UNCLEAN) if any(is_in(finding.path, entry) for finding in found)]
        head = [line for line in UNCLEAN.read_text().splitlines() if line.startswith("#")]
        UNCLEAN.write_text("\n".join([*head, *still]) + "\n")
        print(f"{len(still)} files and directories are not clean yet")
        return 0
    if arguments.count:
        numbers = {path: sum(finding.path == path for finding in found) for path in paths}
        print(*(f"{number:5} {path}" for path, number in numbers.items() if number), sep="\n")
        print(f"{len(found):5} in all")
        return 0
    for finding in found:
        print(finding)
    if not arguments.paths:
        for path, words in sorted(set(exceptions()) - needed):
            print(f"{EXCEPTIONS.relative_to(ROOT)}: {path} | {words}: matches nothing any more")
            found.append(Finding(path, 0, words, "", ""))
        if unclean:
            print(f"plain English: {len(unclean)} files and directories are listed as not clean yet", file=sys.stderr)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
