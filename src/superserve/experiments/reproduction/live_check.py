"""Live runs beside what the simulator predicts of them: the digits server, one worker, three loads."""

import asyncio
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np

from superserve.client.result import Progress
from superserve.experiments.demo import until_signalled
from superserve.experiments.live import LiveRun, LiveSetup, run_live
from superserve.experiments.load import SLO_FACTOR, full_batch_rate
from superserve.experiments.observed import with_observed
from superserve.experiments.reproduction.finding import Check, Finding, Table
from superserve.experiments.reproduction.lab import Lab
from superserve.experiments.reproduction.loads import Azure, AzureLlm, Steady
from superserve.experiments.scenario import TraceSource
from superserve.metrics import ResultRow, summarise
from superserve.model_folder import ModelFolder, write_json
from superserve.plots import LIGHT, styled_axes
from superserve.processor import cpu_name
from superserve.profile import Profile
from superserve.profiler import measure_async
from superserve.scheduling.policy import DEFAULT_POLICY
from superserve.serving.choice import choose_engine
from superserve.simulator import simulate
from superserve.traces.arrivals import gamma
from superserve.traces.trace import Trace

MODEL: Final = "digits"
SECONDS: Final = 20.0
CV2: Final = 8.0
#: Of the run before, from which the dispatch overhead is taken.
REHEARSAL_SECONDS: Final = 10.0
#: Its load is not one of those that are predicted.
_REHEARSAL_SEED: Final = 1_000
#: Mean load over what the middle subnet carries at full batches, as in the demo.
LOAD: Final = 0.9
#: Runs of the simulator whose mean is the prediction: its own chance is not to count.
PREDICTIONS: Final = 5
MAX_ATTAINMENT: Final = 0.03
MAX_ACCURACY: Final = 0.5

_FUNCTIONS, _LLM, _GAMMA = "Azure Functions", "Azure LLM", f"gamma, CV² {CV2:g}"


@dataclass(frozen=True)
class Pair:
    """A live run and its prediction. Attainments 0..1, accuracies in per cent; ``void``: why it says nothing."""

    repetition: int
    trace: str
    attainment: float
    predicted_attainment: float
    accuracy: float
    predicted_accuracy: float
    void: str

    @property
    def attainment_difference(self) -> float:
        """Live less predicted."""
        return self.attainment - self.predicted_attainment

    @property
    def accuracy_difference(self) -> float:
        """Live less predicted, in points."""
        return self.accuracy - self.predicted_accuracy


def run_live_check(lab: Lab) -> Finding:
    """Profile this machine, serve, replay, predict, compare; once per seed."""
    pairs = asyncio.run(until_signalled(_measure(lab)))
    return finding(lab, pairs)


def finding(lab: Lab, pairs: Sequence[Pair]) -> Finding:
    """What the pairs say."""
    valid = [pair for pair in pairs if not pair.void]
    return Finding(
        name="live",
        title="Live against simulated",
        setting=(
            f"Not an experiment of the paper. The server of the bundled {MODEL} model, one worker, policy "
            f"`{DEFAULT_POLICY}`, on {cpu_name()}; each of three loads for {lab.seconds(SECONDS):g} s at {LOAD:g} of "
            f"what the middle subnet carries, SLO {SLO_FACTOR:g} x the slowest cell; {lab.seeds} repetitions, each "
            f"with a profile of its own. Predicted: the simulator on that profile, with its jitter, and with the "
            f"dispatch overhead of a rehearsal before ({lab.seconds(REHEARSAL_SECONDS):g} s of another load): what the "
            f"profiler measures has no clients to answer. Mean of {PREDICTIONS} seeds."
        ),
        claims=(),
        checks=(
            _check("attainment", [pair.attainment_difference for pair in valid], MAX_ATTAINMENT, 4, ""),
            _check("accuracy", [pair.accuracy_difference for pair in valid], MAX_ACCURACY, 2, " points"),
        ),
        table=_table(pairs),
        table_open=True,
        figures=(_figure(lab, pairs),),
        differences=tuple(
            f"Repetition {pair.repetition}, {pair.trace}, is void: {pair.void}" for pair in pairs if pair.void
        ),
    )


async def _measure(lab: Lab) -> list[Pair]:
    folder = ModelFolder.resolve(MODEL)
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory(prefix="superserve-live-") as scratch:
        for repetition in range(lab.seeds):
            _tell(lab, len(pairs), "profiling")
            profile = (await measure_async(folder, quick=True, seed=repetition)).profile
            _tell(lab, len(pairs), "rehearsing")
            rehearsed = await _rehearsed(lab, profile, repetition, Path(scratch))
            for trace in _traces(lab, profile, repetition):
                _tell(lab, len(pairs), f"serving {trace.name}")
                pairs.append(await _pair(profile, rehearsed, trace, repetition, Path(scratch)))
    _tell(lab, len(pairs), "done")
    return pairs


def _tell(lab: Lab, done: int, label: str) -> None:
    if lab.on_progress is not None:
        lab.on_progress(done, 3 * lab.seeds, label)


