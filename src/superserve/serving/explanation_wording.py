"""An explanation in sentences, made from its numbers alone."""

from collections.abc import Callable, Iterator
from typing import Final

from superserve.request import Outcome, Reason
from superserve.scheduling.actions import BatchFate
from superserve.scheduling.policy import Bound
from superserve.serving.explanation import NOT_USED, Attempt, Candidate, Explanation, Refusal


def reasons(told: Explanation) -> Iterator[str]:
    """Why the request ended as it did, the end first."""
    last = told.last
    if told.refusal is not None and told.reason is not None:
        yield _REFUSED[told.reason](told, told.refusal)
    elif last is not None and last.fate in {BatchFate.ANSWERED, BatchFate.RUNNING}:
        yield _answered(told, last) if last.fate is BatchFate.ANSWERED else _running(last)
        if told.outcome is Outcome.LATE:
            yield _why_late(told, last)
        better = _better(last)
        if better is not None:
            yield _WHY_DEGRADED[last.bound](last, better)
    else:
        yield "It waits again."
    for attempt in told.attempts:
        if attempt.overdue:
            yield _overdue(attempt)
        if attempt.fate is BatchFate.LOST:
            yield _lost(told, attempt)


def remedies(told: Explanation) -> Iterator[str]:
    """What would have led to a better end; nothing if there is none."""
    if told.refusal is not None:
        yield from _would_have_run(told, told.refusal)
        return
    last = told.last
    if last is None or last.fate is not BatchFate.ANSWERED:
        return
    if told.outcome is Outcome.LATE:
        assert told.ended_ms is not None
        yield f"In time: a deadline of {_ms(told.ended_ms)} instead of {_ms(told.deadline_ms)}."
        if _overrun_ms(last) > 0:
            yield "In time: a batch that takes no longer than planned. If many do, profile again: `superserve profile`."
    better = _better(last)
    if better is not None:
        yield _would_be_better(last, better)


def _answered(told: Explanation, last: Attempt) -> str:
    assert told.ended_ms is not None
    left_ms = told.deadline_ms - told.ended_ms
    when = f"{_ms(left_ms)} before its deadline" if left_ms >= 0 else f"{_ms(-left_ms)} after its deadline"
    better = _better(last)
    best = f"the most accurate one that policy {told.policy} may use"
    if better is not None:
        best = f"{_allowed(last)[-1].accuracy - last.accuracy:.2f} points below {_allowed(last)[-1].subnet}, the best"
    return f"Answered {when} by {last.subnet} ({last.accuracy:.2f} %), {best}."


def _running(last: Attempt) -> str:
    return f"Worker {last.worker} has run it at {last.subnet} since {_ms(last.launched_ms)} after its arrival."


def _why_late(told: Explanation, last: Attempt) -> str:
    planned_ms = _planned_ms(last)
    left_ms = told.deadline_ms - last.launched_ms
    if planned_ms > left_ms:
        return (
            f"It was launched with {_ms(left_ms)} left, where {_ms(planned_ms)} were planned: its deadline was out of "
            "reach already, and timeout_action is delay."
        )
    assert last.taken_ms is not None
    assert last.overhead_ms is not None
    return (
        f"It was launched with {_ms(left_ms)} left. Planned were {_ms(last.planned_ms)} in the worker{_on(last)} and "
        f"{_ms(last.planned_overhead_ms)} around it, and it took {_ms(last.taken_ms)} and {_ms(last.overhead_ms)}."
        f"{_waited(last)}"
    )


def _waited(last: Attempt) -> str:
    if not last.planned_behind_ms and not last.waited_ms:
        return ""
    return (
        f" It waited for the batch before it on its worker, too: {_ms(last.planned_behind_ms)} were planned, and it "
        f"was {_ms(last.waited_ms)}."
    )


def _planned_ms(attempt: Attempt) -> float:
    """From its launch to its answer."""
    return attempt.planned_overhead_ms + attempt.planned_behind_ms + attempt.planned_ms


def _lost(told: Explanation, attempt: Attempt) -> str:
    assert attempt.ended_ms is not None
    return (
        f"Worker {attempt.worker} was lost {_ms(attempt.ended_ms - attempt.launched_ms)} after the launch of its batch "
        f"at {attempt.subnet}, with {_ms(told.deadline_ms - attempt.ended_ms)} left until the deadline."
    )


def _overdue(attempt: Attempt) -> str:
    return (
        f"Worker {attempt.worker} did not answer its batch at {attempt.subnet} in time ({_ms(_planned_ms(attempt))} "
        "were planned), so that other workers were asked as well; the first answer counts."
    )


