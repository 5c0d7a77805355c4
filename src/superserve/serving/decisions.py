"""What was decided about the latest requests of a model, kept so that it can be explained when somebody asks.

Nothing is computed here, and nothing is kept per request but the request itself: a batch's `Launch` says what its
decision was made on and what came of it, and refers to its requests. ``explain.py`` makes sense of both.
"""

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from superserve.request import Outcome, Reason
from superserve.scheduling.actions import BatchFate, Launch
from superserve.scheduling.admission import Prediction

if TYPE_CHECKING:
    from superserve.serving.router import Pending

#: Of batches, and of requests without an answer, so many are looked through for notable ones.
_LOOKED_BACK: Final = 200


class Ending(NamedTuple):
    """How a request ended without an answer, and what was so at that instant.

    ``waiting``: other requests in the queue; ``workers``: live ones; ``overhead_ns`` and ``drift``: planned with;
    ``prediction``: the arithmetic of a refusal behind what waits.
    """

    request: "Pending"
    outcome: Outcome
    reason: Reason
    at_ns: int
    waiting: int
    workers: int
    overhead_ns: int
    drift: float
    prediction: Prediction | None


class Course(NamedTuple):
    """What became of a request: the batches that it was in, the first one first, and its end without an answer."""

    request: "Pending"
    launches: list[Launch]
    ending: Ending | None


class Meanwhile(NamedTuple):
    """What was launched between two instants: batches, their requests, and how many of these had earlier deadlines."""

    batches: int
    requests: int
    more_urgent: int


class DecisionLog:
    """The latest decisions of a model.

    Args:
        size: how many batches, and how many requests that ended without an answer, are kept; 0: nothing is.

    Attributes:
        launched: to be called with each batch that is launched; how it ends is to be seen in the same object.
        ended: to be called with each request that ends without an answer.
    """

    def __init__(self, size: int) -> None:
        self._launches: deque[Launch] = deque(maxlen=size)
        self._endings: deque[Ending] = deque(maxlen=size)
        # On the path of every request: a method around these would double what they take.
        self.launched: Callable[[Launch], None] = self._launches.append
        self.ended: Callable[[Ending], None] = self._endings.append

    def find(self, request_id: bytes) -> Course | None:
        """The course of the request of an id, the latest one if clients gave the id to several."""
        found = self._courses(
            self._launches,
            (ending for ending in self._endings if ending.request.request_id == request_id),
            request_id,
        )
        return max(found, key=lambda course: course.request.id, default=None)

    def latest(self, count: int) -> list[Course]:
        """The courses of so many requests, the latest first."""
        launches: list[Launch] = []
        missing = count
        for launch in reversed(self._launches):
            if missing <= 0:
                break
            launches.append(launch)
            missing -= len(launch.requests)
        found = self._courses(reversed(launches), islice(reversed(self._endings), count))
        return sorted(found, key=lambda course: -course.request.id)[:count]

    def notable(self, best: int) -> list[Course]:
        """What fared less than well lately, of each kind the latest.

        That is requests that were refused or failed, a kind for each reason, and the most urgent ones of batches that
        were late or ran another subnet than ``best``, a kind for each subnet and each bound.
        """
        found: dict[tuple[object, ...], Course] = {}
        for ending in islice(reversed(self._endings), _LOOKED_BACK):
            if ending.outcome is not Outcome.CANCELLED:
                found.setdefault((ending.outcome, ending.reason), Course(ending.request, [], ending))
        for launch in islice(reversed(self._launches), _LOOKED_BACK):
            head = cast("Pending", launch.requests[0])
            late = launch.ended_ns > head.deadline_ns
            if launch.fate is BatchFate.ANSWERED and (late or launch.subnet != best):
                found.setdefault((late, launch.subnet, launch.bound), Course(head, [launch], None))
        return list(found.values())

    def meanwhile(self, from_ns: int, to_ns: int, deadline_ns: int) -> Meanwhile:
        """What was launched in a span of time, as far as it is kept, and how much of it was due before a deadline."""
        batches = [launch.requests for launch in self._launches if from_ns <= launch.launched_ns <= to_ns]
        requests = [request for batch in batches for request in batch]
        return Meanwhile(len(batches), len(requests), sum(request.deadline_ns < deadline_ns for request in requests))

    @staticmethod
    def _courses(
        launches: Iterable[Launch], endings: Iterable[Ending], request_id: bytes | None = None
    ) -> Iterable[Course]:
        """The courses of all requests, or those of an id, in some launches, and of those that ended."""
        found: dict[int, Course] = {}
        for launch in launches:
            for request in cast("list[Pending]", launch.requests):
                if request_id is None or request.request_id == request_id:
                    found.setdefault(request.id, Course(request, [], None)).launches.append(launch)
        for ending in endings:
            known = found.get(ending.request.id)
            found[ending.request.id] = Course(ending.request, known.launches if known else [], ending)
        return found.values()
