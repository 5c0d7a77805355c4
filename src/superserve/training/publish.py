"""From trained weights to a model folder: calibrate, measure candidates, choose the front, test it once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from superserve.evaluate import AccuracyRow, evaluate
from superserve.model_folder import BYTES, FORMAT, Front, ModelConfig, ModelFolder, SubnetRecord
from superserve.subnet import SubnetSpec
from superserve.supernet.calibrate import calibrate
from superserve.supernet.engine import EagerEngine, as_tensor, channels_last
from superserve.supernet.hub import save_supernet
from superserve.supernet.macs import count_macs
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.operators import Statistics
from superserve.supernet.preprocess import parse_preprocessing
from superserve.training.data import Array, Parts, Split
from superserve.training.front import Candidate, Cost, pareto, spread
from superserve.training.progress import Progress, Report

#: Examples per forward when calibrating: enough for sound batch statistics (OFA: 200).
CALIBRATION_ROWS = 250


@dataclass(frozen=True)
class Measurer:
    """Makes subnets of trained weights ready to serve, and measures them through the engine that serves."""

    network: ElasticNetwork
    config: ModelConfig
    calibration: Split
    """Training examples that statistics come from, as served: not augmented."""
    cost: Cost
    rows: int = 16
    """Per batch when measuring accuracy, which does not depend on it."""

    @property
    def examples(self) -> str:
        """What the data holds, in a word."""
        return "texts" if self.config.inputs[0].datatype == BYTES else "images"

    def candidate(self, spec: SubnetSpec, data: Split) -> Candidate:
        """A subnet, calibrated, with its accuracy on these examples and its cost."""
        engine = EagerEngine(self.supernet({"candidate": spec}))
        (row,) = evaluate(engine, data.inputs, data.labels, batch_size=self.rows)
        return Candidate(spec, row.accuracy, self.cost(engine, 0))

    def supernet(self, specs: Mapping[str, SubnetSpec]) -> Supernet:
        """A supernet of these subnets, calibrated; their accuracies are not known yet."""
        records = tuple(SubnetRecord(id=name, spec=spec, accuracy=0.0, accuracy_n=0) for name, spec in specs.items())
        statistics = {name: self.statistics(spec) for name, spec in specs.items()}
        return Supernet(self.config, Front(format=FORMAT, measured_on="", subnets=records), self.network, statistics)

    def statistics(self, spec: SubnetSpec) -> Statistics:
        """SubnetNorm statistics from the training examples."""
        (tensor,) = self.config.inputs
        parts = torch.split(as_tensor(self.calibration.inputs, tensor.datatype), CALIBRATION_ROWS)
        return calibrate(self.network, spec, (tuple(map(channels_last, self._prepared(part))) for part in parts))

    def macs(self, spec: SubnetSpec) -> int:
        """Multiply-accumulates of one row, of texts the longest."""
        (tensor,) = self.config.inputs
        return count_macs(self.network, spec, self._prepared(as_tensor(tensor.longest(1), tensor.datatype)))

    def _prepared(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The network's arguments, as served."""
        return parse_preprocessing(self.config.preprocessing).build()([rows])


def choose(
    measurer: Measurer, specs: Sequence[SubnetSpec], validate: Split, count: int, report: Report
) -> list[Candidate]:
    """At most ``count`` subnets of the front, by validation accuracy and cost."""
    candidates = []
    for done, spec in enumerate(specs, start=1):
        candidates.append(measurer.candidate(spec, validate))
        report(Progress("measure", done, len(specs)))
    return spread(pareto(candidates), count)


def publish(
    measurer: Measurer,
    chosen: Sequence[Candidate],
    parts: Parts,
    out: Path,
    report: Report,
    *,
    bundle_test: bool = False,
) -> ModelFolder:
    """Measure a chosen front on the test examples, once, and write the model folder.

    Args:
        measurer: of the trained weights.
        chosen: the front, from the least to the most accurate, measured on ``parts.validate``.
        parts: the data.
        out: the folder to write; made if need be.
        report: called after each test batch.
        bundle_test: whether the folder carries the test examples.
    """
    supernet = measurer.supernet({f"s{number}": candidate.spec for number, candidate in enumerate(chosen)})
    rows = evaluate(
        EagerEngine(supernet),
        parts.test.inputs,
        parts.test.labels,
        batch_size=measurer.rows,
        report=lambda done, total: report(Progress("test", done, total)),
    )
    front = Front(
        format=FORMAT,
        measured_on=f"{len(parts.validate)} validation {measurer.examples}, disjoint from training and test",
        tested_on=f"{len(parts.test)} test {measurer.examples}, used for nothing else",
        subnets=tuple(
            _record(row, candidate, len(parts.validate), measurer.macs(candidate.spec))
            for row, candidate in zip(rows, chosen, strict=True)
        ),
    )
    finished = Supernet(measurer.config, front, measurer.network, supernet.statistics)
    (tensor,) = measurer.config.inputs
    test: tuple[Array, Array] | None = (tensor.unpacked(parts.test.inputs), parts.test.labels) if bundle_test else None
    return save_supernet(finished, out, test=test)


def _record(test: AccuracyRow, candidate: Candidate, validated: int, macs: int) -> SubnetRecord:
    return SubnetRecord(
        id=test.subnet,
        spec=candidate.spec,
        accuracy=round(candidate.accuracy, 2),
        accuracy_n=validated,
        test_accuracy=round(test.accuracy, 2),
        test_n=test.n,
        macs=macs,
    )
