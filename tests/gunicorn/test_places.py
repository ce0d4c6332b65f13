"""The table of places: pure, from the states of the workers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from rmeinheld.gunicorn_worker.places import assign

A, B, C, D, N = range(5)
READY, DRAINING, BOOTING = "ready", "draining", "booting"
SERVING = dict.fromkeys((A, B, C, D), READY)


@pytest.mark.parametrize(
    ("before", "workers", "wanted", "after"),
    [
        pytest.param([], {}, 4, [], id="nobody is ready"),
        pytest.param([], {A: READY, B: BOOTING}, 2, [A], id="the first worker is ready"),
        pytest.param([A, B, C, D], SERVING, 4, [A, B, C, D], id="nothing changes"),
        pytest.param([A, B, C, D], {**SERVING, N: READY}, 4, [A, B, C, D], id="a replacement is ready first"),
        pytest.param([A, B, C, D], {**SERVING, C: DRAINING, N: READY}, 4, [A, B, N, D], id="it inherits"),
        pytest.param([A, B, C, D], {**SERVING, C: DRAINING}, 4, [A, B, C, D], id="a worker leaves before"),
        pytest.param([A, B, C], {A: READY, C: READY}, 3, [A, None, C], id="a worker has died"),
        pytest.param([A, None, C], {A: READY, C: READY, B: BOOTING}, 3, [A, None, C], id="its successor boots"),
        pytest.param([A, None, C], {A: READY, C: READY, N: READY}, 3, [A, N, C], id="its successor is ready"),
        pytest.param([A, B, C], {A: READY, B: BOOTING, C: READY}, 3, [A, None, C], id="the slot has another owner"),
        pytest.param([A, B, C], {A: DRAINING, B: READY, C: READY}, 2, [A, B, C], id="TTOU: the sessions end there"),
        pytest.param([A, B, C], {B: READY, C: READY}, 2, [None, B, C], id="TTOU: no other place moves"),
        pytest.param([None, B, C], {B: READY, C: READY, N: READY}, 3, [N, B, C], id="TTIN: the lowest empty place"),
        pytest.param([A, B], {A: READY, B: READY, C: READY}, 3, [A, B, C], id="TTIN: a new place"),
        pytest.param([A, B], {A: READY, B: DRAINING}, 1, [A, B], id="the last place drains"),
        pytest.param([A, B], {A: READY}, 1, [A], id="the last place is gone"),
        pytest.param([A, A, B], {A: READY, B: READY}, 2, [A, None, B], id="two masters have written at once"),
        pytest.param([A, B], {A: DRAINING, B: DRAINING, C: READY, D: READY}, 2, [C, D], id="USR2: the old master ends"),
        pytest.param([A, B], {A: READY, B: READY, C: READY, D: READY}, 2, [A, B], id="USR2: both serve"),
        pytest.param([A, None], {A: DRAINING, C: READY}, 2, [C], id="the leaving worker's place comes first"),
        pytest.param([A, B], {A: READY, B: READY}, 0, [A, B], id="WINCH: workers stay until they leave"),
    ],
)
def test_a_worker_keeps_its_place_until_it_has_ended_or_another_takes_it(
    before: Sequence[int | None], workers: Mapping[int, str], wanted: int, after: list[int | None]
) -> None:
    assert assign(before, workers, wanted) == after


def test_a_reload_of_all_workers_moves_no_place_twice() -> None:
    places: list[int | None] = [0, 1, 2, 3]
    workers = dict.fromkeys(range(4), READY)
    for old in range(4):
        new = 4 + old
        workers[new] = READY
        places = assign(places, workers, 4)
        workers[old] = DRAINING
        before, places = places, assign(places, workers, 4)
        assert places == [new if slot == old else slot for slot in before]
        del workers[old]
        assert assign(places, workers, 4) == places
    assert places == [4, 5, 6, 7]
