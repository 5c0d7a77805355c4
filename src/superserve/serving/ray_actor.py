"""A worker as a Ray actor: what runs in its process, on whichever node that is.

Everything comes in and goes out as bytes (``ray_messages.py``). A batch is copied into slots of this process's own and
run from there, exactly as ``worker.py`` runs those of the router's machine.
"""

import mmap
import os
import socket
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from superserve import __version__
from superserve.clock import monotonic_ns
from superserve.model_folder import ModelFolder
from superserve.serving import ray_models
from superserve.serving.ipc import Done, Failed, Launch, RouterSlots, Setup, SlotLayout, StartFailed, error_text
from superserve.serving.pool import Batch
from superserve.serving.ray_messages import LAUNCH, LOAD, Hello, Load, Loaded, Missing, encode, pack, split, unpack
from superserve.serving.ray_models import Files
from superserve.serving.worker import Model, ready, run_batch, start

#: The concurrency group of `RayWorker.live`: it never ends, and is in nobody's way.
LIVE_GROUP = "live"


@dataclass(frozen=True, slots=True)
class _Held:
    """A loaded model, and the slots of this process as who fills and reads them sees them."""

    model: Model
    slots: RouterSlots


class RayWorker:
    """Holds the models of one worker. Ray calls one method at a time, except for `live`."""

    def __init__(self) -> None:
        self._models: dict[int, _Held] = {}

    def hello(self) -> bytes:
        """Which version this is, and where: a `Hello`."""
        import ray  # noqa: PLC0415  (an extra: only there where this runs)

        node = str(ray.get_runtime_context().get_node_id())
        return encode(Hello(__version__, node, socket.gethostname(), os.getpid()))

    def live(self) -> None:
        """Never ends: when the call fails, this process or the way to it is gone."""
        threading.Event().wait()

    def load(self, request: bytes, numbers: Sequence[int] = (), *files: Files) -> bytes:
        """Load models and warm them up.

        Args:
            request: a `Load`.
            numbers: the models, by the pool's numbers, whose ``files`` come along.
            files: for each of them.

        Returns:
            `Loaded`, or `Missing`: ask again with these models' files; or `StartFailed`.
        """
        load = LOAD.decode(request)
        try:
            folders, missing = _folders(load, dict(zip(numbers, files, strict=True)))
            if missing:
                return encode(Missing(tuple(missing)))
            loaded = self._load([_located(setup, folders) for setup in load.setups])
        except Exception as error:  # noqa: BLE001  (whatever stops a model from loading, the router has to hear of it)
            traceback.print_exc()
            return encode(StartFailed(error_text(error)))
        return encode(Loaded(tuple(ready(model, more=False) for model in loaded)))

    def run(self, data: bytes) -> bytes:
        """Run a batch: a `Launch` with its inputs; `Done` with its outputs, or `Failed`."""
        received_ns = monotonic_ns()
        launch, rest = unpack(data, LAUNCH)
        try:
            outputs, actuate_ns = self._run(launch, rest)
        except Exception as error:  # noqa: BLE001  (a batch that raises must not take the worker with it)
            traceback.print_exc()
            return pack(Failed(launch.seq, error_text(error)))
        return pack(Done(launch.seq, monotonic_ns() - received_ns, actuate_ns), outputs)

    def _load(self, setups: Sequence[Setup]) -> list[Model]:
        layouts = SlotLayout.of({setup.model: setup.spec for setup in setups})
        region = mmap.mmap(-1, layouts[setups[0].model].size)
        models = start(setups, layouts, region, {})
        for model in models:
            number = model.setup.model
            self._models[number] = _Held(model, RouterSlots(layouts[number], region))
        return models

    def _run(self, launch: Launch, rest: memoryview) -> tuple[list[memoryview], int]:
        held = self._models[launch.model]
        inputs = split(rest, held.model.setup.spec.inputs, launch.rows)
        held.slots.write(Batch(launch.subnet, launch.rows, [inputs]), launch.seq)
        actuate_ns = run_batch(held.model, launch)
        return held.slots.outputs(launch.seq, launch.rows), actuate_ns


def _folders(load: Load, files: dict[int, Files]) -> tuple[dict[int, ModelFolder], list[int]]:
    """Where the models lie on this node, and the numbers of those that do not."""
    folders, missing = {}, []
    for number, source in load.sources.items():
        folder = ray_models.keep(source, files[number]) if number in files else ray_models.find(source)
        if folder is None:
            missing.append(number)
        else:
            folders[number] = folder
    return folders, missing


def _located(setup: Setup, folders: dict[int, ModelFolder]) -> Setup:
    folder = folders.get(setup.model)
    return setup if folder is None else Setup(setup.worker, ray_models.located(setup.spec, folder), setup.model)