# ---- why not a better subnet


def _allowed(attempt: Attempt) -> list[Candidate]:
    return [candidate for candidate in attempt.candidates if candidate.verdict != NOT_USED]


def _better(attempt: Attempt) -> Candidate | None:
    """The next more accurate subnet that the policy may use."""
    return next((candidate for candidate in _allowed(attempt) if candidate.accuracy > attempt.accuracy), None)


def _by_slack(attempt: Attempt, better: Candidate) -> str:
    return (
        f"{better.subnet}, the next better one, is planned with {_ms(better.head_ms)} even for the batch's most urgent "
        f"request alone, which had {_ms(attempt.head_slack_ms)} of slack left."
    )


def _by_drain(attempt: Attempt, better: Candidate) -> str:
    return (
        f"After a batch of {better.subnet}, not all of the work in sight could have been done in time: "
        f"{_behind(attempt)} and more were expected, with {_workers(attempt)}."
    )


def _by_standing(attempt: Attempt, better: Candidate) -> str:
    return (
        f"{_ms(attempt.head_slack_ms)} of slack hold only a small batch of {better.subnet}: {_behind(attempt)}, and "
        "batches like it would not have shortened the queue."
    )


def _by_burst(attempt: Attempt, better: Candidate) -> str:
    return (
        f"A burst like recent ones right after a batch of {better.subnet} ({_ms(better.batch_ms)} instead of "
        f"{_ms(attempt.planned_ms)}) would have cost more answers than that gains in accuracy."
    )


def _by_overload(attempt: Attempt, better: Candidate) -> str:  # noqa: ARG001  (all reasons share a form)
    return (
        f"Not everything that waited could be in time whatever ran, and the fastest subnet serves the most: "
        f"{_behind(attempt)}, with {_workers(attempt)}."
    )


def _by_rule(attempt: Attempt, better: Candidate) -> str:
    return f"The policy's own rule chose {attempt.subnet} over {better.subnet}."


_WHY_DEGRADED: Final[dict[Bound, Callable[[Attempt, Candidate], str]]] = {
    Bound.NOTHING: _by_rule,  # a policy's claim that there was no better one
    Bound.SLACK: _by_slack,
    Bound.DRAIN: _by_drain,
    Bound.STANDING: _by_standing,
    Bound.BURST: _by_burst,
    Bound.OVERLOAD: _by_overload,
    Bound.RULE: _by_rule,
}


def _would_be_better(attempt: Attempt, better: Candidate) -> str:
    if attempt.bound is Bound.SLACK:
        more_ms = better.head_ms - attempt.head_slack_ms
        return (
            f"{better.subnet}: {_ms(more_ms)} more of slack, by a longer deadline of the batch's most urgent request, "
            "or by an earlier launch."
        )
    if attempt.bound in {Bound.DRAIN, Bound.STANDING, Bound.OVERLOAD}:
        return f"{better.subnet}: fewer requests at once, longer deadlines, or more workers than {attempt.workers}."
    if attempt.bound is Bound.BURST:
        return f"{better.subnet}: steadier arrivals, or more workers than {attempt.workers}."
    return f"{better.subnet}: another policy."


# ---- why there was no answer


def _infeasible(told: Explanation, refusal: Refusal) -> str:
    return (
        f"Refused on arrival. {_ms(refusal.left_ms)} of its {_ms(told.deadline_ms)} were left once it had been read, "
        f"and {_fastest(told, refusal)}: {_ms(_needed_ms(refusal) - refusal.left_ms)} too little."
    )


def _predicted_late(told: Explanation, refusal: Refusal) -> str:  # noqa: ARG001  (all reasons share a form)
    return f"Refused on arrival: {refusal.prediction}."


def _expired(told: Explanation, refusal: Refusal) -> str:
    return (
        f"Given up after {_ms(told.ended_ms)}, {_ms(refusal.left_ms)} before its deadline and never run: "
        f"{_fastest(told, refusal)}, so that it could not be in time any more. {_meanwhile(refusal)}"
    )


def _shed(told: Explanation, refusal: Refusal) -> str:
    priority = f" Its priority is {told.priority}: larger numbers go first." if told.priority > 1 else ""
    return (
        f"Given up after {_ms(told.ended_ms)} and never run: not everything that waited could be in time, and without "
        f"it more of the others were ({refusal.waiting} waited).{priority} {_meanwhile(refusal)}"
    )


def _queue_full(told: Explanation, refusal: Refusal) -> str:  # noqa: ARG001  (all reasons share a form)
    return f"Refused on arrival: {refusal.waiting} requests waited, and no more than {refusal.max_queued} may."


