"""Work that takes only the time that its core has left over.

    ``python -m superserve.serving.background MODULE ARGUMENT...``

runs ``main`` of a module, and imports it in this way: what an import brings along may take seconds. Nothing is imported
here that takes long itself.
"""

import importlib
import os
import sys
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import TypeVar

_T = TypeVar("_T")


def main() -> None:
    """Import the module that the command line names, then run it."""
    del sys.argv[0]
    at_lowest_priority(partial(importlib.import_module, sys.argv[0])).main()


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


if __name__ == "__main__":
    main()
