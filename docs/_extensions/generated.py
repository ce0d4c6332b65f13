"""Fills pages with text that has its source elsewhere: the table of options, docstrings, the changelog.

A page marks a place by a comment, `<!-- generated: settings -->`. Markdown readers outside the site see nothing there.
Links from a page to a file outside docs/ (`../examples/chat/app.py`) become addresses below the project's URL.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import api
import figures
import metrics
import options

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"^<!-- generated: ([a-z-]+)((?: [\w.,]+)*) -->$", re.M)
# A Markdown link or image whose target is a relative path.
LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)\s]+)(\))")


def changelog() -> str:
    """Return CHANGELOG.md without its title."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    _, _, body = text.partition("\n")
    return resolve_links(body, "", None)


def deployed(name: str) -> str:
    """Return a file of examples/deploy as a block of code."""
    languages = {"service": "systemd", "socket": "systemd", "conf": "nginx", "cfg": "haproxy", "toml": "toml"}
    language = languages.get(name.rpartition(".")[2], "dockerfile")
    return f"```{language}\n{(ROOT / 'examples' / 'deploy' / name).read_text(encoding='utf-8')}```\n"


def hang(case: str, output: str) -> str:
    """Return an output of docs/hangs, which tests/support/hangs.py has written, as a block of code."""
    return f"```console\n{(ROOT / 'docs' / 'hangs' / f'{case}-{output}.txt').read_text(encoding='utf-8')}```\n"


def program(case: str) -> str:
    """Return a program of examples/hangs without its docstring."""
    text = (ROOT / "examples" / "hangs" / f"{case}.py").read_text(encoding="utf-8")
    return f"```python\n{text.partition('\n\n')[2]}```\n"


GENERATORS: dict[str, Callable[..., str]] = {
    "changelog": changelog,
    "deployed": deployed,
    "hang": hang,
    "hang-program": program,
    "settings": options.settings,
    "settings-by-name": options.by_name,
    "settings-by-source": options.by_source,
    "access-log-atoms": options.access_log_atoms,
    "gunicorn-settings": options.gunicorn_settings,
    "api": api.module,
    "metrics": metrics.table,
    "figures": figures.http,
    "websocket-figures": figures.websocket,
    "cooperation-figures": figures.cooperation,
    "gunicorn-figures": figures.gunicorn,
    "service-figures": figures.services,
    "restart-figures": figures.restarts,
    "soak-figures": figures.soak,
    "held-figures": figures.held,
    "requests-figures": figures.many_requests,
    "instruction-figures": figures.instructions,
}


def resolve_links(text: str, directory: str, url: str | None) -> str:
    """Turn links from a file in `directory` (relative to the repository) to files outside docs/ into addresses.

    Raises ExtensionError for a link to a file that does not exist.
    """
    base = url or _URL[0]

    def replace(match: re.Match[str]) -> str:
        path, mark, fragment = match[2].partition("#")
        target = posixpath.normpath(posixpath.join(directory, path))
        if target.startswith("docs/"):
            inside = posixpath.relpath(target, directory or ".")
            return match[0] if directory else f"{match[1]}{inside.removeprefix('docs/')}{mark}{fragment}{match[3]}"
        if not (ROOT / target).exists():
            raise ExtensionError(f"link to {match[2]!r} from {directory or 'the top'}: there is no {target!r}")
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{match[1]}{base}/{kind}/main/{target}{mark}{fragment}{match[3]}"

    return LINK.sub(replace, text)


_URL = [""]


def fill(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the marks of a page, and its links to files outside docs/."""
    _URL[0] = app.config.project_url
    directory = posixpath.dirname(f"docs/{docname}")
    text = resolve_links(source[0], directory, app.config.project_url)

    def generate(match: re.Match[str]) -> str:
        if match[1] not in GENERATORS:
            raise ExtensionError(f"{docname}: no generator is called {match[1]!r}")
        return GENERATORS[match[1]](*match[2].split())

    source[0] = MARK.sub(generate, text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_config_value("project_url", "", "env")
    app.connect("source-read", fill)
    # Generated text changes without its page: read all pages each time.
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
