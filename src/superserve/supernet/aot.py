"""Compile a module ahead of time: one trace with a dynamic batch, one shared library, its constants outside of it."""

import inspect
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import torch._inductor
import torch.fx.experimental._config as symbolic_shapes
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from superserve.supernet.compiled import CompiledModule, module_tensors

#: Rows of the example that is traced; not 1, which traces would specialise on.
EXAMPLE_ROWS: Final = 4

#: Upper end of the batch sizes that a trace is told of.
_MOST_ROWS: Final = 1 << 16

#: Keeps traces from reasoning that a batch is not 1. (torch installs `patch` at run time: no stub has it.)
_OBLIVIOUS: Final[Callable[[], AbstractContextManager[None]]] = partial(
    symbolic_shapes.patch,  # type: ignore[attr-defined]
    backed_size_oblivious=True,
)

_OPTIONS: Final[dict[str, Any]] = {"aot_inductor.package_constants_in_so": False}


def compile_module(module: nn.Module, example: Sequence[Tensor], library: Path) -> CompiledModule:
    """Compile a module in this process, for as many threads as torch has here, and load what came of it.

    The module's parameters and buffers are not in the library: the code reads them where they lie. Any module that
    `torch.export` can trace will do: a `BoundSubnet`, or a plain network such as `extract` gives.

    Args:
        module: in evaluation mode; its inputs and outputs have the rows first.
        example: its inputs, `EXAMPLE_ROWS` rows each.
        library: the file to write, ending in ``.so``.
    """
    program = trace(module, tuple(example))
    tensors = module_tensors(module)
    added = _added(program, tensors)
    _build(program, library)
    return CompiledModule(library, tensors, added)


def trace(module: nn.Module, example: tuple[Tensor, ...], *, tokens: int = 0) -> ExportedProgram:
    """A module's trace, good for every number of rows.

    Args:
        module: in evaluation mode; its inputs and outputs have the rows first.
        example: its inputs, `EXAMPLE_ROWS` rows each.
        tokens: above 0: the second dimension of every input is open, too, from 2 to this size.
    """
    sizes = {0: Dim("rows", min=1, max=_MOST_ROWS)} | ({1: Dim("tokens", min=2, max=tokens)} if tokens else {})
    shapes = tuple(sizes for _ in example)
    parameters = inspect.signature(module.forward).parameters.values()
    # Inputs that ``forward`` takes as ``*inputs`` are one argument to a trace.
    gathered = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    with torch.no_grad(), _OBLIVIOUS():
        return export(module, example, dynamic_shapes=(shapes,) if gathered else shapes, strict=False)


def without_writes(program: ExportedProgram) -> ExportedProgram:
    """A trace in which nothing is computed in place, so that operators may be put in other places; no other change."""
    with torch.no_grad(), _OBLIVIOUS():
        rewritten: ExportedProgram = program.run_decompositions({})
    return rewritten


def _added(program: ExportedProgram, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The constants that are none of the module's tensors, by the names that AOTInductor gives them.

    The trace numbers them as ``lifted_tensor_N``, AOTInductor as ``_tensor_constantN``; were that ever to change, the
    check against eager float32 would tell.
    """
    return {
        name.replace("lifted_tensor_", "_tensor_constant"): tensor.detach().clone().contiguous()
        for name, tensor in program.constants.items()
        if name not in tensors and isinstance(tensor, Tensor)
    }


def _build(program: ExportedProgram, library: Path) -> None:
    """Compile a trace and take the library out of the archive that torch makes: it is loaded from where it lies."""
    package = library.with_suffix(".pt2")
    # Inductor asks which convolution torch would run on the example, and would take the answer for a limit on the
    # batch. The layout of the result, all that it wants to know, is the same for all batches: the check of a build
    # against eager float32 runs small and large ones.
    with torch.no_grad(), _OBLIVIOUS(), ShapeEnv().suppress_guards():
        torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=_OPTIONS)  # noqa: SLF001 (torch documents this one)
    with zipfile.ZipFile(package) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        library.write_bytes(archive.read(name))
    library.chmod(0o700)
    package.unlink()
