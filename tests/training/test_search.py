"""On a made-up landscape: latency is the work, accuracy rises with it, with bumps that make a front worth finding."""

import sys
from pathlib import Path

import pytest

from superserve.errors import ConfigError
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.supernet.zoo.ofa_resnet import OfaResNet
from superserve.training.front import Candidate, pareto
from superserve.training.journal import Conditions, Journal
from superserve.training.progress import Progress
from superserve.training.search import search
from superserve.training.space import choice_of, count
from support.supernets import small_network
from support.training import TINY

CONDITIONS = Conditions(
    weights_sha256="00", calibration_images=1, validation_images=2, seed=0, rows=16, machine="m", torch="t"
)
TINY_SPACE = OfaResNet(TINY).space
SPACE = small_network().space


class Landscape:
    """Measures without a network, and counts."""

    def __init__(self, space: SearchSpace, limit: int | None = None) -> None:
        self.space, self.limit, self.calls = space, limit, 0

    def __call__(self, spec: SubnetSpec) -> Candidate:
        if self.calls == self.limit:
            raise KeyboardInterrupt
        self.calls += 1
        choice = choice_of(self.space, spec)
        useful = sum(choice[::2]) - 0.3 * sum(choice[1::2])  # every second dimension only costs
        return Candidate(spec, 70 + useful, 1.0 + sum(choice))


def journal(folder: Path, name: str = "journal") -> Journal:
    return Journal(folder / name, CONDITIONS)


def test_a_small_space_is_measured_whole(tmp_path: Path) -> None:
    seen: list[Progress] = []
    landscape = Landscape(TINY_SPACE)
    found = search(TINY_SPACE, landscape, journal(tmp_path), budget=200, seed=0, report=seen.append)
    assert len(found) == landscape.calls == count(TINY_SPACE)
    assert [(step.done, step.total) for step in seen] == [(n, len(found)) for n in range(1, len(found) + 1)]


def test_a_large_space_is_measured_up_to_the_budget(tmp_path: Path) -> None:
    landscape = Landscape(SPACE)
    found = search(SPACE, landscape, journal(tmp_path), budget=120, seed=0)
    assert len(found) == len({candidate.spec for candidate in found}) == landscape.calls == 120
    uniform = list(dict.fromkeys(SPACE.uniform()))
    assert [candidate.spec for candidate in found[: len(uniform)]] == uniform


def test_breeding_finds_a_better_front_than_the_uniform_subnets(tmp_path: Path) -> None:
    """Area under the front: what a server gains by it."""
    found = search(SPACE, Landscape(SPACE), journal(tmp_path), budget=250, seed=0)
    uniform = [candidate for candidate in found if candidate.spec in set(SPACE.uniform())]

    def best(front: list[Candidate], cost: float) -> float:
        return max(candidate.accuracy for candidate in front if candidate.cost <= cost)

    gains = [best(pareto(found), cost) - best(pareto(uniform), cost) for cost in range(1, 20)]
    assert min(gains) >= 0
    assert sum(gains) > 5


def test_steps_along_levers_find_a_better_front_with_the_same_budget(tmp_path: Path) -> None:
    """Over seeds together: one alone may be unlucky. docs/performance.md has the comparison on digits."""

    def areas(seed: int) -> list[float]:
        found = [
            search(SPACE, Landscape(SPACE), journal(tmp_path, f"{seed} {levers}"), budget=120, seed=seed, levers=levers)
            for levers in (False, True)
        ]
        fronts = [pareto(each) for each in found]
        costs = range(1, 30)
        return [sum(max(one.accuracy for one in front if one.cost <= cost) for cost in costs) for front in fronts]

    without, along = (sum(values) for values in zip(*(areas(seed) for seed in range(3)), strict=True))
    assert along > without + 3 * 10, "a third of a point on average"


@pytest.mark.parametrize("stop", [5, 40, 90])
def test_a_stopped_search_goes_where_it_would_have_gone(tmp_path: Path, stop: int) -> None:
    whole = search(SPACE, Landscape(SPACE), journal(tmp_path, "whole"), budget=120, seed=3)
    with pytest.raises(KeyboardInterrupt):
        search(SPACE, Landscape(SPACE, limit=stop), journal(tmp_path), budget=120, seed=3)
    rest = Landscape(SPACE)
    assert search(SPACE, rest, journal(tmp_path), budget=120, seed=3) == whole
    assert rest.calls == 120 - stop


def test_seeds_differ(tmp_path: Path) -> None:
    first, other = (search(SPACE, Landscape(SPACE), journal(tmp_path, str(n)), budget=120, seed=n) for n in (1, 2))
    assert {one.spec for one in first} != {one.spec for one in other}


def test_without_optuna_a_large_space_needs_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"superserve\[search\]"):
        search(SPACE, Landscape(SPACE), journal(tmp_path), budget=10, seed=0)
    assert len(search(TINY_SPACE, Landscape(TINY_SPACE), journal(tmp_path), budget=96, seed=0)) == 96


def test_an_empty_budget_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--budget 0"):
        search(SPACE, Landscape(SPACE), journal(tmp_path), budget=0, seed=0)
