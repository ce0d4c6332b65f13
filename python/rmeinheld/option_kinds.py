"""The kinds of option values, with the check of each and its form on the command line."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

from .access_log import validate_format

YEAR_SECONDS: Final = 31_536_000.0
"""Longest time that an option takes. A longer one is a mistake of the unit; "no limit" is 0."""

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


class Kind:
    """A kind of option value: its check, and its form on the command line."""

    metavar: ClassVar[str] = ""
    repeatable: ClassVar[bool] = False
    has_text: ClassVar[bool] = True
    """Can a value be written as text, on the command line or in a variable of the environment?"""

    @property
    def expected(self) -> str:
        """The middle of the sentence "keep_alive must be ...". The help shows it, too."""
        raise NotImplementedError

    def check(self, label: str, value: object) -> object:
        """Return `value` in its final type. Raises TypeError or ValueError that starts with `label`."""
        raise NotImplementedError

    def parse(self, label: str, text: str) -> object:
        """Read a value from its form on the command line. Raises ValueError that starts with `label`."""
        return self.check(label, text)

    def _wrong_type(self, label: str, value: object) -> TypeError:
        return TypeError(f"{label} must be {self.expected}, not {type(value).__name__} {value!r}")

    def _bad_value(self, label: str, value: object) -> ValueError:
        return ValueError(f"{label} must be {self.expected}, not {value!r}")


@dataclass(frozen=True)
class Seconds(Kind):
    """A time in seconds, whole or not."""

    maximum: float = YEAR_SECONDS
    metavar: ClassVar[str] = "SECONDS"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return f"a number of seconds from 0 to {self.maximum:.0f}"

    def check(self, label: str, value: object) -> float:
        """See `Kind.check`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong_type(label, value)
        if not 0 <= value <= self.maximum:  # so neither is infinity or NaN
            raise self._bad_value(label, value)
        return float(value)

    def parse(self, label: str, text: str) -> float:
        """See `Kind.parse`."""
        if not re.fullmatch(r"[+-]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})", text, re.ASCII):
            raise self._bad_value(label, text)
        return self.check(label, float(text) if "." in text else int(text))


