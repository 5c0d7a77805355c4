"""The worker process: actuate a subnet, run a batch, answer; over and over, one at a time or as in ``overlap.py``.

    ``python -m superserve.serving.worker --socket FD --memory FD [--background]``

It holds every model of the server, and each batch says whose it is. It is forked by ``template.py`` and lives exactly
as long as the other end of its socket: when the router closes that, or dies, the worker ends. Signals meant for the
router (Ctrl-C and ``SIGTERM`` reach the whole process group) do not end it, since the router may still want the answers
of batches in flight.
"""

import argparse
import gc
import importlib
import mmap
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from superserve.clock import monotonic_ns
from superserve.engine import IN_FLIGHT, Engine, OverlappingEngine
from superserve.serving.background import at_lowest_priority
from superserve.serving.child import adopt
from superserve.serving.devices import device_of
from superserve.serving.ipc import (
    Channel,
    Done,
    Failed,
    FromWorker,
    Launch,
    Ready,
    Reside,
    Resident,
    Setup,
    SlotLayout,
    Started,
    StartFailed,
    ToWorker,
    WorkerSlots,
    error_text,
    worker_channel,
)
from superserve.serving.overlap import Overlap, OverlapModel
from superserve.serving.residency.mapping import SubnetMapping

#: Worker processes can be recognised by it in the process list.
MODULE: Final = "superserve.serving.worker"


def main() -> None:
    """Run one worker until the router is gone. Never returns: nothing in this process is worth a slow exit."""
    parser = argparse.ArgumentParser(prog="superserve.serving.worker", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="descriptor of the worker's end of the socket")
    parser.add_argument("--memory", type=int, required=True, help="descriptor of the shared memory")
    parser.add_argument("--background", action="store_true", help="load at the lowest priority")
    args = parser.parse_args()
    status = work(args.socket, args.memory, background=args.background)
    sys.stderr.flush()
    os._exit(status)


def arguments(socket_fd: int, memory_fd: int, *, background: bool) -> list[str]:
    """What a Python interpreter is given to run a worker, and what the process list shows."""
    found = ["-m", MODULE, "--socket", str(socket_fd), "--memory", str(memory_fd)]
    return [*found, "--background"] if background else found


def work(
    socket_fd: int, memory_fd: int, *, background: bool, inherited: Mapping[int, Engine] = MappingProxyType({})
) -> int:
    """Be a worker, whose parent is the router; returns the exit status.

    Args:
        socket_fd: the worker's end of its socket.
        memory_fd: its shared memory.
        background: whether to load at the lowest priority.
        inherited: engines that are loaded and warm, by the pool's numbers of their models.
    """
    adopt()
    channel = worker_channel(socket.socket(fileno=socket_fd))
    _send(channel, Started(os.getpid()))
    return run_worker(channel, memory_fd, background=background, inherited=inherited)


@dataclass(slots=True, eq=False)
class Model:
    """A model that this process holds."""

    setup: Setup
    slots: WorkerSlots
    engine: Engine
    load_ns: int
    mapping: SubnetMapping
    warm_ns: int = 0


def run_worker(
    channel: Channel[ToWorker],
    memory_fd: int,
    *,
    background: bool = False,
    inherited: Mapping[int, Engine] = MappingProxyType({}),
) -> int:
    """Start as the first messages say, then serve; returns the exit status."""
    setups = receive_setups(channel)
    if not setups:
        return 0
    layouts = SlotLayout.of({setup.model: setup.spec for setup in setups})

    def load() -> list[Model]:
        return start(setups, layouts, layouts[setups[0].model].map(memory_fd), inherited)

    try:
        models = at_lowest_priority(load) if background else load()
    except Exception as error:  # noqa: BLE001  (whatever stops a model from loading, the router has to hear of it)
        traceback.print_exc()
        _send(channel, StartFailed(error_text(error)))
        return 1
    overlapping = {model.setup.model: overlapped for model in models if (overlapped := _overlapping(model)) is not None}
    all_overlap = len(overlapping) == len(models)
    overlaps = all_overlap and max(setup.spec.in_flight for setup in setups) >= IN_FLIGHT
    for number, model in enumerate(models, 1):
        _send(channel, ready(model, more=number < len(models), overlaps=overlaps))
    if all_overlap:
        Overlap(channel, overlapping, lambda message: _send(channel, message)).serve()
    else:
        _serve(channel, {model.setup.model: model for model in models})
    return 0


def receive_setups(channel: Channel[ToWorker]) -> list[Setup]:
    """What the router wants run, a message for each model; empty if it is gone."""
    setups: list[Setup] = []
    while isinstance(message := channel.receive(), Setup):
        setups.append(message)
        if not message.more:
            return setups
    return []


