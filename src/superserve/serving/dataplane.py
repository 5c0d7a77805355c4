"""What a server can be asked, whatever the protocol: health, metadata, inference.

Front ends decode a request, hand it to the `DataPlane`, and encode what comes back. Everything that depends on the
model is checked here, once for all protocols.
"""

from collections.abc import Callable, Sequence
from math import isfinite, prod
from typing import Final, NamedTuple, NoReturn

import numpy as np

from superserve.clock import NS_PER_MS, NS_PER_US, epoch_ms
from superserve.errors import InvalidRequestError, UnknownModelError, UnknownRequestError, UnsupportedError
from superserve.model_folder import BYTES, ModelConfig, TensorSpec
from superserve.serving.byte_strings import from_cells, to_cells
from superserve.serving.explain import Explainer
from superserve.serving.explanation import Explanation, Summary
from superserve.serving.inference import InferRequest, InputTensor, Responder
from superserve.serving.ledger import LedgerReport
from superserve.serving.live_profile import LiveProfile
from superserve.serving.metadata import EXTENSIONS, ModelConfiguration, ModelMetadata, ServerMetadata
from superserve.serving.pool import Buffer
from superserve.serving.router import Pending, Router
from superserve.serving.statistics import ModelStatistics, StatisticsReport
from superserve.serving.tracing import HTTP, Origin
from superserve.text_lengths import TextLengths

#: No deadline lies farther ahead than a day: more is a mistake in the unit.
MAX_TIMEOUT_US: Final = 24 * 3600 * 1_000_000


class _Expected(NamedTuple):
    name: str
    datatype: str
    row_shape: list[int]
    row_bytes: int
    """0 where rows differ in length."""
    spec: TensorSpec

    @classmethod
    def of(cls, spec: TensorSpec) -> "_Expected":
        row_bytes = 0 if spec.datatype == BYTES else spec.row_bytes
        return cls(spec.name, spec.datatype, list(spec.row_shape), row_bytes, spec)


class Checked(NamedTuple):
    """A request that fits its model: what the router needs of it. ``inputs`` stand in the model's order."""

    rows: int
    timeout_ns: int
    min_accuracy: float
    priority: int
    inputs: Sequence[Buffer]
    bucket: int = 0
    """Of its longest text; see `Request`."""


