"""What was promised, and whether it was kept."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from chaos.accuracy import around
from chaos.counters import Counters
from chaos.faults import Fault
from chaos.scenarios import Scenario
from chaos.server_log import Event, replacement
from superserve.metrics import ResultRow, RunLog

#: From the kill of a worker until there is another one in its place.
REPLACED_S: Final = 3.0
#: Accuracy, in points, has recovered if it is not lower by more.
_RECOVERED: Final = 0.1


class Promise(msgspec.Struct, frozen=True):
    """One of them, and what was seen of it. ``kept``: None where it is not made, and only told."""

    words: str
    seen: str
    kept: bool | None


def promises(
    scenario: Scenario,
    row: ResultRow,
    course: RunLog,
    counters: Counters,
    *,
    faults: Sequence[Fault],
    log: Sequence[Event],
) -> list[Promise]:
    """All that hold in a scenario.

    Args:
        scenario: what was done.
        row: what came of the load, as its senders saw it.
        course: the same, request by request.
        counters: of the server, when all was over.
        faults: what was done.
        log: what the server said of its workers.
    """
    return [
        *_of_requests(scenario, row, counters, faults),
        *_of_service(scenario, row, course, faults),
        *_of_workers(scenario, counters, faults, log),
    ]


def _of_requests(scenario: Scenario, row: ResultRow, counters: Counters, faults: Sequence[Fault]) -> Iterator[Promise]:
    poisoned = [fault for fault in faults if fault.kind == "poison"]
    given_up = [fault for fault in poisoned if "two workers were lost while they ran this input" in fault.answer]
    rescued = counters.rescued
    lost = sum(count for outcome, count in rescued.items() if outcome not in {"served", "cancelled"}) - len(poisoned)
    yield Promise(
        "no admitted request that had slack left when its worker was lost is lost",
        f"{rescued['served']} run again in time, {lost} lost; {row.failed} had no slack left",
        lost == 0 if scenario.rescues else None,
    )
    answered, asked = sum(counters.ended.values()), row.offered + sum(fault.pid is None for fault in faults)
    unanswered = row.failed - (counters.ended["failed"] - len(poisoned))
    yield Promise(
        "every request has exactly one end, and its sender hears of it",
        f"{asked} asked, {answered} ended, {unanswered} never heard of",
        answered == asked and unanswered == 0,
    )
    yield Promise(
        "nothing is executed that has expired or been cancelled",
        f"{counters.launched_too_late} were",
        counters.launched_too_late == 0,
    )
    if poisoned:
        yield Promise(
            "an input that workers die of is given up after the second",
            f"{len(given_up)} of {len(poisoned)}",
            len(given_up) == len(poisoned),
        )


def _of_service(scenario: Scenario, row: ResultRow, course: RunLog, faults: Sequence[Fault]) -> Iterator[Promise]:
    if scenario.attained is not None:
        yield Promise(
            f"SLO attainment at least {scenario.attained:g}",
            f"{row.slo_attainment:.4f}",
            row.slo_attainment >= scenario.attained,
        )
    if scenario.recovers:
        seen = around(course, [fault.at_s for fault in faults])
        yield Promise(
            "a lost worker costs accuracy, and that is back two seconds later",
            "too little was served to tell"
            if seen is None
            else f"{seen.before:.2f} % in the second before, {seen.during:.2f} % after it, then {seen.after:.2f} %",
            seen is not None and seen.after >= seen.before - _RECOVERED,
        )


def _of_workers(
    scenario: Scenario, counters: Counters, faults: Sequence[Fault], log: Sequence[Event]
) -> Iterator[Promise]:
    taken_s = [replacement(fault, log).ready_s for fault in faults if fault.kind == "kill"]
    ready_s = sorted(one for one in taken_s if one is not None)
    median_s, longest_s = (ready_s[len(ready_s) // 2], ready_s[-1]) if ready_s else (0.0, 0.0)
    yield Promise(
        f"another worker is ready within {REPLACED_S:g} s of a kill",
        f"{len(ready_s)} of {len(taken_s)}, median {median_s:.2f} s, longest {longest_s:.2f} s",
        len(ready_s) == len(taken_s) and longest_s <= REPLACED_S,
    )
    yield Promise(
        "in the end all workers are there and nothing waits",
        f"{counters.workers} of {scenario.workers} workers, {counters.waiting} waiting",
        counters.workers == scenario.workers and counters.waiting == 0,
    )
