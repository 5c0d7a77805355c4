"""The process that compiles one subnet: ``python -m superserve.supernet.compile_process TASK`` (see ``compile.py``)."""

import statistics
import sys
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from safetensors.torch import save_file

from superserve.clock import NS_PER_S, NS_PER_US, monotonic_ns
from superserve.engine import Engine
from superserve.errors import SuperServeError
from superserve.model_folder import ModelFolder
from superserve.processes import end_with_parent
from superserve.supernet.accuracy import Rows, check_subnet
from superserve.supernet.aot import EXAMPLE_ROWS, compile_module
from superserve.supernet.bound import bound_subnets
from superserve.supernet.builds import file_names
from superserve.supernet.compile_task import Checked, Task
from superserve.supernet.compiled import CompiledEngine
from superserve.supernet.engine import EagerEngine, as_tensor
from superserve.supernet.hub import load_supernet
from superserve.supernet.points import check_points
from superserve.supernet.reduced import load_supernet_in

_SEED: Final = 0

#: Runs behind a median time.
_REPEATS: Final = 5


def main() -> None:
    """Do a task, and print its result as JSON in the last line."""
    end_with_parent()
    task = msgspec.json.decode(sys.argv[1], type=Task)
    try:
        result = check_build(task) if task.subnet is None else compile_subnet(task, task.subnet)
    except SuperServeError as error:
        sys.exit(str(error))
    sys.stdout.write(msgspec.json.encode(result).decode() + "\n")


def compile_subnet(task: Task, subnet: int) -> float:
    """Write ``N.so`` and ``N.safetensors`` (constants that the trace added) of a subnet into the task's folder.

    Returns:
        The seconds that this took.

    Raises:
        ModelFolderError: if the folder cannot be loaded.
    """
    began_ns = monotonic_ns()
    folder = _folder(task)
    inputs = _examples(folder)
    (bound,) = bound_subnets(load_supernet_in(folder, task.dtype), task.dtype, only=[subnet])
    whole = [as_tensor(array, spec.datatype) for array, spec in zip(inputs, folder.config.inputs, strict=True)]
    library, added = (Path(task.out) / name for name in file_names(subnet))
    code = compile_module(bound, [tensor[:EXAMPLE_ROWS] for tensor in whole], library)
    save_file(dict(code.added), added)
    taken_ns = monotonic_ns() - began_ns
    # With torch's own assertions on shapes and strides (`compile.py`): of code for one batch size only, none passes.
    for rows in {len(inputs[0]), EXAMPLE_ROWS - 1}:
        code.run([tensor[:rows] for tensor in whole])
    return taken_ns / NS_PER_S


def check_build(task: Task) -> list[Checked]:
    """Check every subnet of a finished build against eager float32, at every batch size that is profiled and at 3.

    So are its right answers on the test data that the folder carries, if it does.

    In a process without those assertions, as in serving: they refuse single rows, where torch takes other paths.

    Raises:
        ModelFolderError: if one is beyond the tolerance, or loses points of accuracy.
    """
    folder = _folder(task)
    most = folder.config.max_batch_size
    inputs = [array[:most] for array in _examples(folder)]
    batches = sorted({min(rows, len(inputs[0])) for rows in (*(1 << bit for bit in range(12)), 3, most)})
    engine = CompiledEngine.load(folder, task.dtype, Path(task.out))
    eager = EagerEngine(load_supernet(folder))
    checked = [
        Checked(check_subnet(engine, eager, subnet, inputs, batches), _full_batch_us(engine, subnet, inputs))
        for subnet in range(len(engine.subnet_ids))
    ]
    check_points(engine, lambda: eager, folder, again=True)
    return checked


def _full_batch_us(engine: Engine, subnet: int, inputs: Rows) -> float:
    times = []
    for _ in range(_REPEATS):
        began_ns = monotonic_ns()
        engine.run(subnet, inputs)
        times.append((monotonic_ns() - began_ns) / NS_PER_US)
    return round(statistics.median(times), 1)


def _examples(folder: ModelFolder) -> Rows:
    return folder.example_inputs(max(folder.config.max_batch_size, EXAMPLE_ROWS), np.random.default_rng(_SEED))


def _folder(task: Task) -> ModelFolder:
    return ModelFolder(Path(task.folder), bundled=task.bundled)


if __name__ == "__main__":
    main()
