"""Which labelled examples a command measures on, and which ones 8-bit integers are fitted to."""

from pathlib import Path
from typing import TYPE_CHECKING

from superserve.engine import INT8
from superserve.errors import UsageError

if TYPE_CHECKING:
    from superserve.model_folder import ModelFolder
    from superserve.supernet.points import LabelledExamples


def measured_on(folder: "ModelFolder", data: Path | None, dtype: str) -> "LabelledExamples":
    """What to report the accuracy of a model on, which computes in a dtype."""
    from superserve.model_folder import load_examples
    from superserve.supernet.packed.examples import reported, without_fitted
    from superserve.supernet.points import LabelledExamples
    from superserve.training.recipes import examples_of

    if _is_bundled(folder, data):
        if dtype == INT8:
            return reported(folder)
        inputs, labels = folder.test_data()
    elif data is not None and data.is_dir():
        inputs, labels = examples_of(folder.config.name, data)
    else:
        assert data is not None
        inputs, labels = load_examples(data)
    examples = LabelledExamples(folder.config.inputs[0].packed(inputs), labels)
    return without_fitted(folder, examples) if dtype == INT8 else examples


def keep_for_int8(folder: "ModelFolder", data: Path, dtype: str) -> None:
    """Keep examples to fit 8-bit integers to: a file's, or those of a data folder that the model's front was chosen by.

    Raises:
        UsageError: if another dtype was asked for.
        ConfigError: if no recipe of the model's name knows such examples.
    """
    from superserve.model_folder import load_examples
    from superserve.supernet.packed.examples import keep_examples
    from superserve.training.recipes import recipe

    if dtype != INT8:
        raise UsageError(f"--data: nothing of {dtype} is fitted to examples: leave it out, or add --dtype int8")
    if data.is_dir():
        chosen_by = recipe(folder.config.name).parts(data, 0).validate
        keep_examples(folder, chosen_by.inputs, chosen_by.labels)
    else:
        keep_examples(folder, *load_examples(data))


def fitted_to(folder: "ModelFolder") -> str:
    """In words, what int8 was fitted to and checked on."""
    from superserve.supernet.packed.examples import fitting_examples
    from superserve.supernet.packed.fitting_source import kept_path

    found = fitting_examples(folder)
    kept = kept_path(folder)
    whose = f"those kept in {kept}" if kept.is_file() else "the model's test data, of which `evaluate` leaves them out"
    return f"fitted to {len(found.fitted)} examples and checked on {len(found.checked.labels)} others: {whose}"


def keep_if_there_are_none(folder: "ModelFolder", data: Path | None, dtype: str) -> None:
    """`keep_for_int8`, where an evaluation in int8 is given a data folder and nothing is known to fit it to."""
    from superserve.supernet.packed.fitting_source import kept_path

    if dtype != INT8 or data is None or not data.is_dir() or _is_bundled(folder, data):
        return
    if not kept_path(folder).is_file():
        keep_for_int8(folder, data, dtype)


def _is_bundled(folder: "ModelFolder", data: Path | None) -> bool:
    """Whether the model's own test data is what is measured on."""
    from superserve.training.recipes import has_examples

    return data is None or (data.is_dir() and folder.carries_test_data and not has_examples(folder.config.name))
