"""A converted model, and what can be done with it."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from superserve.model_folder import Front, ModelConfig
from superserve.subnet import SearchSpace, SubnetSpec
from superserve.supernet.actuator import apply, bind
from superserve.supernet.calibrate import calibrate
from superserve.supernet.conversion.network import ConvertedNetwork, remove
from superserve.supernet.conversion.report import Report
from superserve.supernet.extract import extract
from superserve.supernet.network import Supernet
from superserve.supernet.operators import Statistics


class Conversion:
    """A model that was made elastic in place; `convert` makes one.

    Args:
        network: the user's model itself, which is an `ElasticNetwork` now.
        report: what became elastic and what did not.
        example: positional and keyword arguments that the model was traced with.
    """

    def __init__(
        self, network: ConvertedNetwork, report: Report, example: tuple[tuple[Any, ...], Mapping[str, Any]]
    ) -> None:
        self.model = network
        self.report = report
        self.example = example
        self._statistics: dict[SubnetSpec, Statistics] = {}

    @property
    def space(self) -> SearchSpace:
        """The elastic dimensions: ``smallest()``, ``largest()``, ``sample(rng)`` and ``spec(...)`` give subnets."""
        return self.model.space

    def actuate(self, spec: SubnetSpec) -> None:
        """Make a subnet the active one, in place.

        Convenient, not fast: it binds the subnet first. What serves many requests binds ahead (`Actuator`).

        Raises:
            IllegalSubnetError: if the subnet lies outside the space.
        """
        with torch.no_grad():
            apply(bind(self.model, spec, self.statistics(spec)))

    def extract(self, spec: SubnetSpec) -> nn.Module:
        """A subnet as a plain module with weights of its own, in evaluation mode; of the original classes.

        Raises:
            IllegalSubnetError: if the subnet lies outside the space.
        """
        plain = extract(self.model, spec, self.statistics(spec))
        remove(plain)
        return plain

    def calibrate(
        self, batches: Iterable[Tensor | tuple[Tensor, ...]], *specs: SubnetSpec
    ) -> Mapping[SubnetSpec, Statistics]:
        """Compute the statistics of subnets' batch normalisations from training data, and use them from now on.

        Every subnet of a model with batch normalisation needs it after training; a model without has none.

        Args:
            batches: inputs as for serving, tuples where there are several; about 2,000 rows in batches of 200.
            specs: the subnets; without any, the smallest and the largest.

        Raises:
            IllegalSubnetError: if a subnet lies outside the space.
        """
        data = list(batches)
        found = {}
        for spec in specs or (self.space.smallest(), self.space.largest()):
            found[spec] = calibrate(self.model, spec, data)
        self._statistics |= found
        return found

    def statistics(self, spec: SubnetSpec) -> Statistics:
        """A subnet's calibrated statistics; without them, the model's own running statistics cut to its widths."""
        if spec in self._statistics:
            self.space.validate(spec)
            return self._statistics[spec]
        return self.model.own_statistics(spec)

    def forget_statistics(self) -> None:
        """Drop what was calibrated: the weights have changed."""
        self._statistics.clear()

    def uniform(self) -> list[SubnetSpec]:
        """Subnets with one share of every width and one level of depth throughout, from small to large.

        The usual candidates for a front: far fewer than the space has, and spread over all sizes.
        """
        ratios = sorted({ratio for width in self.space.widths for ratio in width.ratios} | {1.0})
        levels = max((len(stage.depths) for stage in self.space.stages), default=1)
        found: dict[SubnetSpec, None] = {}
        for level in range(levels):
            depths = tuple(stage.depths[max(level - levels, -len(stage.depths))] for stage in self.space.stages)
            for ratio in ratios:
                widths = {width.name: min(r for r in width.ratios if r >= ratio) for width in self.space.widths}
                found[self.space.spec(depths, widths)] = None
        return list(found)

    def supernet(self, config: ModelConfig, front: Front) -> Supernet:
        """The model with the statistics of a front: what `save_supernet` writes.

        Args:
            config: of family ``converted``, with `architecture`.
            front: subnets of this space.

        Raises:
            IllegalSubnetError: if a subnet of the front lies outside the space.
        """
        return Supernet(
            config, front, self.model, {record.id: self.statistics(record.spec) for record in front.subnets}
        )

    def architecture(self, builder: str, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 (the user's own)
        """What ``config.json`` of a model folder must say to build this model again.

        Args:
            builder: ``"package.module:function"`` of the function that makes the unconverted model.
            kwargs: its arguments, plain JSON values.
        """
        plan = msgspec.to_builtins(self.model.superserve_plan)
        return {"builder": builder, "kwargs": kwargs, "plan": plan}
