"""The eager engine: plain torch on weight views of the one copy."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from superserve.errors import ConfigError, ModelFolderError
from superserve.model_folder import BYTES, CONFIG_FILE, ModelFolder
from superserve.supernet.accuracy import check_front
from superserve.supernet.actuator import Actuator
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.preprocess import Preprocessor, parse_preprocessing
from superserve.supernet.reduced import TORCH_DTYPES, load_supernet_in

CPU: Final = "cpu"


class EagerEngine:
    """Runs any subnet of a supernet's front in plain torch; see `superserve.engine.Engine`.

    Activations are channels_last, in which torch's convolutions and normalisations are faster from a few rows on
    (the digits model at 16 rows: by 23-39 %);
    weights stay as they lie in the file, so that every process on a machine shares one copy of them.

    Args:
        supernet: with its weights in the dtype, on the CPU.
        dtype: what to compute in; inputs and outputs stay as ``config.json`` has them.
        device: ``cpu`` (on this process's threads), or ``cuda``, to whose memory the weights are copied.
    """

    name: Final = "eager"

    def __init__(self, supernet: Supernet, dtype: str = "float32", device: str = CPU) -> None:
        self.dtype: Final = dtype
        self.subnet_ids: Final = tuple(record.id for record in supernet.front.subnets)
        self._device = device
        self._supernet = supernet if device == CPU else supernet.to(device)
        self._network = self._supernet.network.eval()
        self._preprocess = parse_preprocessing(supernet.config.preprocessing).build(device)
        self._datatypes = [tensor.datatype for tensor in supernet.config.inputs]
        self._actuator = Actuator.of_front(self._supernet)

    @classmethod
    def load(cls, folder: ModelFolder, dtype: str = "float32", device: str = CPU) -> "EagerEngine":
        """Load a model folder, check that one row of zeros runs through, and the accuracy unless float32 on the CPU.

        Raises:
            ConfigError: for ``cuda`` without a GPU that torch can use.
            ModelFolderError: if a file is missing, wrong or stale, the tensors of ``config.json`` do not fit the
                architecture, or outputs differ from eager float32's by more than `accuracy.TOLERANCE`.
        """
        if device != CPU:
            prepare_cuda()
        reference = load_supernet(folder)
        engine = cls(
            load_supernet_in(folder, dtype) if (dtype, device) != ("float32", CPU) else reference, dtype, device
        )
        engine.try_zeros(folder)
        if (dtype, device) != ("float32", CPU):
            check_front(engine, cls(reference), folder)
        return engine

    def try_zeros(self, folder: ModelFolder) -> None:
        """Run one row of zeros on the smallest subnet.

        Raises:
            ModelFolderError: if it cannot be run, or gives other tensors than ``config.json`` says.
        """
        where, config = folder.path / CONFIG_FILE, folder.config
        try:
            rows = [np.zeros((1, *tensor.row_shape), tensor.dtype) for tensor in config.inputs]
            found = [(output.shape, output.dtype) for output in self.run(0, rows)]
        except (ConfigError, RuntimeError) as error:
            raise ModelFolderError(f"{where}: a row of zeros cannot be run in {self.dtype}: {error}") from error
        declared = [((1, *tensor.row_shape), tensor.dtype) for tensor in config.outputs]
        if found != declared:
            raise ModelFolderError(f"{where}: one row gives {found}, not {declared}: correct `outputs`")

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`."""
        self._actuator.actuate(subnet)

    @torch.inference_mode()
    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        self._actuator.actuate(subnet)
        tensors = [as_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)]
        if self._device != CPU:
            tensors = [tensor.to(self._device) for tensor in tensors]
        logits = run_network(self._network, self._preprocess, tensors, TORCH_DTYPES[self.dtype])
        return [logits.cpu().numpy()]


def run_network(
    network: Callable[..., Tensor], preprocess: Preprocessor, inputs: Sequence[Tensor], dtype: torch.dtype
) -> Tensor:
    """A network (its active subnet) on request tensors: preprocess, to the dtype, channels_last, forward.

    Returns:
        Logits, float32 unless the network itself computes in something else.
    """
    arguments = (channels_last(x.to(dtype) if x.dtype == torch.float32 else x) for x in preprocess(inputs))
    logits = network(*arguments)
    return logits.float() if logits.dtype == torch.bfloat16 else logits


def prepare_cuda() -> None:
    """See to it that CUDA computes float32 in float32.

    Raises:
        ConfigError: if torch finds no GPU.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda': no GPU here that torch can use (torch.cuda.is_available() is false): install a CUDA build "
            "of torch and the driver, or serve with --device cpu"
        )
    torch.backends.cudnn.allow_tf32 = False  # convolutions would keep 10 bits of 23


def as_tensor(array: np.ndarray[Any, Any], datatype: str) -> Tensor:
    """A tensor of an Open Inference Protocol datatype on an array's memory; on a copy if the array is read-only.

    torch has no strings: of BYTES, the cells (``TensorSpec.dtype``) become uint8 (rows, ..., 4 + max_bytes).
    """
    if datatype == BYTES:
        array = array[..., None].view(np.uint8)
    # torch has no read-only tensors and warns about read-only arrays: those are copied, others shared.
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.view(torch.bfloat16) if datatype == "BF16" else tensor


def channels_last(x: Tensor) -> Tensor:
    """An image batch in channels_last, other tensors as they are.

    Not by `Tensor.contiguous`: that returns a one-channel batch unchanged, with strides that the layers after it take
    for channels-first.
    """
    return x.to(memory_format=torch.channels_last) if x.dim() == 4 else x
