"""What each engine takes for a batch: eager on the shared weights, compiled where a build is kept, and extracted.

CPU time of one thread, interleaved, preprocessing included. The extracted subnet is the same torch code on contiguous
weights of its own: what eager pays for sharing them.

Run: ``python benchmarks/engines.py [--model digits] [--rounds 15] [--json FILE]``; compile before with
``superserve compile MODEL`` (and ``--dtype bfloat16``).
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from side_by_side import table, write
from superserve.clock import NS_PER_US, process_cpu_ns
from superserve.engine import EngineChoice
from superserve.model_folder import ModelFolder
from superserve.processor import has_bfloat16
from superserve.serving.cores import available_cores, pinned
from superserve.serving.engines import load_engine
from superserve.supernet.builds import find_build
from superserve.supernet.engine import as_tensor, run_network
from superserve.supernet.extract import extract
from superserve.supernet.hub import load_supernet
from superserve.supernet.preprocess import parse_preprocessing

BATCHES = (1, 4, 16)
Run = Callable[[int, Sequence[np.ndarray[Any, Any]]], object]


def alternatives(folder: ModelFolder) -> dict[str, Run]:
    """What runs (subnet, inputs), by name; eager float32 first, to which the others are compared."""
    dtypes = ["float32", "bfloat16"] if has_bfloat16() else ["float32"]
    choices = [EngineChoice("cpu", "eager", dtype) for dtype in dtypes]
    choices += [EngineChoice("cpu", "compiled", dtype) for dtype in dtypes if find_build(folder, dtype) is not None]
    runs: dict[str, Run] = {f"{each.engine} {each.dtype}": load_engine(folder, each).run for each in choices}
    return {**runs, "extracted, eager float32": extracted(folder)}


def extracted(folder: ModelFolder) -> Run:
    """Every subnet as a plain module of its own."""
    supernet = load_supernet(folder)
    preprocess = parse_preprocessing(folder.config.preprocessing).build()
    plain = [
        extract(supernet.network, record.spec, supernet.statistics[record.id]) for record in supernet.front.subnets
    ]

    datatypes = [spec.datatype for spec in folder.config.inputs]

    def run(subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> object:
        tensors = [as_tensor(*item) for item in zip(inputs, datatypes, strict=True)]
        with torch.inference_mode():
            return run_network(plain[subnet], preprocess, tensors, torch.float32).numpy()

    return run


def main() -> None:
    """Time every subnet at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits", help="bundled model or folder")
    parser.add_argument("--rounds", type=int, default=15, help="samples of each cell")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = ModelFolder.resolve(args.model)
    runs, tables = alternatives(folder), []
    for subnet, record in enumerate(folder.front.subnets):
        for rows in BATCHES:
            inputs = folder.example_inputs(rows, np.random.default_rng(0))
            times: dict[str, list[float]] = {name: [] for name in runs}
            for number in range(args.rounds + 2):
                for name, run in runs.items():
                    began_ns = process_cpu_ns()
                    run(subnet, inputs)
                    if number >= 2:
                        times[name].append((process_cpu_ns() - began_ns) / NS_PER_US)
            tables.append(table(f"subnet {record.id}, batch {rows}", times))
    write(args.json, tables)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with pinned(available_cores()[-1]):
        main()
