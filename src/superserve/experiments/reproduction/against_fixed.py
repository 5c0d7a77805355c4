"""The paper's two comparisons with fixed models: accuracy at equal attainment, attainment at equal accuracy."""

from superserve.experiments.reproduction.finding import Claim, Verdict
from superserve.experiments.reproduction.lab import EQUAL_ATTAINMENT, Lab, Results
from superserve.profile import Profile


def gain_at_equal_attainment(results: Results, trace: str, name: str, profile: Profile) -> tuple[float, str]:
    """Points of accuracy over the most accurate fixed model that attains about as much; and that model's name."""
    attained = results.attainment(trace, name).mean - EQUAL_ATTAINMENT
    ours = results.accuracy(trace, name)
    assert ours is not None, "an elastic policy serves something"
    peers = [f"fixed {subnet.accuracy:g}" for subnet in profile.subnets]
    able = [peer for peer in peers if results.attainment(trace, peer).mean >= attained] or peers[:1]
    theirs = results.accuracy(trace, able[-1])
    return ours.mean - (theirs.mean if theirs else 0.0), able[-1]


def gain_over_smallest(results: Results, trace: str, name: str, profile: Profile) -> float:
    """Points of accuracy over the least accurate fixed model, which is what the paper's INFaaS serves."""
    ours = results.accuracy(trace, name)
    assert ours is not None, "an elastic policy serves something"
    return ours.mean - profile.subnets[0].accuracy


def ratio_at_equal_accuracy(results: Results, trace: str, name: str, profile: Profile, rule: str) -> tuple[float, str]:
    """Attainment over that of the fixed model nearest in accuracy; and that model. ``rule``: "" or ", late"."""
    ours = results.accuracy(trace, name)
    assert ours is not None, "an elastic policy serves something"
    nearest = min((subnet.accuracy for subnet in profile.subnets), key=lambda accuracy: abs(accuracy - ours.mean))
    peer = f"fixed {nearest:g}"
    attained = results.attainment(trace, peer + rule).mean
    return results.attainment(trace, name).mean / attained if attained else float("inf"), peer


def ratio_claim(lab: Lab, results: Results, trace: str, name: str, claimed: float) -> Claim:
    """The paper's ratio of attainments beside ours under both overload rules."""
    shed, peer = ratio_at_equal_accuracy(results, trace, name, lab.profile, "")
    late, _ = ratio_at_equal_accuracy(results, trace, name, lab.profile, ", late")
    return Claim(
        f"{claimed:g} x the attainment of the fixed model of equal accuracy",
        f"{name} against {peer}: {shed:.2f} x if that gives up what it cannot serve in time, {late:.2f} x if it serves "
        "late",
        Verdict.of(min(shed, late) >= claimed) if min(shed, late) >= claimed or max(shed, late) < claimed
        else Verdict.PARTLY,
    )  # fmt: skip
