"""A compressed request body on its way to being a plain one, without keeping the event loop."""

from collections.abc import Callable
from functools import partial

from superserve.clock import Clock
from superserve.errors import SuperServeError
from superserve.frontend.body_memory import BodyMemory
from superserve.frontend.compression import Inflater
from superserve.frontend.exchange import Exchange


class Expansion:
    """Expands the body of one exchange, a slice per turn of the event loop.

    Args:
        inflater: of the body.
        exchange: gets the plain body, or the answer that it cannot be had.
        clock: makes the turns.
        memory: counts what the plain body takes; the exchange holds it, beside what it came as.
    """

    def __init__(self, inflater: Inflater, exchange: Exchange, clock: Clock, memory: BodyMemory) -> None:
        self._inflater = inflater
        self._exchange = exchange
        self._clock = clock
        self._memory = memory
        self._wanted = True

    def go_on(self, then: Callable[[Exchange], None]) -> None:
        """Expand a slice, and see to the rest; ``then`` is called with the exchange once its body is plain."""
        if not self._wanted:
            return
        try:
            body = self._step()
        except SuperServeError as error:
            self._exchange.fail(error)
            return
        if body is None:
            self._clock.call_at(self._clock.now_ns(), partial(self.go_on, then))
            return
        self._exchange.body = body
        self._exchange.work = None
        then(self._exchange)

    def _step(self) -> bytes | None:
        """See `Inflater.step`; counts what has been added."""
        before = self._inflater.size
        body = self._inflater.step()
        added = self._inflater.size - before
        if not self._memory.take(added):
            raise self._memory.refusal()
        self._exchange.held += added
        return body

    def cancel(self) -> None:
        """See `Cancellable.cancel`."""
        self._wanted = False
