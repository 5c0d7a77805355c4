"""A process that holds a model in one way or another: ``python -m subnetact.memory_child MODE FOLDER ZOO``.

It prints ``loaded`` once every weight is in memory; after a line on its standard input it runs every operating point
once and prints ``ran``; and it lives until its standard input is closed.
"""

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from subnetact.families import request
from subnetact.static import empty_subnet, load_private
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.runtimes.export import StaticSubnet

Arrays = list[Any]


def nothing(_folder: ModelFolder, _zoo: Path) -> Callable[[Arrays], object]:
    """No model: what Python, torch and one convolution take."""
    layer = torch.nn.Conv2d(3, 8, 3)
    layer(torch.zeros(1, 3, 8, 8))
    return lambda _inputs: None


def supernet(folder: ModelFolder, _zoo: Path) -> Callable[[Arrays], object]:
    """Every subnet of the front from the one mapped copy."""
    supernet = load_supernet(folder)
    for tensor in supernet.network.state_dict().values():
        tensor.amax()  # reads the pages in, as running all subnets would
    engine = EagerEngine(supernet)
    return lambda inputs: [engine.run(index, inputs) for index in range(len(engine.subnet_ids))]


def zoo(folder: ModelFolder, zoo: Path) -> Callable[[Arrays], object]:
    """Each subnet extracted, all of them in memory of this process."""
    models = [_extracted(folder, zoo, index) for index in range(len(folder.front.subnets))]
    return lambda inputs: [model.run(inputs) for model in models]


def reloading(folder: ModelFolder, zoo: Path) -> Callable[[Arrays], object]:
    """One subnet in memory at a time: the largest stays."""
    model = _extracted(folder, zoo, len(folder.front.subnets) - 1)
    return model.run


def _extracted(folder: ModelFolder, zoo: Path, index: int) -> StaticSubnet:
    """A subnet from the file of its own weights, into private memory."""
    model = empty_subnet(folder, index)
    load_private(model, zoo / f"{index}.safetensors")
    return model


MODES: Final = {mode.__name__: mode for mode in (nothing, supernet, zoo, reloading)}


def main() -> None:
    """Load, wait, run, wait."""
    torch.set_num_threads(1)
    folder = ModelFolder(Path(sys.argv[2]))
    with torch.inference_mode():
        run = MODES[sys.argv[1]](folder, Path(sys.argv[3]))
        gc.collect()
        print("loaded", flush=True)
        sys.stdin.readline()
        run(request(folder.config, 1))
        gc.collect()
        print("ran", flush=True)
    sys.stdin.read()
    # Not before: it holds the models, and what is measured is a process that has them.
    del run


if __name__ == "__main__":
    main()
