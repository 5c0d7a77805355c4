"""A model on the packed engine whose subnets nobody packs."""

import asyncio
from collections.abc import Collection
from typing import Final

from superserve.clock import Clock
from superserve.errors import WorkerError
from superserve.serving.fake_pool import FakePool
from superserve.serving.residency.fast_times import FastTimes
from superserve.serving.residency.pack_task import PackTask
from superserve.serving.residency.packed_model import PackedModel
from superserve.serving.residency.residency import Residency
from superserve.serving.router import Router
from superserve.serving.shared_pool import SharedPool
from superserve.supernet.packed_store import PackRecord
from support.profiles import make_profile
from support.serving import make_router

#: Three subnets, of 4, 6 and 9 ms a row; packed they take half of that, and 10, 20 and 30 bytes.
PROFILE: Final = make_profile([[4.0, 8.0], [6.0, 12.0], [9.0, 18.0]], batches=(1, 4))
SIZES: Final = (10, 20, 30)
#: Bytes of the one copy.
WEIGHTS: Final = 50
ROW: Final = (bytes(4), bytes(4))


class Packs:
    """Packs when a test says so."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.cancelled = 0
        self._under_way: asyncio.Future[PackRecord] | None = None

    async def pack(self, task: PackTask) -> PackRecord:
        """See `superserve.serving.residency.packer.Packs.pack`."""
        self.asked.append(task.subnet)
        self._under_way = asyncio.get_running_loop().create_future()
        try:
            return await self._under_way
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def done(self, ratio: float = 0.5) -> None:
        """The subnet under way is packed."""
        assert self._under_way is not None
        self._under_way.set_result(record(self.asked[-1], ratio))

    def failed(self) -> None:
        """It cannot be packed."""
        assert self._under_way is not None
        self._under_way.set_exception(WorkerError("no space left"))


def record(subnet: int, ratio: float = 0.5, nbytes_each: int = 0) -> PackRecord:
    """What is known of a packed subnet, which takes so much of the time of the engine behind, and of each worker."""
    return PackRecord(
        subnet=f"s{subnet}",
        nbytes=SIZES[subnet],
        nbytes_each=nbytes_each,
        seconds=1.0,
        behind="eager",
        batches=(1, 4),
        ratios=(ratio, ratio),
        sha256={},
    )


def packed_router(
    pool: FakePool,
    clock: Clock,
    packs: Packs,
    *,
    budget: int | None = None,
    kept: Collection[int] = (),
    policy: str = "maxacc",
    nbytes_each: int = 0,
) -> tuple[Router, Residency]:
    """A router of `PROFILE` on a pool of its own, and what sees to its packed subnets; these are packed already."""
    residency = Residency(pool, packs, clock, budget)
    router = make_router(SharedPool(pool, clock, residency=residency), clock, profile=PROFILE, policy=policy)
    task = PackTask(folder="none", bundled=False, engine="eager", dtype="float32", subnet=0)
    residency.add(packed_model(router, kept, nbytes_each), task)
    return router, residency


def packed_model(router: Router, kept: Collection[int] = (), nbytes_each: int = 0) -> PackedModel:
    """What serves `PROFILE` by a router; these subnets are packed already."""
    return PackedModel(
        number=0,
        ids=router.table.ids,
        times=FastTimes(PROFILE),
        policy=router.policy_name,
        timeout_action="reject",
        kept={subnet: record(subnet, nbytes_each=nbytes_each) for subnet in kept},
        weights=lambda: WEIGHTS,
        router=router,
    )
