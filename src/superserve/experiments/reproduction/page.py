"""The page of all findings."""

from collections.abc import Sequence
from typing import Final

from superserve.experiments.reproduction.finding import Claim, Finding, Verdict

#: Order in which verdicts are counted on top of the page.
_COUNTED: Final = (Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED, Verdict.NOT_TESTED)

_INTRODUCTION: Final = """\
Each experiment of the paper (SuperServe, NSDI 2025) again, by `superserve reproduce`, with the paper's claim
beside our figure. Policies run in the simulator, on the code that the server runs. `slackfit` is the paper's
policy, `drainfit` our own; a claim is held against both. The table counts which claims are reproduced.

What is not the paper's: its latency table is published as an image only, so the profile is **R-PROFILE**, a
reconstruction that was fixed before any of these runs; its Azure load is a day and a choice of functions that
it does not name. Accuracies are those of the profile, in per cent; attainment is the share of all requests
served within the SLO; "to bound" is the distance of goodput-weighted accuracy from a bound that no policy can
pass, in points. Intervals are 95 % over seeds. "Fixed" are the paper's Clipper+ models; the least accurate one
is also what its INFaaS serves. They give up what they cannot serve in time, except those named "late"."""


def reproduction_page(findings: Sequence[Finding], missing: Sequence[str], folder: str) -> str:
    """Markdown; figures lie in ``folder``, relative to the page."""
    lines = ["# The paper's experiments, reproduced", "", _INTRODUCTION, ""]
    lines += [f"| experiment | {' | '.join(verdict.strip('*') for verdict in _COUNTED)} |", "|---" * 5 + "|"]
    lines += [_counts(f"[{_heading(one)}](#{_anchor(one)})", one.claims) for one in findings]
    lines.append(_counts("all claims", [claim for one in findings for claim in one.claims]))
    lines.append("")
    if missing:
        lines += [f"Not run yet: {', '.join(missing)}.", ""]
    for finding in findings:
        lines += _section(finding, folder)
    return "\n".join(lines)


def _counts(name: str, claims: Sequence[Claim]) -> str:
    counts = [sum(claim.verdict is verdict for claim in claims) for verdict in _COUNTED]
    return f"| {name} | {' | '.join(str(count) if count else '' for count in counts)} |"


def _section(finding: Finding, folder: str) -> list[str]:
    lines = [f"## {_heading(finding)}", "", finding.setting, ""]
    lines += ["| claim of the paper | ours | reproduced |", "|---|---|---|"]
    lines += [_cells(claim) for claim in finding.claims]
    lines.append("")
    for figure in finding.figures:
        lines += [f"![{finding.title}]({folder}/{figure})", ""]
    if finding.table is not None:
        table = finding.table
        body = [table.columns, ("---",) * len(table.columns), *table.rows]
        lines += ["<details><summary>all figures</summary>", ""]
        lines += [f"| {' | '.join(row)} |" for row in body]
        lines += ["", "</details>", ""]
    if finding.differences:
        lines += ["Where and why it differs:", "", *(f"- {words}" for words in finding.differences), ""]
    return lines


def _cells(claim: Claim) -> str:
    return f"| {claim.paper} | {claim.ours} | {claim.verdict} |"


def _heading(finding: Finding) -> str:
    return f"{finding.name}: {finding.title}"


def _anchor(finding: Finding) -> str:
    """The anchor that GitHub makes of a heading."""
    kept = [letter for letter in _heading(finding).lower() if letter.isalnum() or letter in " -_"]
    return "".join(kept).replace(" ", "-")
