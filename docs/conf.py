"""Sphinx configuration. `make docs` builds the site into .build/docs/html and needs no network."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.highlighting import lexers

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "rmeinheld"
author = PROJECT["authors"][0]["name"]
copyright = f"2026, {author}"
version = release = PROJECT["version"]

extensions = ["myst_parser", "generated"]
exclude_patterns = ["README.md"]
source_suffix = {".md": "markdown"}
# Broken links between pages are warnings, and `make docs` turns those into errors.
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# Address of the project. Links from a page to a file outside docs/ lead there.
project_url = PROJECT["urls"]["Source"]

html_theme = "furo"
html_title = f"rmeinheld {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"source_view_link": f"{project_url}/blob/main/docs/{{filename}}"}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

# Pygments has no lexer for HAProxy's configuration.
lexers["haproxy"] = TextLexer()

# For `make docs-links`, which needs the network. Addresses under .example are placeholders (RFC 2606).
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost|\[::1\])", r"https?://([^/]+\.)?example(\.com)?(/|$)"]
linkcheck_timeout = 20
linkcheck_retries = 2
