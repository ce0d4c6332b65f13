"""The kinds of option values, with the check of each and its form on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Final

from .access_log import validate_format
from .channel_options import SCHEMES, without_password

YEAR_SECONDS: Final = 31_536_000.0
"""Longest time that an option takes. A longer one is a mistake of the unit; "no limit" is 0."""

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


class Kind:
    """A kind of option value: its check, and its form on the command line."""

    metavar: str = ""
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


class Seconds(Kind):
    """A time in seconds, whole or not."""

    metavar = "SECONDS"

    def __init__(self, maximum: float = YEAR_SECONDS) -> None:
        self.maximum = maximum

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


class Count(Kind):
    """A whole number within a range."""

    metavar = "N"

    def __init__(self, minimum: int, maximum: int) -> None:
        self.minimum, self.maximum = minimum, maximum

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


class Size(Count):
    """A number of bytes. The command line also takes K, M or G after it (powers of 1024)."""

    metavar = "BYTES"
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


class Text(Kind):
    """A string that is not empty."""

    what: str = "a text"
    metavar: str = "TEXT"

    def __init__(self, what: str = "", metavar: str = "") -> None:
        self.what, self.metavar = what or self.what, metavar or self.metavar

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


class Named(Text):
    """A string that is not empty, with a word of its own in the help."""


class Secret(Text):
    """A text that no message and no report shows. It has no flag, since other users see the arguments of a process."""

    def __init__(self, shortest: int = 1) -> None:
        self._shortest = shortest
        super().__init__("a text that is not empty" if shortest == 1 else f"a text of at least {shortest} characters")

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        text = super().check(label, value)
        if len(text) < self._shortest:
            raise self._bad_value(label, value)
        return text

    def _bad_value(self, label: str, value: object) -> ValueError:
        return ValueError(f"{label} must be {self.expected}")

    def _wrong_type(self, label: str, value: object) -> TypeError:
        return TypeError(f"{label} must be {self.expected}, not {type(value).__name__}")


class ChannelUrl(Text):
    """The URL of a Redis for channels."""

    what = f"a URL that begins with {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    metavar = "URL"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        text = super().check(label, value)
        if text.partition("://")[0] not in SCHEMES or "://" not in text:
            raise self._bad_value(label, without_password(text))
        return text


class CollectorUrl(Text):
    """The URL of an OpenTelemetry collector. It has no password, as the log names it."""

    ENVIRONMENT: ClassVar[str] = "environment"
    """Stands for the collector that the variables of OpenTelemetry name."""

    what = f"a URL that begins with http:// or https:// and has neither a user nor a query, or {ENVIRONMENT}"
    metavar = "URL"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        text = super().check(label, value)
        if text == self.ENVIRONMENT:
            return text
        from urllib.parse import urlsplit

        try:
            parts = urlsplit(text)
            is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_good = False
        if not is_good or parts.query or parts.fragment or "@" in parts.netloc:
            raise self._bad_value(label, without_password(text))
        return text


class Account(Named):
    """The name or the number of a user or a group."""

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        return super().check(label, str(value) if is_number else value)


class FileName(Text):
    """The name of a file."""

    what = "a file name"
    metavar = "FILE"


class Directory(Text):
    """The name of a directory."""

    what = "a directory"
    metavar = "DIR"


class Directories(Text):
    """Directories, separated by commas as in Gunicorn."""

    what = "directories separated by commas"
    metavar = "DIRS"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        text = super().check(label, value)
        if not all(text.split(",")):
            raise self._bad_value(label, value)
        return text


class LogFormat(Text):
    """A format of the access log."""

    what = "an access log format"
    metavar = "FORMAT"

    def check(self, label: str, value: object) -> str:
        """See `Kind.check`."""
        try:
            return validate_format(super().check(label, value))
        except ValueError as error:
            if str(error).startswith(label):
                raise
            raise ValueError(f"{label}: {error}") from None


class Choice(Kind):
    """One of a few words, in any case.

    `switch` has the words for True and False, if the option also is a switch. The flag without a value then means the
    word for True.
    """

    def __init__(self, words: tuple[str, ...] = (), what: str = "LEVEL", switch: tuple[str, str] | None = None) -> None:
        self.words, self.metavar, self.switch = words, what, switch

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


class CertificateNeed(Kind):
    """The need of a client's certificate, as a number of `ssl.VerifyMode`."""

    words: ClassVar[tuple[str, ...]] = ("none", "optional", "required")
    metavar = "HOW"

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


class Mask(Kind):
    """A mask of permission bits, in octal on the command line, as for umask(1)."""

    metavar = "OCTAL"

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


class Texts(Kind):
    """Several strings. The command line repeats the flag."""

    what: str = "a sequence of texts"
    metavar = "TEXT"
    repeatable: ClassVar[bool] = True

    def __init__(self, what: str = "") -> None:
        self.what = what or self.what

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


class Addresses(Texts):
    """Addresses to listen on, in the forms of `rmeinheld.addresses.parse_address`."""

    what = "an address or a sequence of addresses"
    metavar = "ADDRESS"

    def check(self, label: str, value: object) -> tuple[str, ...]:
        """See `Kind.check`."""
        addresses = super().check(label, value)
        if not addresses:
            raise self._bad_value(label, value)
        return addresses


class Assignments(Texts):
    """Assignments of environment variables."""

    what = "assignments of the form NAME=VALUE"
    metavar = "NAME=VALUE"

    def check_item(self, label: str, item: object) -> str:
        """See `Texts.check_item`."""
        text = super().check_item(label, item)
        if not re.fullmatch(r"[^=\0]+=[^\0]*", text, re.DOTALL):
            raise self._bad_value(label, text)
        return text


class Caller(Kind):
    """An object with a method that the server calls."""

    has_text: ClassVar[bool] = False

    def __init__(self, method: str) -> None:
        self.method = method

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


class Listed(Kind):
    """Several short strings: a sequence, or one string with commas between them."""

    metavar = "LIST"

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


class Networks(Listed):
    """IP addresses and networks, or `*` for all."""

    metavar = "IPS"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "IP addresses and networks (192.0.2.0/24), separated by commas, or '*'"

    def check_item(self, label: str, item: str) -> str:
        """See `Listed.check_item`."""
        if item == "*":
            return item
        import ipaddress

        try:
            network = ipaddress.ip_network(item)
        except ValueError as error:
            raise ValueError(f"{label} must be {self.expected}, not {item!r}: {error}") from None
        return str(network.network_address) if network.num_addresses == 1 else str(network)


class FieldNames(Listed):
    """Names of fields in capitals, or `*` for all. With `known`, a choice of these, in lower case."""

    metavar = "NAMES"

    def __init__(self, known: tuple[str, ...] = ()) -> None:
        self.known = known

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


class Origins(Listed):
    """Origins as browsers send them: scheme, host, and the port if it is not the scheme's default (RFC 6454 6.2).

    "same" is the origin of the host that the request is for.
    """

    metavar = "ORIGINS"

    @property
    def expected(self) -> str:
        """See `Kind.expected`."""
        return "same, or origins (https://shop.example, http://localhost:8000), separated by commas"

    def check_item(self, label: str, item: str) -> str:
        """See `Listed.check_item`."""
        if item.lower() not in ("null", "same") and not re.fullmatch(
            r"[a-z][a-z0-9+.-]*://[^/?#@\s]+", item, re.ASCII | re.IGNORECASE
        ):
            raise self._bad_value(label, item)
        return item.lower()


class SchemeFields(Kind):
    """A dictionary from field names to the values that mean https."""

    metavar = "NAME=VALUE,..."

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
