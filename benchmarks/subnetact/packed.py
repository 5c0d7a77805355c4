"""The packed engine beside static runtimes and with these in it; without them, on top of compiled code."""

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch

from subnetact import supernets
from subnetact.families import Case, folder_of, request
from subnetact.progress import Progress
from subnetact.static import Arrays, Run, export, missing, sessions
from subnetact.subset import with_subnets
from subnetact.supernets import SHORT, dtypes
from subnetact.timing import interleaved, one_thread_on_one_core
from superserve.engine import INT8, Engine
from superserve.model_folder import ModelFolder
from superserve.processor import has_int8
from superserve.serving.residency.pack_process import pack
from superserve.serving.residency.pack_task import PackTask
from superserve.supernet.compiled import CompiledEngine
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.packed.build import About, integer_graphs, write_packed
from superserve.supernet.packed.program import WEIGHTS_FILE
from superserve.supernet.packed.trace import graph_inputs
from superserve.supernet.packed_engine import Loader, Module, PackedEngine
from superserve.supernet.packed_store import pack_path
from superserve.supernet.runtimes.contest import PROGRAM
from superserve.supernet.runtimes.export import static_subnet
from superserve.supernet.runtimes.installed import installed

BATCHES: Final = (1, 8)
_SUBNETS: Final = 3
_FITTED_ROWS: Final = 16


def measure(one: Case, scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """Rows of (subnet, batch, alternative), and what packing the subnets took."""
    folder = _measured(one, scratch, quick=quick)
    packing = {SHORT[dtype]: list(_pack(folder, dtype, progress)) for dtype in dtypes()}
    if has_int8():
        for index in range(len(folder.front.subnets)):
            progress.say(f"{folder.config.name} in {INT8}: packing {index}")
            _pack_int8(folder, index, scratch)
    if not installed("float32"):
        supernets.build(folder, progress)
    one_thread_on_one_core()
    alternatives = _Alternatives(folder, scratch)
    rows = []
    for index, record in enumerate(folder.front.subnets):
        runs = alternatives.of(index)
        for batch in BATCHES:
            progress.step(f"packed, {one.name}, subnet {record.id}, batch {batch}")
            inputs = request(folder.config, batch)
            timed = interleaved({name: _fed(run, inputs) for name, run in runs.items()}, 1.0 if quick else 6.0)
            rows += [
                {"subnet": record.id, "batch": batch, "alternative": name, **spread.json()}
                for name, spread in timed.items()
            ]
    return {"rows": rows, "missing": missing(), "packing": packing}


class _Alternatives:
    """What runs the subnets of a folder, all of which are packed.

    Args:
        folder: the model.
        scratch: where subnets are exported to, and packed in int8.
    """

    def __init__(self, folder: ModelFolder, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch
        self._supernet = load_supernet(folder)
        self._eager = {dtype: EagerEngine.load(folder, dtype) for dtype in dtypes()}
        # Where a server has static runtimes it has no need of compiled code, which takes minutes to build.
        self._compiled = {dtype: CompiledEngine.load(folder, dtype) for dtype in dtypes() if not installed("float32")}
        self._packed = {dtype: PackedEngine.load(folder, engine) for dtype, engine in self._eager.items()}
        self._loaders = {dtype: Loader.of(folder, dtype) for dtype in (*dtypes(), INT8)}

    def of(self, index: int) -> dict[str, Run]:
        """By name: what runs a subnet; the packed engine as it serves it, and its program alone."""
        runs: dict[str, Run] = {"eager fp32": _on(self._eager["float32"], index)}
        for dtype in dtypes():
            short, path = SHORT[dtype], pack_path(self._folder, dtype, index)
            if dtype in self._compiled:
                runs[f"compiled {short}"] = _on(self._compiled[dtype], index)
            runs[f"packed {short}"] = _logits(self._loaders[dtype].module(PROGRAM, path))
            if installed(dtype):
                self._packed[dtype].reside([index])
                runs[f"packed + runtimes {short}"] = _on(self._packed[dtype], index)
        if has_int8():
            path = _int8_path(self._folder, index, self._scratch)
            runs[f"packed {INT8}"] = _logits(self._loaders[INT8].module(PROGRAM, path))
        if installed("float32"):
            exported = self._scratch / "packed"
            export(static_subnet(self._supernet, index), self._folder.config, exported)
            runs |= dict(sessions(exported))
        return runs


def _measured(one: Case, scratch: Path, *, quick: bool) -> ModelFolder:
    whole = folder_of(one, scratch)
    last = len(whole.front.subnets) - 1
    indices = [0] if quick else sorted({round(last * number / (_SUBNETS - 1)) for number in range(_SUBNETS)})
    return with_subnets(whole, indices, scratch / f"{one.name}-packed-{len(indices)}")


def _pack(folder: ModelFolder, dtype: str, progress: Progress) -> Iterator[dict[str, Any]]:
    """Pack each subnet, one after the other, in a process of its own as a server does."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for number in range(len(folder.front.subnets)):
            progress.say(f"{folder.config.name} in {SHORT[dtype]}: packing {number}")
            yield pool.submit(_pack_one, folder.path, number, dtype).result()


def _pack_one(path: Path, subnet: int, dtype: str) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder = ModelFolder(path)
    record = pack(
        PackTask(folder=str(path), bundled=False, engine=EagerEngine.name, dtype=dtype, subnet=subnet, background=False)
    )
    program_bytes = (pack_path(folder, dtype, subnet) / WEIGHTS_FILE).stat().st_size
    return {
        "seconds": record.seconds,
        "mb": round(program_bytes / 1e6, 2),
        "mapped_mb": round(record.nbytes / 1e6, 2),
        "each_mb": round(record.nbytes_each / 1e6, 2),
        "runs": {str(rows): record.module(rows) or record.behind for rows in record.batches},
    }


@torch.inference_mode()
def _pack_int8(folder: ModelFolder, subnet: int, scratch: Path) -> None:
    """Fitted to random rows, and not checked: of random weights, answers say nothing."""
    path = _int8_path(folder, subnet, scratch)
    shutil.rmtree(path, ignore_errors=True)
    batch = graph_inputs(folder, request(folder.config, _FITTED_ROWS))
    about = About(folder.model_hash, folder.front.subnets[subnet].id, INT8)
    write_packed(next(integer_graphs(folder, subnet, [batch])), about, path)


def _int8_path(folder: ModelFolder, subnet: int, scratch: Path) -> Path:
    return scratch / f"{folder.config.name}-{folder.model_hash[:8]}-int8-{subnet}"


def _logits(module: Module) -> Run:
    return lambda arrays: module.run(arrays)[0]


def _on(engine: Engine, subnet: int) -> Run:
    return lambda arrays: engine.run(subnet, arrays)[0]


def _fed(run: Run, inputs: Arrays) -> Callable[[], Any]:
    return lambda: run(inputs)
