"""E1 to E3: a day of Azure Functions, squeezed (paper section 6.2, Fig. 8)."""

from typing import Final

import numpy as np

from superserve.experiments.dynamics import dynamics
from superserve.experiments.reproduction.against_fixed import gain_at_equal_attainment, gain_over_smallest, ratio_claim
from superserve.experiments.reproduction.finding import Check, Claim, Finding, Verdict
from superserve.experiments.reproduction.lab import ELASTIC, Lab, Results, elastic, fixed_models
from superserve.experiments.reproduction.loads import Azure
from superserve.experiments.reproduction.transformer import TRANSFORMER_RATE, transformer_lab
from superserve.metrics import RunLog
from superserve.plots import NamedRun, dynamics_figure, panels_figure

SECONDS: Final = 120.0
RATE: Final = 6400.0
#: What this project asks of E1.
LEAST_ATTAINED: Final = 0.9999
LEAST_GAIN: Final = 4.3

BIASED: Final = (
    "The load is the sum over 14 days of 9,027 functions of the published samples by minute of the day: a biased "
    "subset of the trace (the paper used 32,700 functions of one unnamed day), with the same periodic spikes and "
    "about the same peak over mean. Arrivals inside a minute are Poisson; the paper does not say."
)
_RECONSTRUCTED: Final = (
    "R-PROFILE is a reconstruction of the paper's latency table, which is published only as an image: absolute "
    "figures depend on it."
)


def run_e1(lab: Lab) -> Finding:
    """E1, Fig. 8a: the convolutional supernet."""
    source = Azure(lab.recordings(), RATE, lab.seconds(SECONDS))
    results, names = _against_fixed(lab, source)
    claims = [claim for policy in ELASTIC for claim in _claims(lab, results, source.name, policy)]
    claims += [ratio_claim(lab, results, source.name, policy, 2.85) for policy in ELASTIC]
    return Finding(
        name="E1",
        title="Azure Functions load, convolutional supernet (Fig. 8a)",
        setting=_setting(lab, RATE, "R-PROFILE"),
        claims=tuple(claims),
        checks=tuple(check for policy in ELASTIC for check in _checks(lab, results, source.name, policy)),
        table=results.table([source.name], names),
        figures=(_figure(lab, results, source, "E1"),),
        differences=(
            BIASED,
            _RECONSTRUCTED,
            (
                "The gain is 4.65 points in section 6.2 of the paper and 4.67 in its abstract. A gain of 4.3 on a "
                "reconstructed profile is taken to agree in part."
            ),
            (
                "The ratio at equal accuracy is decided by how the fixed model behaves in overload, which the "
                "paper does not state: both rules are given. Serving late collapses because every late answer "
                "makes the next one late."
            ),
        ),
    )


def run_e2(lab: Lab) -> Finding:
    """E2, Fig. 8b: the transformer supernet."""
    made_up = transformer_lab(lab)
    source = Azure(lab.recordings(), TRANSFORMER_RATE, lab.seconds(SECONDS))
    results, names = _against_fixed(made_up, source)
    claims = [ratio_claim(made_up, results, source.name, policy, 1.2) for policy in ELASTIC]
    claims += [_gain_claim(made_up, results, source.name, policy, claimed=1.72, nearly=1.72) for policy in ELASTIC]
    return Finding(
        name="E2",
        title="Azure Functions load, transformer supernet (Fig. 8b), on a SYNTHETIC profile",
        setting=_setting(made_up, TRANSFORMER_RATE, "synthetic-transformer"),
        claims=tuple(claims),
        table=results.table([source.name], names),
        figures=(_figure(made_up, results, source, "E2"),),
        differences=(
            BIASED,
            (
                "The paper gives no transformer latency in text. The profile is SYNTHETIC: six accuracies from "
                "82.2 to 85.2 and costs in the ratio of their operations (1 : 2 : 3 : 4 : 6 : 8), scaled so that "
                "the mean load is 0.9 of what the fourth subnet carries, as for the convolutional supernet; the "
                "SLO is 1.17 x the slowest cell. The figures show that the mechanism works there, not what the "
                "authors' transformers do."
            ),
        ),
    )


