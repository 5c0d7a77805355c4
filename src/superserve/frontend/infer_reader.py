"""What an infer call over HTTP asks of a model: read, checked, and remembered for when it comes again.

With the binary extension a client's requests differ in their tensors and hardly in anything else. So the JSON of one
that came twice and was fine is kept with all that came of it, and the next request with the same bytes there needs
nothing but its tensors cut out. That takes 1.5 µs instead of 6 (``benchmarks/request_stages.py``).
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from superserve.frontend.sizes import json_limit
from superserve.frontend.twice import Twice
from superserve.frontend.v2 import Decoded, decode_infer, json_length
from superserve.frontend.v2_response import ResponseEncoder, ResponsePlan
from superserve.serving.dataplane import Checked, ServedModel

#: Longer JSON is read each time, and beyond the number the memory starts anew: a client whose requests have ids of
#: their own fills no more than a few hundred KiB.
_MAX_JSON_BYTES: Final = 1024
_MAX_KNOWN: Final = 256


class Understood(NamedTuple):
    """A request that can be submitted: what the model is to do, the form of its response, and its id."""

    checked: Checked
    plan: ResponsePlan
    id: str


class _Known(NamedTuple):
    """What came of a body that begins with known JSON, and where its tensors lie, in the order of the model."""

    checked: Checked
    plan: ResponsePlan
    id: str
    cuts: Sequence[tuple[int, int]]
    body_bytes: int
    json: bytes
    length: bytes
    slo_ms: bytes | None


class InferReader:
    """Reads the infer calls of one model.

    Args:
        model: checks them.
    """

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._encoder = ResponseEncoder(model.config, model.subnet_parameters)
        self._json_limit = json_limit(model.config, model.max_rows)
        self._known: dict[tuple[bytes, bytes | None], _Known] = {}
        self._latest: _Known | None = None
        self._twice = Twice()

    def __len__(self) -> int:
        """How many requests it knows."""
        return len(self._known)

    def read(self, body: bytes, headers: Mapping[bytes, bytes]) -> Understood:
        """The request in a body.

        Args:
            body: what the client sent; tensors of the result are views of it where they can be.
            headers: those of the request, names in lower case.

        Raises:
            InvalidRequestError: if it is no infer request, or not one for this model; the message names the field.
            PayloadTooLargeError: if its JSON is longer than the model can have a use for.
        """
        length, slo_ms = headers.get(b"inference-header-content-length"), headers.get(b"x-slo-ms")
        if length is None:
            return self._understand(decode_infer(body, None, slo_ms, json_limit=self._json_limit))
        latest = self._latest  # most often it is the next one, too
        if (
            latest is not None
            and length == latest.length
            and len(body) == latest.body_bytes
            and slo_ms == latest.slo_ms
            and body.startswith(latest.json)
        ):
            return self._again(latest, body)
        end = json_length(length, len(body))
        key = body[: min(end, _MAX_JSON_BYTES + 1)], slo_ms
        known = self._known.get(key)
        if known is not None and known.body_bytes == len(body):
            self._latest = known
            return self._again(known, body)
        decoded = decode_infer(body, length, slo_ms, json_limit=self._json_limit)
        understood = self._understand(decoded)
        if end <= _MAX_JSON_BYTES and self._twice.seen(key):
            self._remember(body, length, slo_ms, decoded, understood)
        return understood

    def _again(self, known: _Known, body: bytes) -> Understood:
        view = memoryview(body)
        inputs = [view[first:last] for first, last in known.cuts]
        return Understood(self._model.check_again(known.checked, inputs), known.plan, known.id)

    def _understand(self, decoded: Decoded) -> Understood:
        checked = self._model.check(decoded.request)
        return Understood(checked, self._encoder.plan(decoded), decoded.id)

    def _remember(
        self, body: bytes, length: bytes, slo_ms: bytes | None, decoded: Decoded, understood: Understood
    ) -> None:
        stop = start = json_length(length, len(body))
        cuts = {}
        for tensor in decoded.request.inputs:
            cuts[tensor.name] = stop, (stop := stop + len(tensor.data))
        if stop != len(body) or not self._model.fixed_sizes:  # if they differ, a tensor stood in the JSON
            return
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        checked, plan, request_id = understood
        self._known[body[:start], slo_ms] = _Known(
            checked._replace(inputs=()),
            plan,
            request_id,
            [cuts[spec.name] for spec in self._model.config.inputs],
            len(body),
            body[:start],
            length,
            slo_ms,
        )
