"""E4 and E5: three by three bursty and time-varying loads (paper section 6.3, Fig. 9 and 10)."""

from collections.abc import Sequence
from typing import Final

from superserve.experiments.reproduction.against_fixed import (
    gain_at_equal_attainment,
    gain_over_smallest,
    ratio_at_equal_accuracy,
)
from superserve.experiments.reproduction.finding import Check, Claim, Finding, Verdict
from superserve.experiments.reproduction.lab import ELASTIC, Lab, Results, elastic, fixed_models
from superserve.experiments.reproduction.loads import Bursty, Ramp
from superserve.experiments.reproduction.monotone import TOLERANCE, falls
from superserve.plots import panels_figure

BASE: Final = 1500.0
VARIANTS: Final = (2950.0, 4900.0, 5550.0)
CV2S: Final = (2.0, 4.0, 8.0)
BURSTY_SECONDS: Final = 30.0

LOW: Final = 2500.0
HIGHS: Final = (4800.0, 6800.0, 7800.0)
ACCELERATIONS: Final = (250.0, 500.0, 5000.0)
RAMP_CV2: Final = 8.0
RAMP_SECONDS: Final = 40.0
RAMP_START_S: Final = 5.0

_Loads = Sequence[Sequence[Bursty]] | Sequence[Sequence[Ramp]]


def run_e4(lab: Lab) -> Finding:
    """E4, Fig. 9: burstiness."""
    loads = [[Bursty(BASE, variant, cv2, lab.seconds(BURSTY_SECONDS)) for cv2 in CV2S] for variant in VARIANTS]
    results, traces, names = _run(lab, loads)
    claims = []
    for policy in ELASTIC:
        claims += [
            _attained(results, traces, policy, 0.999, strict=True),
            falls(results, policy, _columns(traces), "the rate"),
            falls(results, policy, traces, "CV²"),
            _gain(lab, results, traces, policy),
            _ratio(lab, results, traces, policy),
        ]
    return Finding(
        name="E4",
        title="Burstiness (Fig. 9)",
        setting=(
            f"R-PROFILE, {lab.workers} workers, SLO {lab.slo_ms:g} ms, {lab.overhead_ms:g} ms overhead, "
            f"{lab.seconds(BURSTY_SECONDS):g} s of {BASE:g} evenly spaced requests/s plus a variant part with "
            f"gamma gaps, {lab.seed_words}."
        ),
        claims=(*claims, *_fixed_claims(results, traces)),
        checks=tuple(check for policy in ELASTIC for check in _checks(results, traces, policy, 0.999, "rate", "CV²")),
        table=results.table([trace for row in traces for trace in row], names),
        figures=(_figure(lab, results, loads, "E4"),),
        differences=(
            (
                "The paper's largest gain, 4.33 points, is less than ours at low load: an ideal queue gives 79.7 "
                "to 80.0 % at 4,450 requests/s, so the authors' system must have had several milliseconds of "
                "overhead more than ours."
            ),
            "Duration and seeds are not stated in the paper.",
        ),
    )


def run_e5(lab: Lab) -> Finding:
    """E5, Fig. 10: acceleration."""
    seconds, start_s = lab.seconds(RAMP_SECONDS), lab.seconds(RAMP_START_S)
    loads = [[Ramp(LOW, high, tau, RAMP_CV2, seconds, start_s) for tau in ACCELERATIONS] for high in HIGHS]
    results, traces, names = _run(lab, loads)
    claims = []
    for policy in ELASTIC:
        claims += [
            _attained(results, traces, policy, 0.991, strict=False),
            falls(results, policy, _columns(traces), "the final rate"),
            falls(results, policy, traces, "the acceleration"),
            _ratio(lab, results, traces, policy),
        ]
    return Finding(
        name="E5",
        title="Acceleration (Fig. 10)",
        setting=(
            f"R-PROFILE, {lab.workers} workers, SLO {lab.slo_ms:g} ms, {lab.overhead_ms:g} ms overhead, "
            f"{seconds:g} s: {LOW:g} requests/s for {start_s:g} s, then faster by the acceleration up to the "
            f"final rate; gamma gaps of CV² {RAMP_CV2:g}; {lab.seed_words}."
        ),
        claims=tuple(claims),
        checks=tuple(
            check
            for policy in ELASTIC
            for check in _checks(results, traces, policy, 0.991, "final rate", "acceleration")
        ),
        table=results.table([trace for row in traces for trace in row], names),
        figures=(_figure(lab, results, loads, "E5"),),
        differences=("When the ramp starts and how long the run is, the paper does not state.",),
    )


