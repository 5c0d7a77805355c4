"""SuperServe's default policy beside other servers with fixed subnets, under recorded traces.

    PYTHONPATH=benchmarks python -m peers.traces --data DIR [--only MODEL...] [--seconds S] [--runs DIR]

As in ``python -m peers``, all processes of a server share one core and the compiled generator has the other. Peers have
no deadlines: they answer everything, late where they must. Which subnets they serve is chosen in their favour, knowing
what SuperServe has just done: the smallest, and the one that is nearest to it in accuracy. What was measured is kept
per model and trace; ``headline.py`` puts it on the page of results. Wants the machine to itself, for about a minute and
a half per model and trace.
"""

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from headline_loads import TRACES, mean_rate, nearest_subnet, parser_of, slo_ms
from peers.answers import check
from peers.catalog import OURS, PEERS, Peer
from peers.generator import Run
from peers.jobs import Job
from peers.measure import MAX_LATENESS_MS, MAX_UNDER_WAY, send
from peers.processes import RunningServer, end_leftovers, running
from peers.subnet_jobs import subnet_job
from superserve.experiments.observed import page_of
from superserve.model_folder import ModelFolder, write_json
from superserve.profile import Profile
from superserve.profiler import measure
from superserve.profiler.store import save_profile
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine

ELASTIC: Final = replace(OURS, name="superserve-traces", environ={"PEER_POLICY": "default"})
#: The fastest of the peers, and the best known one.
RIVALS: Final = ("mosec", "triton")
#: Every request to a model that takes texts: of the commonest length.
TEXT: Final = "how much money do i have in my savings account"
_PATIENCE_S: Final = 5.0


class PeerRun(msgspec.Struct, frozen=True, kw_only=True):
    """A server under a trace. ``accuracy``: mean of the subnets that answered, in per cent; ``in_time``: of all."""

    server: str
    subnet: str
    in_time: float
    accuracy: float
    p99_ms: float
    late_ms: float
    """The generator's own lateness, p99."""

    @property
    def void(self) -> bool:
        """Whether the generator was too late for the run to say anything."""
        return self.late_ms > MAX_LATENESS_MS


class PeerCell(msgspec.Struct, frozen=True, kw_only=True):
    """A model under a trace: SuperServe first."""

    model: str
    trace: str
    seconds: float
    rate: float
    slo_ms: float
    runs: tuple[PeerRun, ...]


@dataclass(frozen=True)
class Bench:
    """A model with its profile, and where logs go."""

    model: str
    profile: Profile
    logs: Path

    def job(self, subnet: str) -> Job:
        """A subnet of it as a job."""
        return subnet_job(self.model, subnet, TEXT if self._takes_texts else "")

    @property
    def _takes_texts(self) -> bool:
        return ModelFolder.resolve(self.model).config.inputs[0].datatype == "BYTES"


def main() -> int:
    """Measure what is missing; the exit status is 1 if a run is void."""
    options = parser_of(__doc__, seconds=15.0).parse_args()
    runs: Path = options.runs.resolve()
    runs.mkdir(parents=True, exist_ok=True)
    end_leftovers(runs)
    os.environ["SUPERSERVE_CACHE"] = str(runs / "cache")  # no compiled code is in it: the peers run plain torch, too
    cells = []
    for model in options.only:
        missing = [trace for trace in TRACES if options.again or read(runs, model, trace) is None]
        bench = Bench(model, _profile(model), runs) if missing else None
        for trace in missing:
            assert bench is not None
            write_json(_path(runs, model, trace), _cell(bench, trace, options.data, options.seconds))
        cells += [cell for trace in TRACES if (cell := read(runs, model, trace)) is not None]
    print("\n".join(table(cells)))
    return 1 if any(run.void for cell in cells for run in cell.runs) else 0


def _profile(model: str) -> Profile:
    """Measured anew; the worker has a core to itself, see ``peers/__main__.py``."""
    folder = ModelFolder.resolve(model)
    choice = choose_engine(folder)
    print(f"{model}: profiling", flush=True)
    profile = measure(folder, quick=True, choice=choice).profile
    save_profile(folder, profile)
    return profile


