"""Progress of a long run, one line per step, so that it reads as well in a log."""

import time


class Progress:
    """Says what is being measured and how long it has been."""

    def __init__(self) -> None:
        self._began_s = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._began_s

    def step(self, what: str) -> None:
        """A measurement begins."""
        print(f"[{self.seconds:6.0f} s] {what}", flush=True)

    def say(self, what: str) -> None:
        """Preparation begins."""
        print(f"[{self.seconds:6.0f} s]   ({what})", flush=True)
