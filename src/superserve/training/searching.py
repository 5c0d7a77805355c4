"""`superserve search`: from a trained model folder to one with a better front, and a report of what was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
import torch

from superserve.errors import ConfigError
from superserve.model_folder import ModelConfig, ModelFolder, write_json
from superserve.plots import figure_bytes, front_figure
from superserve.processor import cpu_name
from superserve.supernet.hub import load_supernet
from superserve.training.card import CARD_BATCHES, latencies_ms, read_making, write_card
from superserve.training.data import Parts
from superserve.training.front import Candidate, Cost, batch_latency_ms, pareto, spread
from superserve.training.journal import Conditions, Journal
from superserve.training.progress import Report
from superserve.training.properties import Property, check
from superserve.training.publish import Measurer, publish
from superserve.training.search import search
from superserve.training.space import count

#: Batch size that candidates are timed at.
_ROWS: Final = 16

FOLDER: Final = "search"
JOURNAL_FILE: Final = "journal.jsonl"
RESULT_FILE: Final = "result.json"
FIGURE_FILE: Final = "front.png"


class SearchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What `superserve search` was asked for."""

    out: Path
    """The model folder to write; what was measured goes into its folder ``search``."""
    budget: int = 300
    """Different subnets to measure at most."""
    subnets: int = 10
    """How many of the front to serve at most."""
    calibration: int = 2_000
    """Training images that statistics are computed from."""
    levers: bool = True
    """Whether to step along levers that pay; see `superserve.training.lever_steps`."""
    seed: int = 0
    """Of the search, and of the split: the one that the model was trained with."""


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a search came to."""

    model: str
    space: int
    """Different subnets in all."""
    measured: int
    conditions: Conditions
    front: tuple[Candidate, ...]
    """Of everything measured: cost in ms per batch of ``conditions.rows`` rows, accuracy in per cent."""
    served: tuple[Candidate, ...]
    """Those that the written folder serves."""
    properties: tuple[Property, ...]
    """Of the served subnets."""


def search_model(
    folder: ModelFolder,
    parts: Parts,
    options: SearchOptions,
    report: Report = lambda _progress: None,
    *,
    cost: Cost | None = None,
) -> SearchResult:
    """Search a model's space, and write a folder with the front found, tested once.

    Args:
        folder: the trained model.
        parts: its data, split as for training.
        options: how far.
        report: called after each subnet and each test batch.
        cost: what accuracy is traded for; None means the latency of batches of 16 on one thread here.

    Raises:
        ConfigError: if the journal in the folder to write was made under other conditions, the folder to write is the
            model's own, or optuna is needed and not installed.
        ModelFolderError: if the model folder does not fit.
    """
    if options.out.resolve() == folder.path.resolve():
        raise ConfigError(f"--out {options.out}: is the model searched; write another folder")
    supernet = load_supernet(folder)
    measurer = Measurer(
        supernet.network,
        supernet.config,
        parts.train.head(options.calibration),
        cost or batch_latency_ms(folder.config.inputs[0], rows=_ROWS),
        rows=100,
    )
    journal = Journal(options.out / FOLDER / JOURNAL_FILE, _conditions(folder, parts, options))
    found = search(
        supernet.network.space,
        lambda spec: measurer.candidate(spec, parts.validate),
        journal,
        budget=options.budget,
        seed=options.seed,
        levers=options.levers,
        report=report,
    )
    front = pareto(found)
    served = spread(front, options.subnets)
    written = publish(measurer, served, parts, options.out, report)
    latencies = latencies_ms(written)
    making = read_making(folder)
    if making is not None:
        searched = _sentence(len(found), count(supernet.network.space), options)
        write_card(written, msgspec.structs.replace(making, search=searched, sections=()), latencies)
    result = SearchResult(
        model=folder.config.name,
        space=count(supernet.network.space),
        measured=len(found),
        conditions=_conditions(folder, parts, options),
        front=tuple(front),
        served=tuple(served),
        properties=check(CARD_BATCHES, latencies),
    )
    write_json(options.out / FOLDER / RESULT_FILE, result)
    _plot(options.out / FOLDER / FIGURE_FILE, folder.config, found, result)
    return result


def _conditions(folder: ModelFolder, parts: Parts, options: SearchOptions) -> Conditions:
    return Conditions(
        weights_sha256=folder.weights_hash,
        calibration_images=min(options.calibration, len(parts.train)),
        validation_images=len(parts.validate),
        seed=options.seed,
        rows=_ROWS,
        machine=cpu_name(),
        torch=str(torch.__version__),
    )


def _sentence(measured: int, space: int, options: SearchOptions) -> str:
    steps = " and steps along levers that pay" if options.levers else ""
    chosen = f"{measured:,} of them, chosen by NSGA-II{steps} (seed {options.seed})"
    how = "all of them" if measured == space else chosen
    return f"The space has {space:,} different subnets; the front is that of {how}, each calibrated and measured."


def _plot(path: Path, config: ModelConfig, found: Sequence[Candidate], result: SearchResult) -> None:
    figure = front_figure(
        [(one.cost, one.accuracy) for one in found],
        [(one.cost, one.accuracy) for one in result.front],
        [(one.cost, one.accuracy) for one in result.served],
        title=f"{config.name}: {result.measured:,} of {result.space:,} subnets",
        cost=f"ms per batch of {result.conditions.rows}, one thread",
    )
    path.write_bytes(figure_bytes(figure, "png"))
