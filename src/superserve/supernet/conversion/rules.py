"""What torch functions do to channel groups, by function name.

A rule sees one call and answers with the groups of its result's dimensions. It ties groups that must be narrowed
together and fixes those that the call would get wrong if they were narrower. What has no rule fixes every group that
it touches: a function that nobody looked at must not be trusted to treat channels one by one.
"""

from collections.abc import Callable, Sequence
from typing import Final

from superserve.supernet.conversion.groups import Group, union
from superserve.supernet.conversion.operand import Call, Dims, Operand, index

Rule = Callable[[Call], "Dims | list[Dims]"]
"""From a call to the groups of its result, or of each of its results."""

RULES: Final[dict[str, Rule]] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule under the names of the functions it holds for."""

    def decorate(function: Rule) -> Rule:
        for name in names:
            assert name not in RULES, f"two rules for {name}"
            RULES[name] = function
        return function

    return decorate


#: Give back their first tensor's values as they are (outside training).
UNCHANGED: Final = frozenset(
    [
        "contiguous",
        "clone",
        "detach",
        "to",
        "float",
        "half",
        "bfloat16",
        "double",
        "type",
        "type_as",
        "cpu",
        "cuda",
        "alias",
        "dropout",
        "dropout1d",
        "dropout2d",
        "dropout3d",
        "alpha_dropout",
        "feature_dropout",
        "feature_alpha_dropout",
        "requires_grad",
        "get:data",
    ]
)
ACTIVATIONS: Final = frozenset(
    [
        "relu",
        "relu6",
        "gelu",
        "silu",
        "sigmoid",
        "tanh",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "mish",
        "softplus",
        "softsign",
        "tanhshrink",
        "logsigmoid",
        "threshold",
        "clamp",
        "clamp_min",
        "clamp_max",
        "clip",
    ]
)
#: Same elements in the same order, whatever the shape.
VIEWS: Final = frozenset({"view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"})
SUMS: Final = frozenset(["add", "iadd", "radd", "sub", "isub"])
NORMS: Final = frozenset(["batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"])

_POINTWISE = [
    "exp",
    "expm1",
    "log",
    "log1p",
    "log2",
    "log10",
    "neg",
    "abs",
    "sqrt",
    "rsqrt",
    "square",
    "reciprocal",
    "erf",
    "sin",
    "cos",
    "tan",
    "round",
    "floor",
    "ceil",
    "trunc",
    "sign",
    "nan_to_num",
    "logical_not",
    "bitwise_not",
    "invert",
    "isnan",
    "isinf",
    "isfinite",
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
    "rand_like",
    "randn_like",
    "zero",
    "fill",
    "frac",
    "positive",
    "bool",
    "int",
    "long",
    "rsub",
    "rpow",
    "pow",
    "ipow",
    "rdiv",
    "rmul",
    "rtruediv",
    "truediv",
    "mul",
    "imul",
    "multiply",
    "div",
    "idiv",
    "itruediv",
    "divide",
    "true_divide",
    "floordiv",
    "floor_divide",
    "remainder",
    "mod",
    "maximum",
    "minimum",
    "fmax",
    "fmin",
    "where",
    "addcmul",
    "addcdiv",
    "lerp",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "logical_and",
    "logical_or",
    "logical_xor",
    "bitwise_and",
    "bitwise_or",
    "and",
    "or",
    "xor",
    "rand",
    "ror",
    "iand",
    "ior",
    "masked_fill",
    "atan2",
    "copy",
    "subtract",
    "hypot",
]


@rule(*UNCHANGED, *ACTIVATIONS, *SUMS, *_POINTWISE)
def _pointwise(call: Call) -> Dims:
    """Element by element, operands broadcast against each other: ties what stands at the same index."""
    return broadcast(call, call.operands, call.shape)


def broadcast(call: Call, operands: Sequence[Operand], shape: tuple[int, ...]) -> Dims:
    """Tie the dimensions that operands share when broadcast to a shape."""
    return [_tie(call, operands, back, shape[-back]) for back in range(len(shape), 0, -1)]


def _tie(call: Call, operands: Sequence[Operand], back: int, size: int) -> Group | None:
    taking = [op.dims[-back] for op in operands if len(op.shape) >= back and op.shape[-back] == size]
    groups = [group.find() for group in taking if group is not None]
    if not groups or size == 1:
        return None
    if len(groups) < len(taking):
        for group in groups:
            group.fix(f"{call.name} in {call.place} combines it with a tensor that no sliced layer makes")
    tied = groups[0]
    for group in groups[1:]:
        if call.name in SUMS and group is not tied:
            tied.stream = True
        tied = union(tied, group)
    return tied


@rule("softmax", "log_softmax", "softmin", "cumsum", "cumprod", "sort", "argsort", "flip", "roll")
def _along(call: Call) -> Dims | list[Dims]:
    """Mixes values along some dimensions, keeps the shape."""
    x = call.first
    dims = _dims(call, 2 if call.name == "roll" else 1, x, "dims" if call.name in {"flip", "roll"} else "dim")
    x.fix(f"{call.name} in {call.place} runs along it", dims)
    return [list(x.dims) for _ in call.shapes]


@rule("normalize")
def _normalise(call: Call) -> Dims:
    x = call.first
    x.fix(f"normalize in {call.place} runs along it", [index(call.argument(2, "dim", 1), len(x.shape))])
    return list(x.dims)


_REDUCTIONS = "mean sum amax amin std var prod all any logsumexp max min median argmax argmin var_mean std_mean nansum"


@rule(*_REDUCTIONS.split(), "norm", "vector_norm")
def _reduce(call: Call) -> Dims | list[Dims]:
    """Reduces dimensions to one value each."""
    x = call.first
    if len(call.operands) > 1:
        return broadcast(call, call.operands, call.shape)
    dims = _dims(call, 2 if call.name.endswith("norm") else 1, x, "dim")
    x.fix(f"{call.name} in {call.place} reduces it", dims)
    if len(call.shape) == len(x.shape):
        kept: Dims = [None if dim in dims else group for dim, group in enumerate(x.dims)]
    else:
        kept = [group for dim, group in enumerate(x.dims) if dim not in dims]
    return [list(kept) for _ in call.shapes]


def _dims(call: Call, position: int, x: Operand, name: str) -> list[int]:
    found = call.argument(position, name, call.kwargs.get("axis"))
    rank = len(x.shape)
    if found is None or isinstance(found, bool):
        return list(range(rank))
    return [index(dim, rank) for dim in (found if isinstance(found, tuple | list) else (found,))]


@rule("matmul", "rmatmul", "bmm", "mm")
def _matmul(call: Call) -> Dims:
    """Matrix product of two activations."""
    a, b = call.operands
    if call.name == "rmatmul":
        a, b = b, a
    reason = f"{call.name} in {call.place} sums over it"
    a.fix(reason, [len(a.shape) - 1])
    b.fix(reason, [max(0, len(b.shape) - 2)])
    rank = len(call.shape)
    if len(a.shape) < 2 or len(b.shape) < 2:
        a.fix(reason)
        b.fix(reason)
        return [None] * rank
    batch = broadcast(call, [_lead(a), _lead(b)], call.shape[:-2])
    return [*batch, a.dims[-2], b.dims[-1]]


def _lead(x: Operand) -> Operand:
    """The batch dimensions of a matrix."""
    lead = Operand(x.shape[:-2], x.info, x.owner)
    lead.info = type(x.info)(x.dims[:-2])
    return lead


@rule("einsum")
def _einsum(call: Call) -> Dims:
    """Ties what carries the same letter; what is summed over is fixed."""
    equation = call.args[0]
    if not isinstance(equation, str) or "." in equation:
        for operand in call.operands:
            operand.fix(f"einsum in {call.place} is not of a form that is understood")
        return [None] * len(call.shape)
    left, _, right = equation.replace(" ", "").partition("->")
    letters = left.split(",")
    dims: Dims = []
    for letter in dict.fromkeys("".join(letters)):
        using = [
            Operand((op.shape[i],), type(op.info)([op.dims[i]]), None)
            for op, names in zip(call.operands, letters, strict=True)
            for i, name in enumerate(names)
            if name == letter
        ]
        size = max(op.shape[0] for op in using)
        (group,) = broadcast(call, using, (size,))
        if letter not in right and group is not None:
            group.fix(f"einsum in {call.place} sums over it")
        dims.append(group)
    order = list(dict.fromkeys("".join(letters)))
    return [dims[order.index(letter)] for letter in right]


@rule("scaled_dot_product_attention")
def _attention(call: Call) -> Dims:
    """Attention by heads: ties the heads of queries, keys and values; the value's width goes through."""
    query, key, value = (call.operand(i, name) for i, name in enumerate(("query", "key", "value")))
    assert query is not None
    assert key is not None
    assert value is not None
    query.fix(f"attention in {call.place} sums over it", [len(query.dims) - 1])
    key.fix(f"attention in {call.place} sums over it", [len(key.dims) - 1])
    for operand in (query, key, value):
        operand.fix(f"attention in {call.place} runs along it", [len(operand.dims) - 2])
    batch: Dims = []
    for dim, size in enumerate(call.shape[:-2]):
        groups = [op.dims[dim] for op in (query, key, value)]
        batch.append(_heads(call, groups, size))
    mask = call.operand(3, "attn_mask")
    if mask is not None and mask.owner is None:
        batch = broadcast(call, [Operand(call.shape[:-2], type(query.info)(batch), None), _lead(mask)], call.shape[:-2])
    return [*batch, None, value.dims[-1]]


