"""500 subnets of OFA-ResNet50 from one copy: bytes, what half precision changes, what binding them takes.

Beside them: six extracted subnets, and the four ResNets that people deploy (18, 34, 50 and 101), whose parameters are
counted from their published shapes.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch

from subnetact.families import (
    calibration_images,
    case,
    config_of,
    folder_of,
    many_specs,
    random_network,
    request,
)
from subnetact.memory import write_zoo
from subnetact.progress import Progress
from subnetact.resnets import RESNETS, parameters
from subnetact.switching import actuation
from superserve.model_folder import FORMAT, Front, ModelFolder, SubnetRecord
from superserve.supernet.calibrate import calibrate
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet, save_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.norms_file import statistics_bytes

COUNT: Final = 500
_COMPARED: Final = 6
_IMAGES: Final = 32


def measure(scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """Bytes and differences."""
    count = 50 if quick else COUNT
    folder = many(scratch, count, progress)
    single = ModelFolder(scratch / f"many-{count}-single")
    progress.step(f"{count} subnets of OFA-ResNet50: bytes and binding")
    zoo = write_zoo(folder_of(case("ofa_resnet50"), scratch), scratch / "ofa_resnet50-zoo")
    supernet = load_supernet(folder)
    found: dict[str, Any] = {
        "subnets": count,
        "weights_mb": folder.weights_path.stat().st_size / 1e6,
        "statistics_mb": folder.norms_path.stat().st_size / 1e6,
        "statistics_single_mb": single.norms_path.stat().st_size / 1e6,
        "statistics_unshared_single_mb": _unshared_bytes(supernet) / 1e6,
        "statistics_in_memory_mb": statistics_bytes(supernet.statistics) / 1e6,
        "six_extracted_mb": sum(path.stat().st_size for path in zoo.iterdir()) / 1e6,
        "resnets_mb": sum(parameters(name) for name in RESNETS) * 4 / 1e6,
        "actuation": actuation(supernet).json(),
        "private": _private(folder),
    }
    progress.step(f"{count} subnets of OFA-ResNet50: half against single precision")
    found["half"] = compare(EagerEngine(load_supernet(single)), EagerEngine(supernet), supernet)
    progress.step("half against single precision: digits, real test images")
    found["digits"] = digits(scratch)
    return found


def many(scratch: Path, count: int, progress: Progress) -> ModelFolder:
    """A folder of so many random subnets, and one beside it with statistics in single precision."""
    path = scratch / f"many-{count}"
    if not path.exists():
        progress.say(f"calibrating {count} subnets")
        network = random_network(case("ofa_resnet50"))
        config = config_of("ofa_resnet50", network)
        images = calibration_images(config)
        records = tuple(
            SubnetRecord(id=f"s{number}", spec=spec, accuracy=number / 10, accuracy_n=1)
            for number, spec in enumerate(many_specs(network, count))
        )
        statistics = {record.id: calibrate(network, record.spec, images) for record in records}
        front = Front(format=FORMAT, measured_on="nothing: the weights are random", subnets=records)
        supernet = Supernet(config, front, network, statistics)
        save_supernet(supernet, scratch / f"many-{count}-single", half=False)
        save_supernet(supernet, path, half=True)
    return ModelFolder(path)


def _unshared_bytes(supernet: Supernet) -> int:
    """What float32 sets of every subnet on its own would take."""
    network = supernet.network
    return sum(8 * sum(network.geometry(record.spec).channels.values()) for record in supernet.front.subnets)


def _private(folder: ModelFolder) -> dict[str, float]:
    """Anonymous megabytes that loading and binding the front add to a process, measured in one of its own."""
    command = [sys.executable, "-m", "subnetact.hundreds", str(folder.path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    values: dict[str, float] = msgspec.json.decode(output)
    return values


def compare(single: EagerEngine, half: EagerEngine, supernet: Supernet) -> dict[str, float]:
    """What half precision changes on random images: logits, and which class comes first."""
    last = len(supernet.front.subnets) - 1
    indices = sorted({round(last * number / (_COMPARED - 1)) for number in range(_COMPARED)})
    differences, agreements = [], []
    for index in indices:
        inputs = request(supernet.config, _IMAGES)
        expected, logits = (engine.run(index, inputs)[0] for engine in (single, half))
        differences.append(float(np.abs(logits - expected).max() / expected.std()))
        agreements.append(float((logits.argmax(1) == expected.argmax(1)).mean()))
    return {
        "subnets": len(indices),
        "images": _IMAGES,
        "largest_difference": max(differences),
        "same_class": float(np.mean(agreements)),
    }


def digits(scratch: Path) -> dict[str, float]:
    """The bundled model with its statistics halved: accuracy of every subnet on the test images."""
    folder = ModelFolder.resolve("digits")
    inputs, labels = folder.test_data()
    halved = save_supernet(load_supernet(folder), scratch / "digits-half", half=True)
    losses = []
    single, half = EagerEngine.load(folder), EagerEngine.load(halved)
    for index in range(len(single.subnet_ids)):
        before, after = (
            float((engine.run(index, [inputs])[0].argmax(1) == labels).mean()) for engine in (single, half)
        )
        losses.append(100 * (before - after))
    return {
        "subnets": len(losses),
        "images": len(labels),
        "mean_points_lost": float(np.mean(losses)),
        "worst_points_lost": max(losses),
    }


def _anonymous_mb() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) / 1024 * 1.048576


def _measure_private(path: Path) -> None:
    """Runs in a process of its own; prints JSON."""
    torch.zeros(1).add_(1)
    folder = ModelFolder(path)
    assert folder.config
    before = _anonymous_mb()
    supernet = load_supernet(folder)
    loaded = _anonymous_mb()
    actuation(supernet, 1)
    bound = _anonymous_mb()
    print(msgspec.json.encode({"load_mb": loaded - before, "bind_mb": bound - loaded}).decode())


if __name__ == "__main__":
    _measure_private(Path(sys.argv[1]))
