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
from superserve.supernet.compiled import CompiledEngine
from superserve.supernet.engine import EagerEngine
from superserve.supernet.graphs import GraphEngine
from superserve.supernet.packed_engine import PackedEngine


def create(setup: Setup) -> Engine:
    """The engine of a worker, on as many threads as its environment says: one.

    Raises:
        ConfigError: for a device that is not here.
        ModelFolderError: as `load_engine`.
    """
    options = setup.spec.options
    folder = ModelFolder(Path(str(options["folder"])), bundled=bool(options["bundled"]))
    return load_engine(folder, EngineChoice(*(str(options[name]) for name in EngineChoice._fields)))


def load_engine(folder: ModelFolder, choice: EngineChoice, resident: Sequence[int] = ()) -> Engine:
    """What a choice names, loaded into this process; with packed subnets resident, if it is the packed engine.

    Raises:
        ConfigError: for a device that is not here.
        ModelFolderError: if the folder or the compiled code cannot be loaded, or the engine is not accurate enough.
    """
    if choice.engine == PACKED:
        engine = PackedEngine.load(folder, load_engine(folder, choice.behind))
        engine.reside(resident)
        return engine
    if choice.engine == CompiledEngine.name:
        return CompiledEngine.load(folder, choice.dtype)
    if choice.engine == GraphEngine.name:
        return GraphEngine.load(folder, batch_grid(folder.config.max_batch_size), choice.dtype)
    return EagerEngine.load(folder, choice.dtype, choice.device)
