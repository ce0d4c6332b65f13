"""Markdown of the options, from the tables in rmeinheld.settings and rmeinheld.gunicorn_worker.settings."""

from __future__ import annotations

from rmeinheld.gunicorn_worker.settings import table

from rmeinheld.access_log import ATOMS
from rmeinheld.option_kinds import GIB, KIB, MIB, Mask, Switch
from rmeinheld.settings import GROUPS, OPTIONS, Option


def settings() -> str:
    """Return a section for each group of options, with a part for each option."""
    parts = []
    for group in GROUPS:
        parts.append(f"## {group}\n")
        parts += [_entry(option) for option in OPTIONS.values() if option.group == group]
    return "\n".join(parts)


def by_name() -> str:
    """Return a table of all options with their defaults, which links to the sections."""
    rows = [f"| [`{name}`](#setting-{anchor(name)}) | {default(OPTIONS[name])} |" for name in sorted(OPTIONS)]
    return "\n".join(["| option | default |", "| --- | --- |", *rows])


def by_source() -> str:
    """Return the table of all options: what each is called in each source."""
    head = ["| setting | standalone | Gunicorn | environment | file |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *(_names(option) for option in OPTIONS.values())])


def _names(option: Option) -> str:
    standalone = [f"`{option.flag}`"] if option.flags else []
    if option.scope in ("server", "run"):
        standalone.append(f"`run({option.name}=)`")
    environment = f"`{option.environment}`" if option.environment else "none"
    keys = f"`{option.name}`"
    if option.scope == "run":
        keys = "none"
    elif option.gunicorn and option.gunicorn != option.name:
        keys += f", `{option.gunicorn}`"
    elif not option.kind.has_text:
        keys += " (in Python)"
    cells = [
        f"[`{option.name}`](#setting-{anchor(option.name)})",
        ", ".join(standalone) or "see file",
        _under_gunicorn(option, short=True),
        environment,
        keys,
    ]
    return f"| {' | '.join(cells)} |"


def _under_gunicorn(option: Option, *, short: bool) -> str:
    if option.scope == "run":
        return f"`{option.gunicorn}` decides" if option.gunicorn else "none"
    if option.gunicorn and option.is_of_worker:
        return f"`{option.gunicorn}`" if short else f"Gunicorn's setting `{option.gunicorn}`, or the variable"
    if option.gunicorn:
        return (
            f"`{option.gunicorn}` alone" if short else f"Gunicorn's setting `{option.gunicorn}`; a variable is an error"
        )
    if option.is_of_worker:
        return "variable, file" if short else "the variable, or a global of gunicorn.conf.py"
    return "needs `rmeinheld`" if short else "none: it needs the command `rmeinheld`"


def access_log_atoms() -> str:
    """Return a table of the atoms of the access log."""
    rows = [f"| `%({name})s` | {text.replace('|', chr(92) + '|')} |" for name, text in ATOMS.items()]
    return "\n".join(["| atom | value |", "| --- | --- |", *rows])


def gunicorn_settings() -> str:
    """Return the table of Gunicorn's settings."""
    return table()


def anchor(name: str) -> str:
    """Return the part of a reference that names an option."""
    return name.replace("_", "-")


def default(option: Option) -> str:
    """Return the default as a reader reads it: with its unit, sizes in KiB or MiB."""
    value = option.default
    if value is None or value == ():
        return "not set"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(f"`{'='.join(item) if isinstance(item, tuple) else item}`" for item in value)
    if isinstance(value, float):
        return f"{value:g} {_unit(option, value)}".strip()
    if isinstance(option.kind, Mask):
        return f"`{value:03o}`"
    if isinstance(value, int):
        for size, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
            if option.unit == "bytes" and value >= size and value % size == 0:
                return f"{value // size} {name} ({value:,} bytes)"
        return f"{value:,} {_unit(option, value)}".strip()
    return f"`{value}`"


def _unit(option: Option, value: float) -> str:
    return option.unit.removesuffix("s") if value == 1 and option.unit.endswith("s") else option.unit


def _flags(option: Option) -> str:
    if not option.flags:
        return "none"
    value = "" if isinstance(option.kind, Switch) else f" {option.kind.metavar}"
    return ", ".join(f"`{flag}{value if flag.startswith('--') else ''}`" for flag in option.flags)


def _entry(option: Option) -> str:
    facts = [("Command line", _flags(option))]
    if option.scope in ("server", "run"):
        names = ", ".join(f"`{name}=`" for name in (option.name, *option.aliases))
        facts.append(("Python", f"`rmeinheld.run(app, {option.name}=...)`" if not option.aliases else names))
    if option.environment:
        facts.append(("Environment", f"`{option.environment}`"))
    facts.append(("Under the gunicorn command", _under_gunicorn(option, short=False)))
    if option.scope == "service":
        facts.append(("Another value", "starts Gunicorn's arbiter"))
    facts.append(("Default", default(option)))
    facts.append(("Precedent", option.precedent))
    lines = [f"(setting-{anchor(option.name)})=", f"### `{option.name}`", "", option.help.replace("*", r"\*"), ""]
    lines += [f"- **{label}:** {text}" for label, text in facts]
    return "\n".join([*lines, ""])
