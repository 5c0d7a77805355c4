"""The page of all findings."""

from collections.abc import Sequence
from typing import Final

from superserve.experiments.reproduction.finding import Claim, Finding, Table, Verdict
from superserve.scheduling.policy import DEFAULT_POLICY

#: Order in which verdicts are counted on top of the page.
_COUNTED: Final = (Verdict.REPRODUCED, Verdict.PARTLY, Verdict.NOT_REPRODUCED, Verdict.NOT_TESTED)

_INTRODUCTION: Final = """\
Each experiment of the paper (SuperServe, NSDI 2025) again, with the paper's claim beside our figure. Policies run
in the simulator, on the code that the server runs. `slackfit` is the paper's policy, `{ours}` the
one that a server runs by default; claims are held against both.

What is not the paper's: its latency table is published as an image only, so the profile is **R-PROFILE**, a
reconstruction that was fixed before any of these runs; its Azure load is a day and a choice of functions that
it does not name. Accuracies are those of the profile, in per cent; attainment is the share of all requests
served within the SLO; "to bound" is the distance of goodput-weighted accuracy from a bound that no policy can
pass, in points. Intervals are 95 % over seeds. "Fixed" are the paper's Clipper+ models; the least accurate one
is also what its INFaaS serves. They give up what they cannot serve in time, except those named "late".

Make this page again with `superserve reproduce all --data DIR` (about {minutes} minutes on two cores; what a killed
run has finished is kept under `runs/`), one experiment with `superserve reproduce E4`. `DIR` holds the recorded
traces: `traces/maf2019_per_minute.csv.gz` has a column `sum14d_9027f` of invocations per minute of the day, which
`superserve trace convert` makes arrivals of."""
#: Of `superserve reproduce all` on two idle cores.
_MINUTES: Final = 25


def reproduction_page(findings: Sequence[Finding], missing: Sequence[str], folder: str) -> str:
    """Markdown; figures lie in ``folder``, relative to the page."""
    introduction = _INTRODUCTION.format(ours=DEFAULT_POLICY, minutes=_MINUTES)
    lines = ["# The paper's experiments, reproduced", "", introduction, "", *_checks(findings)]
    lines += ["## The paper's claims", "", "How many of them are reproduced:", ""]
    lines += [f"| experiment | {' | '.join(verdict.strip('*') for verdict in _COUNTED)} |", "|---" * 5 + "|"]
    lines += [_counts(f"[{_heading(one)}](#{_anchor(one)})", one.claims) for one in findings if one.claims]
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


def _checks(findings: Sequence[Finding]) -> list[str]:
    """What we hold ourselves to, with an answer each."""
    rows = [(finding, check) for finding in findings for check in finding.checks]
    if not rows:
        return []
    lines = ["## Thresholds", "", "What this project asks of these runs.", ""]
    lines += ["| experiment | threshold | found | |", "|---|---|---|---|"]
    for finding, check in rows:
        verdict = "holds" if check.holds else "**does not hold**"
        lines.append(f"| [{finding.name}](#{_anchor(finding)}) | {check.threshold} | {check.found} | {verdict} |")
    return [*lines, ""]


def _section(finding: Finding, folder: str) -> list[str]:
    lines = [f"## {_heading(finding)}", "", finding.setting, ""]
    if finding.claims:
        lines += ["| claim of the paper | ours | reproduced |", "|---|---|---|"]
        lines += [_cells(claim) for claim in finding.claims]
        lines.append("")
    for figure in finding.figures:
        lines += [f"![{finding.title}]({folder}/{figure})", ""]
    if finding.table is not None:
        body = _markdown(finding.table)
        hidden = ["<details><summary>all numbers</summary>", "", *body, "</details>", ""]
        lines += body if finding.table_open else hidden
    if finding.differences:
        lines += ["Where and why it differs:", "", *(f"- {words}" for words in finding.differences), ""]
    return lines


def _markdown(table: Table) -> list[str]:
    body = [table.columns, ("---",) * len(table.columns), *table.rows]
    return [*(f"| {' | '.join(row)} |" for row in body), ""]


def _cells(claim: Claim) -> str:
    return f"| {claim.paper} | {claim.ours} | {claim.verdict} |"


def _heading(finding: Finding) -> str:
    return f"{finding.name}: {finding.title}"


def _anchor(finding: Finding) -> str:
    """The anchor that GitHub makes of a heading."""
    kept = [letter for letter in _heading(finding).lower() if letter.isalnum() or letter in " -_"]
    return "".join(kept).replace(" ", "-")