def _traces(lab: Lab, profile: Profile, seed: int) -> list[Trace]:
    """The three loads, scaled to what this machine carries."""
    data, seconds = lab.recordings(), lab.seconds(SECONDS)
    rate = LOAD * full_batch_rate(profile, len(profile.subnets) // 2)
    loads: dict[str, TraceSource] = {
        _FUNCTIONS: Azure(data, rate, seconds),
        _LLM: AzureLlm(data, rate, seconds),
        _GAMMA: Steady(rate, CV2, seconds),
    }
    traces = [Trace(name, load.trace(seed).arrival_ns) for name, load in loads.items()]
    return [trace for trace in traces if len(trace)]


async def _rehearsed(lab: Lab, profile: Profile, repetition: int, scratch: Path) -> Profile:
    """The profile with the dispatch overhead of a run under load: as planned with in the end, and on average."""
    rate = LOAD * full_batch_rate(profile, len(profile.subnets) // 2)
    rng = np.random.default_rng(_REHEARSAL_SEED + repetition)
    run = await _live(profile, gamma(rate, CV2, lab.seconds(REHEARSAL_SECONDS), rng), repetition, scratch)
    return with_observed(profile, run.overhead)


async def _live(profile: Profile, trace: Trace, repetition: int, scratch: Path) -> LiveRun:
    trace_file, profile_file = scratch / "trace.npz", scratch / "profile.json"
    trace.save(trace_file)
    write_json(profile_file, profile)
    setup = LiveSetup(
        model=MODEL,
        choice=choose_engine(ModelFolder.resolve(MODEL)),
        workers=1,
        trace_name=trace.name,
        trace_file=trace_file,
        slo_ms=_slo_ms(profile),
        seed=repetition,
        profile_file=profile_file,
        subnet_ids=tuple(subnet.id for subnet in profile.subnets),
        scratch=scratch,
    )
    return await run_live(setup, DEFAULT_POLICY, _silent)


async def _pair(profile: Profile, rehearsed: Profile, trace: Trace, repetition: int, scratch: Path) -> Pair:
    live = await _live(profile, trace, repetition, scratch)
    predicted = [await asyncio.to_thread(_predict, trace, rehearsed, seed) for seed in range(PREDICTIONS)]
    return Pair(
        repetition=repetition,
        trace=trace.name,
        attainment=live.row.slo_attainment,
        predicted_attainment=fmean(row.slo_attainment for row in predicted),
        accuracy=live.row.mean_serving_accuracy or 0.0,
        predicted_accuracy=fmean(row.mean_serving_accuracy or 0.0 for row in predicted),
        void="; ".join(live.void_reasons),
    )


def _silent(progress: Progress) -> None:
    """A run of seconds needs no progress of its own."""


def _slo_ms(profile: Profile) -> float:
    return SLO_FACTOR * profile.largest_cell_ms()


def _predict(trace: Trace, profile: Profile, seed: int) -> ResultRow:
    slo_ms = _slo_ms(profile)
    log = simulate(trace, profile, policy=DEFAULT_POLICY, workers=1, slo_ms=slo_ms, seed=seed)
    return summarise(log, policy=DEFAULT_POLICY, trace=trace.name, seed=seed, workers=1, slo_ms=slo_ms)


def _check(what: str, differences: Sequence[float], most: float, digits: int, unit: str) -> Check:
    threshold = f"live {what} within {most:g}{unit} of the predicted one, in every run"
    if not differences:
        return Check(threshold, "no run was valid: do it again when the machine has less to do", holds=False)
    worst = max(differences, key=abs)
    found = (
        f"furthest {worst:+.{digits}f}{unit}, {fmean(differences):+.{digits}f} on average of {len(differences)} runs"
    )
    return Check(threshold, found, abs(worst) <= most)


def _table(pairs: Sequence[Pair]) -> Table:
    columns = (
        "repetition", "load", "attainment, live", "predicted", "difference", "accuracy, live", "predicted",
        "difference", "valid",
    )  # fmt: skip
    return Table(columns, tuple(_cells(pair) for pair in pairs))


def _cells(pair: Pair) -> tuple[str, ...]:
    return (
        str(pair.repetition + 1),
        pair.trace,
        f"{pair.attainment:.4f}",
        f"{pair.predicted_attainment:.4f}",
        f"{pair.attainment_difference:+.4f}",
        f"{pair.accuracy:.2f}",
        f"{pair.predicted_accuracy:.2f}",
        f"{pair.accuracy_difference:+.2f}",
        "no" if pair.void else "yes",
    )


def _figure(lab: Lab, pairs: Sequence[Pair]) -> str:
    names = list(dict.fromkeys(pair.trace for pair in pairs))
    figure, axes = styled_axes((9.0, 3.6), 1, 2)
    labels = ("SLO attainment", "mean serving accuracy, %")
    for ax, label, columns in zip(axes, labels, ("attainment", "accuracy"), strict=True):
        for pair in pairs:
            place = names.index(pair.trace) + 0.15 * (pair.repetition - (lab.seeds - 1) / 2)
            live, predicted = getattr(pair, columns), getattr(pair, f"predicted_{columns}")
            ax.plot([place, place], [predicted, live], color=LIGHT.muted, linewidth=0.8, zorder=1)
            ax.plot(place, live, "o", color=LIGHT.series[0], markersize=6)
            ax.plot(place, predicted, "o", color=LIGHT.series[1], markersize=10, markerfacecolor="none")
        ax.set_xticks(range(len(names)), names, color=LIGHT.ink)
        ax.set_ylabel(label, color=LIGHT.ink)
        ax.margins(0.12)
    axes[0].plot([], [], "o", color=LIGHT.series[0], label="live")
    axes[0].plot([], [], "o", color=LIGHT.series[1], markersize=10, markerfacecolor="none", label="predicted")
    handles, words = axes[0].get_legend_handles_labels()
    figure.legend(handles, words, loc="outside upper left", ncols=2, frameon=False, labelcolor=LIGHT.ink, fontsize=9)
    return lab.keep("live", figure)
