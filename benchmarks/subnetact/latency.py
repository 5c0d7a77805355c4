"""Latency of a subnet inside the supernet, extracted, and in static runtimes; side by side, per subnet and batch."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from subnetact.families import Case, folder_of, request
from subnetact.progress import Progress
from subnetact.static import (
    NOT_INSTALLED,
    RUNTIMES,
    Run,
    export_onnx,
    installed,
    onnxruntime_session,
    openvino_session,
    static_subnet,
)
from subnetact.supernets import engines
from subnetact.timing import Spread, interleaved, one_thread_on_one_core
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet

BATCHES: Final = (1, 16)

#: A wrong export would be quick too: logits of float32 alternatives may differ by this much of their deviation.
_TOLERANCE: Final = 1e-2


def measure(one: Case, scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """Rows of (subnet, batch, alternative)."""
    one_thread_on_one_core()
    folder = folder_of(one, scratch)
    supernet = load_supernet(folder)
    actuated = engines(folder, progress)
    subnets, budget_s = _subnets(one, supernet, quick=quick)
    rows = []
    for index in subnets:
        static = _statics(supernet, index, scratch)
        for batch in BATCHES:
            progress.step(f"latency, {one.name}, subnet {supernet.front.subnets[index].id}, batch {batch}")
            inputs = request(supernet.config, batch)
            runs = {name: _bound(engine.run, index, inputs) for name, engine in actuated.items()}
            runs |= {name: _fed(run, inputs) for name, run in static.items()}
            _check_agreement(runs)
            for name, spread in interleaved(runs, budget_s).items():
                rows.append(_row(supernet, index, batch, name, spread))
    return {"rows": rows, "missing": {name: NOT_INSTALLED for name in RUNTIMES if not installed(name)}}


def _subnets(one: Case, supernet: Supernet, *, quick: bool) -> tuple[Sequence[int], float]:
    """Which subnets are measured (all of quick ones), and the seconds for each cell."""
    last = len(supernet.front.subnets) - 1
    if one.scale == "32x32":
        spread = sorted({round(last * number / 5) for number in range(6)})
        return ([0, last] if quick else spread), 1.0 if quick else 3.0
    return ([0] if quick else [0, last // 2, last]), 1.0 if quick else 6.0


def _statics(supernet: Supernet, index: int, scratch: Path) -> dict[str, Run]:
    """The subnet on its own, by name."""
    plain = static_subnet(supernet, index)
    found: dict[str, Run] = {"extracted eager fp32": plain.run}
    found["extracted eager bf16"] = static_subnet(supernet, index, torch.bfloat16).run
    if any(installed(runtime) for runtime in RUNTIMES):
        names = [tensor.name for tensor in supernet.config.inputs]
        path = export_onnx(plain, names, request(supernet.config, 2), scratch / "latency.onnx")
        found |= dict(_sessions(path))
        path.unlink()
    return found


def _sessions(path: Path) -> Iterator[tuple[str, Run]]:
    if installed("onnxruntime"):
        yield "onnxruntime fp32", onnxruntime_session(path)
    if installed("openvino"):
        yield "openvino fp32", openvino_session(path)
        yield "openvino bf16", openvino_session(path, "bf16")


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
