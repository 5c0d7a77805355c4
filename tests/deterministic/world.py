"""A whole server in a world of its own: one seed, one life, the same to the byte however often it is lived."""

import asyncio
import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from deterministic.asks import Ask
from deterministic.client import Leaving, Sending, Session, Visit
from deterministic.host import Host
from deterministic.loop import VirtualClock, VirtualLoop
from deterministic.model import NAMES
from deterministic.network import Network
from deterministic.plan import Event, Fault, Plan, draw
from deterministic.scenery import HTTP, LIMITS, Scenery, configure
from deterministic.watch import WatchedPool
from superserve.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from superserve.engine import IN_FLIGHT
from superserve.errors import SuperServeError
from superserve.frontend.server import Server
from superserve.request import Outcome
from superserve.serving.devices import workers_for
from superserve.serving.fork_server import Forks
from superserve.serving.ipc import WorkerSpec
from superserve.serving.ledger import Ledger
from superserve.serving.local_pool import LocalPool

#: Once nothing more goes wrong, everything is served again within that time: a hung worker is found, a worker starts
#: after the longest delay between two starts.
_RECOVERY_NS: Final = 12 * NS_PER_S
_PROBE_EVERY_NS: Final = 250 * NS_PER_MS

_FLOOD_CONNECTIONS: Final = 70


@dataclass
class Life:
    """What came of a life."""

    log: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """What should not have been, each with its time."""
    asks: dict[int, Ask] = field(default_factory=dict)
    start_ns: int = 0
    """When the server was ready."""
    stop_ns: int = 0
    """When it was told to stop."""

    def text(self) -> str:
        """Everything that happened."""
        return "\n".join(self.log) + "\n"


