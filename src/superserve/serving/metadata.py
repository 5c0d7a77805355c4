"""What a server and its models say of themselves.

Fields are named as in the Open Inference Protocol and in Triton's model configuration extension
(``docs/protocol/extension_model_configuration.md`` of triton-inference-server/server), so that JSON and protobuf are
both made from these values without another table of names.
"""

from collections.abc import Mapping
from typing import Final, get_args

import msgspec

from superserve.engine import PACKED
from superserve.model_folder import BYTES, ModelConfig, TensorSpec
from superserve.scheduling.policy import TimeoutAction
from superserve.serving.residency.report import ResidencyReport, SubnetState

#: Open Inference Protocol extensions that are always served.
EXTENSIONS: Final = ("binary_tensor_data", "parameters", "schedule_policy", "model_configuration", "statistics")

#: The one that is served if there is a folder to load models from.
REPOSITORY_EXTENSION: Final = "model_repository"


class ModelIndex(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is told of a model in an index: ``READY``, ``LOADING``, ``UNLOADING`` or ``UNAVAILABLE``, and why."""

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""


class ServerMetadata(msgspec.Struct, frozen=True):
    """What the server says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...]


class TensorMetadata(msgspec.Struct, frozen=True):
    """Name, datatype and shape of a tensor; -1 is a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, spec: TensorSpec) -> "TensorMetadata":
        """What is told of a tensor."""
        return cls(spec.name, spec.datatype, spec.shape)


class ModelMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the server says of a model."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    parameters: Mapping[str, str | int | float] = {}
    """Ours, over HTTP only; none but for models on the packed engine."""

    @classmethod
    def of(cls, config: ModelConfig, platform: str, residency: ResidencyReport | None = None) -> "ModelMetadata":
        """What is told of a model, and of what it has resident beside the one copy of its weights."""
        return cls(
            name=config.name,
            versions=(config.version,),
            platform=platform,
            inputs=tuple(map(TensorMetadata.of, config.inputs)),
            outputs=tuple(map(TensorMetadata.of, config.outputs)),
            parameters={} if residency is None else residency_parameters(residency),
        )


def residency_parameters(report: ResidencyReport) -> dict[str, str | int | float]:
    """A report as parameters, whose values are plain: lists of subnets are separated by commas."""
    by_state = {
        f"superserve_subnets_{state.replace(' ', '_')}": ",".join(one.id for one in report.front if one.state == state)
        for state in get_args(SubnetState)
    }
    return {
        "superserve_engine": PACKED,
        "superserve_weights_bytes": report.weights,
        "superserve_packed_bytes": report.nbytes,
        "superserve_packed_budget_bytes": report.budget,
        "superserve_packed_share": round(report.share or 0.0, 4),
        **by_state,
    }


class TensorConfiguration(msgspec.Struct, frozen=True):
    """A tensor in a model's configuration; ``dims`` leaves out the rows."""

    name: str
    data_type: str
    dims: tuple[int, ...]

    @classmethod
    def of(cls, spec: TensorSpec) -> "TensorConfiguration":
        """What is told of a tensor."""
        kind = "STRING" if spec.datatype == BYTES else spec.datatype
        # Triton has no tensors without dimensions: a model whose rows are numbers says so like this.
        return cls(spec.name, f"TYPE_{kind}", spec.row_shape or (1,))


class QueuePolicy(msgspec.Struct, frozen=True):
    """How the requests of a model wait."""

    timeout_action: str
    default_timeout_microseconds: int
    allow_timeout_override: bool
    max_queue_size: int


class DynamicBatching(msgspec.Struct, frozen=True):
    """That a model's requests share batches."""

    default_queue_policy: QueuePolicy


class ModelConfiguration(msgspec.Struct, frozen=True):
    """A model's configuration."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: tuple[TensorConfiguration, ...]
    output: tuple[TensorConfiguration, ...]
    dynamic_batching: DynamicBatching

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        platform: str,
        *,
        max_rows: int,
        slo_ms: float,
        timeout_action: TimeoutAction,
        max_queued: int,
    ) -> "ModelConfiguration":
        """What is told of a model that is scheduled as the arguments say."""
        policy = QueuePolicy(
            timeout_action=timeout_action.upper(),
            default_timeout_microseconds=round(slo_ms * 1000),
            allow_timeout_override=True,
            max_queue_size=max_queued,
        )
        return cls(
            name=config.name,
            platform=platform,
            backend="superserve",
            max_batch_size=max_rows,
            input=tuple(map(TensorConfiguration.of, config.inputs)),
            output=tuple(map(TensorConfiguration.of, config.outputs)),
            dynamic_batching=DynamicBatching(policy),
        )
