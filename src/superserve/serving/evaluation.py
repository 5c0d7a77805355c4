"""`superserve evaluate`: how accurate subnets are on an engine, and what they lose against eager float32 there."""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from superserve.engine import Engine, EngineChoice
from superserve.evaluate import AccuracyRow, accuracy_row
from superserve.model_folder import ModelFolder
from superserve.serving.engines import eager_float32, load_engine
from superserve.serving.points_ahead import runs_of
from superserve.serving.residency.pack_ahead import packed_subnets
from superserve.supernet.points import LabelledExamples, answers_on, count
from superserve.supernet.right_answers import REFERENCE, Runs, why_refused


class EvaluatedRow(AccuracyRow, frozen=True, kw_only=True):
    """Measured accuracy of one subnet on an engine."""

    lost_points: float
    """What eager float32 gets more on the same examples, in points; below 0 if less."""


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Measured accuracy of subnets on an engine."""

    rows: tuple[EvaluatedRow, ...]
    refused: tuple[str, ...]
    """Why it is not served, in words; none if it is."""


def evaluate_choice(
    folder: ModelFolder,
    choice: EngineChoice,
    examples: LabelledExamples,
    *,
    subnets: Sequence[str] | None = None,
    report: Callable[..., None],
) -> Evaluation:
    """Count right answers on an engine, and on eager float32 unless that was done before; both are kept.

    Of the packed engine, subnets that can be packed run every batch so, the others on the engine behind.

    Args:
        folder: the model.
        choice: by `choose_engine`.
        examples: what to measure on.
        subnets: ids; None means the whole front.
        report: told of progress: done, in all, what is being done.

    Raises:
        ConfigError: for an id that is not in the front.
        ModelFolderError: as `load_engine`, or if no subnet can be packed, or counts cannot be kept.
    """
    resident = packed_subnets(folder, choice, report)
    engine = load_engine(folder, choice, resident)
    chosen = engine.subnet_ids if subnets is None else tuple(subnets)
    packed = {engine.subnet_ids[subnet] for subnet in resident}
    parts = {
        runs_of(choice): [subnet for subnet in chosen if subnet in packed],
        runs_of(choice.behind): [subnet for subnet in chosen if subnet not in packed],
    }
    rows: dict[str, EvaluatedRow] = {}
    refused = []
    for runs, ids in parts.items():
        rows |= {row.subnet: row for row in _rows(engine, folder, runs, examples, subnets=ids, report=report)}
        refused.append(why_refused(folder, runs, ids))
    return Evaluation(rows=tuple(rows[subnet] for subnet in chosen), refused=tuple(filter(None, refused)))


def _rows(
    engine: Engine,
    folder: ModelFolder,
    runs: Runs,
    examples: LabelledExamples,
    *,
    subnets: Sequence[str],
    report: Callable[..., None],
) -> Iterator[EvaluatedRow]:
    """Count what some subnets get right on an engine, and what eager float32 does."""
    count(lambda: engine, folder, runs, examples, subnets, again=True, report=report)
    count(lambda: eager_float32(folder), folder, REFERENCE, examples, subnets, report=report)
    expected = {kept.subnet: kept.right for kept in answers_on(folder, REFERENCE, examples)}
    found = {kept.subnet: kept for kept in answers_on(folder, runs, examples)}
    for subnet in subnets:
        right, n = found[subnet].right, found[subnet].n
        row = accuracy_row(subnet, right, n)
        yield EvaluatedRow(**msgspec.structs.asdict(row), lost_points=100 * (expected[subnet] - right) / n)
