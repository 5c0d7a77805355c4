"""For Triton's Python backend: its interpreter may be an older patch release than the standard library that it finds.

Then `multiprocessing.resource_tracker` asks a lock for what that interpreter's locks do not have.
"""

import threading
from multiprocessing import resource_tracker


class Lock:
    """A lock that is never held twice by one thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def _recursion_count(self) -> int:
        return 0


if not hasattr(threading.RLock(), "_recursion_count"):
    resource_tracker._resource_tracker._lock = Lock()  # type: ignore[attr-defined]  # noqa: SLF001  (see above)
