"""From a public supernet checkpoint to a model folder."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from superserve.errors import CheckpointError, ConfigError
from superserve.evaluate import evaluate
from superserve.model_folder import FORMAT, Front, ModelConfig, ModelFolder, SubnetRecord
from superserve.supernet.actuator import Actuator
from superserve.supernet.calibrate import calibrate
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet, save_supernet
from superserve.supernet.importing.autoformer import AutoFormerImporter
from superserve.supernet.importing.checkpoint import Picker, open_checkpoint
from superserve.supernet.importing.choice import Chosen, Sizer, SubnetList, choose, listed, read_list
from superserve.supernet.importing.download import download
from superserve.supernet.importing.dynabert import DynaBertImporter
from superserve.supernet.importing.dynabert_roberta import DynaRobertaImporter
from superserve.supernet.importing.examples import Examples, batches, load_examples
from superserve.supernet.importing.family import Family, Serving
from superserve.supernet.importing.huggingface import read_settings, task_of
from superserve.supernet.importing.ofa_mobilenet import OfaMobileNetV3Importer
from superserve.supernet.importing.ofa_proxyless import OfaProxylessImporter
from superserve.supernet.importing.ofa_resnet50 import OfaResNet50Importer
from superserve.supernet.importing.report import ImportReport, SubnetRow
from superserve.supernet.network import ElasticNetwork, Supernet
from superserve.supernet.norms_file import statistics_bytes
from superserve.supernet.operators import Statistics
from superserve.supernet.preprocess import parse_preprocessing

FAMILIES: Final[Mapping[str, Family[Any, Any]]] = {
    family.name: family
    for family in (
        OfaResNet50Importer(),
        OfaMobileNetV3Importer(),
        OfaProxylessImporter(),
        DynaBertImporter(),
        DynaRobertaImporter(),
        AutoFormerImporter(),
    )
}

#: What OFA calibrates with: images, and how many of them per batch.
CALIBRATION_ROWS: Final = 2000
CALIBRATION_BATCH: Final = 200

#: With fewer rows than this a channel's statistics in the last, smallest feature maps are little more than noise.
MIN_CALIBRATION_ROWS: Final = 64

CHECKPOINT_FILES: Final = ("model.safetensors", "pytorch_model.bin")

Report = Callable[[str, int, int], None]
"""Called with a phase (``calibrate``, ``measure``), steps done and steps in all."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights come from: exactly one of these."""

    checkpoint: Path | None = None
    """A file that ``torch.save`` or safetensors wrote."""
    folder: Path | None = None
    """A folder with a checkpoint and its ``config.json``, as Hugging Face lays it out."""
    download: str | None = None
    """A published variant of the family, fetched from the network into the user's cache."""


def import_model(
    family: str,
    source: Source,
    out: Path,
    *,
    calibrate_with: Path | None = None,
    data: Path | None = None,
    subnets: int | Path = 6,
    serving: Serving | None = None,
    seed: int = 0,
    report: Report = lambda _phase, _done, _total: None,
) -> ImportReport:
    """Import a public checkpoint as a model folder.

    Subnets that another one beats in both accuracy and multiply-accumulates are left out of the folder.

    Args:
        family: one of `FAMILIES`.
        source: the weights.
        out: the folder to write; must not exist. Nothing is left there on failure.
        calibrate_with: training examples (see `load_examples`; labels are not needed) from which the statistics of
            each subnet are computed, of which `CALIBRATION_ROWS` are used. Needed exactly by families with batch
            normalisation: a checkpoint holds statistics of one subnet at most.
        data: labelled examples, not used for training: each subnet's accuracy is measured on them. None means that
            the list of subnets gives accuracies.
        subnets: how many to serve, or the file that lists them (`choice.SubnetList`).
        serving: how to serve it; None means its defaults, and the folder's name for a name.
        seed: of the draw of calibration examples.
        report: called as calibration and measuring go on.

    Raises:
        CheckpointError: for a checkpoint or data that cannot be used, naming the file and the cause.
        ConfigError: for arguments that contradict each other or the family.
    """
    importer = _family(family)
    if out.exists():
        raise ConfigError(f"{out} exists: import into a new folder")
    serving = serving or Serving(name=out.name)
    with _enough_memory():
        loaded = _load(importer, source, serving)
        wanted = subnets if isinstance(subnets, int) else read_list(subnets)
        _check_plan(loaded, calibrate_with, data, wanted)
        examples = _calibration(loaded.config, calibrate_with, seed)
        labelled = None if data is None else _labelled(data, loaded.config)
        chosen = _choose(importer, loaded, wanted)
        statistics = _calibrated(loaded, chosen, examples, report)
        records = _records(loaded, chosen, statistics, labelled, report)
        measured_on = wanted.measured_on if isinstance(wanted, SubnetList) else ""
        if data is not None:
            measured_on = f"{data.name}, {records[0].accuracy_n} examples"
        served = _undominated(records)
        front = Front(format=FORMAT, measured_on=measured_on, subnets=tuple(served))
        kept = {record.id: statistics[record.id] for record in served}
        supernet = Supernet(loaded.config, front, loaded.network, kept)
        _save(supernet, out)
    return _report(importer, loaded, load_supernet(ModelFolder(out)), records, examples)


