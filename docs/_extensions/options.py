"""Markdown of the options, from the tables in rmeinheld.settings and rmeinheld.gunicorn_worker.settings."""

from __future__ import annotations

from rmeinheld.gunicorn_worker.settings import table

from rmeinheld.access_log import ATOMS
from rmeinheld.option_kinds import GIB, KIB, MIB, Switch
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
        return "none: an option of `run()` alone"
    value = "" if isinstance(option.kind, Switch) else f" {option.kind.metavar}"
    return ", ".join(f"`{flag}{value if flag.startswith('--') else ''}`" for flag in option.flags)


def _entry(option: Option) -> str:
    facts = [("Command line", _flags(option))]
    if option.scope == "command":
        facts.append(("Python", "none: an option of the command line alone"))
    else:
        names = ", ".join(f"`{name}=`" for name in (option.name, *option.aliases))
        facts.append(("Python", f"`rmeinheld.run(app, {option.name}=...)`" if not option.aliases else names))
    if option.gunicorn:
        facts.append(("Under Gunicorn", f"the setting `{option.gunicorn}` decides"))
    elif option.environment:
        facts.append(("Under Gunicorn", f"environment variable `{option.environment}`"))
    facts.append(("Default", default(option)))
    facts.append(("Precedent", option.precedent))
    lines = [f"(setting-{anchor(option.name)})=", f"### `{option.name}`", "", option.help.replace("*", r"\*"), ""]
    lines += [f"- **{label}:** {text}" for label, text in facts]
    return "\n".join([*lines, ""])