class World:
    """A server, its workers and its clients.

    Args:
        plan: what happens.
        rng: for everything that is drawn on the way.
        scenery: what stands on disk.
    """

    def __init__(self, plan: Plan, rng: np.random.Generator, scenery: Scenery) -> None:
        self._descriptors = _open_descriptors()
        self.plan = plan
        self.life = Life()
        self.loop = VirtualLoop()
        self.loop.on_defect = self.broken
        self.network = Network(self.loop)
        skews = _drawn(rng.integers(-NS_PER_MS, NS_PER_MS, 512))
        clock = VirtualClock(self.loop, lambda: int(next(skews)))
        self.host = Host(self.loop, scenery.tables, self.log, self.broken, _drawn(rng.uniform(0.6, 1.0, 512)))
        deployments = scenery.deployments[: plan.models]
        self._names = [model.folder.config.name for model in deployments]
        in_flight = IN_FLIGHT if plan.overlapping else 1
        specs = [
            msgspec.structs.replace(workers_for(model.folder, model.choice), in_flight=in_flight)
            for model in deployments
        ]
        pool = LocalPool(specs, range(plan.workers), clock, LIMITS, forks=self._forks)
        self.pool = WatchedPool(pool, self.loop, self.life.asks, self.broken)
        self.server = Server(configure(plan, scenery), deployments, self.pool, clock)
        self.pool.server = self.server
        self._probes = count(1_000_000)
        self._sessions = count()
        self._tasks: list[asyncio.Task[None]] = []
        blind = sum(visit.blind is not None for visit in plan.visits)
        self._most_open = HTTP.max_connections + blind  # of these some may be refused, and not have read that yet

    def _forks(self, models: Mapping[int, WorkerSpec]) -> Forks:
        self.host.models = models
        return self.host

    def log(self, text: str) -> None:
        """Something happened."""
        self.life.log.append(f"{self.loop.now_ns} {text}")

    def broken(self, what: str) -> None:
        """Something happened that should not have."""
        self.log(f"BROKEN: {what}")
        self.life.broken.append(f"{self.loop.now_ns} {what}")

    def told(self, event: str, wrong: str) -> None:
        """A client tells of something."""
        self.log(event)
        if wrong:
            self.broken(f"{event}: {wrong}")

    def live(self) -> Life:
        """From the start of the server to its end."""
        try:
            with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
                runner.run(self._live())
                self._check_end()
        except Exception as error:  # noqa: BLE001  (whatever ends it is told with what led to it)
            self.broken(f"a defect: {error!r}")
        if _open_descriptors() != self._descriptors:
            gc.collect()  # memory that is mapped has one, and cycles may hold it
            if _open_descriptors() != self._descriptors:
                self.broken("descriptors are left open")
        return self.life

    async def _live(self) -> None:
        await self.server.start()
        self.loop.on_quiet = self._check_quiet
        start_ns = self.life.start_ns = self.loop.now_ns
        for visit in self.plan.visits:
            self._visit(start_ns, visit)
        for fault in self.plan.faults:
            self.loop.at(start_ns + fault.at_ns, self._happen, fault)
        ends = [self.plan.span_ns, *(fault.at_ns for fault in self.plan.faults)]
        ends += [sending.at_ns for visit in self.plan.visits for sending in visit.sendings]
        await self._until(start_ns + max(ends))
        self._heal()
        await self._recover()
        if self.plan.visits:
            self._visit(self.loop.now_ns, _last_words(next(self._probes)))
            await self._until(self.loop.now_ns + 3 * NS_PER_MS)
        await self._end()

    async def _until(self, when_ns: int) -> None:
        await asyncio.sleep(max(0, when_ns - self.loop.now_ns) / NS_PER_S)

    def _visit(self, start_ns: int, visit: Visit) -> None:
        for sending in visit.sendings:
            self.life.asks[sending.ask.tag] = sending.ask
        name = f"client {next(self._sessions)}"
        Session(self.loop, visit, name, self.told).schedule(start_ns, self.network, self.server.http.port)

    # ---- faults

    def _happen(self, fault: Fault) -> None:
        self.log(f"{fault.event} {fault.worker} {fault.amount:.3f}")
        if fault.event in {Event.KILL, Event.HANG, Event.TROUBLE, Event.START_TROUBLE, Event.SLOW}:
            self._happen_to_worker(fault)
        elif fault.event is Event.STALL:
            self.loop.stall(int(fault.amount * 300 * NS_PER_MS))
        elif fault.event is Event.FLOOD:
            self._flood(int(fault.amount * 100 * NS_PER_MS))
        else:
            self._tasks.append(asyncio.ensure_future(self._change(load=fault.event is Event.LOAD)))

    def _happen_to_worker(self, fault: Fault) -> None:
        host, worker = self.host, fault.worker
        if fault.event is Event.TROUBLE:
            host.trouble[worker].append(fault.trouble)
        elif fault.event is Event.SLOW:
            host.slow[worker] = 1 + 9 * fault.amount
        elif fault.event is Event.START_TROUBLE:
            host.start_trouble[worker].append(fault.start_trouble)
        process = host.of(worker)
        if process is not None and fault.event in {Event.KILL, Event.START_TROUBLE}:
            process.die()
        elif process is not None and fault.event is Event.HANG:
            process.hang()

    def _flood(self, span_ns: int) -> None:
        """More connections than there may be, for a while."""
        leaving = Leaving(at_ns=span_ns, reset=False)
        for _ in range(_FLOOD_CONNECTIONS):
            self._visit(self.loop.now_ns, Visit(at_ns=0, delay_ns=0, sendings=(), leaving=leaving))

    async def _change(self, *, load: bool) -> None:
        repository, name = self.server.repository, NAMES[-1]
        try:
            await (repository.load(name) if load else repository.unload(name))
        except SuperServeError as error:
            self.log(f"{'load' if load else 'unload'} failed: {error}")
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told with everything else)
            self.broken(f"a defect when a model comes or goes: {error!r}")
        else:
            self.log("loaded" if load else "unloaded")

    def _heal(self) -> None:
        """Nothing goes wrong from now on; what has gone wrong is for the server to find."""
        self.log("no more faults")
        self.host.trouble.clear()
        self.host.start_trouble.clear()
        self.host.slow.clear()

    async def _recover(self) -> None:
        """Every model is served again before long, by all workers."""
        until_ns = self.loop.now_ns + _RECOVERY_NS
        for model in self._names:
            while not (await self._probe(model) and self.pool.complete):
                if self.loop.now_ns > until_ns:
                    self.broken(f"{model} is not served again, or not by all workers")
                    return

    async def _probe(self, model: str) -> bool:
        ask = Ask(tag=next(self._probes), model=model, timeout_us=200_000)
        self._visit(self.loop.now_ns, Visit(at_ns=0, delay_ns=NS_PER_MS, sendings=[Sending(0, ask)]))
        await self._until(self.loop.now_ns + _PROBE_EVERY_NS)
        return ask.status == 200

    async def _end(self) -> None:
        """The server is told to stop, perhaps twice."""
        self.log("stop")
        self.life.stop_ns = self.loop.now_ns
        stopping = asyncio.ensure_future(self.server.stop())
        if self.plan.hasty:
            await self._until(self.loop.now_ns + 5 * NS_PER_MS)
            await self.server.hasten()
        await stopping
        await asyncio.gather(*self._tasks)
        self.loop.on_quiet = lambda: None
        await self._until(self.loop.now_ns + NS_PER_S)
        self.log("stopped")

    # ---- what holds

    def _check_quiet(self) -> None:
        self.pool.check_quiet()
        memory = self.server.http.memory
        if not 0 <= memory.held <= memory.limit:
            self.broken(f"bodies take {memory.held} bytes")
        if self.network.open > self._most_open:
            self.broken(f"{self.network.open} connections are open")

    def _check_end(self) -> None:
        """Nothing is left of anything."""
        answered: Counter[str] = Counter(ask.model for ask in self.life.asks.values() if ask.status == 200)
        for model in self.server.models:
            router, name = model.router, model.config.name
            if router.unfinished or router.queue_depth:
                self.broken(f"{router.unfinished} requests of {name} have no end")
            self.log(f"{name}: {', '.join(f'{number} {outcome}' for outcome, number in router.outcomes.items())}")
            if router.ledger is not None:
                self._check_ledger(name, router.ledger)
            served = router.outcomes[Outcome.SERVED] + router.outcomes[Outcome.LATE]
            if served < answered[name]:
                self.broken(f"{answered[name]} answers of {name}, but {served} requests were answered")
        for ask in self.life.asks.values():
            if wrong := self._wrong_end(ask):
                self.broken(f"{ask.tag} {wrong}")
        left = {
            "bytes of bodies": self.server.http.memory.held,
            "processes": len(self.host.processes),
            "tasks": len(asyncio.all_tasks(self.loop)),
            "timers": len(self.loop.pending_timers()),
            "descriptors watched": self.loop.watched_descriptors(),
        }
        for what, number in left.items():
            if number:
                self.broken(f"{number} {what} left: {self.loop.pending_timers()}")

    def _check_ledger(self, name: str, ledger: Ledger) -> None:
        """All subnets answer the same: what differs is another row's."""
        self.log(f"{name}: {sum(ledger.compared)} answers compared, {ledger.dropped} samples given up")
        if ledger.compared != ledger.agreed:
            self.broken(f"of the answers of {name} that were compared, {ledger.compared} only {ledger.agreed} agree")

    def _wrong_end(self, ask: Ask) -> str:
        """What should not have become of a request; empty if nothing is wrong."""
        if ask.arrival_ns is None:
            return ""
        if not ask.ended:
            return "has no answer"
        if ask.model not in self._names:  # it comes and goes
            return ""
        if ask.outcome == "expired" and ask.timeout_us * NS_PER_US <= self.pool.least_ns(ask):
            return "was not refused when it came, though it could not be in time"
        stopped = b"stopping" in ask.body and ask.arrival_ns < self.life.stop_ns
        return "was admitted, and dropped at the end" if stopped and not self.plan.hasty else ""


def live(seed: int, scenery: Scenery) -> Life:
    """One life, which is a function of its seed."""
    rng = np.random.default_rng(seed)
    plan = replace(draw(rng), ledger=0.0 if seed % 3 else 0.5)
    return World(plan, rng, scenery).live()


def _drawn(values: np.ndarray[Any, Any]) -> Iterator[Any]:
    """Random numbers, drawn beforehand: one by one they would take longer than what they are for."""
    return cycle(values.tolist())


def _last_words(first_tag: int) -> Visit:
    """What a client asks when the server is told to stop."""
    asks = [Ask(tag=first_tag + 1_000_000 * number, model=NAMES[0], timeout_us=100_000) for number in range(1, 6)]
    return Visit(
        at_ns=0, delay_ns=NS_PER_MS, sendings=[Sending(number * NS_PER_MS, ask) for number, ask in enumerate(asks)]
    )


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
