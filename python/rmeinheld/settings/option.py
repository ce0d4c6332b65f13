"""A row of the table of options."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from ..option_kinds import Kind

PREFIX: Final = "RMEINHELD_"
"""Start of the environment variables that set options."""

type Scope = Literal["server", "run", "command", "service"]
"""The part that takes an option.

"server": the command line and `run`. "run": `run` alone, because the value is an object of Python.

"command": the command line alone. An application that calls `run` does that work itself.

"service": the command line alone. A value other than the default starts Gunicorn's arbiter.
"""


class Option(NamedTuple):
    """One row of the table.

    `flags` is empty for an option that the command line does not take. `unit` follows the default in the help. An
    option whose default is None takes None. `precedent` names the servers that have the option, with their names and
    defaults.

    `gunicorn` is Gunicorn's setting of the same meaning, if there is one. `master` says that a master process acts on
    the option, so that a worker under Gunicorn's own command cannot change it. `plain` says that such a worker acts on
    an option that otherwise belongs to the command line.
    """

    kind: Kind
    default: object
    group: str
    help: str
    precedent: str
    name: str = ""
    flags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    unit: str = ""
    gunicorn: str = ""
    master: bool = False
    plain: bool = False
    scope: Scope = "server"

    @property
    def environment(self) -> str:
        """The environment variable that sets the option; empty if none does."""
        return PREFIX + self.name.upper() if self.scope != "run" and self.kind.has_text else ""

    @property
    def is_of_worker(self) -> bool:
        """Can a worker under Gunicorn's own command line act on the option?"""
        return self.plain or (not self.master and (self.scope == "server" or bool(self.gunicorn)))

    @property
    def spellings(self) -> tuple[str, ...]:
        """All names of the option with underscores: its own, Gunicorn's, the aliases, and those of its flags."""
        flags = [flag for flag in self.flags if flag.startswith("--")]
        names = [flag.removeprefix("--").removeprefix("no-").replace("-", "_") for flag in flags]
        return tuple(dict.fromkeys(filter(None, (self.name, self.gunicorn, *self.aliases, *names))))

    def check(self, value: object, label: str | None = None) -> object:
        """Return `value` in its final type. Raises ValueError, TypeError or AttributeError naming `label`."""
        if value is None and self.default is None:
            return None
        return self.kind.check(label or self.name, value)

    @property
    def flag(self) -> str:
        """The flag that messages use as the name of the option."""
        return next((flag for flag in self.flags if flag.startswith("--")), self.name)


def option(
    default: object,
    kind: Kind,
    *flags: str,
    group: str,
    help: str,
    precedent: str,
    aliases: tuple[str, ...] = (),
    unit: str = "",
    gunicorn: str = "",
    master: bool = False,
    plain: bool = False,
    scope: Scope = "server",
) -> Any:
    """Return a row of the table, as the value of an attribute of the type that a setting has."""
    return Option(
        kind=kind,
        default=default,
        group=group,
        help=help,
        precedent=precedent,
        flags=flags,
        aliases=aliases,
        unit=unit,
        gunicorn=gunicorn,
        master=master,
        plain=plain,
        scope=scope,
    )