def start(
    setups: Sequence[Setup], layouts: Mapping[int, SlotLayout], region: mmap.mmap, inherited: Mapping[int, Engine]
) -> list[Model]:
    """Load models and warm them up, except for what has been inherited by number."""
    models = []
    for setup in setups:
        began_ns = monotonic_ns()
        engine = inherited.get(setup.model) or load_engine(setup)
        slots = WorkerSlots(layouts[setup.model], region)
        models.append(Model(setup, slots, engine, monotonic_ns() - began_ns, SubnetMapping(engine)))
    _pin(models, region)
    for model in models:
        began_ns = monotonic_ns()
        model.mapping.at_once(model.setup.spec.resident)
        _warm(model, everything=model.setup.model not in inherited)
        model.warm_ns = monotonic_ns() - began_ns
    # What lives now lives on: the collector need not look at it again (a full pass with torch loaded takes 0.1 s).
    gc.collect()
    gc.freeze()
    return models


def ready(model: Model, *, more: bool, overlaps: bool = False) -> Ready:
    """What a worker says of a model that is warm, and of itself: whether it overlaps batches."""
    engine = model.engine
    return Ready(
        engine=engine.name,
        dtype=engine.dtype,
        torch=_torch_version(),
        subnet_ids=engine.subnet_ids,
        load_ns=model.load_ns,
        warm_ns=model.warm_ns,
        model=model.setup.model,
        more=more,
        device=device_of(model.setup),
        overlaps=overlaps,
    )


def load_engine(setup: Setup) -> Engine:
    """Call the engine function that the setup names."""
    module, _, function = setup.spec.engine.partition(":")
    factory: Callable[[Setup], Engine] = getattr(importlib.import_module(module), function)
    return factory(setup)


def _warm(model: Model, *, everything: bool) -> None:
    """Run cells on zeros or the longest texts, small batches first: kernels pick their plans, pools fill.

    Of an engine that has been warm before it was inherited the largest cell is enough: what is left to do is to make
    pages that it writes to this process's own.
    """
    engine, slots = model.engine, model.slots
    subnets = range(len(engine.subnet_ids))
    for rows in model.setup.spec.warm_batches if everything else model.setup.spec.warm_batches[-1:]:
        inputs = slots.batch(rows)
        for array, tensor in zip(inputs, model.setup.spec.inputs, strict=True):
            array[...] = tensor.longest(len(array))  # what another model was warmed up on may still lie there
        for subnet in subnets if everything else subnets[-1:]:
            slots.answer(0, rows, engine.run(subnet, inputs))
    while isinstance(engine, OverlappingEngine) and engine.spare(None):
        pass


def _pin(models: Sequence[Model], region: mmap.mmap) -> None:
    """Let a device read inputs where the router has written them; once, whichever of the engines it is that asks."""
    for model in models:
        if isinstance(model.engine, OverlappingEngine):
            model.engine.pin(np.frombuffer(region, np.uint8))
            return


def _overlapping(model: Model) -> OverlapModel | None:
    engine = model.engine
    return OverlapModel(model.setup.spec, model.slots, engine) if isinstance(engine, OverlappingEngine) else None


def _serve(channel: Channel[ToWorker], models: dict[int, Model]) -> None:
    while (message := channel.receive()) is not None:
        received_ns = monotonic_ns()
        if not isinstance(message, Launch):
            assert isinstance(message, Reside), message
            _reside(channel, models[message.model], message)
            continue
        try:
            actuate_ns = run_batch(models[message.model], message)
        except Exception as error:  # noqa: BLE001  (a batch that raises must not take the worker with it)
            traceback.print_exc()
            _send(channel, Failed(message.seq, error_text(error)))
        else:
            _send(channel, Done(message.seq, monotonic_ns() - received_ns, actuate_ns))


def _reside(channel: Channel[ToWorker], model: Model, message: Reside) -> None:
    def tell(subnets: tuple[int, ...]) -> None:
        _send(channel, Resident(message.model, subnets))

    model.mapping.beside_batches(message.subnets, tell)


def run_batch(model: Model, launch: Launch) -> int:
    """Run a batch and leave its outputs in their slot; returns the nanoseconds that actuation took."""
    engine, slots = model.engine, model.slots
    began_ns = monotonic_ns()
    engine.actuate(launch.subnet)
    actuated_ns = monotonic_ns()
    slots.answer(launch.seq, launch.rows, engine.run(launch.subnet, slots.batch(launch.rows, launch.seq)))
    return actuated_ns - began_ns


def _send(channel: Channel[ToWorker], message: FromWorker) -> None:
    try:
        channel.send(message)
    except OSError:  # the router is gone: the next receive says so
        sys.stderr.write("superserve worker: the router is gone\n")


def _torch_version() -> str:
    """The version of torch if the engine imported it; this module never does."""
    return str(getattr(sys.modules.get("torch"), "__version__", "none"))


if __name__ == "__main__":
    main()
