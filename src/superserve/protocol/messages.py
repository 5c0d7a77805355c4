"""The protobuf messages of the protocols that are spoken, made from ``descriptors.binpb`` (``make protos``).

They live in a pool of descriptors of their own: a program that also imports another client's messages of the same
names, such as tritonclient's, would otherwise not get past the import.
"""

from importlib import resources
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

DESCRIPTORS_FILE: Final = "descriptors.binpb"

INFERENCE: Final = "inference.GRPCInferenceService"
HEALTH: Final = "grpc.health.v1.Health"
REFLECTION: Final = "grpc.reflection.v1.ServerReflection"


def _load() -> Any:
    pool = descriptor_pool.DescriptorPool()
    data = resources.files(__package__ or "").joinpath(DESCRIPTORS_FILE).read_bytes()
    for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


POOL: Final = _load()


def message(name: str) -> Any:
    """The message class of a full name."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(name))


InferParameter: Final = message("inference.InferParameter")
InferTensorContents: Final = message("inference.InferTensorContents")
ModelConfigResponse: Final = message("inference.ModelConfigResponse")
ModelInferRequest: Final = message("inference.ModelInferRequest")
ModelInferResponse: Final = message("inference.ModelInferResponse")
ModelMetadataResponse: Final = message("inference.ModelMetadataResponse")
ModelReadyResponse: Final = message("inference.ModelReadyResponse")
ModelStatisticsResponse: Final = message("inference.ModelStatisticsResponse")
ModelStreamInferResponse: Final = message("inference.ModelStreamInferResponse")
RepositoryIndexResponse: Final = message("inference.RepositoryIndexResponse")
RepositoryModelLoadResponse: Final = message("inference.RepositoryModelLoadResponse")
RepositoryModelUnloadResponse: Final = message("inference.RepositoryModelUnloadResponse")
ServerLiveResponse: Final = message("inference.ServerLiveResponse")
ServerMetadataResponse: Final = message("inference.ServerMetadataResponse")
ServerReadyResponse: Final = message("inference.ServerReadyResponse")

HealthCheckRequest: Final = message("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse: Final = message("grpc.health.v1.HealthCheckResponse")

ServerReflectionRequest: Final = message("grpc.reflection.v1.ServerReflectionRequest")
ServerReflectionResponse: Final = message("grpc.reflection.v1.ServerReflectionResponse")