def _cell(bench: Bench, trace: str, data: Path, seconds: float) -> PeerCell:
    profile = bench.profile
    times = TRACES[trace](data, mean_rate(profile), seconds).trace(0).arrival_ns
    smallest = profile.subnets[0].id
    with _answering(ELASTIC, bench.job(smallest), bench) as server:
        before = _answered(server)
        done = _play(server, times, slo_ms(profile))
        ours = _run(done, DEFAULT_POLICY, _accuracy(profile, before, _answered(server)), ELASTIC, profile)
    found = [ours]
    for rival in RIVALS:
        for subnet in dict.fromkeys((smallest, nearest_subnet(profile, ours.accuracy))):
            with _answering(PEERS[rival], bench.job(subnet), bench) as server:
                check(server.job, send(server, np.zeros(1, np.int64), connections=1, seconds=_PATIENCE_S).body)
                done = _play(server, times, None)
            accuracy = next(each.accuracy for each in profile.subnets if each.id == subnet)
            found.append(_run(done, subnet, accuracy, PEERS[rival], profile))
    for run in found:
        print(
            f"{bench.model}, {trace}, {run.server}, {run.subnet}: {run.in_time:.4f} at {run.accuracy:.2f}", flush=True
        )
    return PeerCell(
        model=bench.model,
        trace=trace,
        seconds=seconds,
        rate=mean_rate(profile),
        slo_ms=slo_ms(profile),
        runs=tuple(found),
    )


@contextmanager
def _answering(peer: Peer, job: Job, bench: Bench) -> Iterator[RunningServer]:
    tuning = next(tuning for name, tuning in peer.tuning.items() if name == "cnn")
    tuning = replace(tuning, rows=min(tuning.rows, job.max_rows))
    with running(peer, job, bench.logs / f"{peer.name}-{bench.model}.log", tuning) as server:
        yield server


def _play(server: RunningServer, times: "np.ndarray[Any, Any]", deadline_ms: float | None) -> Run:
    return send(server, times, connections=min(MAX_UNDER_WAY, len(times)), seconds=_PATIENCE_S, slo_ms=deadline_ms)


def _run(done: Run, subnet: str, accuracy: float, peer: Peer, profile: Profile) -> PeerRun:
    return PeerRun(
        server=peer.title,
        subnet=subnet,
        in_time=done.goodput(slo_ms(profile)),
        accuracy=accuracy,
        p99_ms=done.quantile_ms(0.99),
        late_ms=done.lateness_ms(),
    )


def _answered(server: RunningServer) -> dict[str, float]:
    """Rows that were answered so far, by subnet."""
    page = asyncio.run(page_of(f"http://127.0.0.1:{server.port + 2}/metrics"))
    return {
        sample.labels["subnet"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "superserve_batch_size_sum"
    }


def _accuracy(profile: Profile, before: dict[str, float], after: dict[str, float]) -> float:
    """Mean over the rows that were answered in between."""
    rows = {subnet.id: after.get(subnet.id, 0.0) - before.get(subnet.id, 0.0) for subnet in profile.subnets}
    return sum(rows[subnet.id] * subnet.accuracy for subnet in profile.subnets) / max(1.0, sum(rows.values()))


def table(cells: Sequence[PeerCell]) -> Iterator[str]:
    """A line of Markdown per run."""
    yield "| model | trace | requests/s | SLO, ms | server | subnets | in time | accuracy | p99 ms | valid |"
    yield "|---|---|--:|--:|---|---|--:|--:|--:|---|"
    for cell in cells:
        for run in cell.runs:
            yield (
                f"| {cell.model} | {cell.trace} | {cell.rate:.0f} | {cell.slo_ms:.1f} | {run.server} | {run.subnet} "
                f"| {run.in_time:.4f} | {run.accuracy:.2f} | {run.p99_ms:.1f} | {'void' if run.void else 'yes'} |"
            )


def read(runs: Path, model: str, trace: str) -> PeerCell | None:
    """What was measured before, if anything was."""
    path = _path(runs, model, trace)
    return msgspec.json.decode(path.read_bytes(), type=PeerCell) if path.exists() else None


def _path(runs: Path, model: str, trace: str) -> Path:
    return runs / f"peers-{model}-{trace}.json"


if __name__ == "__main__":
    sys.exit(main())
