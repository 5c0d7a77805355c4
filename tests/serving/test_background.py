import os

import pytest

from superserve.serving.background import at_lowest_priority


def test_work_runs_at_the_lowest_priority_and_its_caller_does_not() -> None:
    """What comes of it is returned; the caller's priority is what it was, for it could not be raised again."""
    before = os.sched_getscheduler(0)
    assert at_lowest_priority(lambda: os.sched_getscheduler(0)) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == before


def test_an_error_is_the_callers() -> None:
    """With its own type and words."""
    with pytest.raises(ZeroDivisionError):
        at_lowest_priority(lambda: 1 // 0)
