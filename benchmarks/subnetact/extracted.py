"""Extracted subnets, compiled by the same compiler as those inside the supernet: what one copy of the weights costs."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from subnetact.families import request
from subnetact.static import Arrays, Run
from superserve.model_folder import ModelFolder
from superserve.supernet.aot import EXAMPLE_ROWS, compile_module
from superserve.supernet.compiled import CompiledModule, module_tensors
from superserve.supernet.engine import as_tensor
from superserve.supernet.hub import load_supernet
from superserve.supernet.runtimes.export import StaticSubnet, static_subnet


def build(folder: ModelFolder, scratch: Path) -> None:
    """Compile each subnet of a folder on its own, into ``scratch``, a process each."""
    with ProcessPoolExecutor(mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for built in [pool.submit(_build, folder.path, index, scratch) for index in range(len(folder.front.subnets))]:
            built.result()


def load(folder: ModelFolder, index: int, subnet: StaticSubnet, scratch: Path) -> Run:
    """The compiled code of an extracted subnet, on that subnet's own tensors."""
    library, added = _files(folder, index, scratch)
    code = CompiledModule(library, module_tensors(subnet), load_file(added))
    datatypes = [tensor.datatype for tensor in folder.config.inputs]

    @torch.inference_mode()
    def run(arrays: Arrays) -> object:
        return code.run([as_tensor(*item) for item in zip(arrays, datatypes, strict=True)])[0].numpy()

    return run


def _build(path: Path, index: int, scratch: Path) -> None:
    folder = ModelFolder(path)
    library, added = _files(folder, index, scratch)
    if library.exists():
        return
    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch / "inductor")
    example = request(folder.config, EXAMPLE_ROWS)
    tensors = [as_tensor(array, spec.datatype) for array, spec in zip(example, folder.config.inputs, strict=True)]
    stage = library.with_name(f"stage-{library.name}")
    code = compile_module(static_subnet(load_supernet(folder), index), tensors, stage)
    save_file(dict(code.added), added)
    stage.rename(library)


def _files(folder: ModelFolder, index: int, scratch: Path) -> tuple[Path, Path]:
    stem = f"{folder.config.name}-{folder.model_hash[:8]}-extracted-{index}"
    return scratch / f"{stem}.so", scratch / f"{stem}.safetensors"