def _floor(told: Explanation, refusal: Refusal) -> str:
    return (
        f"Refused on arrival: its accuracy floor is {told.min_accuracy:g} %, and the most accurate subnet that policy "
        f"{told.policy} may use has {refusal.best_accuracy:g} %."
    )


def _client_gone(told: Explanation, refusal: Refusal) -> str:  # noqa: ARG001  (all reasons share a form)
    where = "its batch was running" if told.attempts else "it waited"
    return f"The client gave up {_ms(told.ended_ms)} after it had asked, while {where}."


def _worker_lost(told: Explanation, refusal: Refusal) -> str:
    return (
        f"Its worker was lost, and it could not run again: {_ms(refusal.left_ms)} were left, and "
        f"{_fastest(told, refusal)}."
    )


def _fixed(sentence: str) -> Callable[[Explanation, Refusal], str]:
    return lambda _told, _refusal: sentence


_REFUSED: Final[dict[Reason, Callable[[Explanation, Refusal], str]]] = {
    Reason.ANSWERED: _fixed("Answered."),  # never without an answer
    Reason.QUEUE_FULL: _queue_full,
    Reason.INFEASIBLE: _infeasible,
    Reason.PREDICTED_LATE: _predicted_late,
    Reason.FLOOR: _floor,
    Reason.EXPIRED: _expired,
    Reason.SHED: _shed,
    Reason.CLIENT_GONE: _client_gone,
    Reason.NO_WORKER: _fixed("Refused on arrival: no worker was alive. The server's log says what became of them."),
    Reason.WORKER_FAILED: _fixed("Its worker could not run the batch that it was in. The server's log says why."),
    Reason.WORKER_LOST: _worker_lost,
    Reason.POISON: _fixed(
        "Two workers were lost while they ran it, the second time alone: it is not run again. The server's log says "
        "how they ended."
    ),
    Reason.STOPPING: _fixed("The model was starting or stopping."),
}


def _would_have_run(told: Explanation, refusal: Refusal) -> Iterator[str]:
    if told.reason is Reason.INFEASIBLE:
        yield f"A deadline of more than {_ms(told.read_ms + _needed_ms(refusal))}."
        if refusal.any_ms + refusal.planned_overhead_ms < refusal.left_ms:
            yield f"No accuracy floor, or a lower one: the fastest subnet of all needs {_ms(refusal.any_ms)} only."
    elif told.reason is Reason.PREDICTED_LATE:
        yield f"Asking again {_ms(refusal.retry_after_ms)} later, or a deadline that is later by as much."
    elif told.reason in {Reason.EXPIRED, Reason.SHED}:
        yield f"Fewer requests at once, a longer deadline, or more workers than {refusal.workers}."
    elif told.reason is Reason.QUEUE_FULL:
        yield "Asking again later, as Retry-After says; fewer requests at once, or a larger `max_queued`."
    elif told.reason is Reason.FLOOR:
        yield f"A floor of at most {refusal.best_accuracy:g} %."
    elif told.reason is Reason.WORKER_LOST:
        yield f"A deadline that leaves {_ms(_needed_ms(refusal))} when a worker is lost."


def _fastest(told: Explanation, refusal: Refusal) -> str:
    floor = f" at its accuracy floor of {told.min_accuracy:g} %" if told.min_accuracy > 0 else ""
    slower = f", {refusal.drift:.2f} times its profile," if refusal.drift > 1 else ""
    return (
        f"the fastest subnet{floor}, {refusal.fastest}, needs {_ms(refusal.fastest_ms)}{slower} and "
        f"{_ms(refusal.planned_overhead_ms)} for dispatch"
    )


def _needed_ms(refusal: Refusal) -> float:
    return refusal.fastest_ms + refusal.planned_overhead_ms


def _meanwhile(refusal: Refusal) -> str:
    return (
        f"Meanwhile {refusal.batches_meanwhile} batches with {refusal.requests_meanwhile} requests were launched, "
        f"{refusal.more_urgent_meanwhile} of them more urgent; live workers: {refusal.workers}."
    )


def _behind(attempt: Attempt) -> str:
    return f"{attempt.waiting} requests stayed behind"


def _on(attempt: Attempt) -> str:
    return "" if attempt.device is None else f" (on {attempt.device})"


def _workers(attempt: Attempt) -> str:
    return f"{attempt.idle} of {attempt.workers} workers idle"


def _overrun_ms(attempt: Attempt) -> float:
    assert attempt.taken_ms is not None
    return attempt.taken_ms - attempt.planned_ms


def _ms(value: float | None) -> str:
    return f"{value:.2f} ms"
