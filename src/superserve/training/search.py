"""Search a supernet's space for the subnets that nothing beats in both accuracy and latency.

Every candidate is measured, not predicted: calibrated, run on the validation images, timed. Small spaces are measured
whole. Of large ones NSGA-II measures a part: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm", 2002,
as in optuna, which starts from the uniform subnets that span the space. Every second subnet after these is a step from
the front along a lever that pays there (`lever_steps.py`), which joins the population as any other: local search inside
an evolutionary one, as in Ishibuchi and Murata, "A Multi-Objective Genetic Local Search Algorithm", 1998.
"""

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from superserve.errors import ConfigError
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.training.front import Candidate
from superserve.training.journal import Journal
from superserve.training.lever_steps import LeverSteps
from superserve.training.progress import Progress, Report
from superserve.training.space import choice_of, count, dimensions, every, subnet

#: Subnets that breed a generation.
_POPULATION: Final = 32
#: Of what is measured after the uniform subnets, how much is a step along a lever. A half of it found better fronts
#: than three or seven tenths (docs/performance.md).
_STEPS: Final = 0.5

Measure = Callable[[SubnetSpec], Candidate]


class _Trial(Protocol):
    """What is used of optuna's trials."""

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


def search(
    space: SearchSpace,
    measure: Measure,
    journal: Journal,
    *,
    budget: int,
    seed: int,
    levers: bool = True,
    report: Report = lambda _progress: None,
) -> tuple[Candidate, ...]:
    """Measure up to ``budget`` different subnets; all of the space if it has no more.

    What the journal holds is not measured again. With the same seed and journal a search goes where it would have
    gone without being stopped, because its way depends on nothing but what was measured.

    Args:
        space: the search space.
        measure: calibrates and measures a subnet.
        journal: what was measured, under the same conditions.
        budget: of subnets.
        seed: of what is drawn.
        levers: whether to step along levers that pay.
        report: called after each subnet that is measured.

    Raises:
        ConfigError: if the space is larger than the budget and optuna is not installed, or the budget is not positive.
    """
    if budget < 1:
        raise ConfigError(f"--budget {budget}: measure at least one subnet")
    total = min(budget, count(space))

    def measured(spec: SubnetSpec) -> Candidate:
        if spec not in journal:
            journal.add(measure(spec))
            report(Progress("search", min(len(journal.candidates), total), total))
        return journal[spec]

    if count(space) <= budget:
        for spec in every(space):
            measured(spec)
    else:
        _nsga2(space, measured, lambda: len(journal.candidates) >= budget, seed, levers=levers)
    return journal.candidates


def _nsga2(space: SearchSpace, measured: Measure, done: Callable[[], bool], seed: int, *, levers: bool) -> None:
    """Breed subnets until enough are measured, or nothing new has come for long."""
    try:
        import optuna  # noqa: PLC0415 (an extra)
    except ImportError:
        raise ConfigError(
            "searching a space larger than --budget needs optuna: pip install 'superserve[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)

    def enqueue(spec: SubnetSpec) -> None:
        study.enqueue_trial(dict(zip(dimensions(space), choice_of(space, spec), strict=True)))

    spanning = list(dict.fromkeys(space.uniform()))
    for spec in spanning:
        enqueue(spec)
    rng = np.random.default_rng(seed)
    steps = LeverSteps(space, rng) if levers else None
    seen: dict[SubnetSpec, Candidate] = {}
    stale = 0
    while not done() and stale < 10 * _POPULATION:
        if steps is not None and len(seen) >= len(spanning) and rng.random() < _STEPS:
            step = steps.propose(seen)
            if step is not None:
                enqueue(step)
        trial = study.ask()
        spec = _suggested(space, trial)
        stale = stale + 1 if spec in seen else 0
        found = seen[spec] = measured(spec)
        study.tell(trial, [found.cost, found.accuracy])


def _suggested(space: SearchSpace, trial: _Trial) -> SubnetSpec:
    return subnet(space, [trial.suggest_int(name, 0, values - 1) for name, values in dimensions(space).items()])
