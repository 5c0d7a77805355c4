"""Whether a model that has just been loaded answers."""

import asyncio
from typing import Final

import numpy as np

from superserve.clock import NS_PER_S, Clock
from superserve.errors import LoadError, SuperServeError
from superserve.serving.dataplane import ServedModel
from superserve.serving.inference import Answer

#: Beside other models' requests, and under load: what is asked is whether, not how fast.
_TIMEOUT_NS: Final = 30 * NS_PER_S


class _Asked:
    """Waits for the answer to one request; see `superserve.serving.inference.Responder`."""

    def __init__(self) -> None:
        self.outputs: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()

    def answered(self, answer: Answer) -> None:
        """See `Responder.answered`."""
        if not self.outputs.done():
            self.outputs.set_result([bytes(output) for output in answer.outputs])

    def refused(self, error: SuperServeError) -> None:
        """See `Responder.refused`."""
        if not self.outputs.done():
            self.outputs.set_exception(error)


async def check(model: ServedModel, clock: Clock) -> None:
    """Have a model answer one row of zeros, or the longest text, as it would answer a client.

    Raises:
        LoadError: if it does not, or with what is no number.
    """
    asked, now_ns = _Asked(), clock.now_ns()
    model.router.submit(
        arrival_ns=now_ns,
        deadline_ns=now_ns + _TIMEOUT_NS,
        rows=1,
        min_accuracy=0.0,
        priority=0,
        inputs=[tensor.longest(1).tobytes() for tensor in model.config.inputs],
        responder=asked,
    )
    try:
        outputs = await asked.outputs
    except SuperServeError as error:
        raise LoadError(f"model {model.config.name!r} does not answer a row of zeros: {error}") from error
    for tensor, data in zip(model.config.outputs, outputs, strict=True):
        values = np.frombuffer(data, tensor.dtype)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise LoadError(
                f"model {model.config.name!r} answers a row of zeros with {tensor.name!r} that is no number"
            )
