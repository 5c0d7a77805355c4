"""The operators that a packed program may name: what each of them runs, and nothing else.

Most are ATen's, called with every argument of their signature. Those that oneDNN computes from packed weights are
torch's own as well: its compiler emits calls of them.
"""

import operator
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from superserve.errors import ModelFolderError

Function = Callable[..., Any]

# What torch's compiler emits for packed weights. Activations are a name, its parameters, and an algorithm.
CONV: Final = torch.ops.mkldnn._convolution_pointwise.default  # noqa: SLF001
CONV_ADD: Final = torch.ops.mkldnn._convolution_pointwise.binary  # noqa: SLF001
CONV_ADD_INTO: Final = torch.ops.mkldnn._convolution_pointwise_.binary
LINEAR: Final = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001
LINEAR_ADD: Final = torch.ops.mkldnn._linear_pointwise.binary  # noqa: SLF001

# The same of 8-bit integers (torch/_inductor/fx_passes/quantization.py): activations u8, weights s8, whose scales and
# zero points are arguments. Results are u8 or float32; a convolution adds by writing over what it adds to.
INT_CONV: Final = torch.ops.onednn.qconv2d_pointwise.default
INT_CONV_ADD_INTO: Final = torch.ops.onednn.qconv2d_pointwise.binary
INT_LINEAR: Final = torch.ops.onednn.qlinear_pointwise.default
INT_LINEAR_ADD: Final = torch.ops.onednn.qlinear_pointwise.binary

#: Where the batch that `INT_CONV_ADD_INTO` adds to stands among its arguments.
ADDED_TO: Final = 6

#: Functions of each number alone, and their kin that write over their first argument.
IN_PLACE: Final = {
    torch.ops.aten.relu.default: torch.ops.aten.relu_.default,
    torch.ops.aten.hardswish.default: torch.ops.aten.hardswish_.default,
    torch.ops.aten.hardsigmoid.default: torch.ops.aten.hardsigmoid_.default,
    torch.ops.aten.add.Tensor: torch.ops.aten.add_.Tensor,
    torch.ops.aten.mul.Tensor: torch.ops.aten.mul_.Tensor,
}


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, *activation: Any) -> Tensor:  # noqa: ANN401
    """A 1x1 convolution as a packed product over the channels of every pixel: a third less to set up."""
    return _channels_second(LINEAR(_channels_last(x), weight, bias, *activation))


