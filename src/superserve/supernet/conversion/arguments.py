"""Tensors among a call's arguments and results, however they are nested."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor


def tensors(tree: object) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and data classes, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors(item)
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from tensors(item)
    elif is_dataclass(tree) and not isinstance(tree, type):
        yield from tensors(vars(tree))


def with_operands(tree: Any, make: Callable[[Tensor], object]) -> Any:  # noqa: ANN401 (any argument)
    """A copy of nested arguments with what ``make`` makes of each tensor in its place."""
    if isinstance(tree, Tensor):
        return make(tree)
    if isinstance(tree, torch.Size):
        return tuple(tree)
    if isinstance(tree, tuple | list):
        return type(tree)(with_operands(item, make) for item in tree) if not hasattr(tree, "_fields") else tree
    if isinstance(tree, dict):
        return {key: with_operands(item, make) for key, item in tree.items()}
    return tree


def stream_argument(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[str | None, Tensor | None]:
    """The first tensor that a module was called with, and its name if it was passed by name."""
    if args:
        return None, args[0] if isinstance(args[0], Tensor) else None
    for name, value in kwargs.items():
        if isinstance(value, Tensor):
            return name, value
    return None, None
