"""The page of the model folder, from the structs that its files are read into."""

from typing import Final

import msgspec

from reference.markdown import code, prose
from reference.structs import fields_table
from superserve.conditions import Conditions
from superserve.levers import CellCosts, LeverReport, LeverStep, Machine, Stream, Work
from superserve.model_folder import BYTES, DTYPES, Front, ModelConfig, SubnetRecord, TensorSpec
from superserve.profile import Bucket, Device, Profile, SubnetProfile
from superserve.subnet import SubnetSpec

_HEAD = """\
# Model folder

What `superserve train`, `import` and a converted model write, and what `superserve serve` reads:

| file | content |
|---|---|
| `config.json` | architecture, task, labels, input and output tensors, preprocessing: [ModelConfig](#modelconfig) |
| `model.safetensors` | the shared weights, one copy, under the names of the original model's `state_dict` |
| `norms.safetensors` | SubnetNorm statistics, each distinct set once |
| `subnets.json` | the Pareto front, from the least to the most accurate subnet: [Front](#front) |
| `profiles/` | a latency [Profile](#profile) per device; bundled models keep theirs in the user's cache |
| `test.npz` | optional: test examples, `inputs` and `labels`, to evaluate on and to compare engines on |
| `README.md` | optional: the model's card |

There is no pickle anywhere: a folder cannot run code. Unknown fields, tensors of another shape than `config.json`
implies and statistics of other subnets are refused with the name of the file and the fix.
[Convert your own model](../how-to/convert-my-model.md), [Train a supernet](../how-to/train-a-supernet.md) and
[Serve a checkpoint](../how-to/serve-a-checkpoint.md) make such folders.

"""

_STRUCTS: Final[dict[str, tuple[type[msgspec.Struct], ...]]] = {
    "config.json": (ModelConfig, TensorSpec),
    "subnets.json": (Front, SubnetRecord, SubnetSpec),
    "profiles/DEVICE.json": (
        Profile,
        Device,
        SubnetProfile,
        Bucket,
        Conditions,
        LeverReport,
        CellCosts,
        LeverStep,
        Machine,
        Stream,
        Work,
    ),
}


def model_folder() -> str:
    """Every file with its fields."""
    files = "\n".join(_file(name, structs) for name, structs in _STRUCTS.items())
    return _HEAD + files + _datatypes()


def _file(name: str, structs: tuple[type[msgspec.Struct], ...]) -> str:
    return f"## {name}\n\n" + "\n".join(_struct(kind) for kind in structs)


def _struct(kind: type[msgspec.Struct]) -> str:
    return f"### {kind.__name__}\n\n{prose(kind.__doc__)}\n\n{fields_table(kind)}"


def _datatypes() -> str:
    names = [code(name) for name in (*DTYPES, BYTES)]
    return f"\n## Datatypes\n\nOf the Open Inference Protocol, those that tensors may have: {', '.join(names)}.\n"
