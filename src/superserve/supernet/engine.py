"""The eager engine: plain torch on weight views of the one copy."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from superserve.errors import ConfigError, ModelFolderError
from superserve.model_folder import CONFIG_FILE, ModelFolder
from superserve.supernet.actuator import Actuator
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.preprocess import parse_preprocessing


class EagerEngine:
    """Runs any subnet of a supernet's front on this process's CPU threads; see `superserve.engine.Engine`.

    Activations are channels_last, in which torch's convolutions and normalisations are faster from a few rows on
    (the digits model at 16 rows: by 23-39 %);
    weights stay as they lie in the file, so that every process on a machine shares one copy of them.
    """

    name: Final = "eager"
    dtype: Final = "float32"

    def __init__(self, supernet: Supernet) -> None:
        self.subnet_ids: Final = tuple(record.id for record in supernet.front.subnets)
        self._network = supernet.network.eval()
        self._preprocess = parse_preprocessing(supernet.config.preprocessing).build()
        self._datatypes = [tensor.datatype for tensor in supernet.config.inputs]
        self._actuator = Actuator.of_front(supernet)

    @classmethod
    def load(cls, folder: ModelFolder) -> "EagerEngine":
        """Load a model folder and check that one row of zeros runs through.

        Raises:
            ModelFolderError: if a file is missing, wrong or stale, or the tensors of ``config.json`` do not fit the
                architecture.
        """
        supernet = load_supernet(folder)
        where = folder.path / CONFIG_FILE
        try:
            engine = cls(supernet)
            rows = [np.zeros((1, *tensor.row_shape), tensor.dtype) for tensor in supernet.config.inputs]
            found = [(output.shape, output.dtype) for output in engine.run(0, rows)]
        except (ConfigError, RuntimeError) as error:
            raise ModelFolderError(f"{where}: a row of zeros cannot be run: {error}") from error
        declared = [((1, *tensor.row_shape), tensor.dtype) for tensor in supernet.config.outputs]
        if found != declared:
            raise ModelFolderError(f"{where}: one row gives {found}, not {declared}: correct `outputs`")
        return engine

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`."""
        self._actuator.actuate(subnet)

    @torch.inference_mode()
    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        self._actuator.actuate(subnet)
        arguments = self._preprocess([_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)])
        logits: Tensor = self._network(*(channels_last(x) for x in arguments))
        return [logits.numpy()]


def _tensor(array: np.ndarray[Any, Any], datatype: str) -> Tensor:
    # torch has no read-only tensors and warns about read-only arrays: those are copied, others shared.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(torch.bfloat16) if datatype == "BF16" else tensor


def channels_last(x: Tensor) -> Tensor:
    """An image batch in channels_last, other tensors as they are.

    Not by `Tensor.contiguous`: that returns a one-channel batch unchanged, with strides that the layers after it take
    for channels-first.
    """
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