def _heads(call: Call, groups: Sequence[Group | None], size: int) -> Group | None:
    """Tie heads; keys and values may have fewer, each of which then serves a run of queries."""
    known = [group for group in groups if group is not None]
    if not known:
        return None
    if len(known) < len(groups):
        for group in known:
            group.fix(f"attention in {call.place} combines its heads with ones that no sliced layer makes")
    tied = known[0]
    for group in known[1:]:
        tied = union(tied, group)
    tied.divide(size)
    return tied


_SPATIAL = "avg_pool max_pool lp_pool adaptive_avg_pool adaptive_max_pool"


@rule(*(f"{name}{n}d" for name in _SPATIAL.split() for n in (1, 2, 3)))
@rule(*(f"{name}{n}d_with_indices" for name in ("max_pool", "adaptive_max_pool") for n in (1, 2, 3)))
def _pool(call: Call) -> list[Dims]:
    """Pools the last dimensions, each channel alone."""
    x = call.first
    spatial = int(call.name.removesuffix("_with_indices")[-2])
    x.fix(f"{call.name} in {call.place} runs along it", range(len(x.dims) - spatial, len(x.dims)))
    return [[*x.dims[:-spatial], *[None] * spatial] for _ in call.shapes]


@rule("interpolate", "upsample", "upsample_nearest2d", "upsample_bilinear2d")
def _interpolate(call: Call) -> Dims:
    """Resizes all but the first two dimensions."""
    x = call.first
    x.fix(f"{call.name} in {call.place} runs along it", range(2, len(x.dims)))
    return [*x.dims[:2], *[None] * (len(x.dims) - 2)]


@rule("pad", "constant_pad_nd")
def _pad(call: Call) -> Dims:
    """Pads the last dimensions."""
    x = call.first
    amounts = list(call.argument(1, "pad"))
    rank = len(x.dims)
    padded = {rank - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
    x.fix(f"pad in {call.place} adds to it", sorted(padded))
    return [None if dim in padded else group for dim, group in enumerate(x.dims)]


@rule("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor")
def _factory(call: Call) -> Dims:
    """Makes a tensor of its own from another's type and device."""
    return [None] * len(call.shape)
