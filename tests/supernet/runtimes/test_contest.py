"""Which ways of running a subnet are kept, and which of them runs what."""

from itertools import combinations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from superserve.supernet.runtimes.contest import (
    PROGRAM,
    WORTH,
    best_ratios,
    fastest,
    mean_ratio,
    worth_keeping,
)

CELLS = st.floats(0.1, 2.0)


@st.composite
def contests(draw: st.DrawFn) -> dict[str, tuple[float, ...]]:
    """A program and up to two runtimes, at some sizes."""
    sizes = draw(st.integers(1, 5))
    names = [PROGRAM, *draw(st.lists(st.sampled_from(["onnxruntime", "openvino"]), unique=True))]
    return {name: tuple(draw(st.lists(CELLS, min_size=sizes, max_size=sizes))) for name in names}


@pytest.mark.parametrize(
    ("program", "runtime", "kept"),
    [
        ((0.8, 0.8), (0.5, 0.5), ("openvino",)),
        ((0.8, 0.8), (0.77, 0.78), (PROGRAM,)),
        ((0.9, 0.4), (0.4, 0.9), (PROGRAM, "openvino")),
        ((0.9, 0.5), (0.4, 0.49), ("openvino",)),
        ((1.5, 1.2), (1.4, 1.1), (PROGRAM,)),
        ((1.5, 0.6), (0.7, 1.5), (PROGRAM, "openvino")),
    ],
)
def test_what_is_kept_is_worth_its_memory(
    program: tuple[float, ...], runtime: tuple[float, ...], kept: tuple[str, ...]
) -> None:
    assert worth_keeping({PROGRAM: program, "openvino": runtime}) == kept


def test_of_two_runtimes_the_faster_one() -> None:
    ratios = {PROGRAM: (0.9, 0.9), "onnxruntime": (0.3, 0.7), "openvino": (0.6, 0.6)}
    assert worth_keeping(ratios) == ("onnxruntime",)


@given(contests())
def test_nothing_that_could_have_been_kept_is_faster_by_much(ratios: dict[str, tuple[float, ...]]) -> None:
    """At most one runtime is kept, and no other set with one or none is faster by more than two steps are worth."""
    kept = worth_keeping(ratios)
    assert sum(name != PROGRAM for name in kept) <= 1
    taken = mean_ratio(best_ratios(ratios, kept))
    for size in (1, 2):
        for names in combinations(ratios, size):
            if sum(name != PROGRAM for name in names) <= 1:
                assert mean_ratio(best_ratios(ratios, names)) > taken * (1 - WORTH) ** 2 - 1e-9


@given(contests())
def test_every_size_runs_on_the_fastest_of_what_is_kept_and_all_that_is_kept_runs_some(
    ratios: dict[str, tuple[float, ...]],
) -> None:
    kept = worth_keeping(ratios)
    runs = fastest(ratios, kept)
    assert [ratios[name][place] for place, name in enumerate(runs)] == list(best_ratios(ratios, kept))
    assert set(runs) == set(kept)
