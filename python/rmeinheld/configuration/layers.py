"""Values with their sources, and layers of values: the value of a higher layer wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from ..application import StartError
from ..option_kinds import Assignments, Choice, Kind, Texts
from ..settings import Option

__all__ = ["DEFAULT", "Given", "Layer", "first_of", "read_value"]

DEFAULT: Final = "default"
"""Source of a value that was not given."""


class Given(NamedTuple):
    """A value of an option, and where it was written: a flag, a variable, or a file and a key."""

    value: object
    source: str


class Layer:
    """Values of one kind of source.

    `options` has the values of options by name. `extra` has Gunicorn's settings that are no options. Two different
    values for one option raise StartError.
    """

    def __init__(self) -> None:
        self.options: dict[str, Given] = {}
        self.extra: dict[str, Given] = {}

    def add(self, option: Option, given: Given) -> None:
        """Add a value. Raises StartError if there is a different one already."""
        known = self.options.setdefault(option.name, given)
        if known.value != given.value:
            raise StartError(
                f"{known.source} is {known.value!r} and {given.source} is {given.value!r}, but they are the same "
                "option; give only one value"
            )

    def add_all(self, other: Layer, option_of: Mapping[str, Option]) -> None:
        """Add the values of `other`, a layer of the same rank."""
        for name, given in other.options.items():
            self.add(option_of[name], given)
        self.extra.update(other.extra)


def first_of(layers: Iterable[Layer]) -> Layer:
    """Return one layer with the values of the first layer that has each option."""
    merged = Layer()
    for layer in layers:
        for mine, theirs in ((merged.options, layer.options), (merged.extra, layer.extra)):
            for name, given in theirs.items():
                mine.setdefault(name, given)
    return merged


def read_value(option: Option, label: str, value: object) -> object:
    """Return a value of a file in its final type. A text is read as on the command line.

    Raises StartError that begins with `label`.
    """
    kind = option.kind
    if isinstance(kind, Texts) and isinstance(value, list | tuple):
        return tuple(checked(kind.check_item, label, item) for item in value)
    if isinstance(kind, Assignments) and isinstance(value, Mapping):
        return tuple(checked(kind.check_item, label, f"{name}={text}") for name, text in value.items())
    if isinstance(value, str) and kind.has_text:
        read = checked(kind.parse, label, value)
        return (read,) if isinstance(kind, Texts) else read
    return checked(lambda label, value: option.check(value, label), label, value)


def read_text(option: Option, label: str, text: str, split: Callable[[str], list[str]]) -> object:
    """Return the value that a variable has as text. `split` divides the text of an option that may be repeated.

    Raises StartError that begins with `label`.
    """
    if isinstance(option.kind, Texts):
        return tuple(checked(option.kind.check_item, label, item) for item in checked(_splits(split), label, text))
    return checked(option.kind.parse, label, text)


def word_of_flag(kind: Kind) -> str | None:
    """Return the value of a flag without one, for a choice that is a switch, too."""
    return kind.switch[0] if isinstance(kind, Choice) and kind.switch else None


def checked[Value, Result](check: Callable[[str, Value], Result], label: str, value: Value) -> Result:
    """Call `check`. Raises StartError instead of the exceptions of `Kind`."""
    try:
        return check(label, value)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise StartError(str(error)) from None


def _splits(split: Callable[[str], list[str]]) -> Callable[[str, str], list[str]]:
    def splits(label: str, text: str) -> list[str]:
        try:
            return split(text)
        except ValueError as error:
            raise ValueError(f"{label} must be words as in a shell, not {text!r}: {error}") from None

    return splits
