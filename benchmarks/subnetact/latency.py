"""Latency of a subnet inside the supernet, extracted, and in static runtimes; side by side, per subnet and batch."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from subnetact import extracted, supernets
from subnetact.families import Case, folder_of, request
from subnetact.progress import Progress
from subnetact.static import Run, export, missing, sessions
from subnetact.subset import with_subnets
from subnetact.timing import Spread, interleaved, one_thread_on_one_core
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.runtimes.export import static_subnet
from superserve.supernet.runtimes.installed import installed

BATCHES: Final = (1, 16)

#: A wrong export would be quick too: logits of float32 alternatives may differ by this much of their deviation.
_TOLERANCE: Final = 1e-2


def measure(one: Case, scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """Rows of (subnet, batch, alternative)."""
    folder, budget_s = _measured(one, scratch, quick=quick)
    progress.step(f"latency, {one.name}: compiling")
    compile_s = supernets.build(folder, progress)
    extracted.build(folder, scratch)
    one_thread_on_one_core()
    supernet = load_supernet(folder)
    actuated = supernets.engines(folder)
    rows = []
    for index in range(len(folder.front.subnets)):
        static = _statics(folder, supernet, index, scratch)
        for batch in BATCHES:
            progress.step(f"latency, {one.name}, subnet {supernet.front.subnets[index].id}, batch {batch}")
            inputs = request(supernet.config, batch)
            runs = {name: _bound(engine.run, index, inputs) for name, engine in actuated.items()}
            runs |= {name: _fed(run, inputs) for name, run in static.items()}
            _check_agreement(runs)
            for name, spread in interleaved(runs, budget_s).items():
                rows.append(_row(supernet, index, batch, name, spread))
    return {"rows": rows, "missing": missing(), "compile_s": compile_s, "compiled_subnets": len(folder.front.subnets)}


def _measured(one: Case, scratch: Path, *, quick: bool) -> tuple[ModelFolder, float]:
    """A folder of the subnets that are measured (all of quick ones), and the seconds for each cell."""
    whole = folder_of(one, scratch)
    last = len(whole.front.subnets) - 1
    count = 6 if one.scale == "32x32" else 3
    indices = [0] if quick else sorted({round(last * number / (count - 1)) for number in range(count)})
    budget_s = 1.0 if quick else 3.0 if one.scale == "32x32" else 6.0
    return with_subnets(whole, indices, scratch / f"{one.name}-measured-{len(indices)}"), budget_s


def _statics(folder: ModelFolder, supernet: Supernet, index: int, scratch: Path) -> dict[str, Run]:
    """The subnet on its own, by name."""
    plain = static_subnet(supernet, index)
    found: dict[str, Run] = {"extracted eager fp32": plain.run}
    found["extracted eager bf16"] = static_subnet(supernet, index, torch.bfloat16).run
    found["extracted compiled fp32"] = extracted.load(folder, index, plain, scratch)
    if installed("float32"):
        export(plain, supernet.config, scratch / "latency")
        found |= dict(sessions(scratch / "latency"))
    return found


def _bound(run: Any, index: int, inputs: Any) -> Any:  # noqa: ANN401 (an engine's method)
    return lambda: run(index, inputs)[0]


def _fed(run: Run, inputs: Any) -> Any:  # noqa: ANN401
    return lambda: run(inputs)


def _check_agreement(runs: dict[str, Any]) -> None:
    """Raise if a float32 alternative computes something else."""
    expected = None
    for name, run in runs.items():
        if "fp32" in name:
            logits = np.asarray(run())
            expected = logits if expected is None else expected
            error = float(np.abs(logits - expected).max() / expected.std())
            if error > _TOLERANCE:
                raise AssertionError(f"{name} differs by {error:.3g} standard deviations of the logits")


def _row(supernet: Supernet, index: int, batch: int, name: str, spread: Spread) -> dict[str, Any]:
    record = supernet.front.subnets[index]
    return {"subnet": record.id, "macs": record.macs, "batch": batch, "alternative": name, **spread.json()}
