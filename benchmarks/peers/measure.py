"""Interleaved rounds: every server in turn, the others stopped meanwhile."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from peers.answers import check
from peers.catalog import OURS, PEERS, Peer
from peers.environments import NotInstallableError, version_of
from peers.figures import CELLS, Cell, CnnFigures, NoopFigures, Pair, Saturation
from peers.generator import GeneratorError, Run, run
from peers.jobs import CNN, JOBS, NOOP, Job
from peers.messages import v2_binary
from peers.processes import RunningServer, ServerError, running
from superserve.clock import NS_PER_S

DEADLINE_MS: Final = 50.0
#: A run says nothing of the server if the generator was later than this, p99.
MAX_LATENESS_MS: Final = DEADLINE_MS / 10
#: Open-loop arrivals find at most so many requests under way; those beyond wait in the generator, on the clock.
MAX_UNDER_WAY: Final = 1000
PROBED_CONNECTIONS: Final = (16, 64, 256)
_PATIENCE_S: Final = 5.0
_SETTLE_LIMIT_S: Final = 10.0
#: Longer than an answer of any of them takes with nothing else to do.
_SETTLED_MS: Final = 40.0
_ATTEMPTS: Final = 3


@dataclass(frozen=True)
class Plan:
    """Rounds and seconds of each kind of run."""

    probe_s: float = 0.5
    saturation_rounds: int = 3
    saturation_s: float = 2.0
    latency_s: float = 2.0
    goodput_rounds: int = 2
    goodput_s: float = 2.0
    jobs: tuple[str, ...] = tuple(JOBS)
    quick: bool = False


FULL: Final = Plan()
QUICK: Final = Plan(0.5, 1, 1.0, 1.0, 1, 1.5, quick=True)

Report = Callable[[str], None]


def arrivals(rate: float, cv2: float, seconds: float, seed: int) -> "np.ndarray[Any, Any]":
    """Arrival times in nanoseconds with gamma gaps of a squared coefficient of variation; 1: Poisson."""
    rng = np.random.default_rng([seed, round(10 * cv2)])
    count = max(2, round(rate * seconds))
    gaps = rng.gamma(1 / cv2, cv2 / rate, count)
    # The whole run at exactly this rate: a sample of bursty gaps alone is off by tens of per cent.
    times = np.cumsum(gaps)
    stamps: np.ndarray[Any, Any] = (times * (count / rate / times[-1]) * NS_PER_S).astype(np.int64)
    return stamps


def whole(*figures: NoopFigures | CnnFigures | None) -> bool:
    """Whether nothing is missing or void."""
    return all(found is not None and found.whole for found in figures)


def measure_pair(pair: Pair, plan: Plan, folder: Path, report: Report, keep: Callable[[Pair], None]) -> None:
    """A peer and SuperServe on the jobs that ``pair`` has no figures of yet; it is kept after each."""
    peer = PEERS[pair.peer]
    pair.errors.clear()
    for job, done in ((NOOP, whole(pair.noop, pair.noop_ours)), (CNN, whole(pair.cnn, pair.cnn_ours))):
        if job.name not in plan.jobs or done:
            continue
        try:
            pair.version = version_of(peer)
            with paused((OURS, peer), job, folder) as servers:
                if job is NOOP:
                    pair.noop_ours, pair.noop = measure_noop(servers, plan, report)
                else:
                    pair.cnn_ours, pair.cnn = _measure_cnn(servers, plan, report)
        except (NotInstallableError, ServerError, GeneratorError, ValueError) as error:
            pair.errors.append(f"{job.title}: {error}")
            report(f"{peer.name}: {pair.errors[-1]}")
        keep(pair)


@contextmanager
def paused(peers: Sequence[Peer], job: Job, folder: Path) -> Iterator[list[RunningServer]]:
    """Servers of a job that have answered right, stopped until they are measured.

    Raises:
        NotInstallableError: if an environment cannot be made.
        ServerError: if a server gives no answer in time.
        ValueError: if its answer is wrong.
    """
    with ExitStack() as stack:
        servers = []
        for peer in peers:
            server = stack.enter_context(running(peer, job, folder / f"{peer.name}-{job.name}.log"))
            servers.append(server)
            check(job, send(server, np.zeros(1, np.int64), connections=1, seconds=_PATIENCE_S).body)
            server.pause()
        yield servers


def send(
    server: RunningServer,
    schedule_ns: "np.ndarray[Any, Any] | None",
    *,
    connections: int,
    seconds: float,
    slo_ms: float | None = None,
) -> Run:
    """One run against a server that is running; with a deadline where the server takes one."""
    request = server.peer.message(server.job) if slo_ms is None else v2_binary(server.job, slo_ms)
    return run(server.peer, server.port, request, schedule_ns, connections=connections, seconds=seconds)


@contextmanager
def awake(server: RunningServer) -> Iterator[None]:
    """Let a server run inside the block, from a state in which it has nothing to do."""
    server.resume()
    try:
        _settle(server)
        yield
    finally:
        server.pause()


def _settle(server: RunningServer) -> None:
    """Wait until what an earlier run left in the server's queues is worked off."""
    give_up_s = time.monotonic() + _SETTLE_LIMIT_S
    while time.monotonic() < give_up_s:
        try:
            if send(server, np.zeros(1, np.int64), connections=1, seconds=1.0).quantile_ms(0.5) < _SETTLED_MS:
                return
        except GeneratorError:
            time.sleep(0.2)


