"""The packed engine, and compiled code that it may be on top of, beside the static runtimes at equal precision."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch

from subnetact import supernets
from subnetact.families import Case, folder_of, request
from subnetact.latency import sessions
from subnetact.progress import Progress
from subnetact.static import NOT_INSTALLED, RUNTIMES, Arrays, Run, export_onnx, installed, static_subnet
from subnetact.subset import with_subnets
from subnetact.supernets import SHORT, dtypes
from subnetact.timing import interleaved, one_thread_on_one_core
from superserve.engine import Engine
from superserve.model_folder import ModelFolder
from superserve.supernet.compiled import CompiledEngine
from superserve.supernet.engine import EagerEngine, as_tensor
from superserve.supernet.hub import load_supernet
from superserve.supernet.packed.build import build_packed
from superserve.supernet.packed.module import PackedModule, SharedParts
from superserve.supernet.reduced import load_supernet_in

BATCHES: Final = (1, 8)
_SUBNETS: Final = 3


def measure(one: Case, scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """Rows of (subnet, batch, alternative), and what packing the subnets took."""
    folder = _measured(one, scratch, quick=quick)
    packed = {dtype: list(_pack(folder, dtype, scratch, progress)) for dtype in dtypes()}
    supernets.build(folder, progress)
    one_thread_on_one_core()
    supernet, eager = load_supernet(folder), EagerEngine.load(folder)
    compiled = {dtype: CompiledEngine.load(folder, dtype) for dtype in dtypes()}
    shared = {dtype: SharedParts.of(folder, load_supernet_in(folder, dtype)) for dtype in dtypes()}
    names = [tensor.name for tensor in folder.config.inputs]
    rows = []
    for index, record in enumerate(folder.front.subnets):
        path = export_onnx(static_subnet(supernet, index), names, request(folder.config, 2), scratch / "packed.onnx")
        runs: dict[str, Run] = {"eager fp32": _on(eager, index)}
        for dtype in dtypes():
            runs[f"compiled {SHORT[dtype]}"] = _on(compiled[dtype], index)
            module = PackedModule.load(_path(folder, index, dtype, scratch), shared[dtype])
            runs[f"packed {SHORT[dtype]}"] = _runner(module, folder)
        runs |= dict(sessions(path))
        path.unlink()
        for batch in BATCHES:
            progress.step(f"packed, {one.name}, subnet {record.id}, batch {batch}")
            inputs = request(folder.config, batch)
            timed = interleaved({name: _fed(run, inputs) for name, run in runs.items()}, 1.0 if quick else 6.0)
            rows += [
                {"subnet": record.id, "batch": batch, "alternative": name, **spread.json()}
                for name, spread in timed.items()
            ]
    missing = {name: NOT_INSTALLED for name in RUNTIMES if not installed(name)}
    return {"rows": rows, "missing": missing, "packing": {SHORT[dtype]: found for dtype, found in packed.items()}}


def _measured(one: Case, scratch: Path, *, quick: bool) -> ModelFolder:
    whole = folder_of(one, scratch)
    last = len(whole.front.subnets) - 1
    indices = [0] if quick else sorted({round(last * number / (_SUBNETS - 1)) for number in range(_SUBNETS)})
    return with_subnets(whole, indices, scratch / f"{one.name}-packed-{len(indices)}")


def _pack(folder: ModelFolder, dtype: str, scratch: Path, progress: Progress) -> Iterator[dict[str, float]]:
    """Pack each subnet, one after the other, in a process of its own as a server does."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for number in range(len(folder.front.subnets)):
            progress.say(f"{folder.config.name} in {SHORT[dtype]}: packing {number}")
            path = _path(folder, number, dtype, scratch)
            yield pool.submit(_pack_one, folder.path, number, dtype, path).result()


def _pack_one(folder: Path, subnet: int, dtype: str, path: Path) -> dict[str, float]:
    torch.set_num_threads(1)
    began_s = time.perf_counter()
    nbytes = build_packed(ModelFolder(folder), subnet, dtype, path).nbytes
    return {"seconds": round(time.perf_counter() - began_s, 1), "mb": round(nbytes / 1e6, 2)}


def _path(folder: ModelFolder, subnet: int, dtype: str, scratch: Path) -> Path:
    return scratch / f"{folder.config.name}-{folder.model_hash[:8]}-packed-{subnet}-{dtype}"


def _runner(module: PackedModule, folder: ModelFolder) -> Run:
    datatypes = [tensor.datatype for tensor in folder.config.inputs]

    def run(arrays: Arrays) -> object:
        return module.run([as_tensor(*item) for item in zip(arrays, datatypes, strict=True)])[0].numpy()

    return run


def _on(engine: Engine, subnet: int) -> Run:
    return lambda arrays: engine.run(subnet, arrays)[0]


def _fed(run: Run, inputs: Arrays) -> Callable[[], Any]:
    return lambda: run(inputs)
