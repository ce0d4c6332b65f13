"""The words of a report on a blocked loop."""

from __future__ import annotations

import sys

from rmeinheld.blockage import Called, Moment, called_at, moment_of, stack_of

kept: list[Moment] = []


def note() -> None:
    kept.append(moment_of(sys._getframe(1)))


def work() -> None:
    note()
    kept.sort()


def test_a_moment_stays_what_it_was_when_its_frame_goes_on() -> None:
    kept.clear()
    work()
    (moment,) = kept
    assert moment.frame.f_lasti != moment.instruction
    assert called_at(moment) == Called("note()", f"{__name__}.note")
    assert stack_of(moment).rstrip().splitlines()[-1].strip() == "note()"
