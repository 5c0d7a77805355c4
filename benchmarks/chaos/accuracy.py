"""What faults do to the accuracy of what is served."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from superserve.clock import NS_PER_S
from superserve.metrics import RunLog
from superserve.request import Outcome

#: Seconds from a fault on: the last one before it, the one in which a worker is missed, and one when all is over.
_BEFORE: Final = (-1.0, 0.0)
_DURING: Final = (0.0, 1.0)
_AFTER: Final = (2.0, 3.0)


class Around(NamedTuple):
    """Mean serving accuracy in per cent before, during and after faults."""

    before: float
    during: float
    after: float


def around(log: RunLog, faults_s: Sequence[float]) -> Around | None:
    """The accuracies around faults, by the seconds at which they were done; None where nothing was served.

    Seconds of different faults count together: what one of them does is less than accuracy varies from second to
    second.
    """
    served = log.is_outcome(Outcome.SERVED)
    ended_s, accuracy = log.end_ns[served] / NS_PER_S, log.accuracy[served]
    means = []
    for first_s, last_s in (_BEFORE, _DURING, _AFTER):
        within = np.zeros(len(ended_s), bool)
        for fault_s in faults_s:
            within |= (ended_s >= fault_s + first_s) & (ended_s < fault_s + last_s)
        if not within.any():
            return None
        means.append(float(accuracy[within].mean()))
    return Around(*means)
