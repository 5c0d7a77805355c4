"""How long a saturated worker waits between batches, as a share of the time that it computes.

A router without a front end keeps a queue of one-row requests waiting; whenever one is answered, the next is submitted.
Run: ``python benchmarks/worker_gap.py [--model digits] [--seconds 4] [--json FILE]``.
"""

import argparse
import asyncio
import gc
from pathlib import Path
from typing import Any

import uvloop

from side_by_side import write
from superserve.clock import NS_PER_S, NS_PER_US, MonotonicClock, monotonic_ns
from superserve.errors import SuperServeError
from superserve.model_folder import ModelFolder
from superserve.profile import LatencyTable, Profile
from superserve.profiler import find_profile, measure
from superserve.scheduling import Scheduler, create_policy
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine
from superserve.serving.cores import available_cores, pinned, plan_cores
from superserve.serving.devices import workers_for
from superserve.serving.inference import Answer
from superserve.serving.local_pool import LocalPool
from superserve.serving.pool import BatchResult
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool

WAITING = 64
SLO_NS = 60 * NS_PER_S


class Counted(SharedPool):
    """A pool that adds up the time in the worker."""

    busy_ns = 0
    batches = 0

    def on_batch_done(self, worker: int, result: BatchResult) -> None:
        """See `PoolListener`."""
        self.busy_ns += result.infer_ns
        self.batches += 1
        super().on_batch_done(worker, result)


class Client:
    """A responder that submits the next request as soon as it has the answer of the last."""

    def __init__(self, router: Router, inputs: list[bytes]) -> None:
        self._router = router
        self._inputs = inputs
        self.stopped = False
        self.error: SuperServeError | None = None

    def submit(self) -> None:
        """Submit a request."""
        now_ns = monotonic_ns()
        self._router.submit(
            arrival_ns=now_ns,
            deadline_ns=now_ns + SLO_NS,
            rows=1,
            min_accuracy=0,
            priority=0,
            inputs=self._inputs,
            responder=self,
        )

    def answered(self, answer: Answer) -> None:
        """See `Responder.answered`."""
        del answer
        if not self.stopped:
            asyncio.get_running_loop().call_soon(self.submit)

    def refused(self, error: SuperServeError) -> None:
        """See `Responder.refused`."""
        self.error = error


#: Asked for before anything is pinned: whoever is pinned sees one core only.
CORES = plan_cores(available_cores(), 1)


async def gap(folder: ModelFolder, device: str, profile: Profile, policy: str, seconds: float) -> dict[str, Any]:
    """One worker under one policy; prints and returns the row."""
    clock = MonotonicClock(asyncio.get_running_loop())
    pool = LocalPool([workers_for(folder, choose_engine(folder, device))], CORES.workers, clock)
    counted = Counted(pool, clock)
    scheduler = Scheduler(create_policy(policy, LatencyTable(profile)), overhead_ns=0, shared=counted.workers)
    outputs = [spec.row_bytes for spec in folder.config.outputs]
    router = Router(scheduler, counted, clock, output_row_bytes=outputs)
    await router.start()
    gc.freeze()
    inputs = [bytes(tensor.row_bytes) for tensor in folder.config.inputs]
    clients = [Client(router, inputs) for _ in range(WAITING)]
    for client in clients:
        client.submit()
    await asyncio.sleep(seconds / 4)
    began_ns, busy_ns, batches = monotonic_ns(), counted.busy_ns, counted.batches
    await asyncio.sleep(seconds)
    busy_ns, batches = counted.busy_ns - busy_ns, counted.batches - batches
    waited_ns = monotonic_ns() - began_ns - busy_ns
    for client in clients:
        client.stopped = True
    await router.drain(5.0)
    await router.stop()
    if error := next((client.error for client in clients if client.error is not None), None):
        raise error
    row = {
        "device": device,
        "policy": policy,
        "batches": batches,
        "batch_us": busy_ns / batches / NS_PER_US,
        "gap_us": waited_ns / batches / NS_PER_US,
        "gap_share_of_busy": waited_ns / busy_ns,
    }
    print(
        f"{device}, {policy}: {batches} batches of {row['batch_us']:.0f} us, {row['gap_us']:.0f} us between them: "
        f"{waited_ns / busy_ns:.1%} of busy time"
    )
    return row


def pinned_gap(folder: ModelFolder, device: str, profile: Profile, policy: str, seconds: float) -> dict[str, Any]:
    """The same from the router's core."""
    with pinned(CORES.router):
        return uvloop.run(gap(folder, device, profile, policy, seconds))


def main() -> None:
    """A real worker with its smallest and middle subnet and under the default policy, and an emulated one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="digits", help="bundled model or folder")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows as JSON")
    args = parser.parse_args()
    folder = ModelFolder.resolve(args.model)
    profile = find_profile(folder, choose_engine(folder)) or measure(folder, quick=True).profile
    runs = [("cpu", profile, policy) for policy in ("fixed:smallest", "fixed:middle", DEFAULT_POLICY)]
    runs.append(("emulated:r-profile", Profile.load("r-profile"), "fixed:smallest"))
    rows = [pinned_gap(folder, device, table, policy, args.seconds) for device, table, policy in runs]
    write(args.json, rows)


if __name__ == "__main__":
    main()
