"""The card of a trained model: ``README.md`` of its folder."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
import torch

from superserve.errors import ModelFolderError
from superserve.intervals import wilson95
from superserve.model_folder import BYTES, NORMS_FILE, WEIGHTS_FILE, ModelConfig, ModelFolder, SubnetRecord, write_json
from superserve.processor import cpu_name
from superserve.supernet.engine import EagerEngine
from superserve.training.front import batch_latency_ms
from superserve.training.progress import duration
from superserve.training.trainer import Plan
from superserve.training.watch import EpochRecord

CARD_FILE: Final = "README.md"
MAKING_FILE: Final = "making.json"
CARD_BATCHES: Final = (1, 2, 4, 8, 16)


class Making(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a model was made, as ``making.json`` keeps it: what its other files do not say."""

    command: str
    """One line, or several if the run was resumed to have more epochs."""
    plan: Plan
    history: tuple[EpochRecord, ...]
    licence: str
    """Of the weights, as model hubs name it."""
    data: str
    """Data and split, in words."""
    limits: tuple[str, ...]
    """What a user should know before relying on it; one sentence or more each."""
    machine: str
    """Where it was trained."""
    search: str
    """How the front was found, in words."""
    sections: tuple[str, ...] = ()
    """What else was measured of the front, each with its heading, in Markdown."""


def commands(name: str, plan: Plan, history: Sequence[EpochRecord], options: str = "") -> str:
    """What was typed to train a model: a line for each number of epochs that the run was to have."""
    stages = list(dict.fromkeys(record.planned or plan.epochs for record in history))
    lines = [f"superserve train {name} --data DIR --out DIR{options} --epochs {n} --seed {plan.seed}" for n in stages]
    return "\n".join([lines[0], *(f"{line} --resume" for line in lines[1:])])


def machine() -> str:
    """This machine as a card names it."""
    return f"{len(os.sched_getaffinity(0))} cores of {cpu_name()}"


def write_card(folder: ModelFolder, making: Making, latencies: Sequence[Sequence[float]]) -> Path:
    """Write the card of a model folder, and `Making` beside it for later cards; returns the card.

    Args:
        folder: the model.
        making: how it was made.
        latencies: those of `latencies_ms`, measured here.
    """
    write_json(folder.path / MAKING_FILE, making)
    path = folder.path / CARD_FILE
    path.write_text("\n".join(_card(folder, making, latencies)) + "\n")
    return path


def read_making(folder: ModelFolder) -> Making | None:
    """How a model was made, if its folder says.

    Raises:
        ModelFolderError: if the file that says so cannot be read.
    """
    path = folder.path / MAKING_FILE
    if not path.is_file():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Making)
    except msgspec.MsgspecError as error:
        raise ModelFolderError(f"{path}: {error}") from None


def latencies_ms(folder: ModelFolder) -> list[list[float]]:
    """For each subnet the latency of a batch of each of `CARD_BATCHES` rows here, in ms."""
    engine = EagerEngine.load(folder)
    costs = [batch_latency_ms(folder.config.inputs[0], rows=rows) for rows in CARD_BATCHES]
    return [[cost(engine, subnet) for cost in costs] for subnet in range(len(engine.subnet_ids))]


def _card(folder: ModelFolder, making: Making, latencies: Sequence[Sequence[float]]) -> Iterator[str]:
    config, front = folder.config, folder.front
    yield from ("---", f"license: {making.licence}", "library_name: superserve")
    yield from (f"pipeline_tag: {config.task}", f"tags: [supernet, {config.family}]", "---", "")
    yield from (f"# {config.name}", "")
    yield f"A weight-shared supernet for {config.task} ({config.dataset}): {len(front.subnets)} subnets of one copy of"
    yield from ("the weights, from which a server picks for every batch.", "")
    yield from ("## Data", "", making.data, "")
    yield from ("## Training", "", *_training(making), "")
    yield from ("## Accuracy", "")
    yield f"Top-1 in per cent with 95 % Wilson intervals. Validation: {front.measured_on}; the front was chosen by it."
    yield from (f"Test: {front.tested_on}. {making.search}", "", *_accuracies(front.subnets), "")
    yield from ("## Latency", "")
    yield f"Processor time of one batch in ms, eager engine in float32, one thread of {cpu_name()}, torch "
    yield from (f"{torch.__version__}: the least of seven runs{_longest(config)}.", "")
    yield from (*_latency_table(front.subnets, latencies), "")
    yield from (line for section in making.sections for line in (section, ""))
    yield from ("## Size", "", _sizes(folder), "")
    yield from ("## Limits", "", *(f"- {limit}" for limit in making.limits))


def _training(making: Making) -> Iterator[str]:
    yield from ("```", making.command, "```", "")
    plan, history = making.plan, making.history
    wall, cpu = sum(record.wall_s for record in history), sum(record.cpu_s for record in history)
    yield f"{len(history)} epochs on {making.machine}:"
    yield f"{duration(wall)}, {duration(cpu)} of processor time. Sandwich rule with in-place distillation;"
    of = "" if "\n" not in making.command else ", and of the number of epochs before,"
    yield f"moving average of the weights. The plan, of which{of} the weights are a function:"
    yield from ("", "```json", msgspec.json.format(msgspec.json.encode(plan), indent=2).decode(), "```")


def _accuracies(subnets: Sequence[SubnetRecord]) -> Iterator[str]:
    yield from ("| subnet | MMAC | depths | widths | validation | test |", "|---|--:|---|---|--:|--:|")
    for record in subnets:
        depths = "-".join(str(len(keep)) for keep in record.spec.keep)
        widths = ", ".join(f"{ratio:g}" for ratio in sorted({ratio for _, ratio in record.spec.widths}))
        tested = "-" if record.test_accuracy is None else _interval(record.test_accuracy, record.test_n)
        validated = _interval(record.accuracy, record.accuracy_n)
        yield f"| {record.id} | {record.macs / 1e6:.1f} | {depths} | {widths} | {validated} | {tested} |"


def _interval(accuracy: float, n: int) -> str:
    low, high = wilson95(round(accuracy * n / 100), n)
    return f"{accuracy:.2f} ({low:.1f}-{high:.1f})"


def _latency_table(subnets: Sequence[SubnetRecord], latencies: Sequence[Sequence[float]]) -> Iterator[str]:
    yield "| subnet | " + " | ".join(f"batch {rows}" for rows in CARD_BATCHES) + " |"
    yield "|---" + "|--:" * len(CARD_BATCHES) + "|"
    for record, row in zip(subnets, latencies, strict=True):
        yield f"| {record.id} | " + " | ".join(f"{ms:.2f}" for ms in row) + " |"


def _longest(config: ModelConfig) -> str:
    return " on the longest texts" if config.inputs[0].datatype == BYTES else ""


def _sizes(folder: ModelFolder) -> str:
    weights, norms = ((folder.path / name).stat().st_size for name in (WEIGHTS_FILE, NORMS_FILE))
    count = len(folder.front.subnets)
    return f"Weights {weights:,} bytes, one copy; statistics {norms:,} bytes, {norms // count:,} per subnet."
