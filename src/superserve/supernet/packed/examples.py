"""The examples that 8-bit integers are fitted to, and those that accuracy is reported on: never the same ones.

Nothing here imports torch.
"""

from typing import Any, Final, NamedTuple

import numpy as np

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder, load_examples
from superserve.supernet.packed.fitting_source import kept_path
from superserve.supernet.points import LabelledExamples, examples_for, labelled_examples

Array = np.ndarray[Any, Any]

#: How many are fitted to, at most; and at most a quarter of all, so that enough are left to check on.
_MOST_FITTED: Final = 128
_PART_FITTED: Final = 4

_SEED: Final = 0


class Fitting(NamedTuple):
    """Two disjoint parts of a model's examples."""

    fitted: Array
    """Inputs (n, *row_shape), as a batch holds them, whose activations 8-bit integers are fitted to."""
    checked: LabelledExamples
    """Others, on which it is seen what that costs."""


def fitting_examples(folder: ModelFolder) -> Fitting:
    """Those that were kept for the model (`keep_examples`), else its bundled test data; parted by seed.

    Raises:
        ModelFolderError: if there are none, too few, or ones that are not what the model takes.
    """
    examples = _kept(folder) or labelled_examples(folder)
    if examples is None:
        raise ModelFolderError(
            f"{folder.path}: 8-bit integers are fitted to examples, and this model carries none: give some with "
            "`superserve pack --dtype int8 --data PATH`, not those that its accuracy is reported on"
        )
    total = len(examples.labels)
    count = min(_MOST_FITTED, total // _PART_FITTED)
    if count == 0:
        raise ModelFolderError(f"{folder.path}: {total} examples are too few to fit 8-bit integers to: give more")
    order = np.random.default_rng(_SEED).permutation(total)
    fitted, checked = order[:count], order[count:]
    return Fitting(examples.inputs[fitted], LabelledExamples(examples.inputs[checked], examples.labels[checked]))


def _kept(folder: ModelFolder) -> LabelledExamples | None:
    path = kept_path(folder)
    return examples_for(folder, *load_examples(path), told=str(path)) if path.is_file() else None


def keep_examples(folder: ModelFolder, inputs: Array, labels: Array) -> None:
    """Keep labelled examples in the user's cache, for all packing of a model; in place of those kept before.

    Raises:
        ModelFolderError: if they are not what the model takes and a label for each, or cannot be written.
    """
    path = kept_path(folder)
    examples = examples_for(folder, inputs, labels, told=f"{folder.path}: examples for int8")
    scratch = path.with_suffix(".new.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        np.savez_compressed(scratch, inputs=examples.inputs, labels=examples.labels)
        scratch.replace(path)
    except OSError as error:
        raise ModelFolderError(f"{path}: examples cannot be kept there: {error}") from None


def reported(folder: ModelFolder) -> LabelledExamples:
    """The bundled test data on which the accuracy of int8 may be reported: without what it was fitted to.

    Raises:
        ModelFolderError: if the model carries none.
    """
    if kept_path(folder).is_file():
        inputs, labels = folder.test_data()
        return without_fitted(folder, LabelledExamples(folder.config.inputs[0].packed(inputs), labels))
    return fitting_examples(folder).checked


def without_fitted(folder: ModelFolder, examples: LabelledExamples) -> LabelledExamples:
    """Examples without those that int8 is fitted to, wherever they come from.

    Raises:
        ModelFolderError: if none are left, or as `fitting_examples`.
    """
    fitted = {row.tobytes() for row in fitting_examples(folder).fitted}
    others = np.array([row.tobytes() not in fitted for row in examples.inputs], bool)
    if not others.any():
        raise ModelFolderError(f"{folder.path}: int8 is fitted to all of these examples: measure on others")
    return LabelledExamples(examples.inputs[others], examples.labels[others])
