"""Explains what became of a request: the numbers, from what a `DecisionLog` has kept.

Everything is worked out when somebody asks, with the arithmetic that the scheduler used.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from superserve.clock import NS_PER_MS
from superserve.profile import LatencyTable
from superserve.request import Outcome, Reason, Request
from superserve.scheduling.actions import BatchFate, Launch
from superserve.scheduling.plans import Plan
from superserve.scheduling.scheduler import Scheduler
from superserve.serving.decisions import Course, DecisionLog, Ending
from superserve.serving.explanation import CHOSEN, NOT_USED, Attempt, Candidate, Explanation, Refusal, Summary
from superserve.serving.explanation_wording import reasons, remedies


class Explainer:
    """Explains the requests of a model.

    Args:
        model: its name.
        scheduler: what decided about them, and knows what it has planned with.
        log: what was decided.
        devices: the names of those that workers are of, if there are several.
    """

    def __init__(self, model: str, scheduler: Scheduler, log: DecisionLog, devices: Sequence[str] = ()) -> None:
        self._model = model
        self._scheduler = scheduler
        self._devices = devices
        self._log = log

    @property
    def _table(self) -> LatencyTable:
        """For names and accuracies, which all plans have in common."""
        return self._scheduler.policy.table

    def explain(self, course: Course, now_ns: int, date_ms: int) -> Explanation:
        """All that is known of a request; ``date_ms`` is the date of ``now_ns``."""
        request = course.request
        summary = self.summarise(course, now_ns, date_ms)
        told = Explanation(
            request_id=summary.request_id,
            model=summary.model,
            policy=self._scheduler.policy.name,
            outcome=summary.outcome,
            reason=summary.reason,
            arrived=summary.arrived,
            rows=request.rows,
            priority=request.priority,
            min_accuracy=request.min_accuracy,
            deadline_ms=summary.deadline_ms,
            read_ms=_ms(request.decoded_ns - request.arrival_ns),
            ended_ms=summary.ended_ms,
            attempts=[self._attempt(request, launch) for launch in course.launches],
            refusal=None if course.ending is None else self._refusal(course.ending),
        )
        told.why.extend(reasons(told))
        told.would_change.extend(remedies(told))
        return told

    def summarise(self, course: Course, now_ns: int, date_ms: int) -> Summary:
        """The same in one line."""
        request, ending = course.request, course.ending
        last = _last(course.launches)
        outcome: Outcome | None = None
        reason: Reason | None = None
        ended_ns: int | None = None
        if ending is not None:
            outcome, reason, ended_ns = ending.outcome, ending.reason, ending.at_ns
        elif last is not None and last.fate is BatchFate.ANSWERED:
            outcome = Outcome.SERVED if last.ended_ns <= request.deadline_ns else Outcome.LATE
            reason, ended_ns = Reason.ANSWERED, last.ended_ns
        return Summary(
            request_id=request.request_id.decode("latin-1"),
            model=self._model,
            outcome=outcome,
            reason=reason,
            arrived=_date(date_ms - (now_ns - request.arrival_ns) // NS_PER_MS),
            deadline_ms=_ms(request.deadline_ns - request.arrival_ns),
            ended_ms=None if ended_ns is None else _ms(ended_ns - request.arrival_ns),
            subnet=None if last is None else self._table.ids[last.subnet],
            accuracy=None if last is None else self._table.accuracies[last.subnet],
            bound=None if last is None else last.bound,
            batches=len(course.launches),
        )

    def _attempt(self, request: Request, launch: Launch) -> Attempt:
        ended = launch.fate is not BatchFate.RUNNING
        answered = launch.fate is BatchFate.ANSWERED
        return Attempt(
            launched_ms=_ms(launch.launched_ns - request.arrival_ns),
            worker=launch.worker,
            device=self._devices[launch.device] if self._devices else None,
            subnet=self._table.ids[launch.subnet],
            accuracy=self._table.accuracies[launch.subnet],
            batch_rows=launch.rows,
            batch_requests=len(launch.requests),
            position=launch.requests.index(request),
            waiting=launch.waiting,
            idle=launch.idle,
            workers=launch.workers,
            head_slack_ms=_ms(_head_slack_ns(launch)),
            drift=launch.drift,
            planned_ms=_ms(round(launch.planned_ns * launch.drift)),
            planned_overhead_ms=_ms(launch.overhead_ns),
            bound=launch.bound,
            candidates=self._candidates(launch),
            fate=launch.fate,
            overdue=launch.overdue,
            ended_ms=_ms(launch.ended_ns - request.arrival_ns) if ended else None,
            taken_ms=_ms(launch.taken_ns) if answered else None,
            overhead_ms=_ms(launch.around_ns) if answered else None,
            planned_behind_ms=_ms(launch.behind_ns),
            waited_ms=_ms(launch.waited_ns) if answered else None,
        )

    def _candidates(self, launch: Launch) -> list[Candidate]:
        plan, head = self._scheduler.plan_at(launch.launched_ns), launch.requests[0]
        tables, table = plan.tables_of[launch.device], self._table
        return [
            Candidate(
                subnet=table.ids[subnet],
                accuracy=table.accuracies[subnet],
                head_ms=_ms(round(tables[head.bucket].latency_ns[subnet][head.rows] * launch.drift)),
                batch_ms=_ms(round(tables[launch.bucket].latency_ns[subnet][launch.rows] * launch.drift)),
                verdict=self._verdict(plan, launch, subnet),
            )
            for subnet in range(len(table))
        ]

    def _verdict(self, plan: Plan, launch: Launch, subnet: int) -> str:
        head, subnets = launch.requests[0], plan.policy.subnets
        if subnet == launch.subnet:
            return CHOSEN
        if subnet not in subnets:
            return NOT_USED
        if self._table.accuracies[subnet] < head.min_accuracy:
            return "below the accuracy floor"
        planned_ns = plan.tables_of[launch.device][head.bucket].latency_ns[subnet][head.rows]
        if planned_ns >= _head_slack_ns(launch) / launch.drift:
            return "too slow for the deadline"
        if subnet < launch.subnet:
            return "less accurate"
        # What a policy refuses, it refuses to more accurate subnets, too.
        between = any(launch.subnet < other < subnet for other in subnets)
        return "above one that was refused" if between else launch.bound.value

    def _refusal(self, ending: Ending) -> Refusal:
        request, plan = ending.request, self._scheduler.plan_at(ending.at_ns)
        usable = plan.policy.usable(request.min_accuracy)
        first = plan.policy.subnets[0]
        meanwhile = self._log.meanwhile(request.decoded_ns, ending.at_ns, request.deadline_ns)
        return Refusal(
            left_ms=_ms(request.deadline_ns - ending.at_ns),
            fastest=self._table.ids[usable[0]] if usable else None,
            fastest_ms=_planned_ms(plan, usable[0] if usable else first, request, ending.drift),
            planned_overhead_ms=_ms(ending.overhead_ns),
            drift=ending.drift,
            any_ms=_planned_ms(plan, first, request, ending.drift),
            best_accuracy=self._table.accuracies[plan.policy.subnets[-1]],
            waiting=ending.waiting,
            max_queued=self._scheduler.limits.max_queued,
            workers=ending.workers,
            batches_meanwhile=meanwhile.batches,
            requests_meanwhile=meanwhile.requests,
            more_urgent_meanwhile=meanwhile.more_urgent,
            prediction=None if ending.prediction is None else str(ending.prediction),
            retry_after_ms=0.0 if ending.prediction is None else _ms(ending.prediction.retry_after_ns),
        )


def _planned_ms(plan: Plan, subnet: int, request: Request, drift: float) -> float:
    """On the device that is fastest for it."""
    fastest_ns = min(tables[request.bucket].latency_ns[subnet][request.rows] for tables in plan.tables_of)
    return _ms(round(fastest_ns * drift))


def _head_slack_ns(launch: Launch) -> int:
    """Of the batch's most urgent request, in real time."""
    return launch.requests[0].deadline_ns - launch.launched_ns - launch.overhead_ns - launch.behind_ns


def _last(launches: Sequence[Launch]) -> Launch | None:
    """The batch that answered a request, else the latest one that it was in; as `Explanation.last`."""
    answered = [launch for launch in launches if launch.fate is BatchFate.ANSWERED]
    if answered:
        return min(answered, key=lambda launch: launch.ended_ns)
    return launches[-1] if launches else None


def _ms(ns: int) -> float:
    return ns / NS_PER_MS


def _date(epoch_ms: int) -> str:
    return datetime.fromtimestamp(epoch_ms / 1000, UTC).isoformat(timespec="milliseconds")
