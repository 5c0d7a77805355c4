"""Weights in bfloat16: converted once, kept in the user's cache, mapped by every process like the model's own file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from superserve.engine import one_copy_dtype
from superserve.errors import ModelFolderError
from superserve.file_lock import alone
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.tensor_files import read_tensors, write_tensors
from superserve.supernet.weights_file import reduced_path

#: Normalisations keep float32 parameters, as their statistics are float32: torch takes both beside bfloat16 inputs.
_KEPT_WHOLE: Final = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)

TORCH_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_supernet_in(folder: ModelFolder, dtype: str) -> Supernet:
    """A supernet whose weights are in a dtype; see `load_supernet`.

    For ``bfloat16`` the converted weights are written to the user's cache the first time, by one process while others
    wait, and mapped from there: still one copy of them per machine. What is computed in ``int8`` has float32 ones.

    Raises:
        ModelFolderError: as `load_supernet`, or if the user's cache cannot be written.
    """
    supernet, dtype = load_supernet(folder), one_copy_dtype(dtype)
    if dtype == "float32":
        return supernet
    path = reduced_path(folder, dtype)
    wanted = {name: tensor.shape for name, tensor in _reducible(supernet.network)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with alone(path.with_suffix(".lock")):
            if not _fits(path, wanted):
                whole = dict(_reducible(supernet.network))
                write_tensors(path, {name: tensor.to(TORCH_DTYPES[dtype]) for name, tensor in whole.items()})
            tensors, _ = read_tensors(path)
    except OSError as error:
        raise ModelFolderError(f"{path}: the {dtype} weights cannot be kept there: {error}") from None
    supernet.network.load_state_dict(tensors, assign=True, strict=False)
    supernet.network.requires_grad_(requires_grad=False)
    return supernet


def _reducible(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every float32 parameter and stored buffer that is not a normalisation's, by its state's name."""
    state = network.state_dict()
    whole = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in network.named_modules()
        if isinstance(module, _KEPT_WHOLE)
        for name in module.state_dict()
    }
    for name, tensor in state.items():
        if tensor.dtype == torch.float32 and name not in whole:
            yield name, tensor


def _fits(path: Path, wanted: dict[str, torch.Size]) -> bool:
    """Whether a kept file can be used; one that was cut short, say, is written again."""
    if not path.is_file():
        return False
    try:
        tensors, _ = read_tensors(path)
    except ModelFolderError:
        return False
    return {name: tensor.shape for name, tensor in tensors.items()} == wanted
