"""A user's model as an `ElasticNetwork`, in place."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from superserve.errors import ConversionError
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.supernet.conversion.operators import (
    adopt_counter,
    adopt_layer,
    adopt_norm,
    adopt_projection,
    original,
)
from superserve.supernet.conversion.plan import LayerPlan, Plan
from superserve.supernet.conversion.sizes import layer_sizes
from superserve.supernet.conversion.switches import adopt_block
from superserve.supernet.network import ElasticNetwork
from superserve.supernet.operators import Geometry, NormStatistics, Statistics, adopt, obstacle


class ConvertedNetwork(ElasticNetwork):
    """Part of the class that a converted model has: its plan answers for it."""

    superserve_plan: Plan
    original_class: type[nn.Module]

    @property
    def space(self) -> SearchSpace:
        """The elastic dimensions that were found."""
        return self.superserve_plan.space

    def geometry(self, spec: SubnetSpec) -> Geometry:
        """See `ElasticNetwork.geometry`."""
        return self.superserve_plan.geometry(spec)

    def own_statistics(self, spec: SubnetSpec) -> Statistics:
        """The model's own running statistics, cut to a subnet's widths.

        Exact for the largest subnet; for others only a stand-in until they are calibrated.
        """
        channels = self.geometry(spec).channels
        own = {name: own_statistics(self.get_submodule(name), count) for name, count in channels.items()}
        return {name: NormStatistics(mean.clone(), variance.clone()) for name, (mean, variance) in own.items()}


def own_statistics(norm: nn.Module, channels: int) -> NormStatistics:
    """The leading running statistics of a batch normalisation, as views."""
    return NormStatistics(original(norm, "running_mean")[:channels], original(norm, "running_var")[:channels])


#: Classes made so far.
_CLASSES: dict[type, type[nn.Module]] = {}


def _network_class(kind: type[nn.Module]) -> type[nn.Module]:
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "original_class": kind}
    made = _CLASSES.get(kind) or type(kind.__name__, (kind, ConvertedNetwork), named)
    _CLASSES[kind] = made
    return made


def insert(model: nn.Module, plan: Plan) -> ConvertedNetwork:
    """Swap the classes of the modules that a plan names, and of the model itself.

    Parameters, ``state_dict`` keys, hooks and ``isinstance`` stay as they are.

    Raises:
        ConversionError: if the model is not the one that the plan was made for.
    """
    check(model, plan)
    for layer in plan.layers:
        _insert_layer(model.get_submodule(layer.module), layer)
    for norm in plan.norms:
        module = model.get_submodule(norm.module)
        assert isinstance(module, _BatchNorm)
        if obstacle(module) is None:
            adopt(module)
        else:
            adopt_norm(module)
    for counter in plan.counters:
        adopt_counter(model.get_submodule(counter.module), counter.attributes)
    for stage in plan.stages:
        for block in stage.blocks:
            if block.skippable:
                adopt_block(model.get_submodule(block.module), block)
    model.__class__ = _network_class(type(model))
    assert isinstance(model, ConvertedNetwork)
    model.superserve_plan = plan
    return model


def remove(model: nn.Module) -> None:
    """Undo `insert`: give every module its own class back."""
    for module in model.modules():
        kind: Any = next((base for base in type(module).__mro__ if "original_class" in base.__dict__), None)
        if kind is not None:
            module.__class__ = kind.original_class
        elif "slot" in module.__dict__:
            module.__class__ = _torch_class(module)
        for name in [name for name in module.__dict__ if name == "slot" or name.startswith("superserve_")]:
            del module.__dict__[name]


def _torch_class(module: nn.Module) -> type[nn.Module]:
    """The torch class that an operator of ours was adopted from."""
    return next(base for base in type(module).__mro__ if base.__module__.startswith("torch.nn"))


def _insert_layer(module: nn.Module, layer: LayerPlan) -> None:
    if layer.copies > 1 or layer.projection is not None:
        adopt_projection(module, layer.projection, layer.copies)
    elif obstacle(module) is None:
        adopt(module)
    else:
        adopt_layer(module)


def check(model: nn.Module, plan: Plan) -> None:
    """Check that a model has the modules that a plan names, in their sizes.

    Raises:
        ConversionError: naming the first module that differs.
    """
    modules = dict(model.named_modules())
    names = [norm.module for norm in plan.norms] + [counter.module for counter in plan.counters]
    names += [block.module for stage in plan.stages for block in stage.blocks]
    for name in (*names, *(layer.module for layer in plan.layers)):
        if name not in modules:
            raise ConversionError(f"the model has no module {name!r}: it is not the one that was converted")
    for layer in plan.layers:
        outputs, inputs, _ = layer_sizes(modules[layer.module], layer.projection)
        if (outputs, inputs) != (layer.outputs, layer.inputs):
            raise ConversionError(
                f"module {layer.module!r} is {outputs} x {inputs}, not {layer.outputs} x {layer.inputs}: the model is "
                "not the one that was converted"
            )
    for norm in plan.norms:
        module = modules[norm.module]
        if not isinstance(module, _BatchNorm) or module.num_features != norm.channels:
            raise ConversionError(f"module {norm.module!r} is no batch normalisation of {norm.channels} channels")
