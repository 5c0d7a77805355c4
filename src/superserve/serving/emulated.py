"""Emulated devices: workers that take a profiled time and answer zeros.

They are real worker processes behind the real pool, so that a load for eight GPUs can be tried live on two cores:
all that is missing is the arithmetic. Whatever they answer is marked as emulated.

Two faults of devices are emulated, too: a worker dies of a row whose first input begins with `DEADLY`, and takes ten
times as long for a few seconds after one that begins with `SLOWING`.
"""

import os
from collections.abc import Sequence
from statistics import median
from typing import Any, Final

import numpy as np

from superserve.clock import NS_PER_MS, NS_PER_S, NS_PER_US, monotonic_ns, sleep_until_ns
from superserve.engine import Engine
from superserve.latency import LatencySampler
from superserve.model_folder import ModelConfig
from superserve.profile import Profile
from superserve.serving.ipc import Setup, WorkerSpec

ENGINE_NAME: Final = "emulated"

#: Between the names of several profiles.
SEPARATOR: Final = ","

#: Drawn at random: no data begin so.
DEADLY: Final = bytes.fromhex("8f3a61d05c1be7942d70b65fa8c9134e")
SLOWING: Final = bytes.fromhex("17c2e06b94ad583ff1265d8e0b79a34c")

#: How many times as long a slow worker takes, and how long it is slow.
SLOWNESS: Final = 10
SLOW_NS: Final = 4 * NS_PER_S

#: Exit status of a worker that has died of its input; a shell's for a segmentation fault.
_DEAD: Final = 139

#: How far one batch moves the estimate of how late a sleep ends.
_STEP_NS: Final = NS_PER_US

#: The first estimate is no more: it may be made while the core is busy with others.
_MAX_FIRST_LEAD_NS: Final = 100 * NS_PER_US

#: Sleeping is not cut short by more than this, however busy the machine is.
_MAX_LEAD_NS: Final = NS_PER_MS


def emulated_workers(config: ModelConfig, profiles: Sequence[str], seed: int) -> WorkerSpec:
    """Workers that answer with a model's output tensors, as zeros, after the latency of a profile's subnets.

    Args:
        config: the model whose tensors they take and answer.
        profiles: bundled profiles' names, or absolute paths of files; workers have them in turns.
        seed: of the latencies; every worker draws its own.

    Raises:
        ProfileError: if the profile cannot be read.
    """
    return WorkerSpec(
        engine="superserve.serving.emulated:create_engine",
        options={"profiles": SEPARATOR.join(profiles), "seed": seed},
        inputs=config.inputs,
        outputs=config.outputs,
        max_rows=max(Profile.load(profile).batches[-1] for profile in profiles),
        warm_batches=(),
    )


def emulated_source(setup: Setup) -> str | None:
    """The profile that a worker emulates; None if it is a real one."""
    if "profiles" not in setup.spec.options:
        return None
    profiles = str(setup.spec.options["profiles"]).split(SEPARATOR)
    return profiles[setup.worker % len(profiles)]


def create_engine(setup: Setup) -> Engine:
    """The engine of one worker that `emulated_workers` describes."""
    source = emulated_source(setup)
    assert source is not None, "an emulated worker has a profile"
    rng = np.random.default_rng([int(str(setup.spec.options["seed"])), setup.worker])
    outputs = [np.zeros((setup.spec.max_rows, *tensor.row_shape), tensor.dtype) for tensor in setup.spec.outputs]
    lead_ns = min(_sleep_overshoot_ns(), _MAX_FIRST_LEAD_NS)
    return EmulatedEngine(Profile.load(source), rng, outputs, lead_ns)


class EmulatedEngine:
    """Sleeps as long as a profiled device would compute, and answers zeros.

    A sleep ends late by what the machine needs to wake a process. So each is cut short by a running estimate of that:
    it rises by a microsecond whenever a batch ended late and falls by one when it ended early, and settles where half
    of the batches do, that is at the median. Nothing spins.

    Args:
        profile: the device to emulate.
        rng: source of its jitter.
        outputs: zeros, one array (max_rows, *row_shape) per output.
        lead_ns: the first estimate.
    """

    name = ENGINE_NAME

    def __init__(
        self, profile: Profile, rng: np.random.Generator, outputs: Sequence[np.ndarray[Any, Any]], lead_ns: int
    ) -> None:
        self.subnet_ids = tuple(subnet.id for subnet in profile.subnets)
        self.dtype = profile.device.dtype
        self._sampler = LatencySampler(profile, rng)
        self._outputs = outputs
        self._lead_ns = lead_ns
        self._slow_until_ns = 0

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`; there is nothing to set."""

    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        begin_ns = monotonic_ns()
        rows = len(inputs[0])
        heads = {head.tobytes() for head in inputs[0].reshape(rows, -1).view(np.uint8)[:, : len(DEADLY)]}
        if DEADLY in heads:
            os._exit(_DEAD)
        if SLOWING in heads:
            self._slow_until_ns = begin_ns + SLOW_NS
        slowness = SLOWNESS if begin_ns < self._slow_until_ns else 1
        end_ns = begin_ns + slowness * self._sampler.sample_ns(subnet, rows)
        sleep_until_ns(end_ns - self._lead_ns)
        step_ns = _STEP_NS if monotonic_ns() > end_ns else -_STEP_NS
        self._lead_ns = min(max(self._lead_ns + step_ns, 0), _MAX_LEAD_NS)
        return [output[:rows] for output in self._outputs]


def _sleep_overshoot_ns(samples: int = 21) -> int:
    """By how much a short sleep of this process ends late, as a median."""
    overshoots = []
    for _ in range(samples):
        end_ns = monotonic_ns() + NS_PER_MS // 5
        sleep_until_ns(end_ns)
        overshoots.append(monotonic_ns() - end_ns)
    return int(median(overshoots))
