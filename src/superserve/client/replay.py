"""The open-loop load generator: sends a trace's requests at their instants, whatever becomes of the earlier ones.

Latency counts from the *scheduled* instant, so that a generator that falls behind cannot hide it; how far it fell
behind is recorded per request, and a run in which that matters is void.
"""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from superserve.client.address import HTTP, HTTPS, Address
from superserve.client.client import AsyncClient
from superserve.client.examples import Examples, examples_for
from superserve.client.generator import Generator
from superserve.client.recorder import Recorder
from superserve.client.result import Progress, ReplayResult
from superserve.client.wire import InferTemplate
from superserve.clock import NS_PER_MS, NS_PER_S, NS_PER_US
from superserve.errors import TraceError
from superserve.traces.trace import Trace

#: Where no SLO is known, connections are opened ahead for what arrives within this time.
ASSUMED_LATENCY_NS: Final = 100 * NS_PER_MS
PROGRESS_S: Final = 0.25


async def replay(
    trace: Trace,
    url: str,
    model: str,
    examples: Examples,
    *,
    slo_ms: float | None,
    seed: int,
    on_progress: Callable[[Progress], None] | None = None,
    subnet_ids: tuple[str, ...] = (),
    max_connections: int = 4096,
    drain_s: float = 10.0,
    token: str = "",
    ca_file: str = "",
) -> ReplayResult:
    """Send every request of a trace at its instant and say what came of each.

    Args:
        trace: arrivals; its own SLOs and priorities hold where it has them.
        url: of the server, ``http://host:port`` or ``https://host:port``.
        model: its name there.
        examples: what to send; which one at which instant is drawn from ``seed``.
        slo_ms: deadline from the scheduled instant; None leaves it to the server. What a late sending has used up of
            it is taken off the timeout that the server is told.
        seed: of that draw.
        on_progress: called about four times a second, and at the end.
        subnet_ids: the front from least to most accurate, if known; otherwise the subnets that answered, so ordered.
        max_connections: bound of the pool; requests beyond it wait, which counts as lateness.
        drain_s: how long past the last deadline an answer is waited for; without one the request has failed.
        token: bearer token, where the server asks for one.
        ca_file: certificates (PEM) to trust instead of the system's.

    Raises:
        TraceError: for a trace without requests.
        UnavailableError: if no connection can be made.
    """
    if not len(trace):
        raise TraceError(f"trace {trace.name!r} has no requests to replay")
    slos = _slos(trace, slo_ms)
    drawn = np.random.default_rng(seed).integers(0, len(examples), len(trace))
    recorder = Recorder(trace.arrival_ns.tolist(), slos, examples.labels[drawn].tolist())
    address = Address.parse(url, HTTP, HTTPS, token=token, ca_file=ca_file)
    render = _renderer(trace, slos, _templates(address, model, examples, slos), drawn.tolist())
    generator = Generator(address, trace.arrival_ns.tolist(), render, recorder, max_connections)
    last_ns = int(trace.arrival_ns[-1])
    try:
        await generator.open(connections_ahead(trace.arrival_ns, slos, max_connections))
        cpu_before_s = _cpu_s()
        async with _reporting(on_progress, lambda: _progress(generator, recorder, last_ns)):
            await generator.run(last_ns + max(slos or [0]) + round(drain_s * NS_PER_S))
        end_ns, cpu_s = generator.elapsed_ns(), _cpu_s() - cpu_before_s
    finally:
        await generator.close()
    return _result(generator, recorder, subnet_ids, slo_ms, end_ns=end_ns, cpu_s=cpu_s)


async def replay_trace(
    trace: Trace,
    url: str,
    model: str,
    *,
    slo_ms: float | None,
    seed: int,
    on_progress: Callable[[float, float], None] | None = None,
    token: str = "",
    ca_file: str = "",
) -> ReplayResult:
    """`replay` with what the server says of the model as the guide to what to send.

    Args:
        trace: as for `replay`.
        url: of the server.
        model: its name there.
        slo_ms: as for `replay`.
        seed: of the examples and of which is sent when.
        on_progress: told of seconds played and seconds in all.
        token: as for `replay`.
        ca_file: as for `replay`.

    Raises:
        UsageError: if the trace is empty, the model unknown to the server, or nothing can be made up for it.
        UnavailableError: if the server does not answer.
    """
    async with AsyncClient(url, token=token, ca_file=ca_file) as client:
        examples = examples_for(await client.metadata(model), np.random.default_rng(seed))

    def report(progress: Progress) -> None:
        if on_progress is not None:
            on_progress(progress.elapsed_s, progress.duration_s)

    return await replay(
        trace, url, model, examples, slo_ms=slo_ms, seed=seed, on_progress=report, token=token, ca_file=ca_file
    )


def connections_ahead(arrival_ns: npt.NDArray[np.int64], slos_ns: list[int] | None, most: int) -> int:
    """How many requests are under way at once if each is answered exactly at its deadline."""
    ends = arrival_ns + (ASSUMED_LATENCY_NS if slos_ns is None else np.array(slos_ns))
    ended = np.searchsorted(np.sort(ends), arrival_ns)
    under_way = np.arange(1, len(arrival_ns) + 1) - ended
    return min(most, int(under_way.max()))


def _slos(trace: Trace, slo_ms: float | None) -> list[int] | None:
    if trace.slo_ns is not None:
        slos: list[int] = trace.slo_ns.tolist()
        return slos
    return None if slo_ms is None else [round(slo_ms * NS_PER_MS)] * len(trace)


def _templates(address: Address, model: str, examples: Examples, slos: list[int] | None) -> list[InferTemplate]:
    return [InferTemplate(address, model, inputs, with_timeout=slos is not None) for inputs in examples.inputs]


def _renderer(
    trace: Trace, slos: list[int] | None, templates: list[InferTemplate], drawn: list[int]
) -> Callable[[int, int], bytes]:
    priorities: list[int] = [0] * len(trace) if trace.priority is None else trace.priority.tolist()

    def render(index: int, lateness_ns: int) -> bytes:
        timeout_us = 0 if slos is None else (slos[index] - lateness_ns) // NS_PER_US
        return templates[drawn[index]].render(timeout_us, priorities[index])

    return render


def _result(
    generator: Generator,
    recorder: Recorder,
    subnet_ids: tuple[str, ...],
    slo_ms: float | None,
    *,
    end_ns: int,
    cpu_s: float,
) -> ReplayResult:
    front = recorder.front(subnet_ids)
    log = recorder.result(end_ns)
    return ReplayResult(
        log=replace(log, subnet=recorder.in_front_order(log.subnet, front)),
        lateness_ns=np.array(generator.lateness_ns, np.int64),
        subnet_ids=front,
        emulated=recorder.emulated,
        slo_ms=slo_ms,
        cpu_share=cpu_s * NS_PER_S / end_ns,
    )


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@asynccontextmanager
async def _reporting(
    on_progress: Callable[[Progress], None] | None, progress: Callable[[], Progress]
) -> AsyncIterator[None]:
    """Tell ``on_progress`` while the block runs, and once more after it."""
    if on_progress is None:
        yield
        return

    async def report() -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            on_progress(progress())

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    on_progress(progress())


def _progress(generator: Generator, recorder: Recorder, last_arrival_ns: int) -> Progress:
    return Progress(
        elapsed_s=min(max(0, generator.elapsed_ns()), last_arrival_ns) / NS_PER_S,
        duration_s=last_arrival_ns / NS_PER_S,
        offered=generator.sent,
        finished=recorder.finished,
        served=recorder.served,
        accuracy_sum=recorder.accuracy_sum,
    )
