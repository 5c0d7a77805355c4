"""The engines of real models, by the names that `WorkerSpec.engine` has for them.

Only worker processes import this module, since it brings torch along: the router names its functions, and never calls
them.
"""

from pathlib import Path

from superserve.engine import Engine
from superserve.model_folder import ModelFolder
from superserve.serving.ipc import Setup
from superserve.supernet.engine import EagerEngine


def eager(setup: Setup) -> Engine:
    """The supernet of a model folder in plain torch, on as many threads as the worker's environment says: one.

    Raises:
        ModelFolderError: if the folder cannot be loaded.
    """
    options = setup.spec.options
    return EagerEngine.load(ModelFolder(Path(str(options["folder"])), bundled=bool(options["bundled"])))
