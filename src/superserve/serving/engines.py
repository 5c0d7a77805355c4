"""The engines of real models, by the name that `WorkerSpec.engine` has for them.

Only processes that run a model import this module, since it brings torch along: the router names its functions, and
never calls them.
"""

from collections.abc import Sequence
from pathlib import Path

from superserve.engine import PACKED, Engine, EngineChoice
from superserve.model_folder import ModelFolder
from superserve.serving.devices import batch_grid
from superserve.serving.ipc import Setup
from superserve.serving.points_ahead import runs_of
from superserve.supernet.compiled import CompiledEngine
from superserve.supernet.engine import EagerEngine
from superserve.supernet.graphs import GraphEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.packed_engine import PackedEngine
from superserve.supernet.points import check_points


def create(setup: Setup) -> Engine:
    """The engine of a worker, on as many threads as its environment says: one.

    Raises:
        ConfigError: for a device that is not here.
        ModelFolderError: as `load_engine`, or if it loses accuracy against eager float32 (``supernet/points.py``).
    """
    options = setup.spec.options
    folder = ModelFolder(Path(str(options["folder"])), bundled=bool(options["bundled"]))
    choice = EngineChoice(*(str(options[name]) for name in EngineChoice._fields))
    engine = load_engine(folder, choice.behind)
    check_points(engine, lambda: eager_float32(folder), folder, device=runs_of(choice.behind).device)
    # Packed subnets were checked when they were packed.
    return PackedEngine.load(folder, engine, choice.dtype) if choice.engine == PACKED else engine


def load_engine(folder: ModelFolder, choice: EngineChoice, resident: Sequence[int] = ()) -> Engine:
    """What a choice names, loaded into this process, however many examples it gets right.

    Args:
        folder: the model.
        choice: by `choose_engine`.
        resident: packed subnets that run every batch packed, whether or not that is faster; of the packed engine.

    Raises:
        ConfigError: for a device that is not here.
        ModelFolderError: if the folder or the compiled code cannot be loaded, or outputs differ too much from eager
            float32's.
    """
    if choice.engine == PACKED:
        behind = load_engine(folder, choice.behind)
        engine = PackedEngine.load(folder, behind, choice.dtype, always=True)
        engine.reside(resident)
        return engine
    if choice.engine == CompiledEngine.name:
        return CompiledEngine.load(folder, choice.dtype)
    if choice.engine == GraphEngine.name:
        return GraphEngine.load(folder, batch_grid(folder.config.max_batch_size), choice.dtype)
    return EagerEngine.load(folder, choice.dtype, choice.device)


def eager_float32(folder: ModelFolder) -> Engine:
    """What all other engines and dtypes are held against.

    Raises:
        ModelFolderError: if the folder cannot be loaded.
    """
    return EagerEngine(load_supernet(folder))
