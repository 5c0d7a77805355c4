"""A subnet on its own: extracted, and written down for static runtimes."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import as_tensor, channels_last
from superserve.supernet.extract import extract
from superserve.supernet.hub import load_supernet
from superserve.supernet.network import Supernet
from superserve.supernet.preprocess import NoPreprocessing, Preprocessor, parse_preprocessing
from superserve.supernet.text import TextPreprocessing

_OPSET: Final = 17

#: Rows of the example that is traced.
_ROWS: Final = 2

_SEED: Final = 0


class StaticSubnet(nn.Module):
    """An extracted subnet with its preprocessing: request tensors to logits.

    Args:
        subnet: as `extract` makes it.
        preprocess: of the model.
        dtype: of its weights and activations.
    """

    def __init__(self, subnet: nn.Module, preprocess: Preprocessor, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.subnet = subnet.to(dtype)
        self._preprocess = preprocess
        self._dtype = dtype

    def forward(self, *inputs: Tensor) -> Tensor:
        """Request tensors to logits, float32."""
        arguments = [channels_last(x) for x in self._preprocess(inputs)]
        logits: Tensor = self.subnet(*(x.to(self._dtype) if x.is_floating_point() else x for x in arguments))
        return logits.float()

    @torch.inference_mode()
    def run(self, arrays: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """Logits of a request."""
        return self(*(torch.from_numpy(array) for array in arrays)).numpy()  # type: ignore[no-any-return]


def static_subnet(
    supernet: Supernet, index: int, dtype: torch.dtype = torch.float32, preprocess: Preprocessor | None = None
) -> StaticSubnet:
    """A subnet of the front, extracted, its convolutions in channels_last as its activations are.

    Args:
        supernet: with its weights in float32.
        index: into the front.
        dtype: of the subnet's weights and activations.
        preprocess: in place of what ``config.json`` says.
    """
    record = supernet.front.subnets[index]
    plain = extract(supernet.network, record.spec, supernet.statistics[record.id])
    plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    preprocess = preprocess or parse_preprocessing(supernet.config.preprocessing).build()
    return StaticSubnet(plain, preprocess, dtype).eval()


class Exportable(NamedTuple):
    """A subnet that can be exported, and what it takes."""

    subnet: StaticSubnet
    names: tuple[str, ...]
    """Of its inputs."""
    example: tuple[Tensor, ...]
    """Its inputs, some rows each."""
    lengths: tuple[int, ...]
    """What the second dimension of its inputs may be, rising, if that is open: of texts, whose preprocessing, which
    cannot be traced, comes before it."""

    @classmethod
    def of(cls, folder: ModelFolder, index: int) -> "Exportable":
        """A subnet of a model's front."""
        config, supernet = folder.config, load_supernet(folder)
        preprocessing = parse_preprocessing(config.preprocessing)
        if isinstance(preprocessing, TextPreprocessing):
            subnet = static_subnet(supernet, index, preprocess=NoPreprocessing().build())
            arguments = preprocessing.build()(_tensors(folder, [spec.longest(_ROWS) for spec in config.inputs]))
            names = tuple(f"argument_{number}" for number in range(len(arguments)))
            return cls(subnet, names, arguments, preprocessing.lengths if len(preprocessing.lengths) > 1 else ())
        example = folder.example_inputs(_ROWS, np.random.default_rng(_SEED))
        names = tuple(spec.name for spec in config.inputs)
        return cls(static_subnet(supernet, index), names, _tensors(folder, example), ())


def _tensors(folder: ModelFolder, arrays: Sequence[np.ndarray[Any, Any]]) -> tuple[Tensor, ...]:
    return tuple(as_tensor(array, spec.datatype) for array, spec in zip(arrays, folder.config.inputs, strict=True))


def export_onnx(exportable: Exportable, path: Path) -> None:
    """Write a subnet as ONNX, with an open number of rows, and of tokens if they vary.

    Raises:
        ModelFolderError: if torch cannot export what it holds.
    """
    names = (*exportable.names, "logits")
    open_axes = {name: {0: "rows"} for name in names}
    if exportable.lengths:
        open_axes |= {name: {0: "rows", 1: "tokens"} for name in exportable.names}
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter by tracing: torch calls it old, and it is the one that gives these runtimes what they fuse best.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                exportable.subnet,
                exportable.example,
                str(path),
                input_names=list(exportable.names),
                output_names=["logits"],
                dynamic_axes=open_axes,
                opset_version=_OPSET,
                dynamo=False,
            )
        except (RuntimeError, ValueError, TypeError, OSError) as error:
            raise ModelFolderError(f"torch cannot export it: {error}") from error