class ServedModel:
    """A model and the router that serves it.

    Args:
        config: names, datatypes and shapes of its tensors.
        router: runs its requests.
        slo_ms: deadline of a request that states none, from its arrival.
        emulated: whether its workers only pretend to run it.
        live_profile: measures its profile again, if that is allowed; one of the router's idle sources.
    """

    def __init__(
        self,
        config: ModelConfig,
        router: Router,
        *,
        slo_ms: float,
        emulated: bool = False,
        live_profile: LiveProfile | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.config = config
        self.devices = devices
        """The names of what workers run on, where that is several devices."""
        self._live_profile = live_profile
        self.router = router
        self.emulated = emulated
        self.slo_ms = slo_ms
        self.max_rows = min(config.max_batch_size, router.table.max_rows)
        """The most rows of one request."""
        self._explainer = Explainer(config.name, router.scheduler, router.decisions, devices)
        self._lengths = TextLengths.of(config.preprocessing) if len(router.scheduler.tables) > 1 else None
        self._inputs = [_Expected.of(spec) for spec in config.inputs]
        self._outputs = {spec.name for spec in config.outputs}
        self._strings = [position for position, spec in enumerate(config.inputs) if spec.datatype == BYTES]
        self._ranged = [(position, spec) for position, spec in enumerate(config.inputs) if spec.range is not None]

    def __str__(self) -> str:
        name = f"{self.config.name} (emulated)" if self.emulated else self.config.name
        subnets, policy = len(self.router.table), self.router.policy_name
        return f"{name}: {subnets} subnets, policy {policy}, SLO {self.slo_ms:g} ms"

    @property
    def platform(self) -> str:
        """What runs it, as metadata call it."""
        return "superserve_emulated" if self.emulated else "superserve_torch"

    @property
    def metadata(self) -> ModelMetadata:
        """Name, versions and tensors; on the packed engine also what is resident."""
        return ModelMetadata.of(self.config, self.platform, self.router.residency)

    @property
    def configuration(self) -> ModelConfiguration:
        """The same with how it is scheduled, in Triton's words."""
        return ModelConfiguration.of(
            self.config,
            self.platform,
            max_rows=self.max_rows,
            slo_ms=self.slo_ms,
            timeout_action=self.router.timeout_action,
            max_queued=self.router.max_queued,
        )

    @property
    def statistics(self) -> ModelStatistics:
        """What it has done so far."""
        return self.router.statistics.told(self.config.name, self.config.version)

    @property
    def ready(self) -> bool:
        """Whether a request would be admitted."""
        return self.router.ready

    @property
    def subnet_parameters(self) -> list[dict[str, str | float | bool]]:
        """What every answer says of the subnet that gave it, by front index."""
        table = self.router.table
        told: list[dict[str, str | float | bool]] = [
            {"superserve_subnet": subnet, "superserve_accuracy": accuracy}
            for subnet, accuracy in zip(table.ids, table.accuracies, strict=True)
        ]
        if self.emulated:
            for parameters in told:
                parameters["superserve_emulated"] = True
        return told

    def check(self, request: InferRequest) -> Checked:
        """Check a request against the model.

        Raises:
            InvalidRequestError: if it does not fit; the message names the field and what fits.
        """
        tensors = self._in_order(request.inputs)
        rows = self._rows(tensors)
        self._check_outputs(request.outputs)
        if not 0 <= request.min_accuracy <= 100:
            raise InvalidRequestError("parameters.superserve_min_accuracy must be a per cent value from 0 to 100")
        if request.priority < 0:
            raise InvalidRequestError("parameters.priority must be 0 (default) or a positive integer (1: most urgent)")
        inputs: list[Buffer] = [tensor.data for tensor in tensors]
        bucket = 0
        for position in self._strings:
            spec = self.config.inputs[position]
            cells = inputs[position] = to_cells(inputs[position], rows, spec)
            if self._lengths is not None:
                bucket = self._lengths.bucket_of(from_cells(memoryview(cells), spec))
        timeout_ns = self._relative_deadline_ns(request)
        return Checked(rows, timeout_ns, request.min_accuracy, request.priority, inputs, bucket)

    @property
    def fixed_sizes(self) -> bool:
        """Whether the bytes of each input follow from the number of rows."""
        return not self._strings

    def check_again(self, checked: Checked, inputs: Sequence[Buffer]) -> Checked:
        """Check a request that differs from a checked one in nothing but the elements of its tensors.

        Args:
            checked: that one; the model has `fixed_sizes`.
            inputs: the tensors, in the model's order, of the same sizes.

        Raises:
            InvalidRequestError: if a value is out of range; the message names the input.
        """
        for position, spec in self._ranged:
            _check_values(spec, inputs[position])
        rows, timeout_ns, min_accuracy, priority, *_ = checked
        return Checked(rows, timeout_ns, min_accuracy, priority, inputs)

    def submit(
        self,
        checked: Checked,
        arrival_ns: int,
        responder: Responder,
        request_id: bytes = b"",
        origin: Origin = HTTP,
    ) -> Pending:
        """Offer a checked request to the router; ``responder`` hears of its end, perhaps before this returns."""
        rows, timeout_ns, min_accuracy, priority, inputs, bucket = checked
        deadline_ns = arrival_ns + timeout_ns
        return self.router.submit(
            arrival_ns, deadline_ns, rows, min_accuracy, priority, inputs, responder, request_id, origin, bucket
        )

    def explain(self, request_id: bytes) -> Explanation | None:
        """What became of a request and why; None if it is none of the latest ones of this model."""
        course = self.router.decisions.find(request_id)
        return None if course is None else self._explainer.explain(course, self.router.now_ns(), epoch_ms())

    @property
    def can_reprofile(self) -> bool:
        """Whether its profile may be measured again."""
        return self._live_profile is not None

    @property
    def live_profile(self) -> LiveProfile:
        """What measures its profile again.

        Raises:
            UnsupportedError: if that is not allowed.
        """
        if self._live_profile is None:
            raise UnsupportedError("no profiles are measured here: start the server with --reprofile (idle.reprofile)")
        return self._live_profile

    def mend_profile(self) -> None:
        """Have a doubtful profile measured again in idle time, if that is allowed; to be called once it is served."""
        if self._live_profile is not None and self._live_profile.doubts:
            self._live_profile.begin(self.router.wake_idle_work)

    def latest(self, count: int) -> list[Summary]:
        """What became of the latest requests, the latest first."""
        now_ns, date_ms = self.router.now_ns(), epoch_ms()
        courses = self.router.decisions.latest(count)
        return [self._explainer.summarise(course, now_ns, date_ms) for course in courses]

    def notable(self) -> list[Summary]:
        """What became of the latest requests that could have fared better: see `DecisionLog.notable`."""
        now_ns, date_ms = self.router.now_ns(), epoch_ms()
        courses = self.router.decisions.notable(best=max(self.router.policy.subnets))
        return [self._explainer.summarise(course, now_ns, date_ms) for course in courses]

    def cancel(self, pending: Pending) -> None:
        """The client gave up: see `Router.cancel`."""
        self.router.cancel(pending)

    def _relative_deadline_ns(self, request: InferRequest) -> int:
        timeout_us, slo_ms = request.timeout_us, request.slo_ms
        if timeout_us:
            if not 0 < timeout_us <= MAX_TIMEOUT_US:
                raise InvalidRequestError(
                    f"parameters.timeout must be 1 to {MAX_TIMEOUT_US} microseconds, or 0 for none"
                )
            return timeout_us * NS_PER_US
        if slo_ms:
            if not isfinite(slo_ms) or not 0 < slo_ms <= MAX_TIMEOUT_US / 1000:
                raise InvalidRequestError(f"x-slo-ms must be above 0 and at most {MAX_TIMEOUT_US // 1000} milliseconds")
            return int(slo_ms * NS_PER_MS)
        return int(self.slo_ms * NS_PER_MS)

    def _in_order(self, tensors: Sequence[InputTensor]) -> Sequence[InputTensor]:
        expected = self._inputs
        if len(tensors) == len(expected) and all(
            tensor.name == spec.name for tensor, spec in zip(tensors, expected, strict=True)
        ):
            return tensors
        by_name = {tensor.name: tensor for tensor in tensors}
        names = [spec.name for spec in expected]
        if len(by_name) != len(tensors):
            raise InvalidRequestError(f"inputs: each tensor may be given once; the model takes {names}")
        if by_name.keys() != set(names):
            self._refuse_names(list(by_name), names)
        return [by_name[name] for name in names]

    def _refuse_names(self, given: list[str], names: list[str]) -> NoReturn:
        unknown = [name for name in given if name not in names]
        missing = [name for name in names if name not in given]
        complaints = [f"unknown: {unknown}"] if unknown else []
        complaints += [f"missing: {missing}"] if missing else []
        raise InvalidRequestError(f"inputs of model {self.config.name!r} must be {names}; {', '.join(complaints)}")

    def _rows(self, tensors: Sequence[InputTensor]) -> int:
        """The number of rows, after checking every tensor against the model."""
        rows = 0
        for tensor, (name, datatype, row_shape, row_bytes, spec) in zip(tensors, self._inputs, strict=True):
            shape = tensor.shape
            if tensor.datatype != datatype:
                raise InvalidRequestError(f"input {name!r}: datatype must be {datatype}, not {tensor.datatype!r}")
            if not shape or list(shape[1:]) != row_shape:
                raise InvalidRequestError(
                    f"input {name!r}: shape must be {[-1, *row_shape]} with the number of rows first, not {list(shape)}"
                )
            if rows and shape[0] != rows:
                raise InvalidRequestError(f"input {name!r}: {shape[0]} rows, but other inputs have {rows}")
            rows = shape[0]
            if not 0 < rows <= self.max_rows:
                raise InvalidRequestError(
                    f"input {name!r}: a request may have 1 to {self.max_rows} rows, not {rows}: send several requests"
                )
            if row_bytes and len(tensor.data) != rows * row_bytes:
                raise InvalidRequestError(
                    f"input {name!r}: {len(tensor.data)} bytes of data, but {rows} rows of {row_bytes} bytes expected"
                )
            if spec.range is not None:
                _check_values(spec, tensor.data)
        return rows

    def _check_outputs(self, names: Sequence[str] | None) -> None:
        if names is None:
            return
        for name in names:
            if name not in self._outputs:
                raise InvalidRequestError(f"outputs: {name!r} is unknown; the model gives {sorted(self._outputs)}")
        if len(set(names)) != len(names):
            raise InvalidRequestError("outputs: each tensor may be asked for once")


def _check_values(spec: TensorSpec, data: Buffer) -> None:
    """Refuse values that the model cannot take: an index outside of its table would end the whole batch."""
    assert spec.range is not None
    low, high = spec.range
    values = np.frombuffer(data, spec.dtype)
    if values.size and (values.min() < low or values.max() > high):
        place = int(np.argmax((values < low) | (values > high)))
        row = place // max(1, prod(spec.row_shape))
        raise InvalidRequestError(f"input {spec.name!r}: row {row} holds {values[place]}, outside of {low} to {high}")


class DataPlane:
    """The models of a server.

    Args:
        models: what it serves; their names differ.
        version: of the server.
    """

    def __init__(self, models: Sequence[ServedModel], *, version: str) -> None:
        self.models = {model.config.name: model for model in models}
        self.watchers: set[Callable[[], object]] = set()
        """Called whenever `ready` may have changed."""
        self.extensions: tuple[str, ...] = EXTENSIONS
        """Of the protocol, that are served."""
        self.can_load: Callable[[str], bool] = lambda _: False
        """Whether a model that is not served is there to be loaded."""
        self._version = version
        for model in models:
            model.router.watchers.add(self._readiness_changed)

    def add(self, model: ServedModel) -> None:
        """Serve a model that was not served."""
        assert model.config.name not in self.models, model.config.name
        self.models[model.config.name] = model
        model.router.watchers.add(self._readiness_changed)
        self._readiness_changed()

    def replace(self, model: ServedModel) -> ServedModel:
        """Serve a model in place of the one of its name, from the next request on; returns that one."""
        before = self.models[model.config.name]
        before.router.watchers.discard(self._readiness_changed)
        self.models[model.config.name] = model
        model.router.watchers.add(self._readiness_changed)
        self._readiness_changed()
        return before

    def remove(self, model: ServedModel) -> None:
        """Serve a model no more."""
        del self.models[model.config.name]
        model.router.watchers.discard(self._readiness_changed)
        self._readiness_changed()

    def _readiness_changed(self) -> None:
        for watcher in list(self.watchers):
            watcher()

    @property
    def live(self) -> bool:
        """Whether the process answers at all."""
        return True

    @property
    def ready(self) -> bool:
        """Whether every model would admit a request."""
        return all(model.ready for model in self.models.values())

    @property
    def metadata(self) -> ServerMetadata:
        """What the server is and can do."""
        return ServerMetadata("superserve", self._version, self.extensions)

    def model_ready(self, name: str, version: str | None = None) -> bool:
        """Whether a model would admit a request; one that could be loaded, but is not, would not.

        Raises:
            UnknownModelError: if it is neither.
        """
        if name not in self.models and self.can_load(name):
            return False
        return self.model(name, version).ready

    def statistics(self, name: str | None = None, version: str | None = None) -> StatisticsReport:
        """What one model has done so far, or each of them.

        Raises:
            UnknownModelError: if the model is not served.
        """
        models = self.models.values() if name is None else (self.model(name, version),)
        return StatisticsReport(tuple(model.statistics for model in models))

    def explain(self, request_id: str) -> Explanation:
        """What became of a request and why.

        Raises:
            UnknownRequestError: if no model remembers it.
        """
        asked = request_id.encode("latin-1", "replace")
        for model in self.models.values():
            found = model.explain(asked)
            if found is not None:
                return found
        raise UnknownRequestError(
            f"no request {request_id!r} is remembered: it never came to a model, still waits for its first batch, or "
            "more have come since than are kept (model.decisions)"
        )

    def latest(self, count: int) -> list[Summary]:
        """What became of the latest requests of all models, the latest first."""
        told = [summary for model in self.models.values() for summary in model.latest(count)]
        return sorted(told, key=lambda summary: summary.arrived, reverse=True)[:count]

    def ledgers(self) -> list[LedgerReport]:
        """What degraded answers of each model cost, as far as it is known.

        Raises:
            UnsupportedError: if none keeps a ledger.
        """
        kept = [model.router.ledger for model in self.models.values()]
        told = [ledger.report() for ledger in kept if ledger is not None]
        if not told:
            raise UnsupportedError("this server keeps no ledger: start it with --ledger 0.01 (ledger.share)")
        return told

    def model(self, name: str, version: str | None = None) -> ServedModel:
        """The model of a name; of a version, if one is given.

        Raises:
            UnknownModelError: if it is not served.
        """
        model = self.models.get(name)
        if model is None:
            raise UnknownModelError(f"model {name!r} is not served here; served: {', '.join(sorted(self.models))}")
        if version is not None and version != model.config.version:
            raise UnknownModelError(f"model {name!r} has version {model.config.version!r}, not {version!r}")
        return model
