"""What runs a packed subnet, as data: a list of steps over numbered values, written as JSON beside the weights.

Nothing here imports torch. A worker reads a program within a millisecond, where tracing the subnet takes seconds; and a
program can name nothing but the operators of ``operators.py``, so that reading one never runs code that it brings.
"""

from pathlib import Path
from typing import Final, Literal

import msgspec

from superserve.errors import ModelFolderError
from superserve.supernet.builds import Target, check_ours, this_machine

#: Raised whenever packed subnets of before must not be used any more.
FORMAT: Final = 2

PROGRAM_FILE: Final = "program.json"
WEIGHTS_FILE: Final = "weights.bin"

#: Programs are some 100 kB; a larger file is none.
_MOST_BYTES: Final = 64 << 20

_FIX: Final = "delete the folder, and it is packed again"


class Ref(msgspec.Struct, frozen=True, tag="value", tag_field="is"):
    """A value of the program: its inputs come first, then its constants, then what each step gives."""

    number: int


class Named(msgspec.Struct, frozen=True, tag="torch", tag_field="is"):
    """A dtype, memory format or layout, by its name in torch."""

    name: str


Argument = Ref | Named | bool | int | float | str | None | list[int | float | Ref]


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One call: an operator, and its arguments in the order of its signature, all given."""

    operator: str
    arguments: list[Argument]
    dead: list[int]
    """Values that no later step reads: their memory is given back."""


class Shared(msgspec.Struct, frozen=True, kw_only=True, tag="shared", tag_field="is"):
    """A constant that is a view of one of the model's own tensors: nothing is stored."""

    tensor: str
    """A parameter or buffer of the network."""
    shape: list[int]
    stride: list[int]
    offset: int
    """In elements, from the first of the tensor."""


class Plain(msgspec.Struct, frozen=True, kw_only=True, tag="plain", tag_field="is"):
    """A constant in the weights file, contiguous."""

    dtype: str
    shape: list[int]
    offset: int
    """In bytes."""


class Packed(msgspec.Struct, frozen=True, kw_only=True, tag="packed", tag_field="is"):
    """A weight in the weights file as oneDNN wants it, padding included."""

    dtype: str
    shape: list[int]
    """What it has as a plain tensor."""
    offset: int
    nbytes: int
    layout: bytes
    """oneDNN's own description of the memory, which only the torch that wrote it reads."""


Constant = Shared | Plain | Packed


class Program(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of ``program.json``, which is written last: a folder that lacks it is no packed subnet."""

    format: int
    model_hash: str
    target: Target
    subnet: str
    """Its id."""
    takes: Literal["requests", "arguments"]
    """Whether preprocessing is part of the program, or comes before it (texts)."""
    nbytes: int
    """Size of the weights file."""
    inputs: int
    constants: list[Constant]
    steps: list[Step]
    outputs: list[int]


def read_program(path: Path, model_hash: str) -> Program:
    """Read a packed subnet's program, and refuse one that was not written here, by this user, for this machine.

    The weights are not hashed: a worker is to map them, not to read them. They lie in files of this user's that nobody
    else may write, were checked against eager float32 when they were packed, and their size tells a cut file.

    Raises:
        ModelFolderError: if it may not be used, saying why.
    """
    for file in (path, path / PROGRAM_FILE, path / WEIGHTS_FILE):
        check_ours(file, _FIX)
    try:
        if (path / PROGRAM_FILE).stat().st_size > _MOST_BYTES:
            raise ModelFolderError(f"{path / PROGRAM_FILE}: too large for a program: {_FIX}")
        program = msgspec.json.decode((path / PROGRAM_FILE).read_bytes(), type=Program)
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelFolderError(f"{path / PROGRAM_FILE}: {error}: {_FIX}") from None
    if program.format != FORMAT or program.model_hash != model_hash:
        raise ModelFolderError(f"{path}: packed for another model or by another version: {_FIX}")
    if program.target != this_machine(program.target.dtype):
        raise ModelFolderError(f"{path}: packed for another machine, torch or version of SuperServe: {_FIX}")
    if (path / WEIGHTS_FILE).stat().st_size != program.nbytes:
        raise ModelFolderError(f"{path / WEIGHTS_FILE}: not as long as when it was written: {_FIX}")
    _check_numbers(program, path)
    return program


def refs(step: Step) -> list[int]:
    """The values that a step reads."""
    items = [it for argument in step.arguments for it in (argument if isinstance(argument, list) else [argument])]
    return [it.number for it in items if isinstance(it, Ref)]


def _check_numbers(program: Program, path: Path) -> None:
    """Every value is made before it is read."""
    known = program.inputs + len(program.constants)
    for step in program.steps:
        if not all(0 <= number < known for number in refs(step)) or not all(0 <= it <= known for it in step.dead):
            raise ModelFolderError(f"{path / PROGRAM_FILE}: a step reads what no step before it gives: {_FIX}")
        known += 1
    if not all(0 <= number < known for number in program.outputs):
        raise ModelFolderError(f"{path / PROGRAM_FILE}: an output that no step gives: {_FIX}")