@dataclass(frozen=True)
class Count(Kind):
    """A whole number within a range."""

    minimum: int
    maximum: int
    metavar: ClassVar[str] = "N"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return f"an integer from {self.minimum} to {self.maximum}"

    def check(self, label: str, value: object) -> int:
        """See `Kind.check`."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_type(label, value)
        if not self.minimum <= value <= self.maximum:
            raise self._bad_value(label, value)
        return int(value)

    def parse(self, label: str, text: str) -> int:
        """See `Kind.parse`."""
        # int() would also take "1_000", " 5" and digits of other scripts. Every maximum has fewer than 20 digits.
        if not re.fullmatch(r"[+-]?\d{1,20}", text, re.ASCII):
            raise self._bad_value(label, text)
        return self.check(label, int(text))


@dataclass(frozen=True)
class Size(Count):
    """A number of bytes. The command line also takes K, M or G after it (powers of 1024)."""

    metavar: ClassVar[str] = "BYTES"
    factors: ClassVar[dict[str, int]] = {"": 1, "K": KIB, "M": MIB, "G": GIB}

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return f"an integer number of bytes from {self.minimum} to {self.maximum}"

    def parse(self, label: str, text: str) -> int:
        """See `Kind.parse`."""
        match = re.fullmatch(r"([+-]?\d{1,20})([KMG]?)", text, re.ASCII | re.IGNORECASE)
        if not match:
            raise ValueError(f"{label} must be {self.expected} (K, M or G may follow), not {text!r}")
        value = int(match[1]) * self.factors[match[2].upper()]
        if not self.minimum <= value <= self.maximum:
            raise self._bad_value(label, text)
        return value


@dataclass(frozen=True)
class Switch(Kind):
    """True or False. On the command line it is a flag without a value; an environment variable has one."""

    WORDS: ClassVar[Mapping[str, bool]] = {
        **dict.fromkeys(("1", "true", "yes", "on"), True),
        **dict.fromkeys(("0", "false", "no", "off", ""), False),
    }

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "True or False"

    def check(self, label: str, value: object) -> bool:
        """See `Kind.check`."""
        if not isinstance(value, bool):
            raise self._wrong_type(label, value)
        return value

    def parse(self, label: str, text: str) -> bool:
        """Read the value of an environment variable. Raises ValueError that starts with `label`."""
        word = text.strip().lower()
        if word not in self.WORDS:
            raise ValueError(f"{label} must be 1 or 0, not {text!r}")
        return self.WORDS[word]


@dataclass(frozen=True)
class Text(Kind):
    """A string that is not empty."""

    what: str = "a text"
    metavar: ClassVar[str] = "TEXT"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return self.what

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        if not isinstance(value, str):
            raise self._wrong_type(label, value)
        if not value or "\0" in value:
            raise self._bad_value(label, value)
        return value


@dataclass(frozen=True)
class Named(Text):
    """A string that is not empty, with a word of its own in the help."""

    word: str = "TEXT"

    @property
    def metavar(self) -> str:  # type: ignore[override]
        """See `Kind.metavar`."""
        return self.word


@dataclass(frozen=True)
class FileName(Text):
    """The name of a file."""

    what: str = "a file name"
    metavar: ClassVar[str] = "FILE"


@dataclass(frozen=True)
class Directory(Text):
    """The name of a directory."""

    what: str = "a directory"
    metavar: ClassVar[str] = "DIR"


@dataclass(frozen=True)
class Directories(Text):
    """Directories, separated by commas as in Gunicorn."""

    what: str = "directories separated by commas"
    metavar: ClassVar[str] = "DIRS"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        text = super().check(label, value)
        if not all(text.split(",")):
            raise self._bad_value(label, value)
        return text


@dataclass(frozen=True)
class LogFormat(Text):
    """A format of the access log."""

    what: str = "an access log format"
    metavar: ClassVar[str] = "FORMAT"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        try:
            return validate_format(super().check(label, value))
        except ValueError as error:
            if str(error).startswith(label):
                raise
            raise ValueError(f"{label}: {error}") from None


@dataclass(frozen=True)
class Choice(Kind):
    """One of a few words, in any case.

    `switch` has the words for True and False, if the option also is a switch. The flag without a value then means the
    word for True.
    """

    words: tuple[str, ...] = ()
    what: str = "LEVEL"
    switch: tuple[str, str] | None = None

    @property
    def metavar(self) -> str:  # type: ignore[override]
        """See `Kind.metavar`."""
        return self.what

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "one of " + ", ".join(self.words)

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        if self.switch and isinstance(value, bool):
            return self.switch[0 if value else 1]
        if not isinstance(value, str):
            raise self._wrong_type(label, value)
        if value.lower() not in self.words:
            raise self._bad_value(label, value)
        return value.lower()


@dataclass(frozen=True)
class CertificateNeed(Kind):
    """The need of a client's certificate, as a number of `ssl.VerifyMode`."""

    words: ClassVar[tuple[str, ...]] = ("none", "optional", "required")
    metavar: ClassVar[str] = "HOW"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "none (0), optional (1) or required (2)"

    def check(self, label: str, value: object) -> int:
        """See `Kind.check`."""
        if isinstance(value, str):
            return self.parse(label, value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_type(label, value)
        if not 0 <= value < len(self.words):
            raise self._bad_value(label, value)
        return int(value)

    def parse(self, label: str, text: str) -> int:
        """See `Kind.parse`."""
        word = text.lower().removeprefix("cert_")
        if word in self.words:
            return self.words.index(word)
        if word in ("0", "1", "2"):
            return int(word)
        raise self._bad_value(label, text)


@dataclass(frozen=True)
class Mask(Kind):
    """A mask of permission bits, in octal on the command line, as for umask(1)."""

    metavar: ClassVar[str] = "OCTAL"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "a mask of permissions from 0o000 to 0o777"

    def check(self, label: str, value: object) -> int:
        """See `Kind.check`."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong_type(label, value)
        if not 0 <= value <= 0o777:
            raise self._bad_value(label, value)
        return int(value)

    def parse(self, label: str, text: str) -> int:
        """See `Kind.parse`."""
        # Gunicorn reads "22" as decimal and "022" as octal. Here both are octal, as for umask(1).
        if not re.fullmatch(r"(0o)?[0-7]{1,4}", text, re.ASCII):
            raise ValueError(f"{label} must be an octal {self.expected.removeprefix('a ')}, not {text!r}")
        return self.check(label, int(text, 8))


@dataclass(frozen=True)
class Texts(Kind):
    """Several strings. The command line repeats the flag."""

    what: str = "a sequence of texts"
    metavar: ClassVar[str] = "TEXT"
    repeatable: ClassVar[bool] = True

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return self.what

    def check(self, label: str, value: object) -> tuple[str, ...]:
        """See `Kind.check`."""
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, list | tuple):
            raise self._wrong_type(label, value)
        return tuple(self.check_item(label, item) for item in value)

    def check_item(self, label: str, item: object) -> str:
        """Check one string."""
        if not isinstance(item, str):
            raise self._wrong_type(label, item)
        return item

    def parse(self, label: str, text: str) -> str:
        """Read one string."""
        return self.check_item(label, text)


@dataclass(frozen=True)
class Addresses(Texts):
    """Addresses to listen on, in the forms of `rmeinheld.addresses.parse_address`."""

    what: str = "an address or a sequence of addresses"
    metavar: ClassVar[str] = "ADDRESS"

    def check(self, label: str, value: object) -> tuple[str, ...]:
        """See `Kind.check`."""
        addresses = super().check(label, value)
        if not addresses:
            raise self._bad_value(label, value)
        return addresses


@dataclass(frozen=True)
class Assignments(Texts):
    """Assignments of environment variables."""

    what: str = "assignments of the form NAME=VALUE"
    metavar: ClassVar[str] = "NAME=VALUE"

    def check_item(self, label: str, item: object) -> str:
        """See `Texts.check_item`."""
        text = super().check_item(label, item)
        if not re.fullmatch(r"[^=\0]+=[^\0]*", text, re.DOTALL):
            raise self._bad_value(label, text)
        return text


@dataclass(frozen=True)
class Caller(Kind):
    """An object with a method that the server calls."""

    has_text: ClassVar[bool] = False
    method: str

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return f"an object with a method {self.method}(), or None"

    def check(self, label: str, value: object) -> object:
        """Return `value`. Raises AttributeError if the method is missing, TypeError if it cannot be called."""
        if not hasattr(value, self.method):
            raise AttributeError(f"{label} must be {self.expected}; {type(value).__name__} has no {self.method!r}")
        if not callable(getattr(value, self.method)):
            raise TypeError(
                f"{label} must be {self.expected}; {self.method!r} of {type(value).__name__} is no callable"
            )
        return value


@dataclass(frozen=True)
class Function(Kind):
    """A function that the server calls."""

    has_text: ClassVar[bool] = False

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "a function, or None"

    def check(self, label: str, value: object) -> object:
        """See `Kind.check`."""
        if not callable(value):
            raise self._wrong_type(label, value)
        return value


@dataclass(frozen=True)
class Listed(Kind):
    """Several short strings: a sequence, or one string with commas between them."""

    metavar: ClassVar[str] = "LIST"

    def check(self, label: str, value: object) -> tuple[str, ...]:
        """See `Kind.check`."""
        if isinstance(value, str):
            value = value.split(",")
        if not isinstance(value, list | tuple):
            raise self._wrong_type(label, value)
        for item in value:
            if not isinstance(item, str):
                raise self._wrong_type(label, item)
        return tuple(self.check_item(label, item.strip()) for item in value if item.strip())

    def check_item(self, label: str, item: str) -> str:
        """Return one string in its final form."""
        raise NotImplementedError


@dataclass(frozen=True)
class Networks(Listed):
    """IP addresses and networks, or `*` for all."""

    metavar: ClassVar[str] = "IPS"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "IP addresses and networks (192.0.2.0/24), separated by commas, or '*'"

    def check_item(self, label: str, item: str) -> str:
        """See `Listed.check_item`."""
        if item == "*":
            return item
        try:
            network = ipaddress.ip_network(item)
        except ValueError as error:
            raise ValueError(f"{label} must be {self.expected}, not {item!r}: {error}") from None
        return str(network.network_address) if network.num_addresses == 1 else str(network)


@dataclass(frozen=True)
class FieldNames(Listed):
    """Names of fields in capitals, or `*` for all. With `known`, a choice of these, in lower case."""

    known: tuple[str, ...] = ()
    metavar: ClassVar[str] = "NAMES"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "some of " + ", ".join(self.known) if self.known else "names of fields, separated by commas, or '*'"

    def check_item(self, label: str, item: str) -> str:
        """See `Listed.check_item`."""
        name = item.lower() if self.known else item.upper()
        if (self.known and name not in self.known) or not re.fullmatch(r"\*|[\w!#$%&'+.^`|~-]+", name, re.ASCII):
            raise self._bad_value(label, item)
        return name


@dataclass(frozen=True)
class Origins(Listed):
    """Origins as browsers send them: scheme, host, and the port if it is not the scheme's default (RFC 6454 6.2)."""

    metavar: ClassVar[str] = "ORIGINS"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "origins (https://shop.example, http://localhost:8000), separated by commas"

    def check_item(self, label: str, item: str) -> str:
        """See `Listed.check_item`."""
        if item != "null" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", item, re.ASCII | re.IGNORECASE):
            raise self._bad_value(label, item)
        return item.lower()


@dataclass(frozen=True)
class SchemeFields(Kind):
    """A dictionary from field names to the values that mean https."""

    metavar: ClassVar[str] = "NAME=VALUE,..."

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "a dictionary from field names to the values that mean https"

    def check(self, label: str, value: object) -> tuple[tuple[str, str], ...]:
        """See `Kind.check`."""
        if isinstance(value, Mapping):
            value = tuple(value.items())
        if not isinstance(value, tuple):
            raise self._wrong_type(label, value)
        for pair in value:
            match pair:
                case (str(name), str(text)) if re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) and text:
                    pass
                case _:
                    raise self._bad_value(label, pair)
        return value

    def parse(self, label: str, text: str) -> tuple[tuple[str, str], ...]:
        """See `Kind.parse`."""
        pairs = [item.strip().partition("=") for item in text.split(",") if item.strip()]
        if not all(name and equals and value for name, equals, value in pairs):
            raise ValueError(f"{label} must be NAME=VALUE separated by commas, not {text!r}")
        return self.check(label, tuple((name.strip().upper(), value.strip()) for name, _, value in pairs))