def _run(lab: Lab, loads: _Loads) -> tuple[Results, list[list[str]], list[str]]:
    contenders = [*elastic(), *fixed_models(lab.profile), *fixed_models(lab.profile, "delay")]
    results = lab.run([lab.scenario(load) for row in loads for load in row], contenders)
    return results, [[load.name for load in row] for row in loads], [one.name for one in contenders]


def _columns(traces: list[list[str]]) -> list[list[str]]:
    return [list(column) for column in zip(*traces, strict=True)]


def _checks(  # noqa: PLR0917
    results: Results, traces: list[list[str]], policy: str, least: float, down: str, across: str
) -> list[Check]:
    attained = [results.attainment(trace, policy).mean for row in traces for trace in row]
    falling = [falls(results, policy, _columns(traces), f"the {down}"), falls(results, policy, traces, f"the {across}")]
    return [
        Check(
            f"SLO attainment at least {least:g} in all nine cells",
            f"{policy}: {min(attained):.5f}",
            min(attained) >= least,
        ),
        *(
            Check(f"{claim.paper} (to within {TOLERANCE} points)", claim.ours, claim.verdict is Verdict.REPRODUCED)
            for claim in falling
        ),
    ]


def _attained(results: Results, traces: list[list[str]], policy: str, least: float, *, strict: bool) -> Claim:
    worst, trace = min((results.attainment(trace, policy).mean, trace) for row in traces for trace in row)
    return Claim(
        f"SLO attainment {'above' if strict else 'at least'} {least:g} in all nine cells",
        f"{policy}: at least {worst:.5f}, in {trace}",
        Verdict.of(worst > least if strict else worst >= least),
    )


def _gain(lab: Lab, results: Results, traces: list[list[str]], policy: str) -> Claim:
    names = [trace for row in traces for trace in row]
    gain, trace = max((gain_over_smallest(results, trace, policy, lab.profile), trace) for trace in names)
    equal, model = gain_at_equal_attainment(results, trace, policy, lab.profile)
    return Claim(
        "up to 4.33 points more accurate than INFaaS (the least accurate model) at attainment 0.9999",
        f"{policy}: up to {gain:+.2f}, in {trace}, at {results.attainment(trace, policy).mean:.5f}; there "
        f"{equal:+.2f} over the best fixed model that attains as much ({model})",
        Verdict.of(gain >= 4.33 and results.attainment(trace, policy).mean >= 0.9999),
    )


def _ratio(lab: Lab, results: Results, traces: list[list[str]], policy: str) -> Claim:
    names = [trace for row in traces for trace in row]
    best = {
        rule: max((*ratio_at_equal_accuracy(results, trace, policy, lab.profile, rule), trace) for trace in names)
        for rule in ("", ", late")
    }
    (shed, model, trace), (late, late_model, late_trace) = best[""], best[", late"]
    return Claim(
        "2.06 x the attainment at equal accuracy (said of Fig. 9)",
        f"{policy}: up to {shed:.2f} x ({model} giving up, {trace}), {late:.2f} x ({late_model} serving late, "
        f"{late_trace})",
        Verdict.of(shed >= 2.06),
    )


def _fixed_claims(results: Results, traces: list[list[str]]) -> list[Claim]:
    """What the paper says of its fixed models in Fig. 9."""
    last_row = traces[-1]
    by_cv2 = [results.attainment(trace, "fixed 76.69").mean for trace in last_row]
    by_rate = [results.attainment(row[0], "fixed 78.25").mean for row in traces]
    smallest = min(results.attainment(trace, "fixed 73.82").mean for row in traces for trace in row)
    return [
        Claim(
            "INFaaS attains the optimum everywhere",
            f"fixed 73.82: at least {smallest:.5f}",
            Verdict.of(smallest > 0.9999),
        ),
        Claim(
            "Clipper+ (76.69) attains less as CV² rises, at 5,550/s",
            "fixed 76.69, giving up: " + ", ".join(f"{value:.4f}" for value in by_cv2),
            Verdict.of(by_cv2[0] > by_cv2[1] > by_cv2[2]),
        ),
        Claim(
            "Clipper+ (78.25) attains less as the rate rises, at CV² 2",
            "fixed 78.25, giving up: " + ", ".join(f"{value:.4f}" for value in by_rate),
            Verdict.of(by_rate[0] > by_rate[1] > by_rate[2]),
        ),
    ]


def _figure(lab: Lab, results: Results, loads: _Loads, name: str) -> str:
    shown = [one.name for one in (*elastic(), *fixed_models(lab.profile))]
    panels = [results.panel(load.name, shown, load.name) for row in loads for load in row]
    title = f"{name}: fixed models give up what they cannot serve in time"
    return lab.keep(name, panels_figure(panels, columns=3, title=title))
