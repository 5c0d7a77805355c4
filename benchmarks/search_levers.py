"""Whether steps along levers that pay find better fronts: `superserve search` with and without them, by hypervolume.

Subnets of digits are measured on a mixture of validation and test images until the file of samples has ``--samples`` of
them (seconds each), and a ridge regression on each dimension's value and its square becomes a landscape that searches
measure at once. Both searches then get the same budget and seeds.

    python benchmarks/search_levers.py FILE [--samples 200] [--seeds 20] [--json FILE]
"""

import argparse
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from superserve.model_folder import ModelFolder
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.supernet.hub import load_supernet
from superserve.tables import write_rows
from superserve.training.data import Split
from superserve.training.digits import load_digits
from superserve.training.front import Candidate, latency_ms, pareto
from superserve.training.journal import Conditions, Journal
from superserve.training.publish import Measurer
from superserve.training.search import search
from superserve.training.space import choice_of, dimensions, subnet

BUDGETS = (60, 100, 150, 200, 300)
#: The hypervolume is that above this accuracy and between these costs (logarithms of ms), over their distance: points.
ACCURACY, COSTS = 80.0, (np.log(5.0), np.log(90.0))
RIDGE = 0.1

Values = npt.NDArray[np.float64]


class Sample(msgspec.Struct, array_like=True):
    """A measured subnet: its choices, per cent of 400 images right, ms per batch of 16."""

    choice: list[int]
    accuracy: float
    cost: float


def take_samples(path: Path, count: int) -> list[Sample]:
    """Those of the file, and as many more as are missing, which are added to it."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    samples = [msgspec.json.decode(line, type=Sample) for line in lines]
    folder = ModelFolder.resolve("digits")
    supernet, parts = load_supernet(folder), load_digits(0)
    tried = (parts.validate, parts.test.head(100))
    examples = Split(np.concatenate([each.inputs for each in tried]), np.concatenate([each.labels for each in tried]))
    cost = latency_ms(folder.config.inputs[0].longest(16), repeats=3)
    measurer = Measurer(supernet.network, supernet.config, parts.train.head(100), cost, rows=100)
    space, rng = supernet.network.space, np.random.default_rng(len(samples))
    torch.set_num_threads(1)
    while len(samples) < count:
        level = rng.random()  # uniform draws of each dimension would all be of a middle size
        near = [(values - 1) * np.clip(level + rng.normal(0, 0.35), 0, 1) for values in dimensions(space).values()]
        found = measurer.candidate(subnet(space, [round(value) for value in near]), examples)
        samples.append(Sample(choice_of(space, found.spec), found.accuracy, found.cost))
        with path.open("ab") as file:
            file.write(msgspec.json.encode(samples[-1]) + b"\n")
    return samples


def landscape(space: SearchSpace, samples: list[Sample]) -> Callable[[SubnetSpec], Candidate]:
    """Measures by what was fitted: the logarithms of the cost and of the errors (from just above 100 %)."""
    last = np.maximum(1, np.array(list(dimensions(space).values())) - 1)

    def features(choices: list[list[int]]) -> Values:
        places = np.array(choices) / last
        return np.column_stack([np.ones(len(places)), places, places**2])

    matrix = features([sample.choice for sample in samples])

    def fitted(values: Values) -> Callable[[list[int]], float]:
        mean = values.mean()
        weights = np.linalg.solve(matrix.T @ matrix + RIDGE * np.eye(matrix.shape[1]), matrix.T @ (values - mean))
        return lambda choice: float((features([choice]) @ weights)[0] + mean)

    cost = fitted(np.log([sample.cost for sample in samples]))
    errors = fitted(np.log(100.3 - np.array([sample.accuracy for sample in samples])))

    def measure(spec: SubnetSpec) -> Candidate:
        choice = choice_of(space, spec)
        return Candidate(spec, float(100.3 - np.exp(errors(choice))), float(np.exp(cost(choice))))

    return measure


def hypervolume(found: Iterable[Candidate]) -> float:
    """The mean over the logarithm of the cost of the best accuracy to be had, less `ACCURACY`: points."""
    front = pareto(found)
    ends = [*(np.log(one.cost) for one in front[1:]), COSTS[1]]
    area = sum((one.accuracy - ACCURACY) * (end - np.log(one.cost)) for one, end in zip(front, ends, strict=True))
    return float(area / (COSTS[1] - COSTS[0]))


def found_with(
    space: SearchSpace, measure: Callable[[SubnetSpec], Candidate], seed: int, *, levers: bool
) -> list[float]:
    """The hypervolume at each budget."""
    conditions = Conditions(
        weights_sha256="", calibration_images=0, validation_images=0, seed=seed, rows=16, machine="", torch=""
    )
    with tempfile.TemporaryDirectory() as scratch:
        journal = Journal(Path(scratch) / "journal", conditions)
        found = search(space, measure, journal, budget=BUDGETS[-1], seed=seed, levers=levers)
    return [hypervolume(found[:budget]) for budget in BUDGETS]


def main() -> None:
    """Sample, search, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="samples: read, and added to")
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    space = load_supernet(ModelFolder.resolve("digits")).network.space
    measure = landscape(space, take_samples(args.file, args.samples))
    both = [
        np.array([found_with(space, measure, seed, levers=levers) for seed in range(args.seeds)])
        for levers in (False, True)
    ]
    gains = both[1] - both[0]
    rows = [
        {
            "budget": budget,
            "without": round(float(both[0][:, column].mean()), 3),
            "with": round(float(both[1][:, column].mean()), 3),
            "gain": round(float(gains[:, column].mean()), 3),
            "deviation": round(float(gains[:, column].std(ddof=1)), 3),
            "better": int((gains[:, column] > 0).sum()),
            "seeds": args.seeds,
        }
        for column, budget in enumerate(BUDGETS)
    ]
    for row in rows:
        print("  ".join(f"{name} {value}" for name, value in row.items()))
    write_rows(args.json, rows=rows)


if __name__ == "__main__":
    main()
