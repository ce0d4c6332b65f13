"""The result of a suite."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """The result of one suite. `unexpected` are lines for people to read; a single line fails the run."""

    suite: str
    version: str
    passed: int = 0
    failed: int = 0
    """Failures, expected or not."""
    expected: int = 0
    """Failures that are in the suite's table, with their reason."""
    skipped: int = 0
    unexpected: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    """The reason for each expected failure, by name."""

    def count(self, faults: Mapping[str, str | None], table: Mapping[str, tuple[str | tuple[str, ...], str]]) -> None:
        """Count tests by name, each with its fault or None.

        `table` holds the expected failures: the fault (the beginning of its text, or several of which one applies) and
        the reason. A test of the table that passes, or fails in another way, is as unexpected as a failure outside it.
        """
        for name in table.keys() - faults.keys():
            self.unexpected.append(f"{name}: is in the table of failures, but not in the suite")
        for name, fault in faults.items():
            expected, reason = table.get(name, (None, ""))
            if fault is None:
                self.passed += 1
                if expected is not None:
                    self.unexpected.append(f"{name}: passes, but the table says {expected!r}")
                continue
            self.failed += 1
            if expected is not None and fault.startswith(expected):
                self.expected += 1
                self.reasons[name] = reason
            else:
                self.unexpected.append(f"{name}: {fault}" + (f" (the table says {expected!r})" if expected else ""))

    def line(self) -> str:
        """Return the outcome as one line."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return (
            f"{self.suite} {self.version}: {self.passed} of {self.passed + self.failed} passed, "
            f"{self.failed} failed ({self.expected} as expected){skipped}"
        )