def saturations(
    servers: Sequence[RunningServer],
    plan: Plan,
    report: Report,
    cpu_s: Callable[[RunningServer], float] = RunningServer.cpu_s,
) -> list[Saturation]:
    """Of servers of one job, in interleaved rounds, each with the number of connections that suits it best.

    ``cpu_s`` is the CPU time that a server has used so far, where that is more than its own processes'.
    """
    found = []
    for server in servers:
        with awake(server):
            rates = {
                count: send(server, None, connections=count, seconds=plan.probe_s).rate()
                for count in PROBED_CONNECTIONS
            }
        found.append(Saturation(rates=[], per_cpu_s=[], connections=max(rates, key=lambda count: rates[count])))
    for _ in range(plan.saturation_rounds):
        for server, saturation in zip(servers, found, strict=True):
            with awake(server):
                before_s = cpu_s(server)
                done = send(server, None, connections=saturation.connections, seconds=plan.saturation_s)
                used_s = cpu_s(server) - before_s
            if not done.rate():
                raise GeneratorError(f"{server.peer.name} answered nothing within {plan.saturation_s:g} s")
            saturation.rates.append(done.rate())
            saturation.per_cpu_s.append(float(done.ok.sum() / used_s))
            report(
                f"{server.peer.name} {server.job.name}: {done.rate():,.0f}/s, "
                f"{saturation.per_cpu_s[-1]:,.0f} per second of CPU"
            )
    return found


def _on_time(attempt: Callable[[], Run], report: Report) -> Run | None:
    """A run whose generator kept its schedule; None if none of a few did."""
    for _ in range(_ATTEMPTS):
        done = attempt()
        if done.lateness_ms() <= MAX_LATENESS_MS:
            return done
    report(f"void: the generator was {done.lateness_ms():.1f} ms late (p99): is the machine busy?")
    return None


def measure_noop(servers: Sequence[RunningServer], plan: Plan, report: Report) -> "tuple[NoopFigures, NoopFigures]":
    """Job (A) on two servers, in turn."""
    found = [
        NoopFigures(saturation=saturation, p50_ms=[], p99_ms=[], late_ms=[])
        for saturation in saturations(servers, plan, report)
    ]
    for number in range(plan.saturation_rounds):
        for server, figures in zip(servers, found, strict=True):
            times = arrivals(median(figures.saturation.rates) / 2, 1, plan.latency_s, number)
            with awake(server):
                done = _on_time(partial(send, server, times, connections=256, seconds=5.0), report)
            if done is None or not done.ok.any():
                continue
            figures.p50_ms.append(done.quantile_ms(0.5))
            figures.p99_ms.append(done.quantile_ms(0.99))
            figures.late_ms.append(done.lateness_ms())
            report(f"{server.peer.name} at half: p50 {done.quantile_ms(0.5):.2f}, p99 {done.quantile_ms(0.99):.2f} ms")
    return found[0], found[1]


def _measure_cnn(servers: Sequence[RunningServer], plan: Plan, report: Report) -> "tuple[CnnFigures, CnnFigures]":
    found = [
        CnnFigures(
            saturation=saturation,
            cells=[Cell(cv2=cv2, load=load, goodput=[], p99_ms=[], late_ms=[]) for cv2, load in CELLS],
        )
        for saturation in saturations(servers, plan, report)
    ]
    for number in range(plan.goodput_rounds):
        for index in range(len(CELLS)):
            for server, figures in zip(servers, found, strict=True):
                cell = figures.cells[index]
                goodput_run(server, cell, median(figures.saturation.rates), plan, seed=number, report=report)
    return found[0], found[1]


def goodput_run(server: RunningServer, cell: Cell, saturation: float, plan: Plan, *, seed: int, report: Report) -> None:
    """One round of one cell."""
    times = arrivals(cell.load * saturation, cell.cv2, plan.goodput_s, seed)
    slo_ms = DEADLINE_MS if server.peer.module == OURS.module else None
    connections = min(MAX_UNDER_WAY, len(times))
    with awake(server):
        run_once = partial(send, server, times, connections=connections, seconds=1.0, slo_ms=slo_ms)
        done = _on_time(run_once, report)
    if done is None:
        return
    report(f"{server.peer.name}, CV^2 {cell.cv2}, load {cell.load}: goodput {done.goodput(DEADLINE_MS):.3f}")
    cell.goodput.append(done.goodput(DEADLINE_MS))
    cell.late_ms.append(done.lateness_ms())
    if done.ok.any():
        cell.p99_ms.append(done.quantile_ms(0.99))
