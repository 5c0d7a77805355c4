"""Import OFA-MobileNetV3 checkpoints of any published width."""

from collections.abc import Iterator, Mapping
from typing import ClassVar, Final

from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.importing.ofa_keys import norm
from superserve.supernet.importing.ofa_mobile import FILES, OfaMobileImporter, sizes
from superserve.supernet.zoo.ofa_mobilenet import OfaMobileNetV3, OfaMobileNetV3Config

#: Output channels of the last expanding convolution at each published width multiplier.
_WIDTHS: Final[Mapping[int, float]] = {960: 1.0, 1152: 1.2}


class OfaMobileNetV3Importer(OfaMobileImporter[OfaMobileNetV3Config, OfaMobileNetV3]):
    """See `Family`."""

    name = "ofa_mobilenet_v3"
    urls: ClassVar[Mapping[str, Mapping[str, str]]] = {
        name.removeprefix("ofa_mbv3_d234_e346_k357_"): {name: FILES + name}
        for name in ("ofa_mbv3_d234_e346_k357_w1.0", "ofa_mbv3_d234_e346_k357_w1.2")
    }

    def architecture(self, picker: Picker) -> OfaMobileNetV3Config:
        """The published sizes; width multiplier and number of classes are the checkpoint's."""
        return OfaMobileNetV3Config(**sizes(picker, "final_expand_layer.bn.weight", _WIDTHS))

    def network(self, architecture: OfaMobileNetV3Config) -> OfaMobileNetV3:
        """See `Family.network`."""
        return OfaMobileNetV3(architecture)

    def head(self) -> Iterator[tuple[str, str]]:
        """See `OfaMobileImporter.head`."""
        yield "final.weight", "final_expand_layer.conv.weight"
        yield from norm("final_norm", "final_expand_layer.bn")
        yield "mix.weight", "feature_mix_layer.conv.weight"
