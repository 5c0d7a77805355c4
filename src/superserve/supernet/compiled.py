"""The compiled engine: code built ahead of time for each subnet, all of it reading the one copy of the weights."""

import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder
from superserve.supernet.accuracy import check_front
from superserve.supernet.bound import bound_subnets
from superserve.supernet.builds import build_path, file_names, load_build, this_machine
from superserve.supernet.engine import EagerEngine, as_tensor
from superserve.supernet.hub import load_supernet
from superserve.supernet.reduced import load_supernet_in

#: torch's in-process runner of one ahead-of-time compiled library. The package loader that torch documents unpacks an
#: archive into a fresh temporary folder in every process, so that workers would not even share code.
_Runner = Any


class CompiledModule:
    """The code of one module (``aot.py``), and the tensors it reads.

    Args:
        library: the shared library.
        tensors: the module's parameters and buffers by name.
        added: the constants that its trace added, by name.
    """

    def __init__(self, library: Path, tensors: Mapping[str, Tensor], added: Mapping[str, Tensor]) -> None:
        self._runner: _Runner = torch._C._aoti.AOTIModelContainerRunnerCpu(str(library), 1)  # noqa: SLF001 (see _Runner)
        self.added: Final = added
        known = {**tensors, **added}
        names: dict[str, str] = self._runner.get_constant_names_to_original_fqns()
        try:
            # Kept, because user-managed constants are bare pointers into these tensors.
            self.constants: Final = {name: known[original] for name, original in names.items()}
        except KeyError as error:
            raise ModelFolderError(
                f"{library}: needs an unknown constant {error}: compile again with `superserve compile --force`"
            ) from None
        # Not copied: the code reads the mapped file itself.
        self._runner.update_constant_buffer(self.constants, False, True, True)  # noqa: FBT003 (positional in C++)

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Input tensors, contiguous, to outputs."""
        outputs: list[Tensor] = self._runner.run(list(inputs))
        return outputs


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer by name: the very memory of the module, nothing copied."""
    return {name: tensor.detach() for name, tensor in (*module.named_parameters(), *module.named_buffers())}


class CompiledEngine:
    """Runs any subnet of a front through code of its own; see `superserve.engine.Engine`.

    Args:
        subnet_ids: in front order.
        subnets: their code.
        dtype: what it computes in.
        datatypes: of the inputs, as ``config.json`` has them.
    """

    name: Final = "compiled"

    def __init__(
        self, subnet_ids: Sequence[str], subnets: Sequence[CompiledModule], dtype: str, datatypes: Sequence[str]
    ) -> None:
        self.subnet_ids: Final = tuple(subnet_ids)
        self.dtype: Final = dtype
        self._subnets = tuple(subnets)
        self._datatypes = tuple(datatypes)

    @classmethod
    def load(cls, folder: ModelFolder, dtype: str = "float32", path: Path | None = None) -> "CompiledEngine":
        """Load a build (by default the one that is kept for this machine) and give it the mapped weights.

        Its ends are checked against eager float32: what a family computes may have changed since it was compiled.

        Raises:
            ModelFolderError: if it may not be used, or the model folder cannot be loaded.
        """
        path = path or build_path(folder, this_machine(dtype))
        build = load_build(folder, path)
        subnets = []
        for number, bound in enumerate(bound_subnets(load_supernet_in(folder, dtype), dtype)):
            library, added = (path / name for name in file_names(number))
            subnets.append(CompiledModule(library, module_tensors(bound), load_file(added)))
        engine = cls(
            [built.id for built in build.subnets], subnets, dtype, [tensor.datatype for tensor in folder.config.inputs]
        )
        check_front(engine, EagerEngine(load_supernet(folder)), folder, most=2)
        gc.collect()
        return engine

    def actuate(self, subnet: int) -> None:
        """See `Engine.actuate`; nothing is to be set, since every subnet has code of its own."""

    @torch.inference_mode()
    def run(self, subnet: int, inputs: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """See `Engine.run`."""
        tensors = [as_tensor(*item) for item in zip(inputs, self._datatypes, strict=True)]
        return [output.numpy() for output in self._subnets[subnet].run(tensors)]

    def constants(self, subnet: int) -> Mapping[str, Tensor]:
        """The tensors that a subnet's code reads, by its own names for them."""
        return self._subnets[subnet].constants