@dataclass(frozen=True)
class _Loaded:
    """A checkpoint that was read, with nothing chosen yet."""

    path: Path
    config: ModelConfig
    network: ElasticNetwork
    sizer: Sizer
    renamed: int
    ignored: tuple[str, ...]


def _family(name: str) -> Family[Any, Any]:
    if name not in FAMILIES:
        raise ConfigError(f"family {name!r} cannot be imported; there are {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _load(importer: Family[Any, Any], source: Source, serving: Serving) -> _Loaded:
    path, settings = _locate(importer, source)
    checkpoint = open_checkpoint(path)
    picker = Picker(checkpoint.tensors, path, checkpoint.arguments | settings)
    architecture, network = importer.read(picker)
    with torch.device("meta"):
        sized = importer.network(architecture)
    config = importer.config(architecture, task_of(settings), serving)
    sizer = Sizer(sized, config.inputs, parse_preprocessing(config.preprocessing).build())
    return _Loaded(path, config, network, sizer, picker.renamed, picker.ignored)


def _locate(importer: Family[Any, Any], source: Source) -> tuple[Path, dict[str, Any]]:
    given = [value for value in (source.checkpoint, source.folder, source.download) if value is not None]
    if len(given) != 1:
        raise ConfigError("give exactly one of a checkpoint, a folder and a variant to download")
    if source.checkpoint is not None:
        return source.checkpoint, {}
    folder = source.folder if source.folder is not None else download(importer, str(source.download))
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    wanted = (*CHECKPOINT_FILES, *(name for files in importer.urls.values() for name in files if name != "config.json"))
    found = [folder / name for name in wanted if (folder / name).is_file()]
    if not found:
        raise CheckpointError(f"{folder}: holds none of {', '.join(dict.fromkeys(wanted))}")
    return found[0], read_settings(folder / "config.json")


def _check_plan(loaded: _Loaded, calibrate_with: Path | None, data: Path | None, wanted: int | SubnetList) -> None:
    """Refuse early what could only fail after minutes of work."""
    family, network = loaded.config.family, loaded.network
    normalised = bool(network.geometry(network.space.largest()).channels)
    if normalised and calibrate_with is None:
        raise ConfigError(
            f"{family} has batch normalisation, whose statistics the checkpoint holds for one subnet at most: give "
            "training examples to calibrate with"
        )
    if not normalised and calibrate_with is not None:
        raise ConfigError(f"{family} has no batch normalisation: there is nothing to calibrate")
    given = isinstance(wanted, SubnetList) and all(entry.accuracy is not None for entry in wanted.subnets)
    if data is None and not given:
        raise ConfigError(
            "the accuracy of each subnet is unknown: give labelled examples to measure it on, or a list of subnets "
            "with accuracies and what they were measured on"
        )


def _choose(importer: Family[Any, Any], loaded: _Loaded, wanted: int | SubnetList) -> list[Chosen]:
    if isinstance(wanted, int):
        return choose(loaded.network, wanted, loaded.sizer)
    return listed(importer, loaded.network, wanted.subnets, loaded.sizer)


def _calibration(config: ModelConfig, path: Path | None, seed: int) -> Examples | None:
    if path is None:
        return None
    examples = load_examples(path, config, limit=CALIBRATION_ROWS, seed=seed)
    if examples.rows < MIN_CALIBRATION_ROWS:
        raise CheckpointError(
            f"{path}: {examples.rows} examples are too few to calibrate with: give {MIN_CALIBRATION_ROWS} or more, "
            f"best {CALIBRATION_ROWS}"
        )
    return examples


def _labelled(path: Path, config: ModelConfig) -> Examples:
    examples = load_examples(path, config)
    if examples.labels is None:
        raise CheckpointError(f"{path}: has no labels: accuracy cannot be measured on it")
    return examples


def _calibrated(
    loaded: _Loaded, chosen: Sequence[Chosen], examples: Examples | None, report: Report
) -> dict[str, Statistics]:
    if examples is None:
        return {subnet.id: {} for subnet in chosen}
    prepare = parse_preprocessing(loaded.config.preprocessing).build()
    found: dict[str, Statistics] = {}
    steps = batches(examples.inputs, CALIBRATION_BATCH)
    total = len(chosen) * len(steps)

    def prepared() -> Iterator[tuple[Tensor, ...]]:
        for step, batch in enumerate(steps, start=1):
            arguments = prepare([torch.from_numpy(np.ascontiguousarray(array)) for array in batch])
            yield tuple(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x for x in arguments)
            report("calibrate", len(found) * len(steps) + step, total)

    for subnet in chosen:
        found[subnet.id] = calibrate(loaded.network, subnet.spec, prepared())
    return found


def _records(
    loaded: _Loaded,
    chosen: Sequence[Chosen],
    statistics: Mapping[str, Statistics],
    labelled: Examples | None,
    report: Report,
) -> list[SubnetRecord]:
    """The subnets with their accuracies, from the fewest multiply-accumulates to the most."""
    measured: dict[str, tuple[float, int]] = {}
    if labelled is not None:
        measured = _measured(loaded, chosen, statistics, labelled, report)
    records = []
    for subnet in sorted(chosen, key=lambda subnet: subnet.macs):
        accuracy, rows = measured.get(subnet.id, (subnet.accuracy, subnet.accuracy_n))
        assert accuracy is not None
        records.append(
            SubnetRecord(id=subnet.id, spec=subnet.spec, accuracy=accuracy, accuracy_n=rows, macs=subnet.macs)
        )
    return records


def _measured(
    loaded: _Loaded, chosen: Sequence[Chosen], statistics: Mapping[str, Statistics], examples: Examples, report: Report
) -> dict[str, tuple[float, int]]:
    assert examples.labels is not None
    unknown = tuple(
        SubnetRecord(id=subnet.id, spec=subnet.spec, accuracy=float(number), accuracy_n=0)
        for number, subnet in enumerate(chosen)
    )
    front = Front(format=FORMAT, measured_on="", subnets=unknown)
    engine = EagerEngine(Supernet(loaded.config, front, loaded.network, statistics))
    rows = evaluate(engine, examples.inputs, examples.labels, report=lambda done, total: report("measure", done, total))
    return {row.subnet: (round(row.accuracy, 2), row.n) for row in rows}


def _undominated(records: Sequence[SubnetRecord]) -> list[SubnetRecord]:
    """Those that no other one with at most as many multiply-accumulates reaches in accuracy."""
    front: list[SubnetRecord] = []
    for record in sorted(records, key=lambda record: (record.macs, -record.accuracy)):
        if not front or record.accuracy > front[-1].accuracy:
            front.append(record)
    return front


def _save(supernet: Supernet, out: Path) -> None:
    """Write beside, try the result, then rename: nobody sees half a folder."""
    scratch = out.with_name(f".{out.name}.{os.getpid()}")
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        EagerEngine.load(save_supernet(supernet, scratch))
        scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise CheckpointError("not enough memory for this checkpoint and a batch of its calibration") from None
    except RuntimeError as error:
        # torch's allocator on the CPU has no error class of its own.
        if "allocate memory" not in str(error):
            raise
        raise CheckpointError(f"not enough memory: {str(error).splitlines()[0]}") from None


def _report(
    importer: Family[Any, Any],
    loaded: _Loaded,
    supernet: Supernet,
    records: Sequence[SubnetRecord],
    examples: Examples | None,
) -> ImportReport:
    served = {record.id for record in supernet.front.subnets}
    state = loaded.network.state_dict()
    return ImportReport(
        family=importer.name,
        source=str(loaded.path),
        architecture=loaded.config.architecture,
        tensors=len(state),
        renamed=loaded.renamed,
        ignored=loaded.ignored,
        weight_bytes=sum(tensor.nbytes for tensor in state.values()),
        statistics_bytes=statistics_bytes(supernet.statistics),
        small_kernel_bytes=Actuator.of_front(supernet).small_kernel_bytes,
        calibration_rows=0 if examples is None else examples.rows,
        measured_on=supernet.front.measured_on,
        subnets=tuple(
            SubnetRow(
                id=record.id,
                macs=record.macs,
                accuracy=record.accuracy,
                accuracy_n=record.accuracy_n,
                served=record.id in served,
            )
            for record in records
        ),
    )
