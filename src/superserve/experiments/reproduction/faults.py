"""E6: workers are killed one after the other (paper section 6.4, Fig. 11a)."""

from itertools import pairwise
from typing import Final

import numpy as np

from superserve.experiments.dynamics import dynamics
from superserve.experiments.reproduction.finding import Check, Claim, Finding, Verdict
from superserve.experiments.reproduction.lab import ELASTIC, Lab, elastic, fixed_models
from superserve.experiments.reproduction.loads import Steady
from superserve.metrics import RunLog
from superserve.plots import LIGHT, NamedRun, dynamics_figure
from superserve.simulator.conditions import Conditions, losses

RATE: Final = 3500.0
CV2: Final = 2.0
SECONDS: Final = 60.0
EVERY_S: Final = 12.0
KILLED: Final = 4


def run_e6(lab: Lab) -> Finding:
    """E6."""
    source = Steady(RATE, CV2, lab.seconds(SECONDS))
    killed = Conditions(worker_events=losses(range(lab.workers - KILLED, lab.workers), lab.seconds(EVERY_S)))
    scenario = lab.scenario(source, killed)
    contenders = [*elastic(), *fixed_models(lab.profile)]
    results = lab.run([scenario], contenders)
    logs = {policy: scenario.simulate(policy, 0) for policy in ELASTIC}
    figure = dynamics_figure(
        [NamedRun(policy, log, number) for number, (policy, log) in enumerate(logs.items())],
        title=f"One of {lab.workers} workers is killed every {lab.seconds(EVERY_S):g} s (dotted lines)",
    )
    for ax in figure.axes:
        for number in range(1, KILLED + 1):
            ax.axvline(number * lab.seconds(EVERY_S), color=LIGHT.muted, linestyle=":", linewidth=1.0)
    claims, checks = [], []
    for policy in ELASTIC:
        attained = results.attainment(source.name, policy)
        threshold = f"SLO attainment at least 0.999 while {KILLED} of {lab.workers} workers are killed"
        checks.append(Check(threshold, f"{policy}: {attained.text(5)}", attained.mean >= 0.999))
        claims += [
            Claim(
                "SLO attainment 0.999 down to half of the workers",
                f"{policy}: {attained.text(5)}",
                Verdict.of(attained.mean >= 0.999),
            ),
            _steps(lab, policy, logs[policy]),
        ]
    return Finding(
        name="E6",
        title="Faults (Fig. 11a)",
        setting=(
            f"R-PROFILE, {lab.workers} workers, SLO {lab.slo_ms:g} ms, {lab.overhead_ms:g} ms overhead, {RATE:g} "
            f"requests/s with gamma gaps of CV² {CV2:g} for {lab.seconds(SECONDS):g} s; a worker is lost, with "
            f"the batch that it runs, every {lab.seconds(EVERY_S):g} s until {lab.workers - KILLED} are left; "
            f"{lab.seed_words}."
        ),
        claims=tuple(claims),
        checks=tuple(checks),
        table=results.table([source.name], [one.name for one in contenders]),
        figures=(lab.keep("E6", figure),),
        differences=(
            (
                "The batch of a lost worker is queued again with its old deadlines, where these still can be met. "
                "The paper does not say what becomes of it."
            ),
        ),
    )


def _steps(lab: Lab, policy: str, log: RunLog) -> Claim:
    series = dynamics(log)
    stage = np.minimum(series.time_s // lab.seconds(EVERY_S), KILLED)
    means = [float(np.nanmean(series.accuracy[stage == number])) for number in range(KILLED + 1)]
    falls = all(after <= before + 0.05 for before, after in pairwise(means))
    return Claim(
        "accuracy steps down as workers are killed",
        f"{policy}: "
        + ", ".join(f"{mean:.2f}" for mean in means)
        + f" with {lab.workers} to {lab.workers - KILLED} left",
        Verdict.of(falls and means[-1] < means[0]),
    )
