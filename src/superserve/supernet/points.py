"""The guard in front of every engine and dtype: its points of accuracy against eager float32 on labelled examples.

``accuracy.py`` is the other one: answers may agree, and outputs differ. Nothing here imports torch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from superserve.engine import Engine
from superserve.errors import ModelFolderError
from superserve.evaluate import evaluate
from superserve.model_folder import TEST_FILE, ModelFolder
from superserve.supernet.right_answers import (
    REFERENCE,
    RightAnswers,
    Runs,
    counting_alone,
    examples_hash,
    keep_answers,
    kept_answers,
    refuse_losses,
)

#: Told of progress: batches done, batches in all.
Report = Callable[[int, int], None]


def _untold(_done: int, _total: int) -> None:
    pass


@dataclass(frozen=True)
class LabelledExamples:
    """Examples of a model with one input, and their labels."""

    inputs: np.ndarray[Any, Any]
    """(n, *row_shape), as a batch holds them."""
    labels: np.ndarray[Any, Any]
    """(n,) integer classes."""

    @cached_property
    def hash(self) -> str:
        """What counts on them are kept by."""
        return examples_hash(self.inputs, self.labels)


def labelled_examples(folder: ModelFolder) -> LabelledExamples | None:
    """The test data that a folder carries; None if there is none, or the model has several inputs.

    Raises:
        ModelFolderError: if it is not what the model takes.
    """
    if not folder.carries_test_data or len(folder.config.inputs) != 1:
        return None
    return examples_for(folder, *folder.test_data(), told=f"{folder.path / TEST_FILE}")


def examples_for(
    folder: ModelFolder, inputs: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], *, told: str
) -> LabelledExamples:
    """Labelled examples as a batch of the model holds them.

    Raises:
        ModelFolderError: if the model takes something else, or several inputs, by ``told``, where they come from.
        UsageError: if a text is longer than the model takes.
    """
    tensor, *others = folder.config.inputs
    if others:
        raise ModelFolderError(
            f"{told}: the model has {1 + len(others)} inputs, and examples are of one: leave them out"
        )
    rows = tensor.packed(inputs)
    if (rows.dtype, rows.shape[1:]) != (tensor.dtype, tensor.row_shape) or labels.shape != rows.shape[:1]:
        raise ModelFolderError(
            f"{told}: inputs {inputs.dtype} {inputs.shape} and labels {labels.shape} are not rows "
            f"of {tensor.datatype} {list(tensor.row_shape)} and a label for each: correct the file, or remove it"
        )
    return LabelledExamples(rows, labels)


def check_points(
    engine: Engine,
    reference: Callable[[], Engine],
    folder: ModelFolder,
    *,
    device: str = "cpu",
    subnets: Sequence[int] | None = None,
    examples: LabelledExamples | None = None,
    again: bool = False,
) -> None:
    """Compare accuracies on labelled examples, if there are any; then go by all that is known.

    What was counted before on this machine is not counted again. `superserve evaluate` counts on other data, too.

    Args:
        engine: the one to check.
        reference: makes eager float32 of the same model, if it is needed.
        folder: the model.
        device: ``cpu``, or the name of the GPU.
        subnets: indices of those to check; None means the whole front.
        examples: what to compare on; None means the test data that the folder carries, if it does.
        again: whether the engine was made anew, so that what is kept of it on these examples is worth nothing.

    Raises:
        ModelFolderError: if a subnet loses more than `right_answers.MOST_POINTS`, the test data does not fit the
            model, or counts cannot be kept.
    """
    runs = Runs(engine.name, engine.dtype, device)
    if runs == REFERENCE:
        return
    ids = engine.subnet_ids if subnets is None else [engine.subnet_ids[subnet] for subnet in subnets]
    examples = examples or labelled_examples(folder)
    if examples is not None:
        count(lambda: engine, folder, runs, examples, ids, again=again)
        count(reference, folder, REFERENCE, examples, ids)
    refuse_losses(folder, runs, ids)


def count(
    engine: Callable[[], Engine],
    folder: ModelFolder,
    runs: Runs,
    examples: LabelledExamples,
    subnets: Sequence[str],
    *,
    again: bool = False,
    report: Report = _untold,
) -> None:
    """Count the right answers of subnets, and keep the counts: of each subnet at once, whatever ends this process.

    Args:
        engine: makes the engine, if there is anything to count.
        folder: the model.
        runs: what the engine is.
        examples: what is counted on.
        subnets: ids.
        again: whether to count what is kept already, too.
        report: told of progress.

    Raises:
        ModelFolderError: if counts cannot be kept.
    """
    if not again and not _uncounted(folder, runs, examples, subnets):  # that needs no lock, nor a cache to write to
        return
    with counting_alone(folder, runs):
        missing = subnets if again else _uncounted(folder, runs, examples, subnets)
        if not missing:  # somebody else has counted meanwhile
            return
        counting = engine()
        for place, subnet in enumerate(missing):
            (row,) = evaluate(
                counting,
                examples.inputs,
                examples.labels,
                subnets=[subnet],
                batch_size=folder.config.max_batch_size,
                report=partial(_of_all, report, place, len(missing)),
            )
            right = round(row.accuracy * row.n / 100)
            keep_answers(folder, runs, [RightAnswers(subnet=subnet, examples=examples.hash, n=row.n, right=right)])


def _of_all(report: Report, place: int, subnets: int, done: int, total: int) -> None:
    """Tell of progress with one of several subnets, which take as many batches each."""
    report(place * total + done, subnets * total)


def answers_on(folder: ModelFolder, runs: Runs, examples: LabelledExamples) -> list[RightAnswers]:
    """What was counted of an engine and dtype on these examples."""
    return [kept for kept in kept_answers(folder, runs) if kept.examples == examples.hash]


def _uncounted(folder: ModelFolder, runs: Runs, examples: LabelledExamples, subnets: Sequence[str]) -> list[str]:
    """Those of these subnets of which nothing is kept."""
    known = {kept.subnet for kept in answers_on(folder, runs, examples)}
    return [subnet for subnet in subnets if subnet not in known]
