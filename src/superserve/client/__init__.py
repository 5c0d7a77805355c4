"""What speaks to a server: clients for Python programs, and the open-loop load generator (``replay.py``)."""

from superserve.client.client import AsyncClient, Client
from superserve.client.reply import InferReply, ModelMetadata, ReplyParameters, TensorMetadata
from superserve.client.retries import Retries

__all__ = [
    "AsyncClient",
    "Client",
    "InferReply",
    "ModelMetadata",
    "ReplyParameters",
    "Retries",
    "TensorMetadata",
]
