"""The ``ofa`` package, made importable: it is the oracle of the OFA families (tests/models only)."""

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

#: C++ operators that torchvision's Python part looks up by name when it is imported.
_OPERATORS = ("nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")
_DECLARED = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]


def import_torchvision() -> Any:
    """``torchvision``, with its compiled part if that loads, else with the operators declared but empty.

    The published wheel is built for CUDA; only its pure-Python part works with a CPU build of torch.
    """
    if "torchvision" not in sys.modules and not _compiled_part_loads():
        for name in _OPERATORS:
            _DECLARED.define(f"{name}(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
    import torchvision  # noqa: PLC0415 (it fails where the operators are missing)

    return torchvision


def _compiled_part_loads() -> bool:
    spec = find_spec("torchvision")
    assert spec is not None, "tests/models needs torchvision: make test-models"
    assert spec.origin is not None
    try:
        torch.ops.load_library(Path(spec.origin).with_name("_C.so"))  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True


@cache
def ofa() -> Any:
    """The package's networks and its calibration, imported once.

    ``ofa`` needs torchvision for its data sets and ``gdown`` for downloads. Neither is used here.
    """
    import_torchvision()
    sys.modules.setdefault("gdown", ModuleType("gdown"))
    from ofa.imagenet_classification.elastic_nn import networks  # noqa: PLC0415 (only after the declarations)
    from ofa.imagenet_classification.elastic_nn.utils import set_running_statistics  # noqa: PLC0415

    networks.set_running_statistics = set_running_statistics
    return networks