def run_e3(lab: Lab) -> Finding:
    """E3, Fig. 8c: how the run of E1 goes over time."""
    scenario = lab.scenario(Azure(lab.recordings(), RATE, lab.seconds(SECONDS)))
    logs = {policy: scenario.simulate(policy, 0) for policy in ELASTIC}
    figure = dynamics_figure(
        [NamedRun(policy, log, number) for number, (policy, log) in enumerate(logs.items())],
        title=f"Azure Functions load, {RATE:g} requests/s on average",
    )
    return Finding(
        name="E3",
        title="Dynamics under the Azure Functions load (Fig. 8c)",
        setting=_setting(lab, RATE, "R-PROFILE").replace(lab.seed_words, "seed 0"),
        claims=tuple(_spike_claim(policy, log) for policy, log in logs.items()),
        figures=(lab.keep("E3", figure),),
        differences=(BIASED,),
    )


def _against_fixed(lab: Lab, source: Azure) -> tuple[Results, list[str]]:
    contenders = [*elastic(), *fixed_models(lab.profile), *fixed_models(lab.profile, "delay")]
    return lab.run([lab.scenario(source)], contenders), [one.name for one in contenders]


def _claims(lab: Lab, results: Results, trace: str, policy: str) -> list[Claim]:
    attainment = results.attainment(trace, policy)
    return [
        Claim("SLO attainment 0.99999", f"{policy}: {attainment.text(6)}", Verdict.of(attainment.mean >= 0.999985)),
        _gain_claim(lab, results, trace, policy, claimed=4.65, nearly=LEAST_GAIN),
    ]


def _checks(lab: Lab, results: Results, trace: str, policy: str) -> list[Check]:
    attainment, gain = results.attainment(trace, policy), gain_over_smallest(results, trace, policy, lab.profile)
    floor = f"accuracy at least {LEAST_GAIN} points above the least accurate fixed model's, at that attainment"
    return [
        Check(
            f"SLO attainment at least {LEAST_ATTAINED}",
            f"{policy}: {attainment.text(6)}",
            attainment.mean >= LEAST_ATTAINED,
        ),
        Check(floor, f"{policy}: {gain:+.2f}", gain >= LEAST_GAIN and attainment.mean >= LEAST_ATTAINED),
    ]


def _gain_claim(lab: Lab, results: Results, trace: str, policy: str, *, claimed: float, nearly: float) -> Claim:
    """``nearly``: a gain that is as good as the claimed one on a reconstructed profile."""
    gain = gain_over_smallest(results, trace, policy, lab.profile)
    equal, model = gain_at_equal_attainment(results, trace, policy, lab.profile)
    close = Verdict.PARTLY if gain >= nearly else Verdict.NOT_REPRODUCED
    return Claim(
        f"{claimed:+g} points of accuracy at the same attainment",
        f"{policy}: {gain:+.2f} over the least accurate model (the paper's INFaaS), {equal:+.2f} over the most "
        f"accurate fixed model that attains as much ({model})",
        Verdict.REPRODUCED if gain >= claimed else close,
    )


def _spike_claim(policy: str, log: RunLog) -> Claim:
    series = dynamics(log)
    order = np.argsort(series.offered)
    tenth = max(1, len(order) // 10)
    calm, spike = order[:tenth], order[-tenth:]
    accuracy = [float(np.nanmean(series.accuracy[part])) for part in (calm, spike)]
    batch = [float(np.nanmean(series.batch[part])) for part in (calm, spike)]
    return Claim(
        "in spikes lower accuracy and larger batches",
        f"{policy}, calmest and busiest tenth of the time: accuracy {accuracy[0]:.2f} and {accuracy[1]:.2f}, mean "
        f"batch {batch[0]:.1f} and {batch[1]:.1f}",
        Verdict.of(accuracy[1] < accuracy[0] and batch[1] > batch[0]),
    )


def _figure(lab: Lab, results: Results, source: Azure, name: str) -> str:
    elastic_names = [one.name for one in elastic()]
    panels = []
    for title, suffix in (("fixed models give up what is late", ""), ("fixed models serve late", ", late")):
        names = [*elastic_names, *(one.name + suffix for one in fixed_models(lab.profile))]
        panels.append(results.panel(source.name, names, title))
    return lab.keep(name, panels_figure(panels, columns=2, title=f"{name}: {source.name}"))


def _setting(lab: Lab, rate: float, profile: str) -> str:
    return (
        f"{profile}, {lab.workers} workers, SLO {lab.slo_ms:g} ms, {lab.overhead_ms:g} ms dispatch overhead, Azure "
        f"Functions load of {rate:g} requests/s on average squeezed into {lab.seconds(SECONDS):g} s, "
        f"{lab.seed_words}."
    )