def pointwise_add(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`pointwise` plus another batch."""
    return _channels_second(LINEAR_ADD(_channels_last(x), _channels_last(other), weight, bias, "add"))


def plain_pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution as torch's product with a plain weight (outputs, inputs)."""
    return _channels_second(functional.linear(_channels_last(x), weight, bias))


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _channels_second(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def quantise(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """Numbers to the nearest u8 that stands for them: ``(u8 - zero_point) * scale``."""
    shifted = x.mul(1 / scale).add_(zero_point + 0.5).clamp_(0, 255)  # cut off after the point, the nearest
    # Torch has vectors for conversions to and from 16 bits, none for that to u8: five times as fast by this way.
    return shifted.to(torch.int16).to(torch.uint8)


def dequantise(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """What u8 stand for, in float32."""
    return x.float().sub_(zero_point).mul_(scale)


def listed(*items: Any) -> list[Any]:  # noqa: ANN401 (sizes)
    """Numbers that are known when the program runs, as one argument."""
    return list(items)


def _to(x: Tensor, dtype: torch.dtype | None, *ignored: Any) -> Tensor:  # noqa: ANN401
    """``aten._to_copy`` on the processor, but for the copy of what is so already."""
    *_, memory_format = ignored
    return x.to(dtype=dtype or x.dtype, memory_format=memory_format or torch.preserve_format)


def _add(x: Tensor, other: Tensor | float, alpha: float) -> Tensor:
    return torch.add(x, other, alpha=alpha)


def _add_(x: Tensor, other: Tensor | float, alpha: float) -> Tensor:
    return x.add_(other, alpha=alpha)


#: Of this package, of oneDNN, and those of ATen that can be called by a quicker way than their name.
_DIRECT: Final[Mapping[str, Function]] = {
    **{str(overload): overload for overload in (CONV, CONV_ADD, CONV_ADD_INTO, LINEAR, LINEAR_ADD)},
    **{str(overload): overload for overload in (INT_CONV, INT_CONV_ADD_INTO, INT_LINEAR, INT_LINEAR_ADD)},
    "packed.quantise": quantise,
    "packed.dequantise": dequantise,
    "packed.pointwise": pointwise,
    "packed.pointwise_add": pointwise_add,
    "packed.plain_pointwise": plain_pointwise,
    "packed.listed": listed,
    "aten._to_copy.default": _to,
    "aten.add.Tensor": _add,
    "aten.add_.Tensor": _add_,
    "aten.mul_.Tensor": Tensor.mul_,
    "aten.relu.default": torch.relu,
    "aten.relu_.default": torch.relu_,
    "aten.hardswish_.default": torch.ops.aten.hardswish_.default,
    "aten.hardsigmoid_.default": torch.ops.aten.hardsigmoid_.default,
    "aten.linear.default": functional.linear,
    "aten.view.default": Tensor.view,
    "aten.transpose.int": torch.transpose,
    "aten.permute.default": torch.permute,
    "python.add": operator.add,
    "python.sub": operator.sub,
    "python.mul": operator.mul,
    "python.floordiv": operator.floordiv,
    "python.mod": operator.mod,
    "python.getitem": operator.getitem,
}

#: Pure functions of tensors: none opens anything, runs code of others, or writes to its arguments.
_ATEN: Final = frozenset(
    f"aten.{name}"
    for name in (
        "_adaptive_avg_pool2d.default", "_native_batch_norm_legit_no_training.default", "_softmax.default",
        "_to_copy.default", "_unsafe_view.default", "adaptive_avg_pool2d.default", "add.Scalar", "addcmul.default",
        "addmm.default", "alias.default", "amax.default", "arange.default", "arange.start", "arange.start_step",
        "avg_pool2d.default", "baddbmm.default", "batch_norm.default", "bitwise_and.Tensor", "bitwise_not.default",
        "bitwise_or.Tensor", "bmm.default", "cat.default", "chunk.default", "clamp.default", "clone.default",
        "constant_pad_nd.default", "conv1d.default", "conv2d.default", "conv2d.padding", "cos.default",
        "cumsum.default", "detach.default", "div.Scalar", "div.Tensor", "dropout.default", "elu.default",
        "embedding.default", "eq.Scalar", "eq.Tensor", "exp.default", "expand.default", "flatten.using_ints",
        "full.default", "full_like.default", "ge.Scalar", "ge.Tensor", "gelu.default", "group_norm.default",
        "gt.Scalar", "gt.Tensor", "hardsigmoid.default", "hardswish.default", "hardtanh.default",
        "index_select.default", "layer_norm.default", "le.Scalar", "le.Tensor", "leaky_relu.default",
        "linear.default", "log_softmax.int", "logical_and.default", "logical_not.default", "lt.Scalar", "lt.Tensor",
        "masked_fill.Scalar", "matmul.default", "max_pool2d.default", "maximum.default", "mean.default", "mean.dim",
        "minimum.default", "mish.default", "mm.default", "mul.Scalar", "mul.Tensor", "native_layer_norm.default",
        "ne.Scalar", "ne.Tensor", "neg.default", "new_ones.default", "new_zeros.default", "ones.default",
        "ones_like.default", "pad.default", "pixel_shuffle.default", "pow.Tensor_Scalar", "reciprocal.default",
        "relu6.default", "repeat.default", "reshape.default", "rms_norm.default", "rsqrt.default", "rsub.Scalar",
        "scaled_dot_product_attention.default", "select.int", "sigmoid.default", "silu.default", "sin.default",
        "slice.Tensor", "softmax.int", "softplus.default", "split.Tensor", "split_with_sizes.default", "sqrt.default",
        "squeeze.dim", "squeeze.dims", "stack.default", "sub.Scalar", "sub.Tensor", "sum.dim_IntList",
        "sym_size.int", "t.default", "tanh.default", "unbind.int", "unflatten.int", "unsqueeze.default",
        "upsample_bilinear2d.vec", "upsample_nearest2d.vec", "var_mean.correction", "where.self", "where.ScalarOther",
        "zeros.default", "zeros_like.default",
    )
)  # fmt: skip


def known(name: str) -> bool:
    """Whether a program may name this operator."""
    return name in _DIRECT or name in _ATEN


@cache
def function(name: str) -> Function:
    """What an operator runs: every argument of its signature by place, those that torch wants by name, too.

    Raises:
        ModelFolderError: for a name that is not on the list.
    """
    direct = _DIRECT.get(name)
    if direct is not None:
        return direct
    if name not in _ATEN:
        raise ModelFolderError(f"operator {name!r} is not one that a packed program may name")
    _, packet, overload = name.split(".")
    found = getattr(getattr(torch.ops.aten, packet), overload)
    arguments = found._schema.arguments  # noqa: SLF001 (torch has no public access to a signature)
    by_place = sum(not argument.kwarg_only for argument in arguments)
    by_name = [argument.name for argument in arguments[by_place:]]
    if not by_name:
        return found  # type: ignore[no-any-return]

    def call(*values: Any) -> Any:  # noqa: ANN401 (of whatever the operator takes)
        return found(*values[:by_place], **dict(zip(by_name, values[by_place:], strict=True)))

    return call
