"""Work that takes only the time that its core has left over."""

import os
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

_T = TypeVar("_T")


def at_lowest_priority(work: Callable[[], _T]) -> _T:
    """Do something in a thread of the lowest priority, and wait for it.

    An unprivileged thread may lower its priority, but not raise it again: so the caller keeps its own. Under
    ``SCHED_IDLE``, whoever else wants the core gets it at once.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # 0: this thread
            results.append(work())
        except BaseException as error:  # noqa: BLE001  (raised again, where it is waited for)
            errors.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
