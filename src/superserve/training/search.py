"""Search a supernet's space for the subnets that nothing beats in both accuracy and latency.

Every candidate is measured, not predicted: calibrated, run on the validation images, timed. Small spaces are measured
whole. Of large ones NSGA-II measures a part: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm", 2002,
as in optuna, which starts from the uniform subnets that span the space.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from superserve.errors import ConfigError
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.training.front import Candidate
from superserve.training.journal import Journal
from superserve.training.progress import Progress, Report
from superserve.training.space import choice_of, count, dimensions, every, subnet

#: Subnets that breed a generation.
_POPULATION: Final = 32

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
    report: Report = lambda _progress: None,
) -> tuple[Candidate, ...]:
    """Measure up to ``budget`` different subnets; all of the space if it has no more.

    What the journal holds is not measured again. With the same seed and journal a search goes where it would have
    gone without being stopped, because its way depends on nothing but what was measured.

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
        _nsga2(space, measured, lambda: len(journal.candidates) >= budget, seed)
    return journal.candidates


def _nsga2(space: SearchSpace, measured: Measure, done: Callable[[], bool], seed: int) -> None:
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
    names = list(dimensions(space))
    for spec in _spanning(space.uniform()):
        study.enqueue_trial(dict(zip(names, choice_of(space, spec), strict=True)))
    seen: set[SubnetSpec] = set()
    stale = 0
    while not done() and stale < 10 * _POPULATION:
        trial = study.ask()
        spec = _suggested(space, trial)
        stale = stale + 1 if spec in seen else 0
        seen.add(spec)
        found = measured(spec)
        study.tell(trial, [found.cost, found.accuracy])


def _spanning(uniform: Iterable[SubnetSpec]) -> list[SubnetSpec]:
    """Different uniform subnets, in order."""
    return list(dict.fromkeys(uniform))


def _suggested(space: SearchSpace, trial: _Trial) -> SubnetSpec:
    return subnet(space, [trial.suggest_int(name, 0, values - 1) for name, values in dimensions(space).items()])
